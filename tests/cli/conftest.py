"""Finds the ringlaunchd under test, runs it, and starts daemons that end with their test."""

import os
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# No command of these tests takes long; this only keeps a broken one from hanging the run.
WATCHDOG_S = 60


def find_binary() -> Path:
    """$RINGLAUNCHD, else the one installed beside this Python, else the newest build."""
    if named := os.environ.get("RINGLAUNCHD"):
        return Path(named)
    installed = Path(sys.executable).parent / "ringlaunchd"
    if installed.exists():
        return installed
    built = sorted(ROOT.glob("build/*/bin/ringlaunchd"), key=lambda path: path.stat().st_mtime)
    if not built:
        pytest.fail("there is no ringlaunchd: build it, or set RINGLAUNCHD to its path")
    return built[-1]


class Cli:
    """Runs the real binary in an environment in which no other daemon can be met."""

    def __init__(self, binary: Path, folder: Path):
        self.binary = binary
        self.folder = folder
        self.socket = folder / "daemon.sock"
        self.env = {
            name: value
            for name, value in os.environ.items()
            if name not in ("RINGLAUNCH_SOCKET", "XDG_RUNTIME_DIR", "NOTIFY_SOCKET")
        }
        self.env["RINGLAUNCH_SOCKET"] = str(self.socket)
        self.daemons: list[subprocess.Popen] = []

    def run(self, *arguments: str, env: dict | None = None, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.binary, *arguments],
            env=self.env | (env or {}),
            text=True,
            capture_output=True,
            timeout=WATCHDOG_S,
            **options,
        )

    def serve(self, *arguments: str, env: dict | None = None) -> subprocess.Popen:
        """A daemon that is ready; its log goes to <folder>/daemon.log."""
        read_end, write_end = os.pipe()
        with open(self.folder / "daemon.log", "ab") as log:
            daemon = subprocess.Popen(
                [self.binary, "serve", "--ready-fd", str(write_end), *arguments],
                env=self.env | (env or {}),
                stderr=log,
                pass_fds=[write_end],
            )
        self.daemons.append(daemon)
        os.close(write_end)
        try:
            ready, _, _ = select.select([read_end], [], [], WATCHDOG_S)
            said = os.read(read_end, 64) if ready else b"(silence)"
        finally:
            os.close(read_end)
        assert said == b"READY=1\n", f"the daemon is not ready ({said!r}): {self.log()}"
        return daemon

    def log(self) -> str:
        path = self.folder / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else "(no log)"

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.terminate()
            try:
                daemon.wait(timeout=WATCHDOG_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait(timeout=WATCHDOG_S)


@pytest.fixture(scope="session")
def binary() -> Path:
    return find_binary()


@pytest.fixture
def cli(binary):
    # Not tmp_path: the path of a unix socket has to be short.
    folder = Path(tempfile.mkdtemp(prefix="rl-cli-"))
    runner = Cli(binary, folder)
    yield runner
    runner.close()
    shutil.rmtree(folder, ignore_errors=True)
