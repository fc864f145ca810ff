"""Two GPUs of one daemon: copies from one to the other, a fault on one beside work on the other, both busy at once."""

import subprocess
import threading
import time

import numpy as np
import pytest
from gpu_support import WATCHDOG_S

import ringlaunch as rl

KERNELS = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void step(unsigned* word, unsigned a, unsigned b) { *word = *word * a + b; }
RINGLAUNCH_EXPORT(step)
extern "C" __global__ void wild(int n) { *reinterpret_cast<volatile int*>(8) = n; }
RINGLAUNCH_EXPORT(wild)
"""
MIB = 1 << 20
MILLION = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def _two_gpus(_gpu):
    seen = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
    if seen.count("\nGPU ") + seen.startswith("GPU ") < 2:
        pytest.skip("this needs two GPUs, and there is one")


@pytest.fixture
def pair(gpu_socket):
    with (
        rl.connect(socket=gpu_socket, device=0, start=False) as zero,
        rl.connect(socket=gpu_socket, device=1, start=False) as one,
    ):
        yield zero, one


def after(count: int, start: int, a: int) -> int:
    """What `count` steps make of a word."""
    word = start
    for i in range(count):
        word = (word * a + (i & 0xFFFF)) & 0xFFFFFFFF
    return word


def run(client: rl.Client, step, word: rl.Buffer, count: int, a: int) -> None:
    for i in range(count):
        step[1, 1](word, a, i & 0xFFFF)
    client.synchronize(WATCHDOG_S)


def test_a_client_works_on_the_device_that_it_asked_for(gpu_socket, pair):
    for device, client in enumerate(pair):
        assert client.device == device
        assert client.daemon.device_name.startswith("NVIDIA")
        word = client.array(np.array([5], np.uint32))
        client.compile(KERNELS)["step"][1, 1](word, 3, 7)
        assert int(word.numpy()[0]) == 22
        assert word.address >> 40 == (0x200000000000 >> 40) + device
    with pytest.raises(rl.NotFound, match="asks for device 64, this daemon serves devices 0, 1"):
        rl.connect(socket=gpu_socket, device=64, start=False)


@pytest.mark.parametrize("size", [1, 4099, 64 * MIB])
def test_a_copy_between_devices_is_exact_both_ways(pair, size):
    for here, there in (pair, pair[::-1]):
        values = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
        source = here.array(values)
        for by in (there, here):
            target = there.zeros(size, np.uint8)
            stream = by.stream()
            target.copy_from(source, stream=stream)
            stream.synchronize(WATCHDOG_S)
            begin = time.perf_counter()
            target.copy_from(source, stream=stream)
            stream.synchronize(WATCHDOG_S)
            took = time.perf_counter() - begin
            print(f"{size} bytes from {here.device} to {there.device} by {by.device}: {size / took / 1e9:.1f} GB/s")
            assert np.array_equal(target.numpy(), values)


def test_work_is_handed_from_device_to_device(pair):
    rounds = 50
    words = [client.zeros(1, np.uint32) for client in pair]
    steps = [client.compile(KERNELS)["step"] for client in pair]
    for _ in range(rounds):
        for here, there in ((0, 1), (1, 0)):
            steps[here][1, 1](words[here], 3, 1)
            pair[there].default_stream.wait_event(pair[here].default_stream.record())
            words[there].copy_from(words[here], stream=pair[there].default_stream)
            pair[here].default_stream.wait_event(pair[there].default_stream.record())
    expected = 0
    for _ in range(2 * rounds):
        expected = (expected * 3 + 1) & 0xFFFFFFFF
    assert int(words[0].numpy()[0]) == expected


def test_faults_on_one_device_beside_a_million_launches_on_the_other(pair):
    """The million is exact, its executor lives through; what the faulting device had lent and kept is as it was."""
    calm, faulty = pair
    kept = np.arange(MIB, dtype=np.uint32)
    buffer = faulty.array(kept)
    address = buffer.address
    mirror = calm.zeros(MIB, np.uint32)
    mirror.copy_from(buffer)
    step, word = calm.compile(KERNELS)["step"], calm.zeros(1, np.uint32)
    wild = faulty.compile(KERNELS)["wild"]
    calm.synchronize()
    epoch = calm.default_stream.status.epoch
    failed = []

    def million() -> None:
        try:
            run(calm, step, word, MILLION, 1664525)
        except BaseException as error:
            failed.append(error)

    running = threading.Thread(target=million)
    running.start()
    faults = 0
    while faults < 2:
        stream = faulty.stream()
        wild[1, 1](1, stream=stream)
        with pytest.raises(rl.StreamStopped):
            stream.synchronize(WATCHDOG_S)
        stream.close()
        faults += 1
    print(f"{faults} faults on device 1; device 0 was {'still' if running.is_alive() else 'no more'} at work")
    running.join(WATCHDOG_S)
    assert not running.is_alive()
    assert not failed, failed
    assert int(word.numpy()[0]) == after(MILLION, 0, 1664525)
    assert calm.default_stream.status.epoch == epoch
    assert buffer.address == address
    assert np.array_equal(buffer.numpy(), kept)
    mirror.fill(0)
    mirror.copy_from(buffer)
    assert np.array_equal(mirror.numpy(), kept)


def test_both_devices_at_work_at_once(gpu_socket):
    count = 200_000
    rates, words = {}, {}

    def work(device: int) -> None:
        with rl.connect(socket=gpu_socket, device=device, start=False) as client:
            step, word = client.compile(KERNELS)["step"], client.zeros(1, np.uint32)
            client.synchronize()
            begin = time.perf_counter()
            run(client, step, word, count, 3 + device)
            rates[device] = count / (time.perf_counter() - begin)
            words[device] = int(word.numpy()[0])

    work(0)
    alone = rates[0]
    threads = [threading.Thread(target=work, args=(device,)) for device in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG_S)
        assert not thread.is_alive()
    print(f"launches a second from one interpreter: {alone:.0f} alone, {rates[0]:.0f} and {rates[1]:.0f} at once")
    for device in (0, 1):
        assert words[device] == after(count, 0, 3 + device)
