"""The code in README.md is what it says: the Python runs and prints what it should, the C++ compiles."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 120


@pytest.fixture
def code():
    """The one block of a language."""

    def find(language: str) -> str:
        text = (ROOT / "README.md").read_text()
        (block,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
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


def test_the_cpp_compiles(code, tmp_path):
    include = tmp_path / "ringlaunch"
    include.mkdir()
    for header in (*(ROOT / "client" / "include" / "ringlaunch").glob("*.hpp"), *(ROOT / "schema").glob("*.hpp")):
        (include / header.name).symlink_to(header)
    result = subprocess.run(
        ["g++", "-std=c++20", "-Wall", "-Wextra", "-fsyntax-only", "-I", tmp_path, "-x", "c++", "-"],
        input=code("cpp"),
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (result.returncode, result.stderr) == (0, "")
