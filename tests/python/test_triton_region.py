"""Regions: launches go in order, all of them, with what they hold, and nothing comes before its turn.

Each test is a process of its own, with a libcuda that keeps what it is handed (stub_launches.c, region_program.py)."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from triton_support import triton_version

from ringlaunch import _core

HERE = Path(__file__).parent
SCENARIOS = [
    line.removeprefix("def ").removesuffix("():")
    for line in (HERE / "region_program.py").read_text().partition("# ---- scenarios")[2].splitlines()
    if line.startswith("def ")
]

pytestmark = pytest.mark.skipif(
    triton_version < (3, 9),
    reason="Triton before 3.9 needs torch and a GPU to make its launcher",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda")
    compiler = shutil.which("gcc") or pytest.skip("no gcc here, which Triton compiles its launcher with")
    homes = filter(None, (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"))
    headers = [home for home in homes if Path(home, "include", "cuda.h").is_file()]
    if not headers:
        pytest.skip("no cuda.h here: set CUDA_HOME")
    built = ["-I", Path(headers[0], "include"), HERE / "stub_launches.c", "-o", folder / "libcuda.so.1"]
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-pthread", *built], check=True)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    return folder


def run(folder, scenario):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", HERE / "region_program.py", scenario],
        capture_output=True,
        text=True,
        timeout=110,
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(folder),
            "TRITON_LIBCUDA_PATH": str(folder),
            "TRITON_CACHE_DIR": str(folder / "cache"),
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == scenario


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_region(folder, scenario):
    if scenario == "operations_of_torch" and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: pip install torch")
    run(folder, scenario)


def test_the_scenarios_are_found():
    assert len(SCENARIOS) > 15


def test_without_cuda_a_region_does_nothing():
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU here: tests/gpu/test_triton_stress.py")
    import ringlaunch as rl

    with rl.region() as region:
        region.flush()
    assert _core.triton_region_counts() == (0, 0, 0)
