"""Softmax of each row in one pass: a row is read once, and stays in registers until its weights are written.

python examples/tutorials/fused_softmax.py
"""

import sys

import numpy as np
import triton
import triton.language as tl
import tutorial

import ringlaunch as rl

PROGRAMS = 1024  # each takes every 1024th row


@rl.jit
def softmax_kernel(x, out, rows, columns, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    inside = i < columns
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        at = row.to(tl.int64) * columns + i
        values = tl.load(x + at, inside, other=-float("inf"))
        weights = tl.exp(values - tl.max(values, axis=0))
        tl.store(out + at, weights / tl.sum(weights, axis=0), inside)


def softmax(x, out, rows, columns):
    """out = softmax(x) along the rows of a matrix."""
    block = triton.next_power_of_2(columns)
    warps = min(max(block // 256, 4), 16)
    softmax_kernel[(min(rows, PROGRAMS),)](x, out, rows, columns, BLOCK=block, num_warps=warps)


def compare(client):
    random = np.random.default_rng(0)
    for shape in ((1823, 781), (5, 3), (64, 4096)):
        a = random.standard_normal(shape, np.float32)
        out = client.zeros(shape)
        softmax(client.array(a), out, *shape)
        weights = np.exp(a - a.max(axis=1, keepdims=True))
        yield f"{shape[0]} x {shape[1]}", out.numpy(), weights / weights.sum(axis=1, keepdims=True), 1e-4, 1e-7


if __name__ == "__main__":
    sys.exit(tutorial.run(__doc__, compare))
