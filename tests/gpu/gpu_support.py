"""What the tests on a GPU share."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ringlaunch import _client

ROOT = Path(__file__).resolve().parents[2]
WATCHDOG_S = 60

# What tests put beside a fault or a kill: work that is exact only if every launch ran once and in its order.
WORK = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void step(unsigned* word, unsigned a, unsigned b) { *word = *word * a + b; }
RINGLAUNCH_EXPORT(step)
// A chain through an array: it may be run again from any link that is still there.
extern "C" __global__ void chain(unsigned* cells, unsigned from, unsigned to, unsigned a, unsigned b) {
    cells[to] = cells[from] * a + b;
}
RINGLAUNCH_EXPORT(chain)
extern "C" __global__ void pause(int us) {
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
    do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    while (now - begin < us * 1000ull);
}
RINGLAUNCH_EXPORT(pause)
"""
MASK, A = 0xFFFFFFFF, 1664525  # of the steps
CELLS = 1024  # of a chain: more than can be in doubt


def of_torch():
    """As much of a client as tests of Triton kernels ask of one, of torch's tensors: kernels are launched inline then,
    and embedded in a region."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here")

    class Array(torch.Tensor):
        def numpy(self):
            return self.as_subclass(torch.Tensor).cpu().numpy()

        def fill(self, value):
            self.fill_(value)

    class OfTorch:
        def array(self, data):
            return torch.from_numpy(np.ascontiguousarray(data)).cuda().as_subclass(Array)

        def zeros(self, shape, dtype=np.float32):
            return self.array(np.zeros(shape, dtype))

    return OfTorch()


def daemon_program() -> str:
    return os.environ.get("RINGLAUNCHD") or _client._daemon_path() or "ringlaunchd"


def stopped(stream, busy=()):
    """Its status once it has stopped, or after too long a time; meanwhile the `busy` launch."""
    end = time.monotonic() + WATCHDOG_S
    while stream.status.running and time.monotonic() < end:
        for each in busy:
            each.launch(64)
        if not busy:
            time.sleep(0.001)
    return stream.status


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def executor(client) -> int:
    """The process of its daemon's only executor."""
    return _children(client.daemon.pid)[0]


def kill_executor(client) -> None:
    """Ends it, as an operator might, and returns when there is another."""
    dying = _children(client.daemon.pid)
    os.kill(dying[0], signal.SIGKILL)
    end = time.monotonic() + WATCHDOG_S
    while _children(client.daemon.pid) in ([], dying):
        assert time.monotonic() < end
        time.sleep(0.01)


class Chain:
    """A `rerun` stream that is never idle, and knows what its cells must hold."""

    def __init__(self, client, source=WORK):
        self.client = client
        kernels = client.compile(source, name="kernels.cu")
        self.chain, self.pause = kernels["chain"], kernels["pause"]
        self.cells = client.zeros(CELLS, np.uint32)
        client.synchronize(WATCHDOG_S)
        self.stream = client.stream(name="innocent", on_restart="rerun")
        self.expected = np.zeros(CELLS, np.uint32)
        self.launches = 0

    def launch(self, count):
        for _ in range(count):
            if self.launches % 64 == 0:
                self.pause[1, 1](500, stream=self.stream)
            at, to = self.launches % CELLS, (self.launches + 1) % CELLS
            self.chain[1, 1](self.cells, at, to, A, self.launches, stream=self.stream)
            self.expected[to] = (int(self.expected[at]) * A + self.launches) & MASK
            self.launches += 1

    def check(self):
        self.stream.synchronize(WATCHDOG_S)
        assert self.stream.status.running, self.stream.status.text
        assert np.array_equal(self.cells.numpy(stream=self.stream, timeout=WATCHDOG_S), self.expected)
