"""Graphs from Python: recording, launching, updating, what is refused, and what a restart leaves of them."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from support import KERNELS, WATCHDOG_S, Gate

import ringlaunch as rl


def eventually(holds, what):
    until = time.monotonic() + WATCHDOG_S
    while not (found := holds()):
        assert time.monotonic() < until, f"it never came: {what}"
        time.sleep(0.002)
    return found


def executor_of(daemon):
    pid = daemon.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def kill_executor(daemon):
    dying = executor_of(daemon)
    os.kill(dying, signal.SIGKILL)
    eventually(lambda: executor_of(daemon) not in (0, dying), "the next executor")


def record(stream, acts):
    with stream.record() as graph:
        for act in acts:
            act()
    return graph


@pytest.fixture
def stream(client):
    return client.stream()


@pytest.fixture
def log(client):
    return client.zeros(256, np.int32)


def logged(log, stream):
    values = log.numpy(stream=stream)
    return list(values[1 : 1 + values[0]])


def test_what_is_recorded_is_not_run_and_a_launch_runs_all_of_it(client, kernels, stream, log):
    append = kernels["append"]
    with stream.record() as graph:
        for value in (1, 2, 3):
            append[1, 1](log, value, stream=stream)
    assert logged(log, stream) == []
    graph.launch()
    graph.launch()
    assert logged(log, stream) == [1, 2, 3, 1, 2, 3]
    assert len(graph) == 3
    assert graph.stream is stream


def test_an_update_is_for_the_launches_behind_it(kernels, stream, log):
    append = kernels["append"]
    with stream.record() as graph:
        append[1, 1](log, 1, stream=stream, name="first")
        append[1, 1](log, 2, stream=stream)
    graph.launch()
    graph.update({"first": (log, 10), 1: (log, 20)})
    graph.launch()
    graph["first"].update(log, 100)
    graph["first"].update(log, 101)
    graph.launch()
    assert logged(log, stream) == [1, 2, 10, 20, 101, 20]


def test_a_launch_is_one_slot_and_an_update_goes_before_the_next(kernels, stream, log):
    with stream.record() as graph:
        for value in range(50):
            kernels["append"][1, 1](log, value, stream=stream)
    before = stream.status.published
    graph.launch()
    assert stream.status.published == before + 1
    graph[3].update(log, 7)
    graph.launch()
    assert stream.status.published == before + 4, "one update of two slots, one launch"
    graph.launch()
    assert stream.status.published == before + 5


def test_all_launches_of_a_long_graph_are_updated_before_one_launch(kernels, client, stream):
    cells = client.zeros(1500, np.int32)
    with stream.record() as graph:
        for _ in range(1500):
            kernels["increment"][1, 1](cells, stream=stream)
    graph.launch()
    for shift in (0, 1):
        graph.update({at: (cells[(at + shift) % 1500 :],) for at in range(0, 1500, 1 + shift)})
        graph.launch()
    expected = np.ones(1500, np.int32)
    expected[0] += 1500
    expected[1::2] += 2
    assert (cells.numpy(stream=stream) == expected).all()


def test_updates_of_grid_block_and_shared_memory(client, kernels, stream):
    out = client.zeros(6, np.uint32)
    with stream.record() as graph:
        kernels["shape"][2, (8, 2)](out, stream=stream, name="shape")
    launch = graph["shape"]
    assert (launch.grid, launch.block, launch.shared, launch.number) == ((2, 1, 1), (8, 2, 1), 0, 0)
    assert (launch.name, launch.kernel) == ("shape", "shape")
    launch.update(grid=(3, 4), block=16)
    graph.launch()
    assert list(out.numpy(stream=stream)) == [3, 4, 1, 16, 1, 1]
    assert launch.grid == (3, 4, 1)
    with pytest.raises(rl.InvalidArgument, match="block"):
        launch.update(block=4096)
    with pytest.raises(rl.OutOfRange, match="grid"):
        launch.update(grid=0)
    graph.launch()
    assert list(out.numpy(stream=stream)) == [3, 4, 1, 16, 1, 1]


def test_a_graph_runs_on_other_streams_each_with_all_updates(client, kernels, stream, log):
    with stream.record() as graph:
        kernels["append"][1, 1](log, 1, stream=stream, name="a")
    graph.update({"a": (log, 2)})
    other = client.stream()
    graph.launch(other)
    other.synchronize()
    graph.launch()
    stream.synchronize()
    graph["a"].update(log, 3)
    graph.launch(other)
    other.synchronize()
    graph.launch(stream)
    assert logged(log, stream) == [2, 2, 3, 3]


def test_fills_and_copies_on_the_device_are_recorded(client, kernels, stream):
    x, y = client.zeros(4, np.int32), client.zeros(4, np.int32)
    with stream.record() as graph:
        x.fill(5, stream=stream)
        kernels["increment"][1, 1](x, stream=stream)
        y.copy_from(x, stream=stream)
    assert len(graph) == 3
    graph.launch()
    assert list(y.numpy(stream=stream)) == [6, 5, 5, 5]
    with pytest.raises(rl.NotFound, match="copy or a fill"):
        graph[0]
    assert graph[1].kernel == "increment"


def test_what_a_graph_cannot_hold_is_refused_and_leaves_no_graph(client, kernels, stream, log):
    host = np.zeros(256, np.int32)
    with stream.record() as inner:
        kernels["append"][1, 1](log, 1, stream=stream)
    with Gate(client, kernels) as gate:
        other = client.stream()
        gate.hold(other)
        event = other.record()
        for act, what in [
            (lambda: log.copy_from(host, stream=stream), "copy from or to the host"),
            (lambda: log.numpy(stream=stream), "copy from or to the host"),
            (lambda: stream.record(), "event"),
            (lambda: stream.barrier(), "event or a barrier"),
            (lambda: stream.wait_event(event), "a wait"),
            (lambda: inner.launch(), "another graph"),
        ]:
            with pytest.raises(rl.Unsupported, match=what):
                record(stream, [lambda: kernels["append"][1, 1](log, 5, stream=stream), act])
    kernels["append"][1, 1](log, 9, stream=stream)
    assert logged(log, stream) == [9]


def test_a_refusal_that_was_caught_spoils_the_recording(kernels, stream, log):
    kept = []

    def spoiled():
        with stream.record() as graph:
            kept.append(graph)
            kernels["append"][1, 1](log, 5, stream=stream)
            with pytest.raises(rl.Unsupported):
                stream.barrier()

    with pytest.raises(rl.Unsupported, match="graph holds launches"):
        spoiled()
    with pytest.raises(rl.InvalidArgument, match="has ended well"):
        kept[0].launch()


def test_mistakes_while_recording(client, kernels, stream, log):
    def append(value, **keywords):
        return lambda: kernels["append"][1, 1](log, value, stream=stream, **keywords)

    def fail():
        raise ZeroDivisionError

    for acts, error, what in [
        ([], rl.InvalidArgument, "nothing was recorded"),
        ([append(5, name="a"), append(6, name="a")], rl.InvalidArgument, "named 'a' already"),
        ([append(5), lambda: rl._core.stream_begin_graph(stream)], rl.InvalidArgument, "records one already"),
        ([append(5), fail], ZeroDivisionError, None),
        ([append(5, name=3)], rl.ParamTypeError, "name: expected a str"),
        ([append("x")], rl.ParamTypeError, "parameter 1"),
    ]:
        with pytest.raises(error, match=what):
            record(stream, acts)
    with pytest.raises(rl.InvalidArgument, match=r"'append', name='outside': .*records none"):
        kernels["append"][1, 1](log, 6, stream=stream, name="outside")
    kernels["append"][1, 1](log, 7, stream=stream, name=None)
    assert logged(log, stream) == [7]


def test_mistakes_with_a_graph(client, kernels, stream, log, host):
    with stream.record() as graph:
        kernels["append"][1, 1](log, 5, stream=stream, name="a")
    with pytest.raises(rl.NotFound, match="no launch named 'b'; its names: a"):
        graph["b"]
    with pytest.raises(rl.NotFound, match="the graph has 1 node, found number"):
        graph[1]
    with pytest.raises(rl.NotFound):
        graph[-1]
    with pytest.raises(rl.ParamTypeError):
        graph[1.5]
    with pytest.raises(rl.ParamTypeError, match="mapping"):
        graph.update([("a", (log, 1))])
    with pytest.raises(rl.ParamTypeError, match="tuple"):
        graph.update({"a": log})
    with pytest.raises(rl.ParamTypeError):
        graph.update({"a": (log,)})
    with pytest.raises(rl.ParamTypeError):
        graph.update({"a": ()})
    with pytest.raises(rl.OutOfRange):
        graph.update({"a": (log, 2**40)})
    with pytest.raises(rl.ParamTypeError, match="Stream"):
        graph.launch(3)
    with host.connect() as other, pytest.raises(rl.InvalidArgument, match="another client"):
        graph.launch(other.stream())
    with pytest.raises(rl.ParamTypeError, match="not called"):
        rl.Graph()
    with pytest.raises(rl.ParamTypeError, match="not called"):
        rl.GraphLaunch(None, 0)
    assert "a" in graph and "b" not in graph and list(graph) == ["a"]
    graph.launch()
    assert logged(log, stream) == [5]
    stream.close()
    with pytest.raises(rl.Closed):
        graph.launch()


def test_a_graph_keeps_its_buffers_and_modules(client, stream):
    module = client.compile(KERNELS, name="kernels.cu")
    log = client.zeros(64, np.int32)
    out = client.zeros(64, np.int32)
    with stream.record() as graph:
        module["append"][1, 1](log, 3, stream=stream)
        out.copy_from(log, stream=stream)
    del module, log
    client.synchronize()
    for _ in range(50):
        client.zeros(64, np.int32).free()
    graph.launch()
    assert list(out.numpy(stream=stream)[:2]) == [1, 3]


def test_a_graph_keeps_what_its_copies_and_fills_name(client, stream):
    filled, copied = client.zeros(64, np.int32), client.zeros(64, np.int32)
    with stream.record() as graph:
        filled.fill(7, stream=stream)
        copied.copy_from(filled, stream=stream)
    del filled, copied
    client.synchronize()
    others = [client.zeros(64, np.int32) for _ in range(50)]
    graph.launch()
    stream.synchronize()
    assert not any(other.numpy().any() for other in others)


def test_graphs_are_given_back(own_host):
    with own_host.connect() as client:
        kernels = client.compile(KERNELS, name="kernels.cu")
        stream = client.stream()
        log = client.zeros(64, np.int32)
        for _ in range(600):  # more than a session may have at a time
            with stream.record() as graph:
                kernels["append"][1, 1](log, 1, stream=stream)
            del graph
        kept = []

        def keep():
            for _ in range(600):
                with stream.record() as graph:
                    kernels["append"][1, 1](log, 1, stream=stream)
                kept.append(graph)

        with pytest.raises(rl.LimitReached, match="--max-graphs"):
            keep()
        assert len(kept) > 200
        kept[0].launch()
        assert log.numpy(stream=stream)[0] == 1


def test_stats_count_what_graphs_run(own_host):
    with own_host.connect() as client:
        kernels = client.compile(KERNELS, name="kernels.cu")
        stream = client.stream(name="counted")
        log = client.zeros(256, np.int32)
        with stream.record() as graph:
            for value in range(10):
                kernels["append"][1, 1](log, value, stream=stream)
            log.fill(0, stream=stream)
        for _ in range(7):
            graph.launch()
        graph[0].update(log, 5)
        graph.launch()
        stream.synchronize()

        def counters():
            found = subprocess.run(
                [os.environ["RINGLAUNCHD"], "stats", "--json", "--socket", own_host.socket],
                capture_output=True,
                text=True,
                timeout=WATCHDOG_S,
                check=True,
            )
            streams = json.loads(found.stdout)
            listed = streams["streams"] if isinstance(streams, dict) else streams
            return next(each["counters"] for each in listed if each["name"] == "counted")

        eventually(lambda: counters()["graphs"] == 8, "eight graphs")
        now = counters()
        assert (now["launches"], now["fills"], now["updates"]) == (80, 8, 1)


def test_a_kernel_that_faults_within_a_graph_is_named_and_peers_go_on(own_host):
    with own_host.connect() as client, own_host.connect() as peer:
        kernels = client.compile(KERNELS, name="kernels.cu")
        stream = client.stream(name="faulty", on_restart="rerun")
        log = client.zeros(64, np.int32)
        with stream.record() as graph:
            kernels["append"][1, 1](log, 1, stream=stream)
            kernels["crash"][1, 1](log, stream=stream, name="bad")
            kernels["append"][1, 1](log, 2, stream=stream)
        peer_kernels = peer.compile(KERNELS, name="kernels.cu")
        peer_stream = peer.stream(on_restart="rerun")
        peer_log = peer.zeros(64, np.int32)
        with peer_stream.record() as peer_graph:
            peer_kernels["append"][1, 1](peer_log, 1, stream=peer_stream, name="a")
        peer_graph.update({"a": (peer_log, 8)})
        peer_graph.launch()
        peer_stream.synchronize()
        at = stream.status.published
        graph.launch()
        with pytest.raises(rl.KernelFault, match=r"crash.*launch 1 of a graph") as fault:
            stream.synchronize()
        assert f"record at position {at}" in str(fault.value)
        assert stream.status.error_kernel == "crash"
        assert stream.status.error_position == at
        peer_graph.launch()
        assert logged(peer_log, peer_stream) == [8, 8]
        # It goes on behind the doubt, and the graph is there: as it was, so it faults again.
        stream.resume()
        graph.launch()
        with pytest.raises(rl.KernelFault, match=r"crash.*launch 1 of a graph"):
            stream.synchronize()
        stream.resume()
        kernels["append"][1, 1](log, 7, stream=stream)
        assert logged(log, stream)[-1] == 7


@pytest.mark.parametrize("on_restart", ["rerun", "stop"])
def test_a_restarted_executor_has_graphs_with_the_updates_that_were_taken(own_host, on_restart):
    with own_host.connect() as client:
        kernels = client.compile(KERNELS, name="kernels.cu")
        stream = client.stream(on_restart=on_restart)
        log = client.zeros(64, np.int32)
        with stream.record() as graph:
            kernels["append"][1, 1](log, 1, stream=stream, name="a")
            kernels["append"][1, 1](log, 2, stream=stream, name="b")
        graph.launch()
        graph["a"].update(log, 10)
        graph.launch()
        stream.synchronize()
        kill_executor(own_host)
        graph.launch()
        graph["b"].update(log, 20)
        graph.launch()
        assert logged(log, stream) == [1, 2, 10, 2, 10, 2, 10, 20]
        # With work in doubt: an update, and a launch that has not come to its end.
        with Gate(client, kernels) as gate:
            gate.hold(stream)
            graph["a"].update(log, 11)
            graph.launch()
            eventually(lambda: stream.status.issued == stream.status.published, "all is issued")
            kill_executor(own_host)
        if on_restart == "stop":
            eventually(lambda: not stream.status.running, "the stream stops")
            stream.resume()
            expected = []
        else:
            expected = [11, 20]
        graph.launch()
        assert logged(log, stream)[8:] == [*expected, 11, 20]
        stream.synchronize()


def test_updates_and_kills_again_and_again_lose_nothing_and_double_nothing(own_host):
    """Each launch says a number one above the last; whatever is killed meanwhile, a rerun says each at least once."""
    with own_host.connect() as client:
        kernels = client.compile(KERNELS, name="kernels.cu")
        stream = client.stream(on_restart="rerun")
        count = 400
        out = client.zeros(8 * count, np.int32)
        with stream.record() as graph:
            kernels["append"][1, 1](out, 0, stream=stream, name="say")
        for i in range(count):
            graph["say"].update(out, i)
            graph.launch()
            if i % 80 == 40:
                kill_executor(own_host)
        stream.synchronize()
        said = logged(out, stream)
        # What is in doubt is repeated with the numbers that it had, and nothing comes before its time.
        assert list(dict.fromkeys(said)) == list(range(count))
