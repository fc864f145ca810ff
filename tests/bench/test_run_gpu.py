"""bench/run_gpu.sh without a GPU: what it refuses before it writes anything, and what it keeps of a run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path):
    """A folder like the project's with the script, a daemon and one step that are played by a few lines."""
    (tmp_path / "bench").mkdir()
    shutil.copy(ROOT / "bench" / "run_gpu.sh", tmp_path / "bench")
    (tmp_path / "bench" / "memcheck.sh").write_text('echo "looked at $RINGLAUNCHD"\nexit "${MEMCHECK:-0}"\n')
    daemon = tmp_path / "build" / "gpu" / "bin" / "ringlaunchd"
    daemon.parent.mkdir(parents=True)
    daemon.write_text('#!/bin/sh\necho "$1: all is there"\nexit 9\n')
    daemon.chmod(0o755)
    return tmp_path


def run(tree, *options: str, **env: str) -> subprocess.CompletedProcess:
    command = ["bash", tree / "bench" / "run_gpu.sh", *options]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("option", ["--only", "--deps", "--out", "--name"])
def test_an_option_without_its_value_is_refused_by_name(tree, option):
    done = run(tree, option)
    assert done.returncode == 2
    assert done.stderr == f"{option} needs a value; see --help\n"


def test_a_folder_of_dependencies_that_is_not_there_is_refused(tree):
    done = run(tree, "--no-build", "--name", "box", "--deps", "/nonexistent")
    assert done.returncode == 2
    assert "--deps /nonexistent: there is no folder /nonexistent/usr" in done.stderr
    assert not (tree / "bench" / "results").exists()


def test_without_the_build_that_is_asked_for_nothing_is_written(tree):
    shutil.rmtree(tree / "build")
    done = run(tree, "--no-build", "--name", "box")
    assert done.returncode == 2
    assert "no earlier build" in done.stderr
    assert not (tree / "bench" / "results").exists()


@pytest.mark.parametrize("code", ["0", "1"])
def test_the_logs_of_tests_the_summary_and_the_machine_are_kept(tree, code):
    done = run(tree, "--no-build", "--name", "box", "--only", "memcheck", MEMCHECK=code)
    assert done.returncode == int(code), done.stdout + done.stderr
    kept = tree / "bench" / "results" / "box"
    assert (kept / "memcheck.log").read_text() == "looked at build/bin/ringlaunchd\n"
    verdict = "ok" if code == "0" else "FAILED (1)"
    assert f"memcheck        {verdict}" in (kept / "summary.txt").read_text()
    assert "doctor: all is there" in (kept / "machine.txt").read_text()


def test_the_help_is_the_scripts_own_first_words(tree):
    told = run(tree, "--help").stdout
    assert told.startswith("Builds, tests and benches")
    assert told.endswith("The exit code is 0 only if no step failed.\n")
