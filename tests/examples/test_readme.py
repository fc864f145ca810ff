"""The code in README.md is what it says: the Python runs and prints what it should, the C++ compiles."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 120


@pytest.fixture
def code():
    """The one block of a language that imports Triton, or does not."""

    def find(language: str, triton: bool = False) -> str:
        text = (ROOT / "README.md").read_text()
        blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        (block,) = [block for block in blocks if ("import triton" in block) == triton]
        return block

    return find


def test_the_python_runs(code, tmp_path):
    own = {"RINGLAUNCH_SOCKET": str(tmp_path / "daemon.sock"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", code("python")],
        env={**os.environ, **own},
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (result.returncode, result.stdout) == (0, "[0. 2. 4. 6. 8.]\n"), result.stderr


def test_the_triton_kernel_is_launched(code, tmp_path):
    """By a daemon that computes nothing, so that what it prints of the array says nothing."""
    pytest.importorskip("triton")
    path = tmp_path / "daemon.sock"
    program = os.environ.get("RINGLAUNCHD") or shutil.which("ringlaunchd", path=Path(sys.executable).parent)
    source = tmp_path / "scale.py"  # Triton reads a kernel's source
    source.write_text(code("python", triton=True))
    with subprocess.Popen([program, "serve", "--driver", "null", "--socket", path, "--log-level", "warn"]) as daemon:
        try:
            deadline = time.monotonic() + LIMIT_S
            while not path.exists() and time.monotonic() < deadline:
                assert daemon.poll() is None
                time.sleep(0.02)
            result = subprocess.run(
                [sys.executable, source],
                env={**os.environ, "RINGLAUNCH_SOCKET": str(path), "TRITON_CACHE_DIR": str(tmp_path / "cache")},
                check=False,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
        finally:
            daemon.terminate()
    assert result.returncode == 0, result.stderr
    assert "8 warps" in result.stdout and "1 launches" in result.stdout


def check_syntax(source: str, standard: str, folder: Path) -> subprocess.CompletedProcess:
    include = folder / "ringlaunch"
    include.mkdir()
    for header in (*(ROOT / "client" / "include" / "ringlaunch").glob("*.hpp"), *(ROOT / "schema").glob("*.hpp")):
        (include / header.name).symlink_to(header)
    return subprocess.run(
        ["g++", f"-std={standard}", "-Wall", "-Wextra", "-fsyntax-only", "-I", folder, "-x", "c++", "-"],
        input=source,
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def test_the_cpp_compiles(code, tmp_path):
    result = check_syntax(code("cpp"), "c++20", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_an_older_standard_is_named_by_the_header(code, tmp_path):
    result = check_syntax(code("cpp"), "c++17", tmp_path)
    assert result.returncode != 0
    first = next(line for line in result.stderr.splitlines() if "error:" in line)
    assert "-std=c++20" in first
