"""A faulting kernel on a GPU costs its client an error, and nobody a byte."""

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
extern "C" __global__ void trap(int n) { if (n) asm volatile("trap;"); }
RINGLAUNCH_EXPORT(trap)
"""


@pytest.mark.parametrize("fault", ["wild", "trap"])
def test_a_fault_stops_its_stream_and_leaves_the_neighbours_bytes(gpu_socket, fault):
    data = np.arange(1 << 20, dtype=np.uint32)
    culprit = rl.connect(socket=gpu_socket, start=False)
    with rl.connect(socket=gpu_socket, start=False) as peer:
        kept = peer.array(data)
        step = peer.compile(KERNELS, name="kernels.cu")["step"]
        word = peer.zeros(1, np.uint32)
        step[(1,), (1,)](word, 3, 7)
        peer.synchronize()
        address = kept.address

        bad = culprit.compile(KERNELS, name="kernels.cu")[fault]
        stream = culprit.stream()
        begin = time.monotonic()
        bad[(1,), (1,)](1, stream=stream)
        with pytest.raises(rl.StreamStopped):
            stream.synchronize(timeout=WATCHDOG_S)

        step[(1,), (1,)](word, 3, 7)
        peer.synchronize(timeout=WATCHDOG_S)
        print(f"{fault}: from the launch to the neighbour's next result: {time.monotonic() - begin:.3f} s")
        assert int(word.numpy()[0]) == 28
        assert kept.address == address
        assert np.array_equal(kept.numpy(), data)
    culprit.close()
