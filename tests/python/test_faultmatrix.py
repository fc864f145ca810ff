"""The fault matrix on the host driver: every promise holds, and one that does not would be seen."""

import json
import subprocess
import sys

import numpy as np
import pytest
from support import WATCHDOG_S, daemon_program

from ringlaunch import faultmatrix

PATIENCE_S = 60  # the matrix asserts a time, a test does not


def matrix(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ringlaunch.faultmatrix", "--alive-target", str(PATIENCE_S), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.fixture
def daemon(monkeypatch):
    monkeypatch.setenv("RINGLAUNCHD", daemon_program())
    started = faultmatrix.Daemon("host")
    yield started
    started.close()


def test_every_fault_of_the_host_leaves_its_neighbours_what_they_have(tmp_path):
    kept = tmp_path / "matrix.json"
    table = tmp_path / "matrix.csv"
    done = matrix("--driver", "host", "--repeat", "1", "--json", str(kept), "--csv", str(table))
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(kept.read_text())
    runs = {run["fault"]: run for run in said["runs"]}
    assert set(runs) | set(said["skipped"]) == {f.name for f in faultmatrix.FAULTS if "host" in f.drivers}
    assert len(runs) >= 9
    for name, run in runs.items():
        assert run["problems"] == [], name
        assert run["exact"], name
        if run["culprit"] == "KernelFault (kernel_faulted)":
            assert run["named"].startswith("kernel "), name
            assert run["exactly"] == "yes", name
    assert runs["segfault"]["culprit"] == "KernelFault (kernel_faulted)"
    assert runs["segfault"]["named"] == "kernel write_to, its record"
    assert runs["SIGKILL of the executor"]["exactly"] == ""
    assert runs["segfault"]["restarts"] == 1
    assert runs["out of memory"]["restarts"] == 0
    for run in runs.values():
        assert run["rerun"] in ("rerun", "went on")
        assert run["rerun"] == "went on" or run["restarts"] > 0
    # A pause that it launches between its bursts is mostly at work.
    assert any(run["rerun"] == "rerun" for run in runs.values())
    # With nothing in doubt at that moment it goes on.
    assert runs["SIGKILL of the executor"]["stop"] in ("stopped (executor_killed), resumed", "went on")
    assert len(table.read_text().splitlines()) == 2 + len(runs)
    assert f"{len(runs)} of {len(runs)} runs held" in done.stdout
    again = matrix("--from", str(kept))
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_a_missed_target_is_a_failure():
    done = matrix("--driver", "host", "--repeat", "1", "--fault", "trap", "--alive-target", "0")
    assert done.returncode == 1
    assert "a neighbour was alive only after" in done.stdout
    assert "0 of 1 runs held" in done.stdout


@pytest.mark.parametrize("victim", [faultmatrix.StopVictim, faultmatrix.RerunVictim])
def test_a_victim_sees_bytes_that_are_not_its_own(daemon, victim):
    good, bad = victim(daemon), victim(daemon)
    for one in (good, bad):
        one.start()
    faultmatrix._until(lambda: min(len(good.results), len(bad.results)) >= 5)
    (bad.word if victim is faultmatrix.StopVictim else bad.cells[:-1]).fill(12345, bad.stream)
    for one in (good, bad):
        one.over.set()
        one.join(WATCHDOG_S)
    assert good.problems == []
    assert len(bad.problems) == 1
    assert "not what the launches give" in bad.problems[0]


def test_an_idle_victim_sees_bytes_that_changed(daemon):
    idle = faultmatrix.IdleVictim(daemon)
    idle.check()
    assert idle.problems == []
    idle.word.fill(0)
    idle.buffers[1][500:501].fill(idle.data[1][500] ^ np.uint8(1))
    idle.check()
    assert idle.problems == ["100000 bytes are not what they were"]


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_a_count_of_runs_that_runs_nothing_is_refused(count):
    done = matrix("--repeat", count)
    assert done.returncode == 2
    assert f"--repeat: expected an integer of at least 1, found '{count}'" in done.stderr


def test_a_file_of_runs_that_cannot_be_read_is_named(tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"runs": [{}]}')
    for path, why in ((tmp_path / "nope", "cannot be read: No such file"), (other, "is no file that --json")):
        done = matrix("--from", str(path))
        assert done.returncode == 1
        assert done.stderr.startswith(f"--from {path} {why}")


def test_what_it_is_not_asked_in_its_own_words_is_refused():
    done = matrix("--fault", "bad luck")
    assert done.returncode == 2
    assert "segfault" in done.stderr
