"""`ringlaunchd doctor`: its verdicts, its exit code, and what it says of a folder that cannot be trusted."""

import json
import os
import subprocess

import pytest

EXIT_BY_VERDICT = {"ok": 0, "warn": 9, "missing": 10}


def findings(result: subprocess.CompletedProcess) -> dict[str, dict]:
    return {finding["subject"]: finding for finding in json.loads(result.stdout)["findings"]}


def test_every_subject_has_a_verdict_and_the_worst_is_the_exit_code(cli):
    result = cli.run("doctor", "--json")
    report = json.loads(result.stdout)
    subjects = [finding["subject"] for finding in report["findings"]]
    assert subjects == [
        "socket folder",
        "daemon",
        "memfd seals",
        "membarrier",
        "pidfd",
        "open files",
        "memlock",
        "/dev/shm",
        "cores",
        "C++ compiler",
        "host driver",
        "CUDA devices",
        "CUDA driver",
    ]
    worst = max((finding["verdict"] for finding in report["findings"]), key=list(EXIT_BY_VERDICT).index)
    assert report["verdict"] == worst
    assert result.returncode == EXIT_BY_VERDICT[worst]
    for finding in report["findings"]:
        assert finding["found"]
        if finding["verdict"] != "ok":
            assert finding["advice"], f"{finding['subject']} says nothing of what to do"


def test_the_text_says_what_the_json_says(cli):
    as_json = cli.run("doctor", "--json")
    as_text = cli.run("doctor")
    assert as_text.returncode == as_json.returncode
    assert "\x1b" not in as_text.stdout
    for subject, finding in findings(as_json).items():
        line = next(line for line in as_text.stdout.splitlines() if line[9:].startswith(subject))
        assert line.startswith(finding["verdict"])


def test_a_gpu_that_must_be_there_and_is_not_is_missing(cli):
    if any(name.startswith("nvidia") for name in os.listdir("/dev")):
        pytest.skip("this machine has a GPU")
    result = cli.run("doctor", "--driver", "cuda", "--json")
    assert result.returncode == EXIT_BY_VERDICT["missing"]
    assert findings(result)["CUDA devices"]["verdict"] == "missing"
    assert findings(result)["CUDA driver"]["verdict"] == "missing"


def test_a_machine_without_a_compiler_is_warned(cli):
    result = cli.run("doctor", "--json", env={"CXX": "/nonexistent/c++"})
    compiler = findings(result)["C++ compiler"]
    assert compiler["verdict"] == "warn"
    assert "client.compile()" in compiler["found"]


def test_too_little_address_space_for_the_host_driver_is_missing(cli):
    result = subprocess.run(
        ["sh", "-c", 'ulimit -v 8000000; exec "$0" doctor --json', cli.binary],
        env=cli.env,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert result.returncode == EXIT_BY_VERDICT["missing"]
    assert findings(result)["host driver"]["verdict"] == "missing"
    assert "ulimit -v" in findings(result)["host driver"]["found"]


def test_few_descriptors_are_said_with_what_they_allow_and_serve_keeps_to_it(cli):
    def limited(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["sh", "-c", 'ulimit -n 200; exec "$0" "$@"', cli.binary, *words],
            env=cli.env,
            text=True,
            capture_output=True,
            timeout=60,
        )

    finding = findings(limited("doctor", "--json"))["open files"]
    assert finding["verdict"] == "warn"
    assert "20 in a session" in finding["found"]
    assert "64 in a session" in finding["advice"]
    served = limited("serve", "--driver", "null", "--exit-when-idle", "0.1")
    assert served.returncode == 0
    assert "at most 20 streams, not 64" in served.stderr


class TestSocketFolder:
    """The default folder stands in $XDG_RUNTIME_DIR here, so that the real one is left alone."""

    @pytest.fixture
    def runtime(self, cli):
        del cli.env["RINGLAUNCH_SOCKET"]
        cli.env["XDG_RUNTIME_DIR"] = str(cli.folder)
        return cli.folder / "ringlaunch"

    def folder_finding(self, cli) -> dict:
        return findings(cli.run("doctor", "--json"))["socket folder"]

    def test_a_default_folder_that_is_not_there_is_fine(self, cli, runtime):
        assert self.folder_finding(cli)["verdict"] == "ok"
        assert not runtime.exists()

    def test_a_folder_of_ones_own_is_fine(self, cli, runtime):
        runtime.mkdir(mode=0o700)
        assert self.folder_finding(cli)["verdict"] == "ok"

    def test_a_folder_that_others_may_enter_is_not(self, cli, runtime):
        runtime.mkdir()
        runtime.chmod(0o755)
        finding = self.folder_finding(cli)
        assert finding["verdict"] == "missing"
        assert "0755" in finding["found"] and "chmod 700" in finding["found"]
        status = cli.run("status")
        assert status.returncode == 5
        assert "chmod 700" in status.stderr

    def test_a_link_is_not(self, cli, runtime):
        elsewhere = cli.folder / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        runtime.symlink_to(elsewhere)
        assert self.folder_finding(cli)["verdict"] == "missing"
        assert cli.run("serve", "--driver", "null").returncode == 5

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of somebody else's")
    def test_a_folder_of_somebody_else_is_not(self, cli, runtime):
        runtime.mkdir(mode=0o700)
        os.chown(runtime, 65534, 65534)
        finding = self.folder_finding(cli)
        assert finding["verdict"] == "missing"
        assert "65534" in finding["found"]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of somebody else's")
    def test_a_runtime_folder_of_somebody_else_is_passed_by(self, cli, runtime):
        os.chown(cli.folder, 65534, 65534)
        assert "/tmp/ringlaunch-0" in self.folder_finding(cli)["found"]

    def test_a_named_folder_that_everybody_may_write_is_refused(self, cli):
        cli.folder.chmod(0o777)
        result = cli.run("status", "--socket", str(cli.folder / "daemon.sock"))
        assert result.returncode == 5
        assert "chmod o-w" in result.stderr

    def test_a_named_folder_must_be_there(self, cli):
        finding = findings(cli.run("doctor", "--json", "--socket", str(cli.folder / "not-there" / "daemon.sock")))
        assert finding["socket folder"]["verdict"] == "missing"
