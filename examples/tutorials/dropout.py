"""Dropout by a seed: what is kept follows from seed and place, so that no mask is stored, and a seed gives it again.

python examples/tutorials/dropout.py
"""

import sys

import numpy as np
import triton
import triton.language as tl
import tutorial

import ringlaunch as rl


@rl.jit
def dropout_kernel(x, out, n, drop, seed, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    keep = tl.rand(seed, i) > drop
    tl.store(out + i, tl.where(keep, tl.load(x + i, inside) / (1 - drop), 0.0), inside)


def dropout(x, out, n, drop, seed):
    """out = x with each element zero at probability `drop`, and the others scaled up to make up for it."""
    dropout_kernel[(triton.cdiv(n, 1024),)](x, out, n, drop, seed, BLOCK=1024)


def compare(client):
    n = 100_000
    a = np.random.default_rng(0).random(n, np.float32) + 1
    x = client.array(a)
    for drop, seed in ((0.5, 123), (0.1, 512)):
        out, again, other = (client.zeros(n) for _ in range(3))
        dropout(x, out, n, drop, seed)
        dropout(x, again, n, drop, seed)
        dropout(x, other, n, drop, seed + 1)
        kept = out.numpy() != 0
        yield f"p = {drop}: what is kept", out.numpy(), np.where(kept, a / np.float32(1 - drop), 0), 1e-6, 0.0
        yield f"p = {drop}: how much is kept", kept.mean(), np.float64(1 - drop), 0.0, 0.01
        yield f"p = {drop}: the same seed", again.numpy(), out.numpy(), 0.0, 0.0
        same = ((other.numpy() != 0) == kept).mean()
        yield f"p = {drop}: another seed", same, np.float64(drop**2 + (1 - drop) ** 2), 0.0, 0.02


if __name__ == "__main__":
    sys.exit(tutorial.run(__doc__, compare))
