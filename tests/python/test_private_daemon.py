"""`rl.connect()` without a daemon: it starts one, of which there is one, and which leaves with its last client."""

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support import KERNELS, WATCHDOG_S

import ringlaunch as rl


@pytest.fixture
def socket():
    folder = Path(tempfile.mkdtemp(prefix="rl-py-"))
    yield str(folder / "daemon.sock")
    shutil.rmtree(folder, ignore_errors=True)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # nobody of ours to reap it


def await_end(pid: int) -> None:
    deadline = time.monotonic() + WATCHDOG_S
    while not gone(pid):
        assert time.monotonic() < deadline, f"daemon {pid} still runs"
        time.sleep(0.05)


def test_a_daemon_is_started_and_leaves_with_its_last_client(socket):
    first = rl.connect(socket, driver="host")
    second = rl.connect(socket)
    pid = first.daemon.pid
    assert second.daemon.pid == pid
    assert first.daemon.driver == "host"
    assert first.daemon.socket == socket
    first.close()
    time.sleep(0.3)
    assert not gone(pid)
    x = second.zeros(3)
    assert x.numpy().tolist() == [0, 0, 0]
    second.close()
    await_end(pid)
    assert not os.path.exists(socket)


def test_the_driver_of_a_started_daemon(socket):
    with rl.connect(socket, driver="null") as client:
        assert client.daemon.driver == "null"
        client.compile(KERNELS)["increment"][1, 1](client.empty(1, "i4"))
        client.synchronize()
        pid = client.daemon.pid
    await_end(pid)


def test_a_daemon_of_another_driver_is_not_taken_without_a_word(socket):
    with rl.connect(socket, driver="null") as client:
        for start in (True, False):
            with pytest.raises(rl.Unsupported, match=r"driver host.*driver null.*ringlaunchd stop.*another socket"):
                rl.connect(socket, driver="host", start=start)
        for driver in ("auto", "null", None):
            with rl.connect(socket, driver=driver) as other:
                assert other.daemon.pid == client.daemon.pid
        pid = client.daemon.pid
    await_end(pid)


def test_the_socket_of_the_environment(socket, monkeypatch):
    monkeypatch.setenv("RINGLAUNCH_SOCKET", socket)
    with rl.connect(driver="null") as client:
        assert client.daemon.socket == socket
        pid = client.daemon.pid
    await_end(pid)


def test_programs_that_start_at_once_get_one_daemon(socket):
    program = (
        "import sys, ringlaunch as rl\n"
        "client = rl.connect(sys.argv[1], driver='null')\n"
        "print(client.daemon.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    try:
        pids = {process.stdout.readline() for process in processes}
        assert len(pids) == 1
        (pid,) = map(int, pids)
        assert not gone(pid)
    finally:
        for process in processes:
            process.communicate(timeout=WATCHDOG_S)
    assert all(process.returncode == 0 for process in processes)
    await_end(pid)


def test_a_daemon_leaves_when_its_client_is_killed(socket):
    program = (
        "import os, sys, ringlaunch as rl\n"
        "print(rl.connect(sys.argv[1], driver='null').daemon.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, socket], stdout=subprocess.PIPE, text=True, timeout=WATCHDOG_S
    )
    assert done.returncode == -9
    await_end(int(done.stdout))


def test_a_daemon_keeps_nothing_open_of_the_program_that_started_it(socket):
    program = (
        "import sys, ringlaunch as rl\n"
        "print(rl.connect(sys.argv[1], driver='null').daemon.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    read_end, write_end = os.pipe()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", program, socket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[write_end],
        ) as process:
            os.close(write_end)
            pid = int(process.stdout.readline())
            with rl.connect(socket, start=False):  # so that the daemon stays
                process.communicate(timeout=WATCHDOG_S)
                readable, _, _ = select.select([read_end], [], [], WATCHDOG_S)
                assert readable, "the pipe of the program is still open, in the daemon"
                assert os.read(read_end, 1) == b""
                assert not gone(pid)
    finally:
        os.close(read_end)
    await_end(pid)


def test_without_starting_there_is_none(socket):
    with pytest.raises(ConnectionError, match="daemon") as caught:
        rl.connect(socket, start=False)
    assert isinstance(caught.value, rl.DaemonLost)
    assert socket in str(caught.value)


def test_a_daemon_that_cannot_be_started(socket, monkeypatch):
    monkeypatch.setenv("RINGLAUNCHD", "/nonexistent/ringlaunchd")
    with pytest.raises(rl.Error, match="/nonexistent/ringlaunchd"):
        rl.connect(socket)


def test_what_is_no_driver_is_refused(socket):
    with pytest.raises(rl.InvalidArgument, match="'gpu'"):
        rl.connect(socket, driver="gpu")


def test_a_device_that_is_not_there_is_refused(host):
    with pytest.raises(rl.Error, match="device"):
        rl.connect(host.socket, device=7, start=False)


def test_what_speaks_no_protocol_is_refused(socket):
    import socket as sockets

    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_SEQPACKET) as listener:
        listener.bind(socket)
        listener.listen()
        with pytest.raises(rl.Error):
            rl.connect(socket, start=False, timeout=1)
