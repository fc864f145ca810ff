"""A call that is made again gives what it gave the first time: the first is Triton's code, those behind it are C++."""

import collections
import enum

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton_support import launch_record, triton

import ringlaunch as rl
from ringlaunch import _core

tl = pytest.importorskip("triton.language")

DAEMON = "null"


@triton.jit
def plain(x, a, b):
    pass


@triton.jit
def small(x, a: tl.int8, b: tl.uint16):
    pass


@triton.jit
def integers(x, a: tl.int32, b: tl.uint64):
    pass


@triton.jit
def truth_and_float(x, a: tl.int1, b: float):
    pass


@triton.jit
def floats(x, a: tl.float16, b: tl.float64):
    pass


@triton.jit
def pointers(x, a: "*fp32", b: tl.pointer_type(tl.int8)):  # noqa: F722
    pass


@triton.jit
def hinted(x, a: rl.tensor[rl.float32], b: rl.int32):
    pass


@triton.jit(do_not_specialize=["a"], do_not_specialize_on_alignment=["b"])
def unspecialized(x, a: tl.int64, b: "const"):  # noqa: F821
    pass


@triton.jit
def compiled_in(x, a, b: tl.constexpr):
    pass


KERNELS = (plain, small, integers, truth_and_float, floats, pointers, hinted, unspecialized, compiled_in)

Pair = collections.namedtuple("Pair", "first second")


class Few(enum.IntEnum):
    ONE = 1
    SIXTEEN = 16


class Index:
    def __index__(self):
        return 7


class Float:
    def __float__(self):
        return 2.5


INTEGERS = [0, 1, 5, 16, -1, 127, 128, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64]
INTEGERS += [-(2**31), -(2**63), -(2**63) - 1]
OTHERS = [True, False, None, 0.0, -0.0, 1.0, 2.5, 1e300, 65520.0, Few.ONE, Few.SIXTEEN, np.float64(2.5), np.int32(4)]
OTHERS += [Index(), Float(), tl.constexpr(1), tl.constexpr((1, 2)), tl.float32, "text", object(), [1], b"x", 1j]


@pytest.fixture
def calls(client):
    """call(kernel, *args): what it launches, as its parameters in the ring, or the error it raises."""
    stream = client.default_stream
    x = client.zeros(64)

    def call(kernel, *args):
        at = stream.status.published
        try:
            kernel[(1,)](x, *args)
        except Exception as error:
            return type(error).__name__, str(error)
        launched = launch_record(_core._ring_bytes(stream, at, stream.status.published - at))[1].hex()
        try:
            stream.synchronize()
        except rl.RecordRefused:  # an address that is none
            stream.resume()
        return launched

    return call


@pytest.mark.parametrize(
    ("kernel", "args"),
    [
        (truth_and_float, (False, (1, 2))),
        (integers, ((5, 6), 7)),
        (integers, ((None, 3), 7)),
        (small, (3, (300, 1))),
        (floats, ((), 2.5)),
        (pointers, ((5,), 16)),
        (pointers, ((None,), None)),
        (hinted, (None, (1,))),
    ],
)
def test_a_tuple_for_a_parameter_of_one_type_is_refused_each_time(calls, kernel, args):
    kernel = rl.wrap(kernel)
    first = calls(kernel, *args)
    assert first[0] == "ParamTypeError" and kernel.__name__ in first[1]
    assert [calls(kernel, *args) for _ in range(3)] == [first] * 3


def test_a_call_that_was_refused_is_not_remembered(calls):
    kernel = rl.wrap(floats)
    for grid in ((1,), lambda meta: (1,)):
        for _ in range(3):
            slow = kernel._slow_calls
            with pytest.raises(rl.OutOfRange):
                kernel[grid](None, 65520.0, 1.0)
            assert kernel._slow_calls == slow + 1


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_the_same_call_does_the_same_each_time(client, calls, kernel):
    kernel = rl.wrap(kernel)
    buffers = [client.zeros(64), client.zeros(64)[1:], client.zeros(64, "int8"), client.zeros(64, "float16")]
    described = rl.TensorDescriptor.from_tensor(client.zeros((64, 64)), [16, 16])
    leaf = st.sampled_from(INTEGERS + OTHERS + buffers)
    parts = st.lists(leaf, max_size=3).map(tuple)
    value = st.one_of(leaf, leaf, parts, st.just(((1,), None)), st.builds(Pair, leaf, leaf), st.just(described))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(value, value)
    def check(a, b):
        said = [calls(kernel, a, b) for _ in range(4)]
        # The texts may name the parameter as the compiled kernel has it, or as the call has.
        kinds = {each if isinstance(each, str) else each[0] for each in said}
        assert len(kinds) == 1, said

    check()
