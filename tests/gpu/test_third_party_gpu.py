"""A program of others, with the kernels of others, does through ringlaunch what it does without."""

import subprocess
import sys

import pytest
from gpu_support import ROOT, WATCHDOG_S

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
pytest.importorskip("liger_kernel", reason="Liger-Kernel is not installed: pip install liger-kernel")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


def run(*command):
    done = subprocess.run(
        [sys.executable, *command, ROOT / "examples" / "liger_layers.py", "--steps", "6"],
        capture_output=True, text=True, timeout=2 * WATCHDOG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("#")], done.stderr


def test_layers_of_liger_kernel_learn_the_same_to_the_bit():
    plain, _ = run()
    ours, report = run("-m", "ringlaunch", "run", "--report", "--mode", "inline")
    assert len(plain) == 6 and ours == plain
    launched = {line.split()[0]: line.split()[1:] for line in report.splitlines() if line.startswith("liger_kernel.")}
    assert len(launched) >= 6
    assert all(int(launches) > 2 * int(slow) for launches, slow, _ in launched.values()), report
