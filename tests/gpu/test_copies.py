"""Copies between host and GPU: pinned arrays, which the GPU reads and writes itself, and ordinary ones."""

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
