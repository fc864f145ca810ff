"""Attention in one kernel: the weights of a row of queries are never written, but summed up as the keys go by.

    python examples/tutorials/attention.py

For each block of queries the largest score and the sum of the weights so far are kept; when a larger score comes, what
was summed up is scaled down.
"""

import math
import sys

import numpy as np
import triton
import triton.language as tl
import tutorial

import ringlaunch as rl


@rl.jit
def attention_kernel(
    q, k, v, out, length, scale: float,
    SIZE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64) * length * SIZE
    m = tl.program_id(0) * M + tl.arange(0, M)
    n = tl.arange(0, N)
    d = tl.arange(0, SIZE)
    queries = tl.load(q + head + m[:, None] * SIZE + d[None, :], (m < length)[:, None], other=0.0)
    largest = tl.full((M,), -float("inf"), tl.float32)
    weights_sum = tl.zeros((M,), tl.float32)
    total = tl.zeros((M, SIZE), tl.float32)
    end = length
    if CAUSAL:
        end = min(length, (tl.program_id(0) + 1) * M)
    for start in range(0, end, N):
        inside = start + n < length
        at = head + (start + n)[:, None] * SIZE + d[None, :]
        keys = tl.load(k + at, inside[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys)) * (scale * 1.4426950408889634)  # for exp2
        seen = inside[None, :]
        if CAUSAL:
            seen = seen & (m[:, None] >= (start + n)[None, :])
        scores = tl.where(seen, scores, -float("inf"))
        highest = tl.maximum(largest, tl.max(scores, axis=1))
        weights = tl.exp2(scores - highest[:, None])
        shrink = tl.exp2(largest - highest)
        values = tl.load(v + at, inside[:, None], other=0.0)
        total = tl.dot(weights.to(values.dtype), values, total * shrink[:, None])
        weights_sum = weights_sum * shrink + tl.sum(weights, axis=1)
        largest = highest
    result = (total / weights_sum[:, None]).to(out.dtype.element_ty)
    tl.store(out + head + m[:, None] * SIZE + d[None, :], result, (m < length)[:, None])


def attention(q, k, v, out, heads, length, size, causal=False):
    """out = softmax(q @ k^T / sqrt(size)) @ v of each head: float16 of (heads, length, size)."""
    attention_kernel[(triton.cdiv(length, 64), heads)](
        q, k, v, out, length, 1 / math.sqrt(size), SIZE=size, M=64, N=64, CAUSAL=causal, num_warps=4, num_stages=2
    )


def with_numpy(q, k, v, causal):
    q, k, v = (each.astype(np.float64) for each in (q, k, v))
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tri(q.shape[1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def compare(client):
    random = np.random.default_rng(0)
    for shape, causal in (((6, 256, 64), False), ((6, 256, 64), True), ((2, 100, 32), True)):
        q, k, v = (random.standard_normal(shape).astype(np.float16) for _ in range(3))
        out = client.zeros(shape, np.float16)
        attention(*(client.array(each) for each in (q, k, v)), out, *shape, causal)
        name = f"{shape[0]} heads of {shape[1]} x {shape[2]}{', causal' if causal else ''}"
        yield name, out.numpy(), with_numpy(q, k, v, causal), 5e-3, 5e-3


if __name__ == "__main__":
    sys.exit(tutorial.run(__doc__, compare))
