"""examples/digits.py end to end, against daemons of its own: it passes only where every logit is right."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMIT_S = 120


@pytest.fixture
def run(tmp_path):
    """Runs a program of the folder with a socket of the test's own; a private daemon leaves with it."""
    own = {"RINGLAUNCH_SOCKET": str(tmp_path / "daemon.sock"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {**os.environ, **own}

    def run_program(program: str, *arguments: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, EXAMPLES / program, *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )

    return run_program


def test_fifty_digits_agree_with_numpy(run):
    result = run("digits.py", "--driver", "host", "--limit", 50)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "driver host" in result.stdout
    assert "all 500 logits agree with NumPy" in result.stdout
    assert re.search(r"launches +350 in", result.stdout)
    assert re.search(r"enqueue latency +p50 [\d.]+ us, p99 [\d.]+ us, p99.9 [\d.]+ us", result.stdout)
    assert re.search(r"accuracy +\d+\.\d+% of all 50 digits", result.stdout)


def test_a_wrong_weight_is_found(run):
    result = run("digits.py", "--driver", "host", "--limit", 50, "--wrong-weight")
    assert result.returncode == 1
    assert re.search(r"FAILED: \d+ of 500 logits differ from NumPy's", result.stderr), result.stderr
    assert "agree with NumPy" not in result.stdout


def test_a_daemon_that_computes_nothing_fails(run):
    result = run("digits.py", "--driver", "null", "--limit", 50)
    assert result.returncode == 1
    assert "FAILED" in result.stderr
    assert "null driver runs no kernel" in result.stderr, result.stdout + result.stderr


def test_a_limit_of_nothing_is_refused(run):
    result = run("digits.py", "--limit", 0)
    assert result.returncode == 2
    assert "--limit takes 1 or more, not 0" in result.stderr


def test_weights_that_are_not_there_are_named(run, tmp_path):
    result = run("digits.py", "--weights", tmp_path / "none.npz")
    assert result.returncode == 1
    assert f"the weights {tmp_path}/none.npz cannot be read" in result.stderr
    assert "Traceback" not in result.stderr


def test_training_again_gives_the_same_network(run, tmp_path):
    result = run("digits_train.py", "--out", tmp_path / "weights.npz")
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "weights.npz") as again, np.load(EXAMPLES / "digits_weights.npz") as kept:
        assert set(again.files) == set(kept.files)
        np.testing.assert_array_equal(again["held_out"], kept["held_out"])
        for name in kept.files:  # another NumPy may round sums otherwise
            np.testing.assert_allclose(again[name], kept[name], rtol=1e-3, atol=1e-3)


def test_the_network_knows_digits_it_was_not_trained_on(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from digits_train import REQUIRED_ACCURACY, accuracy, load_digits

    images, labels = load_digits()
    assert images.shape == (1797, 64)
    with np.load(EXAMPLES / "digits_weights.npz") as file:
        network = {name: file[name] for name in file.files}
    held_out = network.pop("held_out")
    assert len(np.unique(held_out)) == len(held_out) == 359
    assert accuracy(network, images[held_out], labels[held_out]) >= REQUIRED_ACCURACY
