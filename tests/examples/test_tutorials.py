"""examples/tutorials without a GPU: each kernel compiles and is launched; that nothing is computed is found."""

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import ringlaunch as rl

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # an answer to a warning of Triton's
pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

TUTORIALS = Path(__file__).parents[2] / "examples" / "tutorials"
LAUNCHES = {  # of each, and the shapes that they are compiled for
    "vector_add": ("add_kernel", 3),
    "fused_softmax": ("softmax_kernel", 3),
    "matmul": ("matmul_kernel", 2),
    "dropout": ("dropout_kernel", 6),
    "layer_norm": ("backward_kernel", 2),
    "attention": ("attention_kernel", 3),
}


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(TUTORIALS)

    def load_module(name):
        return importlib.import_module(name)

    yield load_module
    for name in (*LAUNCHES, "tutorial"):
        sys.modules.pop(name, None)


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    with (
        tempfile.TemporaryDirectory(prefix="rl-tut-") as folder,
        rl.connect(os.path.join(folder, "daemon.sock"), driver="null") as connected,
    ):
        yield connected


def test_there_is_no_other_tutorial():
    assert {path.stem for path in TUTORIALS.glob("*.py")} == {*LAUNCHES, "tutorial"}


@pytest.mark.parametrize("name", LAUNCHES)
def test_its_kernels_compile_and_each_comparison_is_one_of_arrays(client, load, name):
    module = load(name)
    kernel_name, launches = LAUNCHES[name]
    kernel = getattr(module, kernel_name)
    kernel = getattr(kernel, "fn", kernel) if name == "matmul" else kernel
    compared = 0
    for what, found, expected, relative, absolute in module.compare(client):
        assert what and np.shape(found) == np.shape(expected)
        assert np.isfinite(expected).all() and 0 <= relative < 0.01 and 0 <= absolute < 0.03
        compared += 1
    assert compared >= 3 or name == "matmul"
    assert sum(variant.hits for variant in kernel.cache) >= launches
    if name == "matmul":
        tried = {(v.constants["M"], v.constants["N"]) for v in kernel.cache}
        assert tried == {(c.kwargs["M"], c.kwargs["N"]) for c in module.CONFIGURATIONS}
    client.synchronize()


@pytest.mark.parametrize("name", ["vector_add", "layer_norm"])
def test_a_daemon_that_computes_nothing_fails(tmp_path, name):
    own = {"RINGLAUNCH_SOCKET": str(tmp_path / "daemon.sock"), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    done = subprocess.run(
        [sys.executable, TUTORIALS / f"{name}.py", "--driver", "null"],
        env={**os.environ, **own}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "elements differ from NumPy's" in done.stderr and "null driver runs no kernel" in done.stderr
    assert "driver null" in done.stdout and "Traceback" not in done.stderr


def test_another_driver_than_there_is_fails_with_what_to_do(tmp_path):
    own = {"RINGLAUNCH_SOCKET": str(tmp_path / "nowhere" / "daemon.sock")}
    done = subprocess.run(
        [sys.executable, TUTORIALS / "dropout.py", "--driver", "null"],
        env={**os.environ, **own}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1 and "does not exist; make it or name another" in done.stderr
