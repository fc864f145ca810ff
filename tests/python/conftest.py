"""Real daemons for the tests of the Python package: each on a socket of its own, gone when the tests are."""

import subprocess
import sys

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
