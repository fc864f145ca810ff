"""Calls of one kernel, mixed at random, and what may happen between them: each launches what Triton's own run() does.

Most calls are much like the one before, and are taken for one like it (triton_repeat.hpp)."""

import itertools
import random
import struct
import sys
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from triton_support import launch_record, triton, without_gpu

import ringlaunch as rl
from ringlaunch import _core

tl = pytest.importorskip("triton.language")

DAEMON = "null"
FACTOR = tl.constexpr(5)
CALLS = 1500


@triton.jit
def mixed(x, n, m, by, y=None, k=7, r=2.5, BLOCK: tl.constexpr = 64, MODE: tl.constexpr = "some text"):
    factor = FACTOR  # noqa: F841


class OwnInt(int):
    pass


class OwnFloat(float):
    pass


# As they stand in a program: the names of a call are the same object each time.
SHAPES = [
    lambda k, g, v: k[g](v.x, v.n, v.m, v.by),
    lambda k, g, v: k[g](v.x, v.n, v.m, v.by, v.y, v.k, v.r, v.block, v.mode),
    lambda k, g, v: k[g](v.x, v.n, v.m, v.by, BLOCK=v.block),
    lambda k, g, v: k[g](v.x, v.n, by=v.by, m=v.m, MODE=v.mode, y=v.y),
    lambda k, g, v: k[g](v.x, v.n, v.m, v.by, r=v.r, k=v.k, num_warps=v.warps),
    lambda k, g, v: k[g](v.x, v.n, v.m, v.by, v.y, **v.more),
]
NUMBERS = [0, 1, 2, 3, 15, 16, 17, 32, -1, -16, 1000, 2**30 - 1, 2**30, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1]
NUMBERS += [2**40, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), True, False, OwnInt(5), 0.5, None]
REALS = [0.0, -0.0, 0.1, 1.0, 1e300, float("nan"), float("inf"), 3, 1, OwnFloat(2.5), np.float64(0.5), True, "text"]


def names_of(args, keywords):
    return len(args), *keywords


class Asked:
    """In place of a kernel: what a call gives."""

    def __getitem__(self, grid):
        return lambda *args, **keywords: (args, keywords)


def change(values, rng, memory):
    """Most of the time as a loop does it: another number of the same kind."""
    kind = rng.random()
    if kind < 0.75:
        if type(values.n) is int and -(2**29) < values.n < 2**29:
            values.n = rng.choice([values.n, values.n + 2, values.n + 16, rng.randrange(20)])
        if type(values.m) is int and abs(values.m) < 2**29 and rng.random() < 0.5:
            values.m = values.m + rng.choice([16, -16, 0])
        if type(values.by) is float:
            values.by = rng.random()
        values.mode = "".join(values.mode.split("|"))  # equal, and another object
        return
    name = rng.choice(["x", "x", "n", "m", "by", "y", "k", "r", "block", "mode", "warps", "constant"])
    if name in ("x", "y"):
        setattr(values, name, rng.choice([*memory, *memory, None, 3] if name == "y" else memory))
    elif name in ("n", "m", "k"):
        setattr(values, name, rng.choice(NUMBERS))
        values.more = {"k": values.k}
    elif name in ("by", "r"):
        setattr(values, name, rng.choice(REALS))
    elif name == "block":
        # No two that are equal, of which Triton takes one for the other.
        values.block = rng.choice([64, 128, True, None, 0.5, values.constant])
    elif name == "constant":
        values.constant.value = rng.choice([64, 128])
    elif name == "mode":
        values.mode = rng.choice(["some text", "other text"])
    else:
        values.warps = rng.choice([1, 2, 4])


def start(memory):
    return SimpleNamespace(
        x=memory[0],
        n=2,
        m=16,
        by=0.5,
        y=None,
        k=7,
        r=2.5,
        block=64,
        mode="some text",
        warps=4,
        more={"k": 7},
        constant=tl.constexpr(64),
    )


def settle(values):
    """What errors of Triton's, which cost much, are left to come from: back to what compiles."""
    fresh = start([values.x])
    for name in ("n", "m", "by", "k", "r", "block"):
        setattr(values, name, getattr(fresh, name))


def passed(kind, size, value):
    """As Triton's launcher passes it."""
    if kind == "pointer":
        value = 0 if value is None else value if isinstance(value, int) else value.data_ptr()
    if kind.startswith("float"):
        with np.errstate(over="ignore"):
            return (np.float32 if size == 4 else np.float64)(value).tobytes()
    return (int(value) % (1 << 8 * size)).to_bytes(size, "little")


class Theirs:
    def __init__(self, gpu):
        self.kernel, self.gpu = triton.jit(mixed.fn), gpu

    def take(self, _):
        """What was launched last: its grid and arguments, by name. Triton's launcher passes over one of no blocks."""
        launches, self.gpu.launches = self.gpu.launches, []
        return [(grid, dict(zip(self.kernel.arg_names, args, strict=True))) for grid, args in launches if 0 not in grid]

    def forget(self):
        pass


class Ours:
    def __init__(self, client):
        self.kernel, self.stream = rl.wrap(triton.jit(mixed.fn), client, mode="daemon"), client.default_stream
        self.at, self.params = self.stream.status.published, {}

    def take(self, compiled):
        """The same, with each parameter's type and bytes."""
        before, self.at = self.at, self.stream.status.published
        if self.at == before:
            return []
        if compiled not in self.params:
            self.look_at_cache()
        shape, packed = launch_record(_core._ring_bytes(self.stream, before, self.at - before))
        given = {name: (kind, packed[at : at + size]) for name, kind, at, size, *_ in self.params[compiled]}
        return [(tuple(shape[:3]), given)]

    def look_at_cache(self):
        self.params.update({variant.compiled: variant._core.kernel._params for variant in self.kernel.cache})

    def forget(self):
        self.look_at_cache()
        for variant in list(self.kernel.cache):
            self.kernel.cache.evict(variant)


def play(side, seed, memory, monkeypatch):
    """The same calls for each side: what each answered and launched."""
    rng, kernel, values = random.Random(seed), side.kernel, start(memory)
    log, given = [], []

    def call(grid, shape, arguments):
        try:
            found = SHAPES[shape](kernel, grid, arguments)
        except Exception as error:
            log.append((type(error), side.take(None)))
        else:
            log.append((found.hash, side.take(found)))

    def plain(shape):
        given.append(SHAPES[shape](Asked(), None, values))
        call((rng.randrange(1, 99),), shape, values)

    def hook(*args, **keywords):
        log.append(("hook", []))
        side.forget()

    shape = 0
    for _ in range(CALLS):
        if rng.random() < 0.04:
            shape = rng.randrange(len(SHAPES))
        if rng.random() < 0.1:
            settle(values)
        change(values, rng, memory)
        event = rng.random()
        grid = (rng.randrange(1, 99), 2)
        if event < 0.01:  # a grid function that launches the same kernel, and has it forgotten

            def nested(meta, grid=grid, shape=shape):
                call((7,), shape, SimpleNamespace(**{**vars(values), "n": 48}))
                side.forget()
                return grid

            call(nested, shape, values)
        elif event < 0.02:  # and one that writes into the arguments

            def writes(meta, grid=grid):
                if type(meta["m"]) is int and 2 <= meta["m"] < 2**20:
                    meta["m"] += 32
                return grid

            call(writes, shape, values)
        elif event < 0.03:
            kernel.pre_run_hooks.append(hook)
            plain(shape)
            kernel.pre_run_hooks.clear()
        elif event < 0.04:
            monkeypatch.setenv("TRITON_DEBUG", "1")
            plain(shape)
            monkeypatch.delenv("TRITON_DEBUG")
        elif event < 0.05:  # a global that the kernel has read
            FACTOR.value = 6
            plain(shape)
            FACTOR.value = 5
        elif event < 0.06:
            side.forget()
        elif event < 0.07:
            call([*grid], shape, values)
        elif event < 0.08:
            call((0,), shape, values)
        plain(shape)
    return log, given


@pytest.mark.parametrize("seed", range(3))
def test_calls_mixed_at_random_launch_what_tritons_own_do(client, monkeypatch, seed):
    whole = [client.empty(256), client.empty(256, "float16")]
    memory = [part for each in whole for part in (each, each[8:], each[16:])] + [whole[0][1:]]
    with without_gpu() as gpu:
        theirs, given = play(Theirs(gpu), seed, memory, monkeypatch)
    side = Ours(client)
    ours, _ = play(side, seed, memory, monkeypatch)
    assert len(ours) == len(theirs)
    for number, ((mine, launched), (their, expected)) in enumerate(zip(ours, theirs, strict=True)):
        assert mine == their, number
        assert [grid for grid, _ in launched] == [grid for grid, _ in expected], number
        for (_, params), (_, arguments) in zip(launched, expected, strict=True):
            for name, (kind, found) in params.items():
                value = arguments.get(name)  # none: scratch memory of no bytes
                assert found == passed(kind, len(found), value), (number, name, kind, value)
    assert sum(isinstance(mine, str) for mine, _ in ours) > 0.8 * len(ours)
    pairs = [pair for pair in itertools.pairwise(given) if len({names_of(*call) for call in pair}) == 1]
    said = Counter(side.kernel._repeat(*pair) for pair in pairs)
    assert said[True, True, True] > CALLS / 2 and not set(said) - {None, False, (True, True, True)}, said


@triton.jit(do_not_specialize=["n"])
def of_a_thread(x, n: tl.int64, by):
    pass


def test_threads_that_take_turns_within_calls_launch_each_its_own(client):
    kernel, stream = rl.wrap(of_a_thread, client), client.default_stream
    memory = [client.empty(64), client.empty(64, "float16"), client.empty(64, "int8")]
    rounds, calls, threads = 12, 60, 3
    barrier = threading.Barrier(threads + 1, timeout=60)
    failed, expected = [], []

    def call(number, x, wrong):
        for at in range(calls):
            n, by = 1000 * number + at, number + 0.5
            expected.append((number + 1, x.address, n, by))
            kernel[(number + 1,)](x, n, by)
            if wrong and at % 7 == 0:
                with pytest.raises(TypeError):
                    kernel[(number + 1,)](x, "text", by)
            if wrong and at % 20 == 0:
                for variant in list(kernel.cache):
                    kernel.cache.evict(variant)

    def run(number):
        try:
            for round in range(rounds):
                barrier.wait()
                call(number, memory[(number + round) % 3], number == 0)
                barrier.wait()
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in running:
            thread.start()
        for _ in range(rounds):
            at = stream.status.published
            expected.clear()
            barrier.wait()
            barrier.wait()
            data, found = _core._ring_bytes(stream, at, stream.status.published - at), []
            while data:
                lines = int.from_bytes(data[10:12], "little")
                if int.from_bytes(data[8:10], "little") != 8:  # padding
                    shape, packed = launch_record(data[: 64 * lines])
                    found.append((shape[0], *struct.unpack_from("=qqf", packed)))
                data = data[64 * lines :]
            assert sorted(found) == sorted(expected)
    except threading.BrokenBarrierError:
        pass
    finally:
        sys.setswitchinterval(before)
        for thread in running:
            thread.join()
    assert not failed, failed


def test_calls_alike_keep_nothing(client):
    kernel = rl.wrap(triton.jit(mixed.fn), client, mode="daemon")
    x, text = client.empty(64), "".join(["a text", " of its own"])
    numbers = [1000003 + 2 * i for i in range(300)]

    def run():
        for n in numbers:
            kernel[(2,)](x, n, 1000001, 0.25, MODE=text)

    run()
    kept = [x, text, *numbers]
    before = [sys.getrefcount(each) for each in kept]
    compiled = kernel[(2,)](x, 7, 1000001, 0.25, MODE=text)
    held = sys.getrefcount(compiled)
    for _ in range(20):
        run()
    assert [sys.getrefcount(each) for each in kept] == before
    assert sys.getrefcount(compiled) == held
    kernel.cache.clear()
    assert sys.getrefcount(text) < before[1]
