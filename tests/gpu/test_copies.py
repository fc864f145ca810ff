"""Pinned arrays, which the GPU's copies and kernels read and write themselves, and copies of ordinary ones."""

import gc
import time

import numpy as np
import pytest
from gpu_support import WATCHDOG_S

import ringlaunch as rl

KERNELS = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void add_one(unsigned* x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += 1;
}
RINGLAUNCH_EXPORT(add_one)
extern "C" __global__ void busy(unsigned long long ns) {
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
    do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    while (now - begin < ns);
}
RINGLAUNCH_EXPORT(busy)
extern "C" __global__ void step(unsigned* word, unsigned a, unsigned b) { *word = *word * a + b; }
RINGLAUNCH_EXPORT(step)
// Answers the host's question while it runs; gives up after a while, so that it ends in any case.
extern "C" __global__ void answer(volatile unsigned* question, volatile unsigned* said) {
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
    do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    while (*question == 0 && now - begin < 20000000000ull);
    *said = *question + 1;
    __threadfence_system();
}
RINGLAUNCH_EXPORT(answer)
extern "C" __global__ void wild(int n) { *reinterpret_cast<volatile int*>(8) = n; }
RINGLAUNCH_EXPORT(wild)
"""
MIB = 1 << 20


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("size", [1, 1000, 3 * MIB + 5, 64 * MIB])
def test_bytes_go_there_and_back(client, size, pinned):
    make = client.pinned_empty if pinned else np.empty
    source, out = make(size, np.uint8), make(size, np.uint8)
    source[:] = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    out[:] = 0
    buffer = client.array(source)
    buffer.numpy(out=out)  # once for the memory's pages
    begin = time.perf_counter()
    buffer.copy_from(source)
    there = time.perf_counter()
    buffer.numpy(out=out)
    back = time.perf_counter()
    print(f"{size} bytes, pinned {pinned}: {size / (there - begin) / 1e9:.1f} GB/s there, "
          f"{size / (back - there) / 1e9:.1f} back")  # fmt: skip
    assert np.array_equal(out, source)


def test_pinned_copies_overlap_with_the_program_and_stand_in_order(client):
    kernels = client.compile(KERNELS, name="kernels.cu")
    n = 4 * MIB
    source, out = client.pinned_empty(n, np.uint32), client.pinned_empty(n, np.uint32)
    source[:] = np.arange(n, dtype=np.uint32)
    buffer = client.empty(n, np.uint32)
    with client.stream() as stream:
        kernels["busy"][1, 1](200_000_000, stream=stream)
        buffer.copy_from(source, stream)
        kernels["add_one"][n // 256, 256](buffer, n, stream=stream)
        buffer.copy_to(out, stream)
        done = stream.record()
        done.wait(timeout=WATCHDOG_S)
        assert np.array_equal(out, np.arange(1, n + 1, dtype=np.uint32))


def test_copies_outlive_their_array(client):
    kernels = client.compile(KERNELS, name="kernels.cu")
    buffers = []
    with client.stream() as stream:
        for i in range(10):
            source = client.pinned_empty(MIB, np.uint32)
            source[:] = i
            kernels["busy"][1, 1](5_000_000, stream=stream)
            buffers.append(client.empty(MIB, np.uint32))
            buffers[-1].copy_from(source, stream)
            del source
            gc.collect()
        stream.synchronize(timeout=WATCHDOG_S)
    for i, buffer in enumerate(buffers):
        assert (buffer.numpy() == i).all()


def test_a_pinned_array_serves_after_a_fault(gpu_socket):
    culprit = rl.connect(socket=gpu_socket, start=False)
    with rl.connect(socket=gpu_socket, start=False) as peer:
        array = peer.pinned_empty(MIB, np.uint32)
        array[:] = np.arange(MIB)
        bad = culprit.compile(KERNELS, name="kernels.cu")["wild"]
        stream = culprit.stream()
        bad[1, 1](1, stream=stream)
        with pytest.raises(rl.StreamStopped):
            stream.synchronize(timeout=WATCHDOG_S)
        buffer = peer.array(array)
        array[:] = 0
        assert np.array_equal(buffer.numpy(out=array), np.arange(MIB, dtype=np.uint32))
    culprit.close()


@pytest.mark.parametrize("shift", [0, 1, 4096 + 3])
def test_a_large_array_is_copied_from_and_to_anywhere(client, shift):
    """Larger than what is registered with CUDA in one piece."""
    n = 100 * MIB
    source, out = client.pinned_empty(n, np.uint8), client.pinned_empty(n, np.uint8)
    source[:] = np.random.default_rng(shift).integers(0, 256, n, dtype=np.uint8)
    out[:] = 0
    buffer = client.array(source[shift:])
    buffer.numpy(out=out[: n - shift])
    assert np.array_equal(out[: n - shift], source[shift:])
    assert not out[n - shift :].any()


def test_kernels_read_and_write_a_pinned_array(client):
    kernels = client.compile(KERNELS, name="kernels.cu")
    n = 25 * MIB  # words: several pieces
    array = client.pinned_empty(n, np.uint32)
    array[:] = np.arange(n, dtype=np.uint32)
    kernels["add_one"][n // 256, 256](array, n)
    part = array[n // 3 : n // 2]
    kernels["add_one"][(part.size + 255) // 256, 256](part, part.size)
    client.default_stream.synchronize(timeout=WATCHDOG_S)
    expected = np.arange(1, n + 1, dtype=np.uint32)
    expected[n // 3 : n // 2] += 1
    assert np.array_equal(array, expected)


def test_launches_on_pinned_memory_run_in_order(client):
    step = client.compile(KERNELS, name="kernels.cu")["step"][1, 1]
    word = client.pinned_empty(1, np.uint32)
    word[:] = 1
    expected = 1
    for i in range(20_000):
        step(word, 2 * i + 1, i)
        expected = (expected * (2 * i + 1) + i) % (1 << 32)
    client.default_stream.synchronize(timeout=WATCHDOG_S)
    assert word[0] == expected


def test_a_running_kernel_and_the_host_talk_through_a_pinned_array(client):
    answer = client.compile(KERNELS, name="kernels.cu")["answer"]
    words = client.pinned_empty(64, np.uint32)
    words[:] = 0
    answer[1, 1](words, words[32:])
    time.sleep(0.05)
    assert words[32] == 0
    words[0] = 41
    end = time.monotonic() + WATCHDOG_S
    while words[32] == 0 and time.monotonic() < end:
        pass
    assert words[32] == 42
    client.default_stream.synchronize(timeout=WATCHDOG_S)


def test_kernels_reach_a_pinned_array_after_a_fault(gpu_socket):
    with rl.connect(socket=gpu_socket, start=False) as peer, rl.connect(socket=gpu_socket, start=False) as culprit:
        step = peer.compile(KERNELS, name="kernels.cu")["step"]
        wild = culprit.compile(KERNELS, name="kernels.cu")["wild"]
        array = peer.pinned_empty(10 * MIB, np.uint32)
        array[-1] = 5
        address = peer.device_address(array)
        stream = culprit.stream()
        wild[1, 1](1, stream=stream)
        with pytest.raises(rl.StreamStopped):
            stream.synchronize(timeout=WATCHDOG_S)
        stream.resume()
        step[1, 1](array[-1:], 3, 4)
        peer.default_stream.synchronize(timeout=WATCHDOG_S)
        assert array[-1] == 19
        assert peer.device_address(array) == address
