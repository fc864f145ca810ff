"""Launches, copies and streams on a GPU: every result is compared, bit for bit where the arithmetic is exact."""

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
from gpu_support import ROOT, WATCHDOG_S

import ringlaunch as rl

KERNELS = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void step(unsigned* word, unsigned a, unsigned b) { *word = *word * a + b; }
RINGLAUNCH_EXPORT(step)
extern "C" __global__ void add(const float* x, const float* y, float* z, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = x[i] + y[i];
}
RINGLAUNCH_EXPORT(add)
"""
LAUNCHES = 1_000_000


def expected(seed: int, launches: int) -> int:
    """word = word * 3 + b over the launches' b: order-sensitive, so a lost, doubled or swapped launch shows."""
    word = 0
    for i in range(launches):
        word = (word * 3 + ((i ^ seed) & 0xFFFF)) & 0xFFFFFFFF
    return word


def run(client, streams: int, launches: int, seed: int = 0) -> list[int]:
    """The words of `streams` streams after `launches` launches on each, enqueued in turn."""
    step = client.compile(KERNELS, name="kernels.cu")["step"]
    words = [client.zeros(1, np.uint32) for _ in range(streams)]
    client.synchronize()
    bound = [step.bind((1,), (1,), client.stream(name=f"s{i}")) for i in range(streams)]
    for i in range(launches):
        for call, word in zip(bound, words, strict=True):
            call(word, 3, (i ^ seed) & 0xFFFF)
    client.synchronize()
    return [int(word.numpy()[0]) for word in words]


@pytest.mark.parametrize("streams", [1, 4, 16])
def test_a_million_order_sensitive_launches_are_exact(client, streams):
    launches = LAUNCHES // streams
    assert run(client, streams, launches) == [expected(0, launches)] * streams


def _one_of_many(socket: str, seed: int, launches: int, found) -> None:
    with rl.connect(socket=socket, start=False) as client:
        found.put((seed, run(client, 1, launches, seed)[0]))


def test_eight_processes_launch_at_once_and_all_are_exact(gpu_socket):
    context = multiprocessing.get_context("spawn")
    found, launches = context.Queue(), LAUNCHES // 8
    processes = [context.Process(target=_one_of_many, args=(gpu_socket, seed, launches, found)) for seed in range(8)]
    for process in processes:
        process.start()
    results = dict(found.get(timeout=WATCHDOG_S) for _ in processes)
    for process in processes:
        process.join(WATCHDOG_S)
    assert results == {seed: expected(seed, launches) for seed in range(8)}


def test_arrays_go_there_and_back(client):
    random = np.random.default_rng(1)
    x, y = (random.standard_normal(1 << 20, dtype=np.float32) for _ in range(2))
    add = client.compile(KERNELS, name="kernels.cu")["add"]
    z = client.empty(x.shape, np.float32)
    add[(x.size // 256,), (256,)](client.array(x), client.array(y), z, x.size)
    assert np.array_equal(z.numpy(), x + y)


def test_a_stream_waits_for_an_event_of_another(client):
    step = client.compile(KERNELS, name="kernels.cu")["step"]
    word = client.zeros(1, np.uint32)
    client.synchronize()
    first, second = client.stream(), client.stream()
    for i in range(2000):
        step[(1,), (1,)](word, 3, i, stream=first)
        second.wait_event(first.record())
        step[(1,), (1,)](word, 5, i, stream=second)
        first.wait_event(second.record())
    first.synchronize()
    value = 0
    for i in range(2000):
        value = ((value * 3 + i) * 5 + i) & 0xFFFFFFFF
    assert int(word.numpy()[0]) == value


def test_a_host_object_is_refused_with_what_was_found_and_expected(client):
    from ringlaunch._compile import compile_source

    with pytest.raises(rl.Error, match=r"x86-64.*cubins, fatbins and PTX for sm_"):
        client.load(compile_source(KERNELS, "kernels.cu", (), "host"))


def test_the_digits_agree_with_numpy(gpu_socket):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "digits.py"), "--socket", gpu_socket],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "driver cuda" in done.stdout
