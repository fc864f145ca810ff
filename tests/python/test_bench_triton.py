"""`python -m ringlaunch.bench triton` without a GPU: what it runs, prints, writes and draws. No figure is looked at."""

import csv
import importlib.util
import os
import subprocess
import sys

import pytest
import triton_support  # noqa: F401  skips where there is no Triton

from ringlaunch import _bench_triton


def bench(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "ringlaunch.bench", *arguments],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=100,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    done = bench("triton", "--driver", "null", "--runs", "2", "--steps", "60", "--csv", "figures.csv", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def rows_of(folder):
    with open(folder / "figures.csv") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def test_each_way_has_its_figures(measured):
    folder, said = measured
    rows = rows_of(folder)
    here = {(row["row"], row["measure"]) for row in rows if row["machine"] == "this machine"}
    for size in ("short", "long"):
        assert (f"{size}, ringlaunch", "call") in here and (f"{size}, ringlaunch", "step") in here
        assert (f"{size}, ringlaunch, from a file", "call") in here
        assert (f"{size}, ringlaunch, nothing launched", "call") in here
        assert (f"{size}, Triton, nothing launched", "call") in here
    assert ("ringlaunch", "1024") in here and ("noop", "call") in here
    for row in rows:
        if row["machine"] == "this machine":
            figures = [float(row[name]) for name in ("min", "p25", "p50", "p75", "max")]
            assert figures == sorted(figures) and row["mean_all"] and row["std_all"]
            assert f"{row['row']} " in said
    assert "null driver" in said and "2 runs of 60 steps" in said


def test_figures_of_another_machine_are_marked_as_such(measured):
    folder, said = measured
    rows = [row for row in rows_of(folder) if row["machine"] == "another machine"]
    found = {row["row"]: float(row["mean"]) for row in rows if row["mean"]}
    assert found["short, Triton"] == 44.96 and found["long, optimized"] == 23.27
    assert "another machine (Xeon 6154 at 3.00 GHz, RTX 2080 SUPER" in said
    assert all(row["table"] == "calls" for row in rows)  # there is no autograd here to stand beside


def test_figures_are_shown_again_from_their_file(measured):
    folder, said = measured
    done = bench("triton", "--from", "figures.csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == said.splitlines()[-len(done.stdout.splitlines()) + 1 :]
    assert len(done.stdout.splitlines()) > 30


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_figures_are_drawn(measured):
    folder, _ = measured
    done = bench("triton", "--from", "figures.csv", "--png", "figures.png", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_one_table_alone(tmp_path):
    done = bench("triton", "--driver", "null", "--runs", "1", "--steps", "20", "--only", "length", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "against length" in done.stdout and "short, ringlaunch" not in done.stdout


def test_an_unknown_benchmark_is_refused(tmp_path):
    done = bench("nothing", cwd=tmp_path)
    assert done.returncode == 2 and "triton" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "nothing"), "expected some of calls, growth, autograd, length, once, by commas, found 'nothing'"),
        (("--only", "calls,"), "by commas, found ''"),
        (("--runs", "0"), "argument --runs: expected a number from 1 on, found '0'"),
        (("--steps", "-5"), "argument --steps: expected a number from 1 on, found '-5'"),
        (("--driver", "host"), "--driver host: Triton's kernels do not run on the host driver"),
        (("--driver", "none"), "--driver none: "),
        (("--from", "nofile"), "--from nofile: No such file or directory"),
        (("--from", "."), "--from .: Is a directory"),
        (("--from", "text"), "--from text: expected a file that --csv has written"),
        (("--from", "empty"), "--from empty: expected a file that --csv has written"),
        (("--from", "binary"), "--from binary: expected a file that --csv has written"),
    ],
)
def test_what_cannot_be_measured_or_read_is_refused_in_a_sentence(tmp_path, arguments, said):
    (tmp_path / "text").write_text("a,b\nc,d\n")
    (tmp_path / "empty").write_text("")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    done = bench("triton", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "", done.stdout + done.stderr
    assert said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("us", "said"),
    [
        (0.25, "0.25, at most 0.25: met"),
        (0.252, "0.252, at most 0.25: NOT met"),
        (0.2504, "0.2504, at most 0.25: NOT met"),
        (0.250004, "0.250004, at most 0.25: NOT met"),
        (0.249999, "0.249999, at most 0.25: met"),
        (0.1234567, "0.1235, at most 0.25: met"),
    ],
)
def test_a_target_has_as_many_digits_as_tell_it_from_its_bound(us, said):
    row = _bench_triton.Row("calls", "short, ringlaunch", _bench_triton._HERE, "call", (us,) * 7, us, 0.0)
    assert list(_bench_triton._targets([row], {})) == [f"target: short, ringlaunch, us a call: {said}"]
