"""Adds two vectors: the smallest Triton kernel there is, with types as annotations.

python examples/tutorials/vector_add.py
"""

import sys

import numpy as np
import triton
import triton.language as tl
import tutorial

import ringlaunch as rl


@rl.jit
def add_kernel(
    x: rl.tensor[rl.float32], y: rl.tensor[rl.float32], out: rl.tensor[rl.float32], n: rl.int32, BLOCK: tl.constexpr
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    tl.store(out + i, tl.load(x + i, inside) + tl.load(y + i, inside), inside)


def add(x, y, out, n):
    """out = x + y, of n elements."""
    add_kernel[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)](x, y, out, n, BLOCK=1024)


def compare(client):
    random = np.random.default_rng(0)
    for n in (1, 1000, 98_432):
        a, b = random.random(n, np.float32), random.random(n, np.float32)
        out = client.zeros(n)
        add(client.array(a), client.array(b), out, n)
        yield f"{n} elements", out.numpy(), a + b, 0.0, 0.0


if __name__ == "__main__":
    sys.exit(tutorial.run(__doc__, compare))
