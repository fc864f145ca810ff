"""A real daemon on a real GPU; without one every test here is skipped, with what is missing."""

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import time

import pytest
from gpu_support import WATCHDOG_S, daemon_program

import ringlaunch as rl
from ringlaunch import _nvrtc


@pytest.fixture(scope="session", autouse=True)
def _gpu():
    try:
        seen = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        pytest.skip("no GPU here: nvidia-smi does not answer")
    if not re.search(r"^GPU \d", seen.stdout, re.MULTILINE):
        pytest.skip(f"no GPU here: nvidia-smi -L says {seen.stdout + seen.stderr!r}")
    try:
        _nvrtc.load()
    except rl.Unsupported as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def _serve(*arguments: str):
    """A daemon with the cuda driver: its socket."""
    with tempfile.TemporaryDirectory(prefix="rl-gpu-") as folder:
        path = os.path.join(folder, "daemon.sock")
        with open(os.path.join(folder, "daemon.log"), "w+") as log:
            daemon = subprocess.Popen(
                [daemon_program(), "serve", "--socket", path, "--driver", "cuda", *arguments], stdout=log, stderr=log
            )
            try:
                end = time.monotonic() + WATCHDOG_S
                while not _answers(path):
                    if daemon.poll() is not None or time.monotonic() > end:
                        log.seek(0)
                        pytest.fail(f"the daemon does not serve:\n{log.read()}")
                    time.sleep(0.02)
                yield path
            finally:
                daemon.terminate()
                try:
                    daemon.wait(WATCHDOG_S)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    raise


@pytest.fixture
def serve_gpu():
    """Serves with arguments of the test's own: a context manager that gives the socket."""
    return _serve


@pytest.fixture(scope="module")
def gpu_socket():
    """The socket of a daemon with the cuda driver."""
    with _serve() as socket:
        yield socket


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        return probe.connect_ex(path) == 0


@pytest.fixture
def client(gpu_socket):
    with rl.connect(socket=gpu_socket, start=False) as connected:
        assert connected.daemon.driver == "cuda"
        yield connected
