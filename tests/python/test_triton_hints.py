"""Annotations of ringlaunch's own on Triton kernels: what they mean to Triton, and what calls they refuse."""

import importlib.util

import numpy as np
import pytest
from triton_support import launch_record, triton

import ringlaunch as rl
from ringlaunch import _core, tensor
from ringlaunch import float32 as f32

DAEMON = "null"

tl = pytest.importorskip("triton.language")

Vector = rl.tensor[rl.float32]
SCALARS = (
    *("int1", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "float8e4nv", "float8e5"),
)


@rl.jit
def hinted(x: rl.tensor[rl.float32], n: rl.int32, a: float, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, i < n) * a, i < n)


@rl.jit
def by_triton(x: "*fp32", n: tl.int32, a: float, BLOCK: tl.constexpr):  # noqa: F722
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, i < n) * a, i < n)


@rl.jit
def by_name(x: tensor[f32], y: Vector, n: rl.int64 = 7, flag: rl.int1 = True, by: rl.float64 = 2, K: tl.constexpr = 3):
    if flag:
        tl.store(x + n, tl.load(y) * by + K)


@rl.jit
def widths(
    x: rl.tensor[rl.uint8], a: rl.int8, b: rl.int16, c: rl.uint8, d: rl.uint16, e: rl.uint32, f: rl.uint64,
    g: rl.float16, h: rl.bfloat16,
):  # fmt: skip
    tl.store(x, (a + b + c + d + e + f + g + h).to(tl.uint8))


@pytest.fixture
def x(client):
    return client.zeros(256)


@pytest.fixture
def kernel():
    return rl.wrap(triton.jit(hinted.fn))


def test_to_triton_they_are_its_own_types(client, x):
    theirs = rl.wrap(triton.jit(by_triton.fn))
    ours = rl.wrap(triton.jit(hinted.fn))
    for n in (128, 7, 1, 0):
        for kernel in (theirs, ours):
            kernel[(2,)](x, n, 2, BLOCK=64)
            kernel[(2,)](x[1:], n, 2.5, BLOCK=64)
    assert [v.signature for v in ours.cache] == [v.signature for v in theirs.cache]
    assert [v.attributes for v in ours.cache] == [v.attributes for v in theirs.cache]
    assert next(iter(ours.cache)).signature == {"x": "*fp32", "n": "i32", "a": "fp32", "BLOCK": "constexpr"}


def test_names_that_were_imported_aliases_and_defaults(client, x):
    by_name[(1,)](x, x)
    by_name[(1,)](x, x, 1, False, 2.5, K=4)
    assert [v.signature for v in by_name.cache] == [
        {"x": "*fp32", "y": "*fp32", "n": "i64", "flag": "u1", "by": "fp64", "K": "constexpr"}
    ] * 2
    by_name.cache.clear()


def test_all_widths(client):
    x = client.zeros(16, np.uint8)
    widths[(1,)](x, -128, -(2**15), 255, 2**16 - 1, 2**32 - 1, 2**64 - 1, 1.5, 2)
    kinds = list(next(iter(widths.cache)).signature.values())
    assert kinds == ["*u8", "i8", "i16", "u8", "u16", "u32", "u64", "fp16", "bf16"]
    for at, value, name in [
        (1, 128, "'a' .int8."),
        (3, -1, "'c' .uint8."),
        (6, -1, "'f' .uint64."),
        (7, 1e6, "'g' .float16."),
    ]:
        args = [x, 1, 2, 3, 4, 5, 6, 1.5, 2]
        args[at] = value
        with pytest.raises(OverflowError, match=name):
            widths[(1,)](*args)
    widths.cache.clear()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("x", "half", r"parameter 'x': expected a tensor of float32, or an address, found .*Buffer float16"),
        ("x", None, r"'x': expected a tensor of float32.*found None"),
        ("x", 1.5, r"'x': expected a tensor of float32.*found 1.5 \(float\)"),
        ("x", True, r"'x': expected a tensor of float32.*found True \(bool\)"),
        ("x", np.zeros(4, np.float32), r"'x': expected a tensor.*\(ndarray\)"),
        ("n", 1.5, r"'n': expected an integer for int32, found 1.5 \(float\)"),
        ("n", None, r"'n': expected an integer for int32, found None"),
        ("n", "buffer", r"'n': expected an integer for int32, found .*Buffer"),
        ("n", np.int32(3), r"'n': expected an integer for int32.*\(int32\)"),
        ("n", tl.constexpr(3), r"'n': expected an integer"),
        ("a", "2.5", r"'a': expected a number for float32, found '2.5' \(str\)"),
        ("a", None, r"'a': expected a number for float32, found None"),
        ("a", 1j, r"'a': expected a number for float32, found 1j \(complex\)"),
        ("a", tl.float32, r"'a': expected a number for float32.*\(dtype\)"),
        ("a", "buffer", r"'a': expected a number for float32, found .*Buffer"),
    ],
)
def test_another_type_is_refused_by_name_each_time(client, kernel, x, name, value, text):
    if isinstance(value, str) and value in ("half", "buffer"):
        value = client.zeros(4, np.float16 if value == "half" else np.float32)
    call = {"x": x, "n": 16, "a": 2.0, "BLOCK": 64}
    before = client.default_stream.status.published
    for _ in range(2):
        with pytest.raises(rl.ParamTypeError, match=rf"kernel 'hinted', parameter {text}|kernel 'hinted', {text}"):
            kernel[(1,)](**{**call, name: value})
    assert client.default_stream.status.published == before
    kernel[(1,)](**call)
    with pytest.raises(rl.ParamTypeError, match=rf"{text}"):
        kernel[(1,)](**{**call, name: value})
    with pytest.raises(rl.ParamTypeError, match=rf"{text}"):
        kernel.warmup(**{**call, name: value}, grid=(1,))
    assert client.default_stream.status.published == before + 1 and len(kernel.cache) == 1


def test_what_an_annotation_says_is_not_asked_of_the_argument(client, kernel, x):
    stream = client.stream()
    for a in (2.5, 2, 1, 16, -3, 2**40, 0, np.float64(0.5)):
        before = stream.status.published
        kernel[(1,)](x, 7, a, BLOCK=64, stream=stream)
        _, packed = launch_record(_core._ring_bytes(stream, before, 1))
        assert np.frombuffer(packed[12:16], np.float32)[0] == np.float32(a)
    assert kernel._slow_calls == 1
    wide = rl.wrap(triton.jit(by_name.fn))
    for n in (5, 2**40 + 1, -7, -(2**62) - 1, 2**63 - 1):
        before = stream.status.published
        wide[(1,)](x, x, n, stream=stream)
        _, packed = launch_record(_core._ring_bytes(stream, before, 1))
        assert int.from_bytes(packed[16:24], "little", signed=True) == n
    assert wide._slow_calls == 1
    with pytest.raises(OverflowError):
        wide[(1,)](x, x, 2**63, stream=stream)


def test_numbers_beyond_the_type_are_refused(client, kernel, x):
    kernel[(1,)](x, 16, 2.0, BLOCK=64)
    for _ in range(2):
        with pytest.raises(rl.OutOfRange, match=r"parameter 'n' \(int32\).*-2147483648 to 2147483647"):
            kernel[(1,)](x, 2**31, 2.0, BLOCK=64)
    with pytest.raises(rl.ParamTypeError, match=r"parameter 'a'"):
        kernel[(1,)](x, 16, "2.0", BLOCK=64)


class Answers:
    def __init__(self, answer):
        self.answer = answer

    def __float__(self):
        return self.answer


@rl.jit
def numbers(x, half: rl.float16, single: rl.float32, y: rl.tensor[rl.float32]):
    pass


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("half", 2**63, rl.OutOfRange, r"'half' \(float16\): expected a number that float16 holds, found 9223"),
        ("half", 10**400, rl.OutOfRange, r"'half' \(float16\): expected a number that float16 holds, found 1000"),
        ("half", 65520.0, rl.OutOfRange, r"'half' \(float16\): expected a number that float16 holds, found 65520.0"),
        ("half", Answers(1e6), rl.OutOfRange, r"'half' \(float16\): expected a number that float16 holds, found .*Ans"),
        ("half", Answers("1"), rl.ParamTypeError, r"'half': expected a number for float16, found .*Answers"),
        ("single", 10**400, rl.OutOfRange, r"'single' \(float32\): expected a number that float32 holds, found 1000"),
        ("single", Answers("1"), rl.ParamTypeError, r"'single': expected a number for float32, found .*Answers"),
        ("y", 2**64, rl.OutOfRange, r"'y': expected an address from 0 to 18446744073709551615, found 1844674407370955"),
        ("y", -1, rl.OutOfRange, r"'y': expected an address from 0 to 18446744073709551615, found -1"),
        # Python does not write as many digits.
        pytest.param("half", 10**5000, rl.OutOfRange, r"'half' .* found an integer of 16610 bits \(int\)", id="long"),
        pytest.param("y", 10**5000, rl.OutOfRange, r"'y': .* found an integer of 16610 bits \(int\)", id="address"),
        pytest.param("y", [10**5000], rl.ParamTypeError, r"'y': .* found an object without a repr", id="list"),
    ],
)
def test_numbers_that_no_float_and_no_address_holds_are_refused_by_name(x, name, value, error, text):
    good = {"half": 1.5, "single": 1.5, "y": x}
    for _ in range(2):
        with pytest.raises(error, match=rf"^kernel 'numbers', parameter {text}"):
            numbers[(1,)](x, **{**good, name: value})
        numbers[(1,)](x, **good)


def test_floats_are_whatever_answers_one(client, x):
    stream = client.stream()
    for half, single in ((Answers(2.5), Answers(0.5)), (2.5, 2**63), (65504, 1e300), (float("inf"), float("nan"))):
        before = stream.status.published
        numbers[(1,)](x, half, single, x, stream=stream)
        _, packed = launch_record(_core._ring_bytes(stream, before, 1))
        with np.errstate(over="ignore"):
            assert packed[8:10] == np.float16(float(half)).tobytes()
            np.testing.assert_equal(np.frombuffer(packed[12:16], np.float32)[0], np.float32(float(single)))


def test_none_is_a_pointer_where_it_is_the_default(client, x, tmp_path):
    @rl.jit
    def optional(x: rl.tensor[rl.float32], y: rl.tensor[rl.float32] = None):
        pass

    def check(kernel):
        stream = client.stream()
        for args in ((x,), (x, None), (x, x), (x,)):
            before = stream.status.published
            kernel[(1,)](*args, stream=stream)
            _, packed = launch_record(_core._ring_bytes(stream, before, 1))
            assert int.from_bytes(packed[8:16], "little") == (x.address if args[1:] == (x,) else 0)
        for _ in range(2):
            with pytest.raises(rl.ParamTypeError, match=r"'y': expected a tensor of float32, or an address, or None"):
                kernel[(1,)](x, 1.5)
            with pytest.raises(rl.ParamTypeError, match=r"'x': expected a tensor of float32, or an address, found"):
                kernel[(1,)](None)

    check(optional)
    optional.save(tmp_path / "file")
    check(rl.load(tmp_path / "file"))


@pytest.mark.parametrize("annotation", [rl.tensor, "rl.tensor"])
def test_a_tensor_of_no_type_is_refused_when_the_kernel_is_made(annotation):
    def copy(x, y):
        pass

    copy.__annotations__["y"] = annotation
    with pytest.raises(rl.ParamTypeError, match=r"^kernel 'copy', parameter 'y': .* as in rl.tensor\[rl.float32\], "):
        rl.jit(copy)
    with pytest.raises(rl.ParamTypeError, match=r"^kernel 'copy', parameter 'y'"):
        rl.wrap(triton.jit(copy))


def test_true_and_false_are_integers_and_a_bool_is_nothing_else(client, x):
    @rl.jit
    def both(x: rl.tensor[rl.float32], n: rl.int32, flag: rl.int1):
        pass

    stream = client.stream()
    for n, flag in ((5, True), (True, True), (False, False), (3, False), (True, False)):
        before = stream.status.published
        both[(1,)](x, n, flag, stream=stream)
        _, packed = launch_record(_core._ring_bytes(stream, before, 1))
        assert int.from_bytes(packed[8:12], "little") == n and packed[12] == flag
    assert both._slow_calls == 2
    for wrong in (0, 1, 2, 5, -1, 0.5, None):
        for _ in range(2):
            with pytest.raises(rl.ParamTypeError, match="kernel 'both', parameter 'flag': expected True or False"):
                both[(1,)](x, 5, wrong, stream=stream)


def test_an_address_is_a_pointer_where_the_annotation_says_so(client, kernel, x):
    stream = client.stream()
    for _ in range(3):
        kernel[(1,)](x.address, 16, 2.0, BLOCK=64, stream=stream)
    stream.synchronize()
    (variant,) = kernel.cache
    assert variant.signature["x"] == "*fp32" and variant.hits == 3


def test_annotations_that_are_text(client, x, tmp_path):
    path = tmp_path / "postponed.py"
    path.write_text(
        "from __future__ import annotations\n"
        "import triton.language as tl\n"
        "import ringlaunch as rl\n\n"
        "def scale(x: rl.tensor[rl.float32], n: rl.int64, f: float, B: tl.constexpr, other: '*fp16' = None):\n"
        "    i = tl.arange(0, B)\n"
        "    tl.store(x + i, tl.load(x + i) * f, i < n)\n"
    )
    spec = importlib.util.spec_from_file_location("postponed", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kernel = rl.jit(module.scale)
    kernel[(1,)](x, 16, 2.0, B=64)
    assert next(iter(kernel.cache)).signature["n"] == "i64"
    with pytest.raises(rl.ParamTypeError, match="'x': expected a tensor of float32"):
        kernel[(1,)](client.zeros(4, np.float64), 16, 2.0, B=64)
    with pytest.raises(rl.ParamTypeError, match="'f': expected a number for float32, found 'two'"):
        kernel[(1,)](x, 16, "two", B=64)


def test_a_saved_kernel_checks_as_well(client, kernel, x, tmp_path):
    kernel[(1,)](x, 16, 2.0, BLOCK=64)
    kernel.save(tmp_path / "file")
    loaded = rl.load(tmp_path / "file")
    loaded[(1,)](x, 16, 3, BLOCK=64)
    loaded[(1,)](x.address, 16, 3, BLOCK=64)
    for _ in range(2):
        with pytest.raises(rl.ParamTypeError, match=r"kernel 'hinted', parameter 'x': expected a tensor of float32"):
            loaded[(1,)](client.zeros(4, np.float16), 16, 2.0, BLOCK=64)
        with pytest.raises(rl.ParamTypeError, match=r"parameter 'n': expected an integer for int32"):
            loaded[(1,)](x, 2.5, 2.0, BLOCK=64)
        with pytest.raises(rl.ParamTypeError, match=r"parameter 'a': expected a number for float32"):
            loaded[(1,)](x, 16, "2", BLOCK=64)


def test_tuned_kernels_are_checked_as_well(client, x):
    tuned = rl.wrap(
        triton.autotune([triton.Config({"BLOCK": 32}), triton.Config({"BLOCK": 64})], key=["n"])(triton.jit(hinted.fn))
    )
    tuned[(1,)](x, 16, 2.0)
    with pytest.raises(rl.ParamTypeError, match="parameter 'x': expected a tensor of float32"):
        tuned[(1,)](client.zeros(4, np.int32), 16, 2.0)


@pytest.mark.parametrize("name", SCALARS)
def test_each_type_is_named_as_in_triton(name):
    ours, theirs = getattr(rl, name), getattr(tl, name)
    assert triton.runtime.jit._normalize_ty(ours) == triton.runtime.jit._normalize_ty(theirs)
    assert str(rl.tensor[ours]) == "*" + triton.runtime.jit._normalize_ty(theirs)
    assert rl.tensor[ours] is rl.tensor[ours] and repr(rl.tensor[ours]) == f"ringlaunch.tensor[ringlaunch.{name}]"


def test_a_tensor_is_of_a_type():
    for wrong in (3, int, "float32", rl.tensor[rl.float32], tl.float32):
        with pytest.raises(rl.ParamTypeError, match=r"tensor\[...\]: expected a type of elements"):
            rl.tensor[wrong]
