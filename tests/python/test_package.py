"""What the wheel carries: the package, the extension, the kernel header, and the daemon in the environment's bin."""

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support import daemon_program

import ringlaunch as rl

PACKAGE = Path(rl.__file__).parent


def installed_files():
    try:
        distribution = importlib.metadata.distribution("ringlaunch")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed: it runs from a build folder")
    return {str(path): path.locate().resolve() for path in distribution.files}


def test_the_kernel_header_is_in_the_package():
    header = PACKAGE / "include" / "ringlaunch" / "kernel.h"
    assert "RINGLAUNCH_EXPORT" in header.read_text()


def test_the_wheel_has_all_of_it():
    files = installed_files()
    for name in (
        "__init__.py",
        "py.typed",
        "_core.pyi",
        "include/ringlaunch/kernel.h",
        "include/ringlaunch/kernel_intrinsics.h",
    ):
        assert f"ringlaunch/{name}" in files
    assert any(name.startswith("ringlaunch/_core.") and name.endswith(".so") for name in files)
    assert Path(sysconfig.get_path("scripts"), "ringlaunchd").resolve() in files.values()


def test_the_wheel_has_nothing_else():
    for name in installed_files():
        top = name.split("/")[0]
        assert top in ("ringlaunch", "..") or top.startswith("ringlaunch-"), name


def test_daemon_and_package_are_of_one_version():
    done = subprocess.run([daemon_program(), "version"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert rl.__version__ in done.stdout


def test_importing_brings_no_cuda():
    code = "import ringlaunch; print([line for line in open('/proc/self/maps') if 'libcuda' in line])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_importing_starts_nothing_and_brings_nothing_large():
    program = """if True:
        import sys, threading, ringlaunch
        large = {"numpy", "asyncio", "triton", "torch"} & sys.modules.keys()
        print(threading.active_count(), sorted(large))
        """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1 []", done.stderr


def test_a_subinterpreter_is_refused():
    program = """if True:
        try:
            import _interpreters as interpreters
            run, kinds = interpreters.exec, ("legacy", "isolated")
        except ImportError:
            import _xxsubinterpreters as interpreters
            run, kinds = interpreters.run_string, ()
        made = [interpreters.create(kind) for kind in kinds] or [interpreters.create(), interpreters.create()]
        for each in made:
            run(each, '''if True:
                try:
                    import ringlaunch
                except ImportError as error:
                    print("refused:", error, flush=True)
                ''')
            import ringlaunch  # here it works, then as before
        """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused:") and "subinterpreter" in line]
    assert len(refused) == 2, done.stdout
