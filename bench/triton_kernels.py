"""The kernels of gpu_python.py for Triton, which reads a function's source from its file."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["a", "b", "at"])
def seldom(words, a, b, at, more):
    if a % 2 != 0:
        tl.store(words + at, tl.load(words + at) * a + b + more.to(tl.int32))


@triton.jit(do_not_specialize=["a", "b", "at"])
def mix(words, a, b, at, more, k: tl.constexpr):
    tl.store(words + at, tl.load(words + at) * (a + 2 * k) + b + more.to(tl.int32))
