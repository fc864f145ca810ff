"""bench/memcheck.sh with a compute-sanitizer that is played by a few lines: what it makes of what the tool reports."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ringlaunch import _client

ROOT = Path(__file__).resolve().parents[2]
# Runs what it is given, says so many errors of the daemon that is `well` and of the one that runs `wild`.
TOOL = """#!/usr/bin/env bash
while [ "$1" != --log-file ]; do shift; done
log=${2//%p/$$}
shift 4
"$@" &
trap 'kill $!' TERM
wait $!
code=$?
case $log in *well*) errors=$WELL ;; *) errors=$WILD ;; esac
[ "$errors" = 0 ] || echo "========= Invalid __global__ write of size 4 bytes" >"$log"
echo "========= ERROR SUMMARY: $errors errors" >>"$log"
[ "$errors" = 0 ] || exit 86
exit $code
"""

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to compile kernels with")


@pytest.fixture
def memcheck(tmp_path):
    def run(well: int, wild: int) -> subprocess.CompletedProcess:
        tool = tmp_path / "compute-sanitizer"
        tool.write_text(TOOL)
        tool.chmod(0o755)
        daemon = os.environ.get("RINGLAUNCHD") or _client._daemon_path() or "ringlaunchd"
        folders = (tmp_path, os.path.dirname(sys.executable), os.environ["PATH"])
        env = os.environ | {"PATH": ":".join(map(str, folders)), "DRIVER": "host", "RINGLAUNCHD": daemon}
        env |= {"WELL": str(well), "WILD": str(wild)}
        return subprocess.run(
            ["bash", ROOT / "bench" / "memcheck.sh"], env=env, capture_output=True, text=True, timeout=120
        )

    return run


def test_no_error_of_the_daemon_and_one_of_a_wild_write_is_well(memcheck):
    done = memcheck(well=0, wild=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("no errors; a write beyond all memory is reported")


def test_an_error_of_the_daemon_fails(memcheck):
    done = memcheck(well=2, wild=1)
    assert done.returncode == 1
    assert "2 errors" in done.stdout


def test_a_tool_that_does_not_see_a_wild_write_fails(memcheck):
    done = memcheck(well=0, wild=0)
    assert done.returncode == 1
    assert "reported nothing of a write beyond all memory" in done.stdout
