"""Commands against a socket at which no daemon of this version answers: nobody, a silent one, another version."""

import contextlib
import os
import signal
import socket
import struct
import threading
import time

import pytest

WATCHDOG_S = 60

ASKING = ["status", "stats", "sessions", "kernels", "stop"]


def server_message(request_id: int, status: int, error: str) -> bytes:
    """A finished ServerMessage{id, status, error} as FlatBuffers lays it out, made by hand."""
    text = error.encode()
    vtable = struct.pack("<HHHHH", 10, 16, 4, 8, 12)  # its size, the table's size, id, status, error
    table = struct.pack("<iIII", 10, request_id, status, 4)  # back to the vtable, id, status, on to the string
    string = struct.pack("<I", len(text)) + text + b"\0"
    return struct.pack("<I", 16) + b"\0\0" + vtable + table + string


@contextlib.contextmanager
def peer(path, answer, uid=None):
    """Listens at `path`, as `uid`; `answer(request) -> reply | None` for the first message of each connection."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    own = os.geteuid()
    os.seteuid(own if uid is None else uid)  # a listener's credentials are those at listen()
    try:
        listener.listen(8)
    finally:
        os.seteuid(own)
    listener.settimeout(0.05)
    leaving = threading.Event()
    held = []

    def serve():
        while not leaving.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            held.append(connection)
            connection.settimeout(5)
            reply = answer(connection.recv(65536))
            if reply is not None:
                connection.send(reply)
            if reply == b"bye":
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        leaving.set()
        thread.join()
        for connection in held:
            connection.close()
        listener.close()


@pytest.mark.parametrize("command", ASKING)
def test_without_a_daemon_a_command_says_where_it_looked_and_how_to_start_one(cli, command):
    result = cli.run(command)
    assert result.returncode == 3
    assert str(cli.socket) in result.stderr
    assert "ringlaunchd serve" in result.stderr
    assert result.stdout == ""


def test_a_socket_that_nobody_listens_at_is_no_daemon(cli):
    left = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.bind(str(cli.socket))
    left.close()
    result = cli.run("status")
    assert result.returncode == 3
    assert "nobody listens" in result.stderr


def test_a_file_in_place_of_the_socket_is_named(cli):
    cli.socket.write_text("not a socket")
    result = cli.run("status")
    assert result.returncode == 1
    assert f"cannot ask {cli.socket}: it is no socket" in result.stderr


def test_a_socket_of_another_type_is_named(cli):
    other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    other.bind(str(cli.socket))
    other.listen(1)
    result = cli.run("status")
    other.close()
    assert result.returncode == 1
    assert "not the socket of a ringlaunch daemon" in result.stderr


def test_a_silent_daemon_is_given_up_after_the_timeout(cli):
    with peer(cli.socket, lambda request: None):
        began = time.monotonic()
        result = cli.run("status", "--timeout", "0.3")
        took = time.monotonic() - began
    assert result.returncode == 7
    assert "300 ms" in result.stderr
    assert took >= 0.3


def test_a_silent_daemon_keeps_a_second_from_starting(cli):
    with peer(cli.socket, lambda request: None):
        result = cli.run("serve", "--driver", "null")
    assert result.returncode == 4
    assert "does not answer" in result.stderr


def test_a_daemon_of_another_version_is_told_from_one_that_refuses(cli):
    text = "the client speaks version 1, this daemon 7"
    with peer(cli.socket, lambda request: server_message(1, 20, text)):
        result = cli.run("status")
    assert result.returncode == 6
    assert text in result.stderr
    with peer(cli.socket.with_name("second.sock"), lambda request: server_message(1, 22, "not you")):
        result = cli.run("status", "--socket", str(cli.socket.with_name("second.sock")))
    assert result.returncode == 5
    assert "not you" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a moment")
@pytest.mark.parametrize("command", ASKING)
def test_a_daemon_of_another_user_is_asked_only_where_it_is_named(cli, command):
    stranger = 65534
    asked = []

    def refuse(request):
        asked.append(request)
        return server_message(1, 22, "not you") if request else None

    with peer(cli.socket, refuse, uid=stranger):
        for named in ("", "65533"):
            result = cli.run(command, env={"RINGLAUNCH_DAEMON_UID": named})
            assert result.returncode == 5
            assert f"run by user {stranger}" in result.stderr
        assert not any(asked), "it was told something"
        result = cli.run(command, env={"RINGLAUNCH_DAEMON_UID": "nobody"})
        assert result.returncode == 1
        assert "not the number of a user" in result.stderr
        result = cli.run(command, env={"RINGLAUNCH_DAEMON_UID": str(stranger)})
        assert result.returncode == 5
        assert "not you" in result.stderr
    assert any(asked)


def other_version(path):
    """A daemon of another version at `path`, in a process of its own that SIGTERM ends."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        with peer(path, lambda request: server_message(1, 20, "version 7 only")):
            signal.pause()
        os._exit(1)
    deadline = time.monotonic() + WATCHDOG_S
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return child


def test_a_daemon_of_another_version_is_stopped_by_a_signal(cli):
    child = other_version(cli.socket)
    try:
        for command in ("status", "serve"):
            refused = cli.run(command)
            assert refused.returncode == (6 if command == "status" else 4)
            assert str(child) in refused.stderr
            assert "ringlaunchd stop" in refused.stderr
        drained = cli.run("stop", "--drain", "100")
        assert (drained.returncode, drained.stdout) == (6, "")
        assert "without --drain" in drained.stderr
        result = cli.run("stop")
        assert result.returncode == 0, result.stderr
        assert f"SIGTERM to the daemon at {cli.socket} (pid {child})" in result.stdout
        assert os.waitpid(child, os.WNOHANG) == (child, 0)
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_daemon_with_too_many_at_its_door_is_busy_and_not_gone(cli):
    cli.serve("--driver", "null")
    waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(65)]
    try:
        for each in waiting:
            each.connect(str(cli.socket))
        result = cli.run("status")
        assert result.returncode == 7
        assert "connect again in a moment" in result.stderr
        assert cli.run("serve", "--driver", "null").returncode == 4
    finally:
        for each in waiting:
            each.close()
    result = cli.run("status")
    assert result.returncode == 0, result.stderr


def test_a_refusal_without_an_id_is_understood(cli):
    with peer(cli.socket, lambda request: server_message(0, 20, "version 7 only")):
        result = cli.run("status")
    assert result.returncode == 6
    assert "version 7 only" in result.stderr


@pytest.mark.parametrize("reply", [b"bye", b"\xff" * 64, b"\x08\0\0\0" + b"\0" * 28])
def test_what_is_no_answer_of_the_protocol_ends_the_command(cli, reply):
    with peer(cli.socket, lambda request: reply):
        result = cli.run("status", "--timeout", "2")
    assert result.returncode in (1, 3, 7)
    assert str(cli.socket) in result.stderr
    assert "terminate" not in result.stderr


def test_an_answer_of_the_wrong_kind_is_refused(cli):
    # status 0 and no answer at all: not the Welcome that Hello asks for
    with peer(cli.socket, lambda request: server_message(1, 0, "")):
        result = cli.run("status", "--timeout", "2")
    assert result.returncode == 1
    assert "Welcome" in result.stderr


def test_control_characters_of_a_peer_do_not_reach_the_terminal(cli):
    with peer(cli.socket, lambda request: server_message(1, 22, "no\x1b[2Jway")):
        result = cli.run("status")
    assert result.returncode == 5
    assert "\x1b" not in result.stderr
