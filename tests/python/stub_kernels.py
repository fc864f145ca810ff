"""Kernels of the programs that launch over a libcuda that runs nothing (stub_program.py)."""

import triton
import triton.language as tl
from stub_program import stub, x

import ringlaunch as rl


@triton.jit(do_not_specialize=["a", "b"])
def first(x, a: tl.int64, b: tl.int64):
    pass


@triton.jit(do_not_specialize=["a", "b"])
def second(x, a: tl.int64, b: tl.int64):
    pass


@triton.jit(do_not_specialize=["a", "b"])
def with_a_name_of_its_own(x, a: tl.int64, b: tl.int64):
    pass


def wrapped(kernel=first, mode="inline"):
    return rl.wrap(kernel, mode=mode)


def ready(kernel):
    """Launched once before, which is Triton's to do."""
    kernel[(1,)](x, 2**40, 2**40)
    return stub.stub_count()
