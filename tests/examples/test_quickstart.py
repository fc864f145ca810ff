"""deploy/quickstart.sh where everything is installed already: a run, a run that keeps the daemon, a run after that."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 300

pytestmark = pytest.mark.timeout(2 * LIMIT_S + 60)


def _installed_from() -> str:
    """The folder, as a URL, that the installed package was built from; "" where there is none."""
    try:
        return json.loads(importlib.metadata.distribution("ringlaunch").read_text("direct_url.json") or "{}").get(
            "url", ""
        )
    except importlib.metadata.PackageNotFoundError:
        return ""


@pytest.fixture
def quickstart(tmp_path):
    """Runs the script on the environment that these tests run in, with sockets of the test's own."""
    if not (Path(sys.prefix) / ".ringlaunch-sources").exists() or _installed_from() != ROOT.as_uri():
        pytest.skip(
            f"{sys.prefix} was not set up by this checkout's tests/run.sh or deploy/quickstart.sh: this would install "
            "into it"
        )
    environment = {**os.environ, "RINGLAUNCH_VENV": sys.prefix, "XDG_RUNTIME_DIR": str(tmp_path)}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", ROOT / "deploy" / "quickstart.sh", *arguments],
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )

    return run


@pytest.fixture
def status(tmp_path):
    """The exit code of `ringlaunchd status` at the quick start's socket: 0 while its daemon runs, else 3."""
    # As cksum counts: another checkout's has another name.
    named = subprocess.run(["cksum"], input=str(ROOT).encode(), check=True, capture_output=True).stdout.split()[0]
    socket = tmp_path / "ringlaunch" / f"quickstart-{named.decode()}.sock"

    def command(name: str) -> int:
        daemon = Path(sys.prefix) / "bin" / "ringlaunchd"
        return subprocess.run(
            [daemon, name, "--socket", socket], check=False, capture_output=True, timeout=60
        ).returncode

    def ask() -> int:
        return command("status")

    yield ask
    if ask() == 0:
        command("stop")


def test_it_classifies_all_digits_and_leaves_nothing_running(quickstart, status):
    result = quickstart()
    assert result.returncode == 0, result.stdout
    assert "the installed package is of these sources" in result.stdout
    assert "all 17970 logits agree with NumPy" in result.stdout
    assert status() == 3


def test_a_daemon_that_is_kept_is_replaced_by_the_next_run(quickstart, status):
    kept = quickstart("--keep")
    assert kept.returncode == 0, kept.stdout
    assert "What to try next" in kept.stdout
    assert status() == 0
    again = quickstart()
    assert again.returncode == 0, again.stdout
    assert "stopping the daemon that an earlier run left" in again.stdout
    assert status() == 3


def test_help_says_what_it_does_and_a_wrong_option_is_refused(quickstart):
    assert "usage: bash deploy/quickstart.sh" in quickstart("--help").stdout
    refused = quickstart("--nonsense")
    assert refused.returncode == 2
    assert "usage: bash deploy/quickstart.sh" in refused.stdout
