"""Multiplies matrices of float16, tuned: the first call of each shape measures the configurations in the daemon.

    python examples/tutorials/matmul.py

Blocks are taken in groups of rows, so that those which run at a time share what is in the L2 cache.
"""

import sys

import numpy as np
import triton
import triton.language as tl
import tutorial

import ringlaunch as rl

CONFIGURATIONS = [
    triton.Config({"M": 64, "N": 64, "K": 32, "GROUP": 8}, num_warps=4, num_stages=3),
    triton.Config({"M": 128, "N": 64, "K": 64, "GROUP": 8}, num_warps=4, num_stages=3),
    triton.Config({"M": 128, "N": 128, "K": 64, "GROUP": 4}, num_warps=8, num_stages=4),
]


@triton.jit
def leaky_relu(x):
    return tl.where(x >= 0, x, 0.01 * x)


@rl.wrap
@triton.autotune(CONFIGURATIONS, key=["rows", "columns", "inner"])
@triton.jit
def matmul_kernel(
    a, b, c, rows, columns, inner,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    down, across = tl.cdiv(rows, M), tl.cdiv(columns, N)
    group = tl.program_id(0) // (GROUP * across)
    first = group * GROUP
    height = min(down - first, GROUP)
    place = tl.program_id(0) % (GROUP * across)
    m = (first + place % height) * M + tl.arange(0, M)
    n = place // height * N + tl.arange(0, N)
    k = tl.arange(0, K)
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, inner, K):
        left = tl.load(
            a + m[:, None] * inner + (start + k)[None, :],
            (m < rows)[:, None] & (start + k < inner)[None, :],
            other=0.0,
        )
        right = tl.load(
            b + (start + k)[:, None] * columns + n[None, :],
            (start + k < inner)[:, None] & (n < columns)[None, :],
            other=0.0,
        )
        total = tl.dot(left, right, total)
    if ACTIVATION == "leaky_relu":
        total = leaky_relu(total)
    tl.store(c + m[:, None] * columns + n[None, :], total.to(tl.float16), (m < rows)[:, None] & (n < columns)[None, :])


def matmul(a, b, c, rows, columns, inner, activation=""):
    """c = a @ b, of matrices of float16, which stand row by row."""

    def grid(meta):
        return (triton.cdiv(rows, meta["M"]) * triton.cdiv(columns, meta["N"]),)

    matmul_kernel[grid](a, b, c, rows, columns, inner, ACTIVATION=activation)


def compare(client):
    random = np.random.default_rng(0)
    for rows, columns, inner, activation in ((512, 512, 512, ""), (300, 200, 100, "leaky_relu")):
        a = (random.standard_normal((rows, inner)) / 8).astype(np.float16)
        b = (random.standard_normal((inner, columns)) / 8).astype(np.float16)
        out = client.zeros((rows, columns), np.float16)
        matmul(client.array(a), client.array(b), out, rows, columns, inner, activation)
        expected = a.astype(np.float32) @ b.astype(np.float32)
        if activation:
            expected = np.where(expected >= 0, expected, 0.01 * expected)
        yield f"{rows} x {inner} x {columns} {activation}".strip(), out.numpy(), expected, 2e-3, 2e-3


if __name__ == "__main__":
    sys.exit(tutorial.run(__doc__, compare))
