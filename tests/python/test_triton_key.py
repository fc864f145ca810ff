"""The key of a Triton kernel's call holds at least as much of the arguments as Triton's own specialization."""

import dataclasses
import enum
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton_support import triton

import ringlaunch as rl

tl = pytest.importorskip("triton.language")

from triton.compiler import make_backend  # noqa: E402
from triton.runtime import jit as triton_jit  # noqa: E402

from ringlaunch import _buffer  # noqa: E402


@triton.jit
def callee(x):
    return x


@triton.jit
def other_callee(x):
    return x + 1


@rl.jit
def our_callee(x):
    return x + 2


@triton.jit
def plain(a, b):
    pass


@triton.jit(do_not_specialize=["a"], do_not_specialize_on_alignment=["b"])
def unspecialized(a, b):
    pass


@triton.jit
def annotated(i: tl.int32, f: tl.float32, flag: tl.int1, p: tl.pointer_type(tl.float16), c: tl.const, a):
    pass


@triton.jit
def compiled_in(a: tl.constexpr, b: tl.constexpr, c=7, d: tl.constexpr = "text"):
    pass


@triton.jit
def named_like_options(a, num_warps: tl.constexpr, num_stages=3):
    pass


KERNELS = {each.__name__: each for each in (plain, unspecialized, annotated, compiled_in, named_like_options)}


class Choice(enum.IntEnum):
    ONE = 1
    SIXTEEN = 16


class Other(enum.IntEnum):
    ONE = 1


class Named(enum.Enum):
    ONE = 1
    TEXT = "relu"


class Text(enum.StrEnum):
    ONE = "1"


class Bits(enum.Flag):
    LOW = 1
    HIGH = 2


class Watched(enum.Enum):
    """Triton's key of which is what it answers."""

    ONE = 1
    number = 0

    def __hash__(self):
        return Watched.number


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: int = 1


def function():
    pass


@pytest.fixture(scope="module")
def buffers(null):
    """Of every element type, divisible by 16 and not."""
    with null.connect() as client:
        dtypes = [name for name in _buffer._ELEMENT_NAMES if name[:2] not in ("bf", "fl") or name in np.sctypeDict]
        made = [client.empty(64, dtype) for dtype in dtypes]
        yield [part for whole in made for part in (whole, whole[1:], whole[16:])]


@pytest.fixture(scope="module")
def wrapped():
    return {name: rl.wrap(kernel) for name, kernel in KERNELS.items()}


@pytest.fixture(scope="module")
def binders():
    backend = make_backend(triton.backends.compiler.GPUTarget("cuda", 90, 32))
    return {
        name: triton_jit.create_function_from_signature(kernel.signature, kernel.params, backend)
        for name, kernel in KERNELS.items()
    }


EDGES = [0, 1, -1, 2, 8, 15, 16, -16, 17, 32, 2**30 - 1, 2**30, 2**31 - 16, 2**31 - 1, 2**31, 2**31 + 1, -(2**31)]
EDGES += [-(2**31) - 1, -(2**31) - 16, 2**32, 2**32 - 1, 2**63 - 1, 2**63, 2**63 + 1, 2**63 + 16, 2**64 - 1, 2**64 - 16]
EDGES += [-(2**63), -(2**63) + 1, -(2**63) - 1, 2**64]
CONSTANTS = [
    *(0, 1, 2, 16, -1, 2**40, 2**70, True, False, None, 0.0, -0.0, 1.0, 16.0, math.nan, math.inf),
    *("", "1", "relu", "rél", "a" * 8, "a" * 9, "None", "True"),
    *((), (1,), (1.0,), (True,), (1, (2, "x")), (1, 2), ((1,), 2), tl.float32, tl.float16, tl.int32),
    *(tl.constexpr(1), tl.constexpr(1.0), tl.constexpr("1"), tl.constexpr(tl.float32)),
    *(callee, other_callee, our_callee),
    *(Choice.ONE, Choice.SIXTEEN, Other.ONE, Named.ONE, Named.TEXT, Text.ONE, Bits.LOW, Bits.HIGH | Bits.LOW),
    *(np.float64(1.0), np.float64(0.0), np.float64(-0.0), np.float64("nan"), np.float32(1), np.int32(16), np.int64(16)),
    *(np.uint8(16), np.True_, int, float, Choice, Frozen(), function, tl.constexpr(Named.ONE), tl.constexpr(int)),
    *((Named.ONE, 1), (int, float), (np.float64(1.0),)),
]


def runtime_values(buffers):
    scalars = st.one_of(
        st.sampled_from(EDGES),
        st.integers(-(2**64), 2**65),
        st.sampled_from(
            [True, False, None, 0.0, 1.0, -0.0, math.nan, 1e300, np.float64(2), Choice.ONE, Choice.SIXTEEN]
        ),
        st.floats(),
        st.sampled_from(
            [tl.constexpr(1), tl.constexpr(2.0), callee, other_callee, our_callee, "text", np.int32(1), np.bool_(True)]
        ),
        st.sampled_from(buffers),
    )
    return st.one_of(scalars, st.tuples(scalars), st.tuples(scalars, scalars), st.tuples(scalars, st.tuples(scalars)))


def calls(name, buffers):
    value = runtime_values(buffers)
    constant = st.one_of(st.sampled_from(CONSTANTS), st.integers(-(2**66), 2**66), st.floats(), st.text(max_size=20))
    if name == "compiled_in":
        keywords = st.fixed_dictionaries(
            {}, optional={"c": value, "d": constant, "num_warps": st.sampled_from([4, 8, None])}
        )
        return st.tuples(st.tuples(constant, constant), keywords)
    if name == "annotated":
        integers = st.one_of(st.sampled_from(EDGES), st.booleans())
        floats = st.one_of(st.floats(), st.sampled_from(EDGES), st.sampled_from([1, 2, 16, True]))
        pointers = st.one_of(st.sampled_from(buffers), st.none(), st.sampled_from(EDGES))
        return st.tuples(
            st.tuples(integers, floats, integers, pointers, st.sampled_from(buffers), value),
            st.fixed_dictionaries({}, optional={"num_warps": st.sampled_from([1, 4]), "debug": st.booleans()}),
        )
    if name == "named_like_options":
        keywords = {"num_warps": constant, "num_stages": value, "num_ctas": st.sampled_from([1, 2])}
        return st.tuples(st.tuples(value), st.fixed_dictionaries({}, optional=keywords))
    options = {
        "num_warps": st.sampled_from([1, 2, True]),
        "num_stages": st.sampled_from([3, 3.0]),
        "maxnreg": st.none(),
    }
    return st.tuples(st.tuples(value, value), st.fixed_dictionaries({}, optional=options))


def exact(value):
    """What tells values apart that Python holds equal: 1, True and 1.0; 0.0 and -0.0; equal reprs."""
    if isinstance(value, tuple | list):
        return (type(value), tuple(exact(each) for each in value))
    if isinstance(value, dict):
        return tuple((name, exact(each)) for name, each in sorted(value.items()))
    if isinstance(value, float):
        return (type(value), value.hex() if math.isfinite(value) else repr(value))
    if isinstance(value, tl.constexpr):
        return ("constexpr", exact(value.value))
    return (type(value), repr(value))


def constants(bound, specialization):
    """What Triton compiles in."""

    def of(kind, value):
        if kind == "constexpr":
            return exact(value)
        if isinstance(kind, tuple):
            return tuple(of(each, part) for each, part in zip(kind, value))
        return None

    return [of(kind, value) for (kind, _), value in zip(specialization, bound.values())]


def specialized(binder, args, keywords):
    bound, specialization, options = binder(*args, **keywords)
    return exact(specialization), constants(bound, specialization), exact(options)


def compare(name, buffers, wrapped, binders, weaken=lambda key: key):
    """Calls at random; those of one key are one to Triton. Gives how many keys there were."""
    kernel, binder = wrapped[name], binders[name]
    seen = {}

    @settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(calls(name, buffers))
    def check(call):
        args, keywords = call
        key = kernel._key(args, keywords)
        if key is None:
            return
        found = specialized(binder, args, keywords)  # what has a key is nothing that Triton refuses
        key = weaken(key[0])
        assert seen.setdefault(key, (found, call))[0] == found, f"{call} and {seen[key][1]} have one key"

    check()
    return len(seen)


@pytest.mark.parametrize("name", KERNELS)
def test_calls_of_one_key_are_one_to_triton(name, buffers, wrapped, binders):
    assert compare(name, buffers, wrapped, binders) > 50


@pytest.mark.parametrize(
    ("name", "weaken"),
    [
        ("plain", lambda key: bytes(byte & ~1 for byte in key)),  # of each pair of tags one: divisible by 16 or not
        ("unspecialized", lambda key: key.replace(b"\x03", b"\x04")),  # 1 as any integer
        ("compiled_in", lambda key: key[:-8]),  # without the value of the last constant
        ("annotated", lambda key: key[:8] + key[16:]),  # without the first arguments
    ],
)
def test_a_key_that_is_too_coarse_would_be_found(name, weaken, buffers, wrapped, binders):
    with pytest.raises(AssertionError, match="have one key"):
        compare(name, buffers, wrapped, binders, weaken)


def one(kernel, *args, **keywords):
    return kernel._key(args, keywords)


def test_what_triton_tells_apart_has_another_key(buffers, wrapped):
    kernel = wrapped["plain"]
    different = [1, 2, 16, 2**31, 2**31 + 1, 2**63, 2**63 + 1, True, None, 2.0, (2,), (16,), ((2,),), (2, 2), (), (1,)]
    different += [tl.constexpr(2), tl.constexpr(2.0), callee, other_callee, our_callee]
    different += [buffers[0], buffers[1], buffers[3]]
    keys = [one(kernel, value, 0)[0] for value in different]
    assert len(set(keys)) == len(different)


def test_what_triton_takes_for_one_has_one_key(buffers, wrapped):
    kernel = wrapped["plain"]
    for same in ([2, 3, -1, 2**31 - 1], [0, 16, -16, -(2**31)], [2**31 + 1, 2**40 + 1, -(2**63) + 1], [True, False]):
        assert len({one(kernel, value, 0)[0] for value in same}) == 1
    assert len({one(kernel, value, 0)[0] for value in (1.0, 0.0, math.nan, np.float64(3))}) == 1
    assert one(kernel, buffers[0], 0)[0] == one(kernel, buffers[2], 0)[0]
    relaxed = wrapped["unspecialized"]
    assert len({one(relaxed, value, 3)[0] for value in (1, 2, 16)}) == 1
    assert one(relaxed, 0, 16)[0] == one(relaxed, 0, 17)[0] != one(relaxed, 0, 1)[0]


def test_a_function_of_ours_is_a_constant_with_its_source(wrapped):
    source = our_callee.src
    for kernel in (wrapped["plain"], wrapped["compiled_in"]):
        keys, held = set(), []
        try:
            for number in ("+ 2", "+ 3", "+ 2"):
                our_callee._unsafe_update_src(source.replace("+ 2", number))
                assert one(kernel, our_callee, 2) is None  # nobody has read its source yet
                held.append(our_callee.cache_key)  # as whoever keeps the key does
                assert one(kernel, our_callee, 2)[0] == one(kernel, our_callee, 2)[0]
                keys.add(one(kernel, our_callee, 2)[0])
        finally:
            our_callee._unsafe_update_src(source)
        assert len(keys) == 3 and our_callee.cache_key == held[0]


def test_constants_that_stay_what_they_are_have_a_key(wrapped):
    kernel = wrapped["compiled_in"]
    different = [1, 1.0, "1", Choice.ONE, Other.ONE, Named.ONE, Named.TEXT, Text.ONE, Bits.LOW, Bits.HIGH | Bits.LOW]
    different += [np.float64(1.0), np.float64(-0.0), np.float64(0.0), np.int32(1), np.int64(1), np.uint8(1)]
    different += [int, float, Choice, function, tl.float32, (Named.ONE,), (np.float64(1.0),), tl.constexpr(Named.ONE)]
    keys = [one(kernel, value, 0)[0] for value in different]
    assert len(set(keys)) == len(different)
    assert keys == [one(kernel, value, 0)[0] for value in different]
    assert one(kernel, np.float64("nan"), 0)[0] == one(kernel, np.float64("nan"), 0)[0]


def test_constants_that_may_change_have_none(wrapped):
    kernel = wrapped["compiled_in"]
    for value in (Watched.ONE, Frozen(), [1], {}, np.zeros(()), np.zeros(3), object(), 1j, np.uint64(2**63)):
        assert one(kernel, value, 0) is None
        assert one(kernel, (1, value), 0) is None


def test_options_are_of_what_their_text_is(wrapped):
    kernel = wrapped["plain"]
    for value in (Choice.ONE, Named.ONE, int, function, np.int64(4)):
        assert one(kernel, 2, 2, num_warps=value) is None


def test_each_option_counts_whatever_its_place(wrapped):
    kernel = wrapped["plain"]
    calls = [
        {},
        {"num_warps": 4},
        {"num_warps": 8},
        {"num_stages": 4},
        {"num_warps": 4, "num_stages": 8},
        {"debug": True},
    ]
    keys = [one(kernel, 2, 2, **call)[0] for call in calls]
    assert len(set(keys)) == len(calls)


def test_a_parameter_named_like_an_option_is_both_by_keyword(wrapped):
    kernel = wrapped["named_like_options"]
    calls = [((2, 8), {}), ((2, 4), {}), ((2,), {"num_warps": 8}), ((2,), {"num_warps": 4}), ((2, 8, 3), {})]
    calls += [((2, 8), {"num_stages": 5}), ((2, 8), {"num_stages": 7}), ((2,), {"num_warps": 8, "num_stages": 5})]
    calls += [((2, 8), {"num_ctas": 2}), ((2, 8), {"num_ctas": 2, "num_stages": 5})]
    keys = [one(kernel, *args, **keywords)[0] for args, keywords in calls]
    assert keys[4] == keys[0]  # its default
    assert len(set(keys)) == len(calls) - 1  # 5 and 7 are one as parameters, and two as options
    assert one(kernel, num_warps=8, a=2)[0] == keys[2]
    assert one(kernel, 2, 8, num_warps=8) is None  # given twice
    assert one(kernel, 2, num_warps=Named.ONE) is None is one(kernel, 2, 8, num_stages=Choice.SIXTEEN)
    assert one(kernel, 2, Named.ONE) is not None


def test_defaults_and_keywords_are_the_arguments_they_stand_for(wrapped):
    kernel = wrapped["compiled_in"]
    assert one(kernel, 1, 2)[0] == one(kernel, b=2, a=1)[0] == one(kernel, 1, 2, 7, "text")[0]
    assert one(kernel, 1, 2, d="text", c=9)[0] == one(kernel, 1, 2)[0]


@pytest.mark.parametrize(
    ("args", "keywords"),
    [
        ((), {}),
        ((1,), {}),
        ((1, 2, 3), {}),
        ((1, 2), {"a": 1}),
        (("text", 1), {}),
        ((np.int32(1), 1), {}),
        ((2**64, 1), {}),
    ],
)
def test_what_triton_refuses_has_no_key(args, keywords, wrapped):
    assert wrapped["plain"]._key(args, keywords) is None


def test_a_call_of_many_arguments_has_no_key_and_no_harm(wrapped):
    kernel = wrapped["plain"]
    assert one(kernel, tuple(range(255)), 1) is not None
    assert one(kernel, tuple(range(300)), 1) is None
    deep = ()
    for _ in range(20):
        deep = (deep,)
    assert one(kernel, deep, 1) is None
    assert one(wrapped["compiled_in"], "x" * 5000, 1) is None
