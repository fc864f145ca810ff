"""`ringlaunchd doctor`: its verdicts, its exit code, and what it says of a folder that cannot be trusted."""

import json
import os
import resource
import shutil
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
        "NVRTC",
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
    result = cli.run("doctor", "--json", env={"RINGLAUNCH_CXX": "/nonexistent/c++"})
    compiler = findings(result)["C++ compiler"]
    assert compiler["verdict"] == "warn"
    assert "/nonexistent/c++ cannot be run: client.compile()" in compiler["found"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_the_compiler_is_the_one_that_compile_takes(cli):
    """Which does not look at $CXX."""
    compiler = findings(cli.run("doctor", "--json", env={"CXX": "/nonexistent/c++"}))["C++ compiler"]
    assert compiler["verdict"] == "ok"


@pytest.mark.parametrize("limit", ["64", "unlimited"])
def test_the_limit_of_locked_memory_is_told_and_nothing_is_claimed_to_need_it(cli, limit):
    if limit == "unlimited" and resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != resource.RLIM_INFINITY:
        pytest.skip("this user may not raise it")
    result = subprocess.run(
        ["sh", "-c", f'ulimit -l {limit}; exec "$0" doctor --json', cli.binary],
        env=cli.env,
        text=True,
        capture_output=True,
        timeout=60,
    )
    memlock = findings(result)["memlock"]
    assert memlock["verdict"] == "ok"
    assert memlock["found"].startswith("limit unlimited" if limit == "unlimited" else "limit 64 KiB")


NVRTC = """
extern "C" int nvrtcVersion(int* major, int* minor) { *major = 13; *minor = 7; return 0; }
extern "C" int nvrtcGetNumSupportedArchs(int* count) { *count = 2; return 0; }
extern "C" int nvrtcGetSupportedArchs(int* list) { list[0] = 75; list[1] = 80; return 0; }
"""


@pytest.fixture
def nvrtc_finding(cli):
    """What it says with $RINGLAUNCH_NVRTC a library of this source."""

    def run(source: str) -> dict:
        path = cli.folder / "libodd.so"
        (cli.folder / "odd.cpp").write_text(source)
        subprocess.run(["g++", "-shared", "-fPIC", cli.folder / "odd.cpp", "-o", path], check=True, timeout=60)
        return findings(cli.run("doctor", "--json", env={"RINGLAUNCH_NVRTC": str(path)}))["NVRTC"]

    return run


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to make the library with")
class TestNvrtc:
    def test_the_one_that_is_named_is_told_with_its_version(self, cli, nvrtc_finding):
        found = nvrtc_finding(NVRTC)["found"]
        assert found == f"13.7 ({cli.folder / 'libodd.so'}): client.compile() works with the cuda driver"

    def test_another_library_is_not_taken_for_it(self, cli, nvrtc_finding):
        assert "libodd.so is not NVRTC: it has no nvrtcVersion" in nvrtc_finding("int nothing;")["found"]

    def test_one_that_is_not_there_is_told_with_where_it_was_looked_for(self, cli):
        result = cli.run("doctor", "--json", "--driver", "cuda", env={"RINGLAUNCH_NVRTC": "/nonexistent/nvrtc.so"})
        finding = findings(result)["NVRTC"]
        assert finding["verdict"] == "warn"
        assert "no NVRTC at /nonexistent/nvrtc.so: client.compile() does not work with the cuda" in finding["found"]
        assert "pip install nvidia-cuda-nvrtc" in finding["advice"]

    def test_the_one_in_the_active_environment_is_found(self, cli):
        folder = cli.folder / "lib" / "python3.99" / "site-packages" / "nvidia" / "cu13" / "lib"
        folder.mkdir(parents=True)
        (cli.folder / "nvrtc.cpp").write_text(NVRTC)
        command = ["g++", "-shared", "-fPIC", cli.folder / "nvrtc.cpp", "-o", folder / "libnvrtc.so.13"]
        subprocess.run(command, check=True, timeout=60)
        finding = findings(cli.run("doctor", "--json", env={"VIRTUAL_ENV": str(cli.folder)}))["NVRTC"]
        assert finding["found"].startswith(f"13.7 ({folder / 'libnvrtc.so.13'})")


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
