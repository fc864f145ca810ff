"""The package is typed: py.typed is there, mypy agrees with it, and the stubs say what the extension has."""

import subprocess
import sys
from pathlib import Path

import pytest

import ringlaunch
from ringlaunch import _core

PACKAGE = Path(ringlaunch.__file__).parent
ROOT = Path(__file__).resolve().parents[2]

# What pybind11 and the C types cannot be described as.
ALLOWED = r"""
ringlaunch\._core\.\w+Handle
ringlaunch\._core\.\w+Handle\.__init__
ringlaunch\._core\.EmptyCall
ringlaunch\._core\.PinnedHandle\.__(release_)?buffer__
"""

PROGRAM = """
import numpy as np
import ringlaunch as rl

with rl.connect(driver="null") as client:
    module: rl.Module = client.load(b"", signatures={"k": ["pointer", ("n", "int32")]})
    kernel: rl.Kernel = module["k"]
    x: rl.Buffer = client.array(np.zeros(3))
    y = client.zeros((2, 3), np.float32)
    with client.stream(on_restart="rerun") as stream:
        kernel[1, 256](x, y, 3, stream=stream, shared=0)
        launch: rl.Launcher = kernel.bind((1, 2), 4, stream)
        launch(x, y[0], 3)
        event: rl.Event = stream.record()
        event.wait(timeout=1.0)
        running: bool = stream.status.running
    out: np.ndarray = x.numpy()


async def later(event: rl.Event) -> None:
    await event
"""


def mypy(*arguments, cwd):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100)
    return done.returncode, done.stdout + done.stderr


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_core.pyi").exists()


def test_the_stubs_name_what_the_extension_has():
    said = (PACKAGE / "_core.pyi").read_text()
    for name in dir(_core):
        if not name.startswith("__"):
            assert f" {name}(" in said or f"class {name}" in said or f"{name}:" in said, name


def test_a_program_type_checks(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    code, said = mypy("mypy", "--strict", "program.py", cwd=tmp_path)
    assert code == 0, said


def test_a_wrong_program_does_not(tmp_path):
    (tmp_path / "program.py").write_text("import ringlaunch as rl\nrl.connect(driver=3)\n")
    code, said = mypy("mypy", "--strict", "program.py", cwd=tmp_path)
    assert code == 1
    assert "driver" in said


def test_the_package_type_checks(tmp_path):
    code, said = mypy("mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "ringlaunch", cwd=tmp_path)
    assert code == 0, said


def test_the_stubs_agree_with_the_extension(tmp_path):
    (tmp_path / "allowed").write_text(ALLOWED)
    code, said = mypy(
        "mypy.stubtest",
        "ringlaunch._core",
        "--allowlist",
        "allowed",
        "--ignore-unused-allowlist",
        "--ignore-disjoint-bases",
        "--concise",
        cwd=tmp_path,
    )
    assert code == 0, said
