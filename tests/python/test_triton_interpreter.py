"""Kernels under TRITON_INTERPRET run in Triton's interpreter, in this process, whatever ringlaunch is told of them."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

PROGRAM = """
import triton
import triton.language as tl

import ringlaunch as rl
from triton.runtime.interpreter import InterpretedFunction


@rl.jit
def add(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, i < n) + 1.0, i < n)


@triton.jit
def plain(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, i < n) + 2.0, i < n)


assert isinstance(add, InterpretedFunction) and rl.wrap(plain) is plain
rl.install()
try:
    import torch
except ModuleNotFoundError:  # whose tensors are all that the interpreter takes
    print("of its kind")
else:
    x = torch.arange(100, dtype=torch.float32)
    for kernel, by in ((add, 1), (plain, 2)):
        y = torch.zeros(100)
        kernel[lambda meta: (meta["BLOCK"] // 8,)](x, y, 100, BLOCK=32)
        assert torch.equal(y, x + by)
    print("computed")
"""


def test_interpreted_kernels_stay_tritons(tmp_path):
    program = tmp_path / "program.py"  # Triton reads the source of kernels from a file
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout in ("of its kind\n", "computed\n")
