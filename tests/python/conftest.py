"""Real daemons for the tests of the Python package: each on a socket of its own, gone when the tests are."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import KERNELS, WATCHDOG_S, Daemon, daemon_program, script


@pytest.fixture(scope="session", autouse=True)
def _private_environment(tmp_path_factory):
    """No test meets the user's daemon or compile cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        patch.delenv("RINGLAUNCH_SOCKET", raising=False)
        patch.setenv("RINGLAUNCHD", daemon_program())
        yield


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heeded():
    """Ctrl-C ends the programs of the tests, though a shell that runs the tests in its background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _torch_is_without_gpu(monkeypatch):
    """What is called with numbers alone goes to the daemon, on a machine with a GPU as on others."""
    if (mode := sys.modules.get("ringlaunch._triton_mode")) is None:
        yield
        return
    monkeypatch.setattr(mode, "_torch_has_gpu", lambda: False)
    mode._core.triton_torch_has_gpu(False)
    yield
    mode._core.triton_torch_has_gpu(True)  # that is: torch is to be asked


@pytest.fixture(scope="session")
def host():
    daemon = Daemon("host")
    yield daemon
    daemon.stop()


@pytest.fixture(scope="session")
def null():
    daemon = Daemon("null")
    yield daemon
    daemon.stop()


@pytest.fixture
def own_host():
    """A daemon that a test may harm."""
    daemon = Daemon("host")
    yield daemon
    daemon.stop()


@pytest.fixture
def client(request):
    """Of the host driver's daemon, or of the one that the module names: `DAEMON = "null"`."""
    with request.getfixturevalue(getattr(request.module, "DAEMON", "host")).connect() as connected:
        yield connected


@pytest.fixture
def kernels(client):
    return client.compile(KERNELS, name="kernels.cu")


@pytest.fixture
def run_script(host):
    """Runs Python source in a process of its own, with `client` and `kernels` ready; returns the finished process."""

    def run(source: str, *arguments: str, daemon: Daemon = host, timeout: float = WATCHDOG_S):
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", script(source), daemon.socket, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def make_script():
    return script


@pytest.fixture(scope="session")
def _stub_folder(tmp_path_factory):
    """With the libcuda of stub_launches.c in it."""
    folder = tmp_path_factory.mktemp("cuda")
    compiler = shutil.which("gcc") or pytest.skip("no gcc here, which Triton compiles its launcher with")
    homes = filter(None, (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"))
    headers = [home for home in homes if Path(home, "include", "cuda.h").is_file()]
    if not headers:
        pytest.skip("no cuda.h here: set CUDA_HOME")
    source = Path(__file__).parent / "stub_launches.c"
    built = ["-I", Path(headers[0], "include"), source, "-o", folder / "libcuda.so.1"]
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-pthread", *built], check=True)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    return folder


@pytest.fixture
def run_over_stub(_stub_folder):
    """Runs a scenario of a program over that libcuda, in a process of its own."""

    def run(program: str, scenario: str) -> None:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", Path(__file__).parent / program, scenario],
            capture_output=True,
            text=True,
            timeout=110,
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(_stub_folder),
                "TRITON_LIBCUDA_PATH": str(_stub_folder),
                "TRITON_CACHE_DIR": str(_stub_folder / "cache"),
            },
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.splitlines()[-1] == scenario

    return run
