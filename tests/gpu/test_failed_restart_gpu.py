"""A restart for which the GPU has no memory just then waits for it, and nobody loses a byte; who needs less goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from gpu_support import WATCHDOG_S, daemon_program

import ringlaunch as rl

KERNELS = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void step(unsigned* word, unsigned a, unsigned b) { *word = *word * a + b; }
RINGLAUNCH_EXPORT(step)
extern "C" __global__ void until_set(const volatile unsigned* flag, unsigned* count) {
    while (*flag == 0) {}
    *count = 1;
}
RINGLAUNCH_EXPORT(until_set)
"""
# A program that takes the device's memory but for so many bytes, and what becomes free, until it is killed.
FILLER = """
import ctypes, sys, time
left = int(sys.argv[1])
cuda = ctypes.CDLL("libcuda.so.1")
def check(result):
    assert result == 0, result
context, device, memory = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_uint64()
check(cuda.cuInit(0))
check(cuda.cuDeviceGet(ctypes.byref(device), 0))
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
check(cuda.cuCtxSetCurrent(context))
free, total = ctypes.c_size_t(), ctypes.c_size_t()
full = False
while True:
    size = 1 << 33
    while size >= 1 << 21:
        check(cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
        if free.value < left + size or cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(size)) != 0:
            size >>= 1
    if not full:
        print("full", flush=True)
    full = True
    time.sleep(0.001)
"""


@contextlib.contextmanager
def memory_taken(left=0):
    filler = subprocess.Popen([sys.executable, "-c", FILLER, str(left)], stdout=subprocess.PIPE, text=True)
    try:
        assert filler.stdout.readline() == "full\n"
        yield
    finally:
        filler.kill()
        filler.wait(WATCHDOG_S)


def executor(socket):
    command = [daemon_program(), "status", "--json", "--socket", socket]
    said = subprocess.run(command, capture_output=True, check=True, timeout=WATCHDOG_S)
    return json.loads(said.stdout)["executors"][0]


def until(holds):
    end = time.monotonic() + WATCHDOG_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_restart_waits_for_memory_that_another_process_has(serve_gpu):
    with serve_gpu() as socket, rl.connect(socket=socket, start=False) as client:
        data = np.random.default_rng(1).integers(0, 1 << 32, 1 << 22, dtype=np.uint32)
        kept = client.array(data)
        kernels = client.compile(KERNELS, name="kernels.cu")
        word, flag, count = (client.zeros(1, np.uint32) for _ in range(3))
        kernels["step"][1, 1](word, 1, 1)
        client.synchronize(WATCHDOG_S)
        address = kept.address
        # In doubt at the death: run again once there is an executor.
        again = client.stream(on_restart="rerun")
        kernels["until_set"][1, 1](flag, count, stream=again)
        until(lambda: again.status.issued == again.status.published)
        with memory_taken():
            os.kill(executor(socket)["pid"], signal.SIGKILL)
            until(lambda: int((executor(socket)["failure"] or "0").split()[0]) >= 3)
            print(executor(socket)["failure"])
            kernels["step"][1, 1](word, 3, 7)
            with pytest.raises(rl.Timeout):
                client.default_stream.synchronize(0.5)
            failed = executor(socket)
            assert failed["restarts"] == 1
            assert "the driver cannot be used" in failed["failure"]
        flag.fill(1, stream=client.default_stream)  # without a stream it would wait for the kernel that waits for it
        again.synchronize(WATCHDOG_S)
        assert int(count.numpy(timeout=WATCHDOG_S)[0]) == 1
        assert int(word.numpy(timeout=WATCHDOG_S)[0]) == 10
        assert kept.address == address
        assert np.array_equal(kept.numpy(timeout=WATCHDOG_S), data)
        now = executor(socket)
        assert (now["restarts"], now["failure"]) == (1, "")
        assert client.empty(1 << 30, np.uint8).address != 0


def test_a_stack_that_there_is_no_memory_for_costs_its_session_alone(serve_gpu):
    """32 KiB for every thread that fits on the device are 9 GB on an H200; a context and a kernel are half a GB."""
    with (
        serve_gpu() as socket,
        rl.connect(socket=socket, start=False) as deep,
        rl.connect(socket=socket, start=False) as other,
    ):
        word, kept = deep.zeros(1, np.uint32), other.zeros(1, np.uint32)
        step = deep.compile(KERNELS, name="deep.cu", stack=32 << 10)["step"]
        others_step = other.compile(KERNELS, name="kernels.cu")["step"]
        step[1, 1](word, 1, 7)
        others_step[1, 1](kept, 1, 5)
        deep.synchronize(WATCHDOG_S)
        other.synchronize(WATCHDOG_S)
        with memory_taken(left=4 << 30):
            os.kill(executor(socket)["pid"], signal.SIGKILL)
            others_step[1, 1](kept, 1, 1)
            assert int(kept.numpy(timeout=WATCHDOG_S)[0]) == 6
            print(deep.warning)
            assert "module deep.cu could not be loaded again" in deep.warning
            assert other.warning == ""
            step[1, 1](word, 2, 0)
            with pytest.raises(rl.Timeout):
                deep.synchronize(0.5)
        assert int(word.numpy(timeout=WATCHDOG_S)[0]) == 14
