"""A running daemon as the command line sees it: how it starts, says that it is ready, is asked, and leaves."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

WATCHDOG_S = 60


def test_the_commands_agree_about_an_idle_daemon(cli):
    daemon = cli.serve("--driver", "null")
    status = json.loads(cli.run("status", "--json").stdout)
    assert status["pid"] == daemon.pid
    assert status["socket"] == str(cli.socket)
    assert status["driver"] == "null"
    assert (status["sessions"], status["streams"], status["modules"], status["memory_bytes"]) == (0, 0, 0, 0)
    version = json.loads(cli.run("version", "--json").stdout)
    assert (status["version"], status["protocol"]) == (version["version"], version["protocol"])
    assert json.loads(cli.run("sessions", "--json").stdout) == {"sessions": []}
    assert json.loads(cli.run("kernels", "--json").stdout) == {"modules": []}
    assert json.loads(cli.run("stats", "--json").stdout)["streams"] == []
    for command, said in [
        ("stats", "No streams."),
        ("sessions", "No sessions."),
        ("kernels", "No modules are loaded."),
    ]:
        result = cli.run(command)
        assert (result.returncode, result.stdout.strip()) == (0, said)
    assert str(daemon.pid) in cli.run("status").stdout


def test_the_doctor_sees_the_daemon(cli):
    daemon = cli.serve("--driver", "null")
    report = json.loads(cli.run("doctor", "--json").stdout)
    found = next(finding for finding in report["findings"] if finding["subject"] == "daemon")
    assert found["verdict"] == "ok"
    assert f"pid {daemon.pid}" in found["found"]


def test_a_ready_daemon_serves_at_once(cli):
    cli.serve("--driver", "host")
    executor = json.loads(cli.run("status", "--json").stdout)["executors"][0]
    assert executor["state"] == "ready"
    assert executor["epoch"] == 1
    assert executor["restarts"] == 0


def test_the_automatic_driver_says_which_and_why(cli):
    cli.serve()
    status = json.loads(cli.run("status", "--json").stdout)
    driver, note = status["driver"], status["driver_note"]
    assert driver in ("cuda", "host")
    line = next(line for line in cli.log().splitlines() if f"driver {driver}:" in line)
    assert line.endswith(f"driver {driver}: {note}")
    assert note.startswith("no CUDA here (") == (driver == "host")
    assert f"{driver}: {note[:40]}" in cli.run("status").stdout


def test_of_a_driver_that_was_asked_for_there_is_nothing_to_say(cli):
    cli.serve("--driver", "null")
    assert json.loads(cli.run("status", "--json").stdout)["driver_note"] == ""


def test_a_service_manager_is_told_when_it_is_ready_and_when_it_leaves(cli):
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(cli.folder / "notify.sock"))
    manager.settimeout(WATCHDOG_S)
    daemon = cli.serve("--driver", "null", env={"NOTIFY_SOCKET": str(cli.folder / "notify.sock")})
    assert manager.recv(4096).decode().splitlines() == ["READY=1", f"MAINPID={daemon.pid}"]
    daemon.terminate()
    assert manager.recv(4096) == b"STOPPING=1\n"
    assert daemon.wait(timeout=WATCHDOG_S) == 0
    manager.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(cli, number):
    daemon = cli.serve("--driver", "host")
    executor = json.loads(cli.run("status", "--json").stdout)["executors"][0]["pid"]
    daemon.send_signal(number)
    assert daemon.wait(timeout=WATCHDOG_S) == 0
    assert not cli.socket.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(executor, 0)


def test_stop_waits_until_it_has_ended(cli):
    daemon = cli.serve("--driver", "null")
    result = cli.run("stop")
    assert result.returncode == 0
    assert f"pid {daemon.pid}" in result.stdout
    assert daemon.wait(timeout=WATCHDOG_S) == 0
    assert cli.run("stop").returncode == 3


def test_a_second_daemon_leaves_at_once_and_names_the_first(cli):
    daemon = cli.serve("--driver", "null")
    second = cli.run("serve", "--driver", "null")
    assert second.returncode == 4
    assert f"pid {daemon.pid}" in second.stderr
    assert cli.run("status").returncode == 0


def test_a_second_daemon_that_cannot_see_the_first_makes_up_no_number(cli):
    cli.serve("--driver", "null")
    inside = ["unshare", *(["--user", "--map-root-user"] if os.geteuid() != 0 else []), "--pid", "--fork"]
    tried = subprocess.run([*inside, "true"], capture_output=True, text=True, timeout=WATCHDOG_S)
    if tried.returncode != 0:
        pytest.skip(f"no process namespaces for us here: {tried.stderr.strip()}")
    command = [*inside, cli.binary, "serve", "--driver", "null"]
    second = subprocess.run(command, env=cli.env, capture_output=True, text=True, timeout=WATCHDOG_S)
    assert second.returncode == 4, second.stderr
    assert "a daemon runs already (a process that cannot be seen from here)" in second.stderr
    assert "pid" not in second.stderr


def test_of_many_that_start_at_once_one_serves(cli):
    racers = [
        subprocess.Popen([cli.binary, "serve", "--driver", "null"], env=cli.env, stderr=subprocess.DEVNULL)
        for _ in range(5)
    ]
    cli.daemons.extend(racers)
    losers = []
    while len(losers) < 4:
        pid, status = os.waitpid(-1, 0)
        loser = next(racer for racer in racers if racer.pid == pid)
        loser.returncode = os.waitstatus_to_exitcode(status)
        losers.append(loser)
    assert [loser.returncode for loser in losers] == [4, 4, 4, 4]
    (winner,) = set(racers) - set(losers)
    status = cli.run("status", "--json")
    assert json.loads(status.stdout)["pid"] == winner.pid


def test_a_killed_daemon_leaves_a_socket_that_the_next_one_takes(cli):
    first = cli.serve("--driver", "null")
    first.kill()
    first.wait(timeout=WATCHDOG_S)
    assert cli.run("status").returncode == 3
    second = cli.serve("--driver", "null")
    assert json.loads(cli.run("status", "--json").stdout)["pid"] == second.pid


def test_a_private_daemon_without_clients_leaves(cli):
    daemon = cli.serve("--driver", "null", "--private", "--exit-when-idle", "0.2")
    assert daemon.wait(timeout=WATCHDOG_S) == 0


def test_the_log_goes_where_it_is_told(cli):
    path = cli.folder / "its-own.log"
    daemon = cli.serve("--driver", "null", "--log-file", str(path), "--log-level", "info")
    daemon.terminate()
    daemon.wait(timeout=WATCHDOG_S)
    assert "driver null" in path.read_text()
    assert "executor ready" in path.read_text()
    assert cli.log() == ""


def test_a_log_that_cannot_be_written_is_named(cli):
    (cli.folder / "file").write_text("")
    path = str(cli.folder / "file" / "daemon.log")
    result = cli.run("serve", "--driver", "null", "--log-file", path)
    assert result.returncode == 1
    assert path in result.stderr


def test_the_cuda_driver_without_a_gpu_says_what_is_missing(cli):
    if any(name.startswith("nvidia") for name in os.listdir("/dev")):
        pytest.skip("this machine has a GPU")
    result = cli.run("serve", "--driver", "cuda")
    assert result.returncode == 8
    assert "cuda" in result.stderr
    assert not cli.socket.exists()


def test_a_device_that_the_driver_does_not_have_is_refused(cli):
    result = cli.run("serve", "--driver", "host", "--devices", "0,8")
    assert result.returncode == 8, result.stderr
    assert "device" in result.stderr


def test_a_named_folder_that_is_not_there_is_refused(cli):
    result = cli.run("serve", "--driver", "null", "--socket", str(cli.folder / "missing" / "daemon.sock"))
    assert result.returncode == 5
    assert "mkdir" in result.stderr


def test_the_default_folder_is_made_for_its_user_alone(cli):
    del cli.env["RINGLAUNCH_SOCKET"]
    cli.env["XDG_RUNTIME_DIR"] = str(cli.folder)
    cli.serve("--driver", "null")
    assert (cli.folder / "ringlaunch").stat().st_mode & 0o777 == 0o700
    assert json.loads(cli.run("status", "--json").stdout)["socket"] == str(cli.folder / "ringlaunch" / "daemon.sock")


def test_the_host_driver_says_that_it_serves_its_own_user_only(cli):
    cli.serve("--driver", "host", "--allow-uid", "65534")
    assert "that user only" in cli.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
class TestAnotherUser:
    """Asks as the user nobody; the daemon is root's."""

    def as_nobody(self, cli, *arguments):
        cli.folder.chmod(0o755)
        cli.socket.chmod(0o777)
        return subprocess.run(
            [cli.binary, *arguments],
            env=cli.env,
            user=65534,
            group=65534,
            extra_groups=[],
            text=True,
            capture_output=True,
            timeout=WATCHDOG_S,
        )

    def test_is_refused(self, cli):
        cli.serve("--driver", "null")
        result = self.as_nobody(cli, "status")
        assert result.returncode == 5, result.stderr
        assert "--allow-uid" in result.stderr

    def test_is_served_where_the_daemon_allows_it(self, cli):
        cli.serve("--driver", "null", "--allow-uid", "65534")
        assert self.as_nobody(cli, "status").returncode == 0

    def test_may_not_stop_it(self, cli):
        daemon = cli.serve("--driver", "null", "--allow-uid", "nobody")
        result = self.as_nobody(cli, "stop")
        assert result.returncode == 5, result.stderr
        assert daemon.poll() is None


def test_stats_ends_with_the_daemon_it_watches(cli):
    daemon = cli.serve("--driver", "null")
    watching = subprocess.Popen(
        [cli.binary, "stats", "--watch", "0.05", "--json"],
        env=cli.env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    cli.daemons.append(watching)
    assert json.loads(watching.stdout.readline())["daemon_pid"] == daemon.pid
    daemon.terminate()
    _, said = watching.communicate(timeout=WATCHDOG_S)
    assert watching.returncode == 3
    assert str(cli.socket) in said


def test_interrupting_stats_is_no_failure(cli):
    cli.serve("--driver", "null")
    watching = subprocess.Popen(
        [cli.binary, "stats", "--watch", "30"], env=cli.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    cli.daemons.append(watching)
    assert "Ctrl-C" in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=WATCHDOG_S)
    assert watching.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees a daemon's descriptors")
def test_a_daemon_without_standard_descriptors_has_dev_null_in_their_place(cli):
    log = cli.folder / "closed.log"
    with subprocess.Popen(
        ["sh", "-c", 'exec "$0" serve --driver null --log-file "$1" <&- >&- 2>&-', cli.binary, log], env=cli.env
    ) as daemon:
        deadline = time.monotonic() + WATCHDOG_S
        while cli.run("status").returncode == 3 and daemon.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            assert daemon.poll() is None, log.read_text()
            executor = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()[0]
            for pid in (daemon.pid, executor):
                assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
        finally:
            daemon.terminate()
    closed = subprocess.run(["sh", "-c", 'exec "$0" version >&-', cli.binary], capture_output=True, timeout=WATCHDOG_S)
    assert closed.returncode == 1  # a command that could not print says so
