"""One daemon, several devices: executors for each, addresses that say whose they are, faults that stay where they are.

The host driver pretends the devices: they differ in their addresses, everything above the driver is as on GPUs.
"""

import json
import os
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
from support import KERNELS, WATCHDOG_S, Daemon, Gate, daemon_program

import ringlaunch as rl


@pytest.fixture
def two():
    daemon = Daemon("host", "--devices", "0,1")
    yield daemon
    daemon.stop()


def connect(daemon: Daemon, device: int) -> rl.Client:
    return rl.connect(daemon.socket, device=device, start=False)


def ask(daemon: Daemon, command: str) -> dict:
    asked = [daemon_program(), command, "--socket", daemon.socket, "--json"]
    return json.loads(subprocess.run(asked, capture_output=True, text=True, timeout=WATCHDOG_S, check=True).stdout)


def executors(daemon: Daemon) -> dict[int, dict]:
    return {each["device"]: each for each in ask(daemon, "status")["executors"]}


def test_an_executor_is_started_for_a_device_when_a_client_asks_for_it(two):
    assert list(executors(two)) == [0]
    devices = ask(two, "status")["devices"]
    assert [each["device"] for each in devices] == [0, 1]
    assert devices[0]["name"].startswith("host (")
    assert devices[1]["name"] == ""
    with connect(two, 1) as client:
        assert client.device == client.daemon.device == 1
        x = client.zeros(5)
        running = executors(two)
        assert sorted(running) == [0, 1]
        assert running[0]["pid"] != running[1]["pid"]
        assert ask(two, "status")["devices"][1]["sessions"] == 1
        (session,) = ask(two, "sessions")["sessions"]
        assert session["device"] == 1
        assert session["executor_pid"] == running[1]["pid"]
        client.compile(KERNELS)["scale"][1, 32](x, 2.0, 5)
        client.synchronize()
        (stream,) = ask(two, "stats")["streams"]
        assert stream["device"] == 1
        (module,) = ask(two, "kernels")["modules"]
        assert module["device"] == 1


def test_a_device_that_is_not_served_is_refused_with_those_that_are(two, host):
    with pytest.raises(rl.NotFound, match=r"asks for device 2, this daemon serves devices 0, 1 \(.*--devices"):
        connect(two, 2)
    with pytest.raises(rl.NotFound, match=r"asks for device 1, this daemon serves device 0 "):
        connect(host, 1)


def test_an_address_says_whose_it_is(two):
    with connect(two, 0) as zero, connect(two, 1) as one:
        x, y = zero.zeros(100), one.zeros(100)
        assert y.address - x.address == 64 << 30


def test_one_image_on_two_devices(two):
    with connect(two, 0) as zero, connect(two, 1) as one:
        for client in (zero, one):
            x = client.zeros(1, np.int32)
            client.compile(KERNELS)["increment"][1, 1](x)
            assert x.numpy().tolist() == [1]
        assert sorted(each["device"] for each in ask(two, "kernels")["modules"]) == [0, 1]


def test_a_fault_on_one_device_leaves_the_other_alone(two):
    """And the faulted device's buffers keep addresses and contents, as without a second device."""
    launches = 20_000
    with connect(two, 0) as zero, connect(two, 1) as one:
        kernels = [client.compile(KERNELS) for client in (zero, one)]
        total = zero.zeros(1, np.int32)
        kept = one.array(np.arange(1000, dtype=np.int32))
        address = kept.address
        before = executors(two)
        begun, failed = threading.Event(), []

        def count() -> None:
            try:
                for i in range(launches):
                    kernels[0]["increment"][1, 1](total)
                    if i == launches // 10:
                        begun.set()
                zero.synchronize(WATCHDOG_S)
            except rl.Error as error:
                failed.append(error)
            begun.set()

        counting = threading.Thread(target=count)
        counting.start()
        assert begun.wait(WATCHDOG_S)
        for _ in range(3):
            stream = one.stream()
            kernels[1]["crash"][1, 1](one.zeros(1, np.int32), stream=stream)
            with pytest.raises(rl.StreamStopped):
                stream.synchronize(WATCHDOG_S)
            stream.close()
        counting.join(WATCHDOG_S)
        assert not counting.is_alive()
        assert not failed
        assert total.numpy().tolist() == [launches]
        assert kept.address == address
        assert np.array_equal(kept.numpy(), np.arange(1000))
        after = executors(two)
        assert after[0]["pid"] == before[0]["pid"]
        assert after[0]["restarts"] == 0
        assert sum(each["restarts"] for each in ask(two, "status")["executors"] if each["device"] == 1) == 3


def test_both_devices_busy_at_once(two):
    """Each runs its own, in order, while the other does: acc = acc * 3 + 1 for each, checked exactly."""
    source = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void step(unsigned* acc, unsigned a, unsigned b) { *acc = *acc * a + b; }
RINGLAUNCH_EXPORT(step)
"""
    launches = 20_000
    results = {}

    def run(device: int) -> None:
        with connect(two, device) as client:
            step = client.compile(source)["step"]
            acc = client.zeros(1, np.uint32)
            for i in range(launches):
                step[1, 1](acc, 3 + device, i)
            results[device] = int(acc.numpy()[0])

    threads = [threading.Thread(target=run, args=(device,)) for device in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG_S)
        assert not thread.is_alive()
    for device in (0, 1):
        acc = 0
        for i in range(launches):
            acc = (acc * (3 + device) + i) & 0xFFFFFFFF
        assert results[device] == acc


def test_a_daemon_may_serve_a_device_that_is_not_the_first():
    daemon = Daemon("null", "--devices", "3")
    try:
        with pytest.raises(rl.NotFound, match="serves device 3"):
            daemon.connect()
        with connect(daemon, 3) as client:
            assert client.zeros(4).numpy().tolist() == [0, 0, 0, 0]
    finally:
        daemon.stop()


# ---- copies between devices, and waits for each other


@pytest.fixture
def pair(two):
    """Clients on device 0 and 1."""
    with connect(two, 0) as zero, connect(two, 1) as one:
        yield zero, one


@pytest.mark.parametrize("count", [1, 1000, 16 << 20])
def test_a_copy_between_devices_is_exact_both_ways(pair, count):
    values = np.random.default_rng(count).integers(0, 2**32, count, dtype=np.uint32)
    for here, there in (pair, pair[::-1]):
        source, target = here.array(values), there.zeros(count, np.uint32)
        target.copy_from(source)
        assert np.array_equal(target.numpy(), values)
        # Enqueued on a stream of the one that is copied from, as well.
        again = there.zeros(count, np.uint32)
        stream = here.stream()
        again.copy_from(source, stream=stream)
        stream.synchronize()
        assert np.array_equal(again.numpy(), values)


def test_a_part_of_a_buffer_goes_to_a_part_of_another(pair):
    zero, one = pair
    source = zero.array(np.arange(100, dtype=np.int64))
    target = one.zeros(50, np.int64)
    target[10:20].copy_from(source[70:80])
    expected = np.zeros(50, np.int64)
    expected[10:20] = np.arange(70, 80)
    assert np.array_equal(target.numpy(), expected)


def test_clients_of_one_device_copy_between_each_other_too(two):
    with connect(two, 1) as first, connect(two, 1) as second:
        x = first.array(np.arange(5.0))
        y = second.zeros(5, np.float64)
        y.copy_from(x)
        assert y.numpy().tolist() == [0, 1, 2, 3, 4]


def test_a_borrowed_buffer_lives_until_its_copies_are_done_whoever_goes_first(two, pair):
    zero, one = pair
    nap = one.compile(KERNELS)["nap"]
    values = np.arange(1 << 18, dtype=np.int32)
    target = one.zeros(values.shape, np.int32)
    with connect(two, 0) as short:
        source = short.array(values)
        nap[1, 1](300)
        target.copy_from(source, stream=one.default_stream)
        source.free()
        # What its owner allocates next is not what is still being copied.
        for _ in range(4):
            short.array(-values)
    assert np.array_equal(target.numpy(), values)
    # And its addresses are given anew, once nobody has it.
    with connect(two, 0) as next_one:
        assert np.array_equal(next_one.zeros(values.shape, np.int32).numpy(), np.zeros_like(values))
    assert np.array_equal(zero.array(values).numpy(), values)


def test_a_kernel_gets_memory_of_its_own_device_alone(pair):
    zero, one = pair
    x = zero.zeros(1, np.int32)
    one.zeros(1, np.int32).copy_from(x)
    with pytest.raises(rl.InvalidArgument, match="another client"):
        one.compile(KERNELS)["increment"][1, 1](x)


def test_a_stream_waits_for_an_event_of_another_device(pair):
    """Ping-pong: each hands a counter to the other, which adds to it, a hundred times; nothing waits on the host."""
    rounds = 100
    values = [client.zeros(1, np.int32) for client in pair]
    increments = [client.compile(KERNELS)["increment"] for client in pair]
    for _ in range(rounds):
        for here, there in ((0, 1), (1, 0)):
            increments[here][1, 1](values[here])
            event = pair[here].default_stream.record()
            pair[there].default_stream.wait_event(event)
            values[there].copy_from(values[here], stream=pair[there].default_stream)
            pair[here].default_stream.wait_event(pair[there].default_stream.record())
    assert values[0].numpy().tolist() == [2 * rounds]


def test_a_wait_for_a_stream_that_stops_stops(pair):
    zero, one = pair
    kernels = zero.compile(KERNELS)
    faulty, waiting = zero.stream(), one.stream()
    nothing = zero.zeros(1, np.int32)
    zero.default_stream.synchronize()
    with Gate(zero, kernels) as gate:
        gate.hold(faulty)
        kernels["crash"][1, 1](nothing, stream=faulty)
        waiting.wait_event(faulty.record())
    with pytest.raises(rl.StreamStopped, match=r"awaited|stopped"):
        waiting.synchronize(WATCHDOG_S)
    faulty.close()
    waiting.close()
    # Device 1 itself noticed nothing.
    assert one.zeros(3).numpy().tolist() == [0, 0, 0]


def test_restarts_of_either_executor_keep_loans_and_addresses(two, pair):
    zero, one = pair
    values = np.arange(5000, dtype=np.int32)
    source, target = zero.array(values), one.zeros(5000, np.int32)
    target.copy_from(source)
    for victim in (0, 1, 0, 1):
        pid = executors(two)[victim]["pid"]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + WATCHDOG_S
        while executors(two)[victim]["pid"] in (pid, None) or executors(two)[victim]["state"] != "ready":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        values = values * 3 + 1
        source.copy_from(values)
        target.copy_from(source)
        assert np.array_equal(target.numpy(), values)
        back = zero.zeros(5000, np.int32)
        back.copy_from(target)
        assert np.array_equal(back.numpy(), values)


def test_a_fault_of_the_owner_does_not_reach_a_copy_of_its_memory(pair):
    """The executor of the source dies again and again; the other goes on copying out of what it lent."""
    zero, one = pair
    values = np.arange(1 << 20, dtype=np.int32)
    source, target = zero.array(values), one.zeros(values.shape, np.int32)
    crash = zero.compile(KERNELS)["crash"]
    stop = threading.Event()
    failed = []

    def fault() -> None:
        try:
            for _ in range(3):
                with zero.stream() as stream:
                    crash[1, 1](zero.zeros(1, np.int32), stream=stream)
                    with pytest.raises(rl.StreamStopped):
                        stream.synchronize(WATCHDOG_S)
                    stream.close()
        except BaseException as error:
            failed.append(error)
        finally:
            stop.set()

    faulting = threading.Thread(target=fault)
    faulting.start()
    copies = 0
    while not stop.is_set() or copies < 10:
        target.fill(0, stream=one.default_stream)
        target.copy_from(source, stream=one.default_stream)
        one.default_stream.synchronize(WATCHDOG_S)
        assert np.array_equal(target.numpy(stream=one.default_stream), values)
        copies += 1
    faulting.join(WATCHDOG_S)
    assert not failed


def test_another_daemons_buffer_and_event_are_refused(pair, host):
    zero, _ = pair
    with host.connect() as other:
        with pytest.raises(rl.InvalidArgument, match="client of another daemon"):
            zero.zeros(4).copy_from(other.zeros(4))
        stream = other.stream()
        other.compile(KERNELS)["nap"][1, 1](200, stream=stream)
        with pytest.raises(rl.InvalidArgument, match="client of another daemon"):
            zero.default_stream.wait_event(stream.record())
