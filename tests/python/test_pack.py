"""Arguments to packed parameters, against struct and ctypes: whatever Python values, whatever layout."""

import ctypes
import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ringlaunch as rl
from ringlaunch import _core
from ringlaunch._module import layout

INTEGERS = {
    "int8": ("b", ctypes.c_int8, np.int8),
    "int16": ("h", ctypes.c_int16, np.int16),
    "int32": ("i", ctypes.c_int32, np.int32),
    "int64": ("q", ctypes.c_int64, np.int64),
    "uint8": ("B", ctypes.c_uint8, np.uint8),
    "uint16": ("H", ctypes.c_uint16, np.uint16),
    "uint32": ("I", ctypes.c_uint32, np.uint32),
    "uint64": ("Q", ctypes.c_uint64, np.uint64),
}
FLOATS = {"float32": ("f", ctypes.c_float, np.float32), "float64": ("d", ctypes.c_double, np.float64)}
NUMBERS = INTEGERS | FLOATS


def bounds(kind: str) -> tuple[int, int]:
    info = np.iinfo(INTEGERS[kind][2])
    return int(info.min), int(info.max)


def pack(declared, *args):
    return _core._pack("k", layout(declared), *args)


def pack_one(kind: str, value) -> bytes:
    return pack([kind], value)


def a_value(kind: str):
    if kind == "bool":
        return st.booleans()
    if kind in INTEGERS:
        low, high = bounds(kind)
        return st.integers(low, high) | st.sampled_from([low, high, 0])
    return st.floats(width=32 if kind == "float32" else 64)


TYPED = st.sampled_from(["bool", *NUMBERS]).flatmap(lambda kind: st.tuples(st.just(kind), a_value(kind)))


@given(st.lists(TYPED, max_size=40))
def test_parameters_stand_where_a_c_struct_has_its_fields(typed):
    fields = [(f"p{i}", ctypes.c_bool if kind == "bool" else NUMBERS[kind][1]) for i, (kind, _) in enumerate(typed)]

    class Params(ctypes.Structure):
        _fields_ = fields

    expected = Params(*(value for _, value in typed))
    packed = pack([kind for kind, _ in typed], *(value for _, value in typed))
    end = max((getattr(Params, name).offset + getattr(Params, name).size for name, _ in fields), default=0)
    assert packed == bytes(expected)[:end]


@given(st.sampled_from(sorted(INTEGERS)), st.integers(-(2**70), 2**70))
def test_an_integer_fits_or_is_refused(kind, value):
    low, high = bounds(kind)
    if low <= value <= high:
        assert pack_one(kind, value) == struct.pack("<" + INTEGERS[kind][0], value)
    else:
        with pytest.raises(rl.OutOfRange, match=rf"parameter 0 \({kind}\): expected an integer from {low} to {high}"):
            pack_one(kind, value)


@pytest.mark.parametrize("kind", sorted(INTEGERS))
@pytest.mark.parametrize("beyond", [-1, 1])
def test_the_last_integer_fits_and_the_next_does_not(kind, beyond):
    edge = bounds(kind)[beyond > 0]
    assert pack_one(kind, edge) == struct.pack("<" + INTEGERS[kind][0], edge)
    with pytest.raises(OverflowError):
        pack_one(kind, edge + beyond)


@given(st.floats())
def test_float64_is_the_float_itself(value):
    assert pack_one("float64", value) == struct.pack("<d", value)


@given(st.floats())
def test_float32_is_the_nearest_or_refused(value):
    try:
        expected = struct.pack("<f", value)
    except OverflowError:
        with pytest.raises(rl.OutOfRange):
            pack_one("float32", value)
    else:
        if math.isnan(value):
            assert math.isnan(struct.unpack("<f", pack_one("float32", value))[0])
        else:
            assert pack_one("float32", value) == expected


@given(st.floats() | st.floats(-70000, 70000))
def test_float16_is_the_nearest_or_refused(value):
    try:
        expected = struct.pack("<e", value)
    except OverflowError:
        with pytest.raises(rl.OutOfRange):
            pack_one("float16", value)
    else:
        if math.isnan(value):
            assert math.isnan(struct.unpack("<e", pack_one("float16", value))[0])
        else:
            assert pack_one("float16", value) == expected


def bfloat16_value(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


LARGEST_BFLOAT16 = 0x7F7F


def nearest_bfloat16(value: float) -> int | None:
    """The bits of the nearest finite bfloat16, ties to even, by exact arithmetic; None: it is out of range."""
    exact = abs(Fraction(value))
    low, high = 0, LARGEST_BFLOAT16 + 1  # bits of finite values ascend with the values
    while high - low > 1:
        middle = (low + high) // 2
        if Fraction(bfloat16_value(middle)) <= exact:
            low = middle
        else:
            high = middle
    below = Fraction(bfloat16_value(low))
    above = Fraction(2) ** 128 if low == LARGEST_BFLOAT16 else Fraction(bfloat16_value(low + 1))
    nearer = (exact - below) - (above - exact)
    bits = low + (nearer > 0 or (nearer == 0 and low % 2))
    if bits > LARGEST_BFLOAT16:
        return None
    return bits | (0x8000 if math.copysign(1, value) < 0 else 0)


# Values beside a midpoint of two bfloat16, which a rounding by way of float would get wrong.
BESIDE_MIDPOINTS = st.builds(
    lambda bits, beside: math.nextafter((bfloat16_value(bits) + bfloat16_value(bits + 1)) / 2, beside),
    st.integers(1, LARGEST_BFLOAT16 - 1),
    st.sampled_from([-math.inf, math.inf]),
)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(width=32, allow_nan=False, allow_infinity=False)
       | BESIDE_MIDPOINTS)  # fmt: skip
def test_bfloat16_is_the_nearest_or_refused(value):
    expected = nearest_bfloat16(value)
    if expected is None:
        with pytest.raises(rl.OutOfRange):
            pack_one("bfloat16", value)
    else:
        assert pack_one("bfloat16", value) == struct.pack("<H", expected)


@pytest.mark.parametrize(
    ("value", "bits"), [(math.inf, 0x7F80), (-math.inf, 0xFF80), (-0.0, 0x8000), (1, 0x3F80), (3.4e38, None)]
)
def test_bfloat16_at_its_ends(value, bits):
    if bits is None:
        with pytest.raises(rl.OutOfRange, match=r"3\.3895e38"):
            pack_one("bfloat16", value)
    else:
        assert pack_one("bfloat16", value) == struct.pack("<H", bits)


def test_bfloat16_keeps_nan():
    assert math.isnan(bfloat16_value(struct.unpack("<H", pack_one("bfloat16", math.nan))[0]))


@given(TYPED.filter(lambda typed: typed[0] != "bool"))
def test_numpy_scalars_are_the_numbers_they_hold(typed):
    kind, value = typed
    assert pack_one(kind, NUMBERS[kind][2](value)) == pack_one(kind, value)


@pytest.mark.parametrize("value", [np.bool_(True), True])
def test_a_boolean_widens(value):
    assert pack_one("bool", value) == b"\1"
    assert pack_one("int32", value) == struct.pack("<i", 1)
    assert pack_one("float32", value) == struct.pack("<f", 1.0)


@pytest.mark.parametrize("value", [5, np.int64(5), np.uint8(5)])
def test_an_integer_widens_to_a_float(value):
    assert pack_one("float64", value) == struct.pack("<d", 5.0)
    assert pack_one("float16", value) == struct.pack("<e", 5.0)


@pytest.mark.parametrize("value", [2**24 + 1, -(2**24) - 1, 2**24 + 3, 2**53 + 1, 10**30])
def test_an_integer_that_a_float_cannot_hold_is_rounded_as_by_numpy_and_ctypes(value):
    assert pack_one("float32", value) == np.float32(value).tobytes() == bytes(ctypes.c_float(value))
    assert pack_one("float64", value) == np.float64(value).tobytes() == bytes(ctypes.c_double(value))


def test_an_integer_beyond_a_double_is_out_of_range():
    with pytest.raises(rl.OutOfRange, match="float64"):
        pack_one("float64", 10**400)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(kind, value) for kind in INTEGERS for value in (1.0, np.float32(1), "1", None, 1j, [1], np.array([1, 2]))]
    + [("bool", value) for value in (1, 0, 1.0, None, "True", np.int8(1))]
    + [(kind, value) for kind in ("float16", "bfloat16", "float32", "float64") for value in ("1", None, 1j, [1.0])]
    + [("pointer", value) for value in (0, 1.5, "x", np.zeros(3), True)]
    + [("bytes[4]", value) for value in (4, "1234", None)],
)
def test_a_value_never_narrows(kind, value):
    with pytest.raises(rl.ParamTypeError, match=r"^kernel 'k', parameter 1 \('p', .*found .*\(") as caught:
        pack(["int32", ("p", kind)], 0, value)
    assert isinstance(caught.value, TypeError)
    assert kind.partition("[")[0] in str(caught.value)


def test_a_null_pointer_is_none():
    assert pack(["int8", "pointer"], 1, None) == b"\1" + bytes(15)


def test_an_array_for_a_pointer_is_told_the_way():
    with pytest.raises(rl.ParamTypeError, match=r"client\.array\(\)"):
        pack_one("pointer", np.zeros(3))


def test_a_struct_travels_as_its_bytes():
    class Pair(ctypes.Structure):
        _fields_ = [("a", ctypes.c_double), ("b", ctypes.c_int)]

    pair = Pair(1.5, 7)
    assert pack(["int8", f"bytes[{ctypes.sizeof(Pair)}, 8]"], 1, pair) == b"\1" + bytes(7) + bytes(pair)
    assert pack(["bytes[3]"], np.arange(3, dtype=np.uint8)) == b"\0\1\2"


def test_a_struct_of_another_size_is_refused():
    with pytest.raises(rl.InvalidArgument, match=r"parameter 0 \(bytes\[8\]\): expected .* of 8 bytes, found 7 bytes"):
        pack(["bytes[8]"], b"1234567")


def test_a_struct_that_is_not_contiguous_is_refused():
    with pytest.raises(rl.ParamTypeError, match="contiguous"):
        pack(["bytes[4]"], np.zeros(8, np.uint8)[::2])


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_the_wrong_count_is_refused(count):
    with pytest.raises(rl.ParamTypeError, match=rf"takes 2 parameters \(x: float32, int32\), found {count}") as caught:
        pack([("x", "float32"), "int32"], *range(count))
    if count < 2:
        assert f"the first missing is parameter {count}" in str(caught.value)


def test_what_an_argument_raises_reaches_the_caller():
    class Bad:
        def __index__(self):
            raise KeyboardInterrupt

        def __float__(self):
            raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt):
        pack_one("int32", Bad())
    with pytest.raises(ZeroDivisionError):
        pack_one("float32", Bad())


def test_a_bad_repr_does_not_hide_the_error():
    class Unprintable:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(rl.ParamTypeError, match="Unprintable"):
        pack_one("int32", Unprintable())


def test_a_long_argument_is_cut_in_the_message():
    with pytest.raises(rl.ParamTypeError) as caught:
        pack_one("int32", "ä" * 1000)
    assert len(str(caught.value)) < 300


@given(st.lists(TYPED, min_size=1, max_size=12), st.data())
def test_the_message_names_the_parameter_that_is_wrong(typed, data):
    wrong = data.draw(st.integers(0, len(typed) - 1))
    args = [value for _, value in typed]
    args[wrong] = object()
    with pytest.raises(rl.ParamTypeError, match=rf"parameter {wrong} \({typed[wrong][0]}\)"):
        pack([kind for kind, _ in typed], *args)


@pytest.mark.parametrize("declared", [["int33"], ["bytes"], ["bytes[4, 3]"], ["float"]])
def test_a_declaration_of_no_type_is_refused(declared):
    with pytest.raises(rl.InvalidArgument):
        layout(declared)
