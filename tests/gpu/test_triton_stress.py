"""Torch operations and launches of Triton kernels at random, on several streams, allocating and freeing: what inline
calls and regions make of a program is, to the bit, what plain Triton makes of it."""

import contextlib
import random
import threading

import pytest
from gpu_support import WATCHDOG_S

import ringlaunch as rl

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
tl = pytest.importorskip("triton.language")
torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU here", allow_module_level=True)

SIZES = (64, 1024, 5000)
TENSORS = 6
STEPS = 400


@triton.jit
def mix(x, a, b, n, BLOCK: tl.constexpr):
    """Every launch counts, and so does their order."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, i < n) * a + b, i < n)


@triton.jit
def blend(x, y, out, n, a, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, i < n) * a - tl.load(y + i, i < n), i < n)


@triton.jit
def slow(x, n, rounds, BLOCK: tl.constexpr):
    """Long enough for what is queued behind it to pile up."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, i < n)
    for _ in range(rounds):
        value = value * 1664525 + 1013904223
    tl.store(x + i, value, i < n)


class Program:
    """A random program, the same for each way of launching; `read` is what it has seen of the device."""

    def __init__(self, seed, kernels, regions):
        self.pick = random.Random(seed)
        self.other = random.Random(seed + 1)  # what only programs with regions draw from
        self.mix, self.blend, self.slow = kernels
        self.regions = contextlib.ExitStack() if regions else None
        self.depth = 0
        self.streams = [torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()]
        self.size = self.pick.choice(SIZES)
        self.read = []
        self.x = [torch.arange(k, k + self.size, dtype=torch.int32, device="cuda") for k in range(TENSORS)]

    def at(self):
        return self.pick.randrange(TENSORS)

    def grid(self, x):
        return (triton.cdiv(x.numel(), 256),)

    def number(self):
        return self.pick.choice((1, 3, 16, 17, 48, 12345, -7))

    def launch_mix(self):
        x = self.x[self.at()]
        for _ in range(self.pick.choice((1, 1, 2, 7, 40))):
            self.mix[self.grid(x)](x, self.number(), self.number(), x.numel(), BLOCK=256)

    def launch_blend(self):
        x, y, out = self.x[self.at()], self.x[self.at()], self.at()
        made = torch.empty_like(x)
        self.blend[self.grid(x)](x, y, made, x.numel(), self.number(), BLOCK=256)
        self.x[out] = made  # what stood there is freed

    def launch_chain(self):
        a, b, c = (self.x[self.at()] for _ in range(3))
        for i in range(self.pick.choice((3, 12, 30))):
            self.mix[self.grid(a)](a, 3, i, self.size, BLOCK=256)
            self.blend[self.grid(a)](a, b, c, self.size, 5, BLOCK=256)
            self.mix[self.grid(b)](b, 1, 16, self.size, BLOCK=256)

    def launch_temporary(self):
        x = self.x[self.at()]
        for _ in range(self.pick.choice((2, 9))):
            self.blend[self.grid(x)](x, x + 1, x, self.size, 3, BLOCK=256)  # freed at once

    def launch_slow(self):
        x = self.x[self.at()]
        self.slow[self.grid(x)](x, self.size, 20000, BLOCK=256)

    def launch_view(self):
        x = self.x[self.at()]
        part = x[self.pick.randrange(0, 32) :]
        self.mix[self.grid(part)](part, self.number(), 1, part.numel(), BLOCK=256)

    def operate(self):
        x, y = self.x[self.at()], self.x[self.at()]
        match self.pick.randrange(6):
            case 0:
                x.add_(y)
            case 1:
                x.mul_(self.number())
            case 2:
                x.copy_(y)
            case 3:
                self.x[self.at()] = x * 3 + y
            case 4:
                x[::2] = 1
            case 5:
                x.fill_(self.number())

    def free(self):
        i = self.at()
        self.x[i] = self.x[i].clone()

    def host(self):
        x = self.x[self.at()]
        match self.pick.randrange(4):
            case 0:
                self.read.append(int(x.sum().item()))
            case 1:
                self.read.append(x[:8].cpu().tolist())
            case 2:
                pinned = torch.empty(8, dtype=torch.int32, pin_memory=True)
                pinned.copy_(x[:8], non_blocking=True)
                event = torch.cuda.Event()
                event.record()
                event.synchronize()
                self.read.append(pinned.tolist())
            case 3:
                torch.cuda.synchronize()
                self.read.append(x[3].item())

    def switch(self):
        """To another stream, behind what this one has."""
        to, now = self.pick.choice(self.streams), torch.cuda.current_stream()
        if self.pick.randrange(2):
            to.wait_stream(now)
        else:
            to.wait_event(now.record_event())
        torch.cuda.set_stream(to)
        for x in self.x:
            x.record_stream(now)
            x.record_stream(to)

    def forget(self):
        torch.cuda.empty_cache()

    def region(self):
        """Enters or leaves one: no other program sees a difference."""
        if self.regions is None:
            return
        if self.depth and self.other.randrange(2):
            self.regions.close()
            self.depth = 0
        elif self.depth < 3:
            self.regions.enter_context(rl.region())
            self.depth += 1

    def run(self):
        steps = [
            *[self.launch_mix] * 8, *[self.launch_blend] * 6, *[self.launch_chain] * 3, *[self.launch_temporary] * 3,
            self.launch_slow, *[self.launch_view] * 2, *[self.operate] * 5, *[self.free] * 2, self.host, self.switch,
            *[self.region] * 3,
        ]  # fmt: skip
        first = self.streams[0]
        try:
            with self.regions or contextlib.nullcontext():
                for _ in range(STEPS):
                    self.pick.choice(steps)()
                    if self.pick.randrange(200) == 0:
                        self.forget()
            first.wait_stream(torch.cuda.current_stream())
        finally:
            torch.cuda.set_stream(first)
        return self.read, [x.cpu() for x in self.x]


PLAIN = (mix, blend, slow)


@pytest.fixture(scope="module")
def inline():
    return tuple(rl.wrap(kernel, mode="inline") for kernel in PLAIN)


def check(seed, kernels, regions):
    read, tensors = Program(seed, PLAIN, False).run()
    for round in range(2):
        ours = Program(seed, kernels, regions)
        found_read, found = ours.run()
        assert found_read == read, f"seed {seed}, round {round}"
        assert all(map(torch.equal, found, tensors)), f"seed {seed}, round {round}"


@pytest.mark.parametrize("seed", range(8))
def test_inline_calls_give_what_triton_gives(inline, seed):
    check(seed, inline, False)


@pytest.mark.parametrize("seed", range(12))
def test_regions_give_what_triton_gives(inline, seed):
    check(100 + seed, inline, True)


def test_threads_on_streams_of_their_own(inline):
    """One of them at a time has a region that hands over."""
    failed = []

    def work(seed):
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                expected = Program(seed, PLAIN, False).run()
                found = Program(seed, inline, True).run()
            assert found[0] == expected[0]
            assert all(map(torch.equal, found[1], expected[1]))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(200 + i,), daemon=True) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG_S)
        assert not thread.is_alive(), "a thread hangs"
    if failed:
        raise failed[0]
