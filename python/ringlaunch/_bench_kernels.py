"""The Triton kernels of `python -m ringlaunch.bench triton`; Triton reads a function's source from its file."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

import ringlaunch as rl


@triton.jit
def short(x, y, n, BLOCK: tl.constexpr):
    pass


@triton.jit
def long(
    a, b, c, d, e, f, g, n0, n1, n2, s0, s1, s2,
    A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    pass


@triton.jit
def annotated(x: rl.tensor[rl.float32], y: rl.tensor[rl.float32], n: rl.int32, BLOCK: tl.constexpr):
    pass


@triton.jit
def double(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, i < n) * 2, i < n)


@triton.jit
def double_long(
    x, y, n, c, d, e, f, n0, n1, n2, s0, s1, s2,
    BLOCK: tl.constexpr, B: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, i < n) * 2, i < n)


def function_of(short: Any, long: Any | None = None) -> Any:
    """`x * 2` as an autograd function over one of the kernels that double; `long` has many parameters more."""
    import torch

    grid = (1,)

    def launch(x: Any) -> Any:
        y = torch.empty_like(x)
        if long is None:
            short[grid](x, y, 1024, BLOCK=1024)
        else:
            long[grid](x, y, 1024, x, x, x, x, 3, 5, 7, 1.0, 2.0, 3.0, BLOCK=1024, B=1, C=2, D=3, E=4, F=5)
        return y

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: Any) -> Any:
            return launch(x)

        @staticmethod
        def backward(_: Any, gradient: Any) -> Any:
            return launch(gradient)

    return Double.apply


def function_of_nothing() -> Any:
    """An autograd function that launches nothing: what the framework itself costs."""
    import torch

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: Any) -> Any:
            return torch.empty_like(x)

        @staticmethod
        def backward(_: Any, gradient: Any) -> Any:
            return torch.empty_like(gradient)

    return Nothing.apply
