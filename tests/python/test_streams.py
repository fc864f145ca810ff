"""Streams, events and waits; stops and what comes after them."""

import threading

import numpy as np
import pytest
from support import KERNELS, WATCHDOG_S, Daemon, Gate

import ringlaunch as rl


def test_an_event_is_done_when_the_work_before_it_is(client, kernels):
    with client.stream() as stream, Gate(client, kernels) as gate:
        gate.hold(stream)
        event = stream.record()
        assert not event.done()
        gate.open()
        event.wait()
        assert event.done()
        event.wait(timeout=0)
        assert event.stream is stream
        assert "done" in repr(event)


def test_an_event_says_when_time_is_over(client, kernels):
    with client.stream() as stream, Gate(client, kernels) as gate:
        gate.hold(stream)
        event = stream.record()
        with pytest.raises(TimeoutError):
            event.wait(timeout=0.01)
        with pytest.raises(rl.Timeout):
            stream.synchronize(timeout=0)
        with pytest.raises(rl.Timeout):
            client.synchronize(timeout=0.01)
        gate.open()
        event.wait(timeout=float("inf"))


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_an_impossible_timeout_is_refused(client, timeout):
    with pytest.raises(rl.InvalidArgument, match="timeout"):
        client.default_stream.synchronize(timeout)


def test_a_stream_waits_for_an_event_of_another(client, kernels):
    with client.stream() as first, client.stream() as second:
        for _ in range(20):
            x = client.zeros(3, np.int32)
            kernels["nap"][1, 1](5, stream=first)
            kernels["append"][1, 1](x, 1, stream=first)
            second.wait_event(first.record())
            kernels["append"][1, 1](x, 2, stream=second)
            second.synchronize()
            assert x.numpy().tolist() == [2, 1, 2]


def test_what_was_closed_makes_room_at_once(client):
    assert client.default_stream.status.running
    streams = [client.stream(ring_slots=64) for _ in range(63)]
    with pytest.raises(rl.LimitReached, match="its limit is 64"):
        client.stream()
    for _ in range(60):
        for stream in streams[:8]:
            stream.close()
        streams[:8] = [client.stream(ring_slots=64) for _ in range(8)]


def test_streams_run_beside_each_other(client, kernels):
    with client.stream() as slow, client.stream() as fast, Gate(client, kernels) as gate:
        gate.hold(slow)
        behind = slow.record()
        x = client.empty(1, np.int32)
        x.fill(1, fast)
        kernels["increment"][1, 1](x, stream=fast)
        fast.synchronize()
        assert not behind.done()


def test_client_synchronize_waits_for_all_streams(client, kernels):
    streams = [client.stream() for _ in range(3)]
    events = []
    for stream in streams:
        kernels["nap"][1, 1](50, stream=stream)
        events.append(stream.record())
    client.synchronize()
    assert all(event.done() for event in events)


def test_a_stream_block_waits_and_closes(client, kernels):
    with client.stream("mine") as stream:
        kernels["nap"][1, 1](50, stream=stream)
        event = stream.record()
        assert repr(stream) == "<ringlaunch.Stream 'mine'>"
    assert event.done()
    assert stream.closed
    stream.close()
    assert repr(stream) == "<ringlaunch.Stream 'mine' closed>"
    for use in (stream.record, stream.barrier, stream.synchronize, lambda: stream.status, stream.resume):
        with pytest.raises(rl.Closed, match="the stream is closed"):
            use()


def test_a_block_that_raises_does_not_wait(client, kernels):
    def fail(stream):
        gate.hold(stream)
        events.append(stream.record())
        raise ZeroDivisionError

    events = []
    with Gate(client, kernels) as gate:
        with pytest.raises(ZeroDivisionError), client.stream() as stream:
            fail(stream)
        assert stream.closed
        assert not events[0].done()


@pytest.mark.parametrize("let_go", ["close", "collect"])
def test_a_closed_streams_work_still_runs_and_is_waited_for(client, kernels, let_go):
    x = client.zeros(1, np.int32)
    stream = client.stream()
    kernels["nap"][1, 1](300, stream=stream)
    kernels["increment"][1, 1](x, stream=stream)
    if let_go == "close":
        stream.close()
    del stream
    client.synchronize()
    assert x.numpy(client.default_stream)[0] == 1


def test_a_client_block_waits_and_closes(host):
    with host.connect() as client:
        x = client.zeros(3)
        del x
    assert client.closed


def test_the_status_counts_positions(client, kernels):
    with client.stream() as stream:
        now = stream.status
        assert now.running
        assert now.status == "ok"
        x = client.zeros(1, np.int32)
        kernels["increment"][1, 1](x, stream=stream)
        stream.synchronize()
        after = stream.status
        assert after.published == after.issued == after.completed > now.published


def test_a_barrier_is_a_record(client):
    with client.stream(on_restart="rerun") as stream:
        before = stream.status.published
        stream.barrier()
        assert stream.status.published == before + 1
        stream.synchronize()


@pytest.mark.parametrize("priority", [-1, 6, 1000])
def test_a_priority_that_the_device_does_not_have_is_refused_with_its_range(client, priority):
    with pytest.raises(rl.InvalidArgument, match=rf"priority {priority}: this device has 0 to 5"):
        client.stream(priority=priority)


def test_streams_of_every_priority_run(client, kernels):
    values = [client.zeros(1, np.int32) for _ in range(6)]
    client.synchronize()
    for priority, value in enumerate(values):
        stream = client.stream(priority=priority)
        for _ in range(100):
            kernels["increment"][1, 1](value, stream=stream)
    client.synchronize()
    assert [int(value.numpy()[0]) for value in values] == [100] * 6


def test_on_restart_is_checked(client):
    with pytest.raises(rl.InvalidArgument, match="'stop' or 'rerun'"):
        client.stream(on_restart="maybe")


def test_a_daemon_of_small_limits_serves_who_asks_for_no_sizes():
    daemon = Daemon("host", "--max-ring-slots", "64", "--max-staging", "70000")
    try:
        with daemon.connect() as client:
            values = np.arange(1 << 18, dtype=np.uint32)
            x = client.array(values)
            assert (x.numpy() == values).all()
            x.copy_from(values[::-1].copy())
            assert (x.numpy() == values[::-1]).all()
            increment = client.compile(KERNELS, name="kernels.cu")["increment"]
            n = client.zeros(1, np.int32)
            for _ in range(500):
                increment[1, 1](n)
            assert n.numpy()[0] == 500
            with client.stream(ring_slots=64) as asked:
                increment[1, 1](n, stream=asked)
            with pytest.raises(rl.InvalidArgument, match=r"power of two from 64 to 64 \(--max-ring-slots\)"):
                client.stream(ring_slots=128)
    finally:
        daemon.stop()


@pytest.mark.parametrize("slots", [0, 63, 100, 2**20])
def test_an_impossible_ring_is_refused(client, slots):
    with pytest.raises(rl.InvalidArgument, match="power of two"):
        client.stream(ring_slots=slots)


@pytest.fixture
def mortal(own_host):
    """A client of a daemon of its own, whose executor may die."""
    with own_host.connect() as connected:
        yield connected


def crash(client, stream):
    module = client.compile(KERNELS, name="kernels.cu")
    module["crash"][1, 1](None, stream=stream)
    return module


def test_a_fault_names_its_kernel_and_memory_survives(mortal):
    x = mortal.array(np.arange(5, dtype=np.int32))
    stream = mortal.stream()
    kernels = crash(mortal, stream)
    with pytest.raises(rl.KernelFault, match="crash") as caught:
        stream.synchronize(WATCHDOG_S)
    assert caught.value.status == "kernel_faulted"
    now = stream.status
    assert not now.running
    assert now.status == "kernel_faulted"
    assert now.error_kernel == "crash"
    assert "crash" in now.text
    with pytest.raises(rl.KernelFault):
        stream.record().wait(WATCHDOG_S)
    with pytest.raises(rl.KernelFault):
        kernels["increment"][1, 1](x, stream=stream)
    stream.resume()
    kernels["increment"][1, 1](x, stream=stream)
    stream.synchronize(WATCHDOG_S)
    assert x.numpy(stream).tolist() == [1, 1, 2, 3, 4]
    assert stream.status.running
    assert stream.status.epoch > now.epoch or now.epoch > 1


def test_a_neighbour_of_a_fault_goes_on(own_host, mortal):
    with own_host.connect() as neighbour:
        x = neighbour.array(np.arange(5, dtype=np.int32))
        increment = neighbour.compile(KERNELS)["increment"]
        increment[1, 1](x)
        neighbour.synchronize(WATCHDOG_S)
        stream = mortal.stream()
        crash(mortal, stream)
        with pytest.raises(rl.KernelFault):
            stream.synchronize(WATCHDOG_S)
        increment[1, 1](x)
        assert x.numpy().tolist() == [2, 1, 2, 3, 4]


def test_who_waits_for_a_stopped_stream_is_refused_and_resumes(mortal):
    first, second = mortal.stream(), mortal.stream()
    x = mortal.zeros(1, np.int32)
    kernels = crash(mortal, first)
    event = first.record()
    with pytest.raises(rl.KernelFault):
        event.wait(WATCHDOG_S)
    second.wait_event(event)
    with pytest.raises(rl.RecordRefused) as caught:
        second.synchronize(WATCHDOG_S)
    assert caught.value.status == "awaited_stream_stopped"
    second.resume()
    kernels["increment"][1, 1](x, stream=second)
    second.synchronize(WATCHDOG_S)
    assert x.numpy(second)[0] == 1
    first.close()


def test_waiting_for_all_streams_raises_what_stopped_one(mortal):
    stream = mortal.stream()
    crash(mortal, stream)
    with pytest.raises(rl.KernelFault, match="crash"):
        mortal.synchronize(WATCHDOG_S)
    with pytest.raises(rl.KernelFault, match="crash"):
        mortal.zeros(3)
    stream.close()
    mortal.zeros(3)


def test_resuming_what_runs_is_refused(client):
    with client.stream() as stream, pytest.raises(rl.Error):
        stream.resume()


def test_the_daemons_end_ends_waits_and_launches(own_host):
    client = own_host.connect()
    kernels = client.compile(KERNELS, name="kernels.cu")
    x = client.zeros(1, np.int32)
    kernels["nap"][1, 1](60_000)
    event = client.default_stream.record()
    killer = threading.Timer(0.3, own_host.process.kill)
    killer.start()
    with pytest.raises(rl.DaemonLost):
        event.wait(WATCHDOG_S)
    killer.join()
    for use in (
        lambda: kernels["increment"][1, 1](x),
        lambda: client.empty(3),
        lambda: client.synchronize(WATCHDOG_S),
        lambda: x.numpy(),
    ):
        with pytest.raises(ConnectionError):
            use()


def test_an_event_that_will_not_be_done_says_so_when_it_is_waited_for(own_host):
    client = own_host.connect()
    kernels = client.compile(KERNELS, name="kernels.cu")
    stopped, lost = client.stream(), client.stream()
    nothing = client.zeros(1, np.int32)
    with Gate(client, kernels) as gate:
        gate.hold(stopped)
        kernels["crash"][1, 1](nothing, stream=stopped)
        event = stopped.record()
    with pytest.raises(rl.KernelFault):
        event.wait(30)
    assert not event.done()
    with pytest.raises(rl.KernelFault):
        event.wait(0)
    epoch = stopped.status.epoch
    stopped.resume()
    event.wait(30)
    assert event.done()
    assert lost.status.epoch == epoch  # of the executor, whichever stream it serves
    kernels["nap"][1, 1](5000, stream=lost)
    event = lost.record()
    with pytest.raises(rl.Timeout):
        event.wait(0)
    own_host.process.kill()
    with pytest.raises(rl.DaemonLost):
        event.wait(30)
    assert not event.done()
    with pytest.raises(rl.DaemonLost):
        event.wait(0)


def test_what_is_told_no_stream_raises_for_every_stopped_one(own_host):
    with own_host.connect() as client:
        kernels = client.compile(KERNELS, name="kernels.cu")
        x = client.zeros(3)
        stream = client.stream()
        kernels["crash"][1, 1](client.zeros(1, np.int32), stream=stream)
        for use in (lambda: client.array([1]), lambda: client.zeros(2), lambda: x.fill(1), x.numpy):
            with pytest.raises(rl.KernelFault):
                use()
        x.fill(1, client.default_stream)
        assert x.numpy(client.default_stream).tolist() == [1, 1, 1]
        stream.resume()
        assert x.numpy().tolist() == [1, 1, 1]
