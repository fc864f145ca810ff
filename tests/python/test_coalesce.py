"""Launches in chains and launches as they are: the switch of a session, of a daemon, and what a fault in a chain is."""

import json
import subprocess

import numpy as np
import pytest
from support import KERNELS, Daemon, Gate, daemon_program

import ringlaunch as rl

LAUNCHES = 300


def asked(daemon, command, *arguments):
    """What `ringlaunchd COMMAND --json` says."""
    told = subprocess.run(
        [daemon_program(), command, "--json", *arguments, "--socket", daemon.socket],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(told.stdout)[command if command == "sessions" else "streams"]


def appended(client, name):
    """A list that a backlog of launches appended to, in whatever way they went."""
    kernels = client.compile(KERNELS, name="kernels.cu")
    stream = client.stream(name=name)
    found = client.zeros(LAUNCHES + 1, np.int32)
    client.synchronize()
    with Gate(client, kernels) as gate:
        gate.hold(stream)  # so that there is a backlog
        for i in range(LAUNCHES):
            kernels["append"][1, 1](found, i, stream=stream)
    stream.synchronize()
    return found.numpy().tolist(), stream


def by_name(rows, name):
    return next(row for row in rows if row["name"] == name)


def test_a_session_may_have_its_launches_as_they_are(own_host):
    with (
        rl.connect(own_host.socket, start=False) as graphs,
        rl.connect(own_host.socket, start=False, coalesce=False) as plain,
    ):
        one, kept_open = appended(graphs, "graphs")
        other, also_open = appended(plain, "plain")
        assert one == other == [LAUNCHES, *range(LAUNCHES)]
        streams = asked(own_host, "stats", "--over", "0")
        assert by_name(streams, "graphs")["counters"]["chained"] > 0
        assert by_name(streams, "plain")["counters"]["chained"] == 0
        said = {row["session"]: row["coalesce"] for row in asked(own_host, "sessions")}
        assert said == {graphs.daemon.session: True, plain.daemon.session: False}
        assert kept_open.status.running and also_open.status.running


def test_a_daemon_may_have_all_launches_as_they_are():
    daemon = Daemon("host", "--no-coalesce")
    try:
        with rl.connect(daemon.socket, start=False, coalesce=True) as client:
            found, kept_open = appended(client, "plain")
            assert found == [LAUNCHES, *range(LAUNCHES)]
            assert by_name(asked(daemon, "stats", "--over", "0"), "plain")["counters"]["chained"] == 0
            assert [row["coalesce"] for row in asked(daemon, "sessions")] == [False]
            assert kept_open.status.running
    finally:
        daemon.stop()


@pytest.mark.parametrize("coalesce", [True, False])
def test_a_fault_in_a_backlog_is_named_by_its_record(own_host, coalesce):
    with rl.connect(own_host.socket, start=False, coalesce=coalesce) as client:
        kernels = client.compile(KERNELS, name="kernels.cu")
        stream = client.stream(name="mine")
        found = client.zeros(1 + 2 * LAUNCHES, np.int32)
        client.synchronize()
        for _ in range(3):  # the first backlogs are launched plainly
            with Gate(client, kernels) as gate:
                gate.hold(stream)
                for i in range(LAUNCHES // 3):
                    kernels["append"][1, 1](found, i, stream=stream)
            stream.synchronize()
        with Gate(client, kernels) as gate:
            gate.hold(stream)
            for i in range(45):
                kernels["append"][1, 1](found, i, stream=stream)
            position = stream.status.published
            kernels["crash"][1, 1](found, stream=stream)
            for i in range(45):
                kernels["append"][1, 1](found, i, stream=stream)
        with pytest.raises(rl.KernelFault, match="crash"):
            stream.synchronize(60)
        status = stream.status
        assert status.error_position == position
        assert status.completed == position, "all before it in the chain has completed, and is known to have"
        assert int(found.numpy(client.stream())[0]) == LAUNCHES + 45
        # Another executor, and launches go as before.
        stream.resume()
        with Gate(client, kernels) as gate:
            gate.hold(stream)
            for i in range(LAUNCHES // 3):
                kernels["append"][1, 1](found, i, stream=stream)
        stream.synchronize()
        chained = by_name(asked(own_host, "stats", "--over", "0"), "mine")["counters"]["chained"]
        assert (chained > 0) == coalesce


@pytest.mark.parametrize("coalesce", [None, 1, "no"])
def test_what_is_no_switch_is_refused(host, coalesce):
    with pytest.raises(rl.ParamTypeError, match="coalesce"):
        rl.connect(host.socket, start=False, coalesce=coalesce)
