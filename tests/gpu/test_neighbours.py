"""What one client does keeps no other's launches waiting, though a kernel goes on for long."""

import concurrent.futures
import contextlib
import subprocess
import sys
import time

import numpy as np
import pytest
from gpu_support import WATCHDOG_S, WORK, A

import ringlaunch as rl
from ringlaunch import _compile

LONG_US = 4_000_000


class Busy:
    """A client with a kernel on the device that is told to last for some seconds."""

    def __init__(self, socket):
        self.client = rl.connect(socket=socket, start=False)
        self.pause = self.client.compile(WORK, name="work.cu")["pause"]
        self.stream = self.client.stream(name="long")

    def __enter__(self):
        self.pause[1, 1](LONG_US, stream=self.stream)
        while self.stream.status.issued < self.stream.status.published:
            pass
        return self

    def __exit__(self, *_):
        self.stream.synchronize(WATCHDOG_S)
        self.client.close()

    @property
    def runs(self):
        return self.stream.status.completed < self.stream.status.published


class Neighbour:
    def __init__(self, socket):
        self.client = rl.connect(socket=socket, start=False)
        self.chain = self.client.compile(WORK, name="work.cu")["chain"]
        self.cells = self.client.zeros(2, np.uint32)
        self.client.synchronize(WATCHDOG_S)

    def works(self):
        """Launches, each waited for."""
        for i in range(100):
            self.chain[1, 1](self.cells, i % 2, (i + 1) % 2, A, i)
            self.client.synchronize(WATCHDOG_S)


def close_a_stream(client):
    client.stream().close()


def let_go_of_pinned_memory(client):
    pinned = client.pinned_empty(1 << 20, np.uint8)
    pinned[:] = 1
    del pinned


def copy_and_leave(client):
    there = client.array(np.arange(1 << 16, dtype=np.uint32))
    assert int(there.numpy()[7]) == 7
    client.close()


@pytest.mark.parametrize("does", [close_a_stream, let_go_of_pinned_memory, copy_and_leave])
def test_launches_go_on_beside_a_long_kernel_whatever_a_third_does(serve_gpu, does):
    with serve_gpu() as socket, rl.connect(socket=socket, start=False) as third:
        neighbour = Neighbour(socket)
        with Busy(socket) as busy:
            does(third)
            neighbour.works()
            assert busy.runs, "the neighbour was kept waiting for the long kernel"
        neighbour.works()
        neighbour.client.close()


KILLED = """
import signal, os, sys
import numpy as np
import ringlaunch as rl
client = rl.connect(socket=sys.argv[1], start=False)
streams = [client.stream() for _ in range(4)]
pinned = client.pinned_empty(1 << 20, np.uint8)
there = client.array(np.arange(1 << 16, dtype=np.uint32))
assert int(there.numpy()[7]) == 7
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_launches_go_on_beside_a_long_kernel_though_a_third_is_killed(serve_gpu):
    with serve_gpu() as socket:
        neighbour = Neighbour(socket)
        with Busy(socket) as busy:
            killed = subprocess.run([sys.executable, "-c", KILLED, socket], timeout=WATCHDOG_S)
            assert killed.returncode == -9
            neighbour.works()
            assert busy.runs, "the neighbour was kept waiting for the long kernel"
        neighbour.works()
        neighbour.client.close()


@contextlib.contextmanager
def neighbour_and_load(socket):
    """A neighbour, a third client, and what has that one load a module of its own in a thread: a future of it."""
    with (
        rl.connect(socket=socket, start=False) as third,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        neighbour = Neighbour(socket)
        image = _compile.compile_source(MORE, "more.cu", (), "cuda", third._daemon.architecture)
        yield neighbour, third, lambda: threads.submit(third.load, image)
        neighbour.client.close()


def runs(third, module):
    out = third.zeros(1, np.uint32)
    module["more"][1, 1](out, 5)
    assert int(out.numpy()[0]) == 5


def test_a_load_waits_for_a_long_kernel_and_nobody_else_does(serve_gpu):
    with serve_gpu() as socket, neighbour_and_load(socket) as (neighbour, third, load):
        with Busy(socket) as busy:
            loading = load()
            for _ in range(100):
                neighbour.works()
            assert not loading.done()
            assert busy.runs, "the neighbour was kept waiting for the long kernel"
        runs(third, loading.result(WATCHDOG_S))
        neighbour.works()


def test_a_load_waits_for_a_long_queue_and_nobody_else_does(serve_gpu):
    """The queue is filled up again as soon as there is room; compared with how long it takes, in the same run."""
    us, launches = 10_000, 700
    with serve_gpu() as socket, neighbour_and_load(socket) as (neighbour, third, load):
        with rl.connect(socket=socket, start=False) as busy:
            pause = busy.compile(WORK, name="work.cu")["pause"].bind((1,), (1,), busy.stream(name="busy"))
            for _ in range(launches):
                pause(us)
            began = time.monotonic()
            loading, silences = load(), []
            while not loading.done():
                begin = time.monotonic()
                neighbour.works()
                silences.append(time.monotonic() - begin)
            took = time.monotonic() - began
            busy.synchronize(WATCHDOG_S)
            queue = time.monotonic() - began
        print(f"{took:.2f} s to load beside a queue of {queue:.2f} s; 100 launches {max(silences):.3f} s at most")
        assert took < queue, "it waited for everything that was there to be launched"
        assert max(silences) < took / 4
        runs(third, loading.result(WATCHDOG_S))


MORE = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void more(unsigned* out, unsigned value) { *out = value; }
RINGLAUNCH_EXPORT(more)
"""
