"""One daemon, several devices: executors for each, addresses that say whose they are, faults that stay where they are.

The host driver pretends the devices: they differ in their addresses, everything above the driver is as on GPUs.
"""

import json
import subprocess
import threading

import numpy as np
import pytest
from support import KERNELS, WATCHDOG_S, Daemon, daemon_program

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
