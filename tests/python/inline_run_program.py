"""What test_triton_here.py runs, each function in a process of its own: what Triton's JITFunction.run looks at besides
the arguments, in inline launches over a libcuda that runs nothing. Triton's own run() goes beside. Each checks by
itself and prints its name last."""

import concurrent.futures
import os
import sys
import threading
from pathlib import Path

import triton
import triton.language as tl
from saved_program import launched
from stub_program import Tensor, entries, error_of, takes, x
from triton import knobs
from triton.runtime import _async_compile, driver
from triton.runtime.jit import JITFunction

import ringlaunch as rl

LIBDEVICE = str(Path(triton.__file__).parent / "backends" / "nvidia" / "lib" / "libdevice.10.bc")


@triton.jit
def add_up(x, a: tl.int32, b: tl.int32):
    tl.store(x, a + b)


@triton.jit
def pointers(x, y: "*fp32", z):  # noqa: F722
    pass


@triton.jit
def with_scratch(x, n):
    described = tl.make_tensor_descriptor(x, [n], [1], [64])
    described.store([0], described.load([0]) + 1)


@triton.jit
def named_like_run(x, grid):
    pass


@triton.jit
def named_like_options(x, n, num_warps: tl.constexpr, num_stages: tl.constexpr = 3):
    tl.store(x, n + num_warps * num_stages)


def outcome(call):
    """Which kernel a call answers, by what it was compiled of; or its error."""
    try:
        found = call()
    except Exception as error:
        return type(error), str(error)
    return None if found is None else found.hash


def same(kernel, act):
    """What `act` answers and launches, of a kernel of Triton and of the same through ringlaunch, in regions and not.
    Each has caches of its own."""
    answers = []

    def in_region(kernel):
        with rl.region():
            return act(kernel)

    for run, wrap in (
        (act, lambda plain: plain),
        (act, lambda plain: rl.wrap(plain, mode="inline")),
        (in_region, lambda plain: rl.wrap(plain, mode="inline")),
    ):
        made = wrap(triton.jit(kernel.fn))
        made_launches = launched(lambda run=run, made=made: answers.append(run(made)))
        answers.append(made_launches)
    theirs, their_launches, *ours = answers
    for answer, launches in zip(ours[::2], ours[1::2]):
        assert answer == theirs, [each for each in zip(answer, theirs) if each[0] != each[1]]
        assert launches == their_launches, (launches, their_launches)
    return theirs


def quick_calls(kernel, act):
    """Whether `act`, done once more, needs nothing of Triton's code."""
    kernel = rl.wrap(triton.jit(kernel.fn), mode="inline")
    act(kernel)
    before = kernel._slow_calls
    act(kernel)
    return kernel._slow_calls == before


# ---- scenarios


def settings():
    """Those that stand in Triton's knobs and in the environment are those of the call; of options the keyword's."""
    takes(8, 4, 4, 8, 8)
    call = {}

    def act(kernel):
        found = []
        for mode in ("", "fpsan", "", "fpsan"):
            knobs.compilation.instrumentation_mode = mode
            found.append(outcome(lambda: kernel[(1,)](x, 3, 4, **call)))
        knobs.compilation.instrumentation_mode = ""
        for value in "0110":
            os.environ["TRITON_FPSAN_HOMOMORPHIC_CASTS"] = value
            found.append(outcome(lambda: kernel[(1,)](x, 3, 4, **call)))
        del os.environ["TRITON_FPSAN_HOMOMORPHIC_CASTS"]
        for value in (False, True, False):
            knobs.runtime.debug = value
            found.append(outcome(lambda: kernel[(1,)](x, 3, 4, **call)))
        for options in ({"debug": True}, {"debug": True, "sanitize_overflow": False}, {"sanitize_overflow": False}):
            found.append(outcome(lambda options=options: kernel[(1,)](x, 3, 4, **call, **options)))
        return found

    assert len(set(same(add_up, act))) == 6
    assert quick_calls(add_up, act)
    call["extern_libs"] = {"libdevice": LIBDEVICE}  # which has no key
    assert len(set(same(add_up, act))) == 6
    call["extern_libs"] = (("libdevice", LIBDEVICE),)
    assert len(set(same(add_up, act))) == 6


def hooks():
    """Before a run, of launches, and of the stages of a compilation."""
    takes(8, 4, 4, 8, 8)
    stream = [16]
    driver.active.get_current_stream = lambda device: stream[0]
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook

    def act(kernel):
        seen, stage, stream[0] = [], [None], 16

        def before(*args, **kwargs):
            seen.append((args, list(kwargs.items())))
            stream[0] = 32  # too late for this launch

        def stages(*of):
            if of:
                return None
            seen.append("stages")
            return stage[0], stage[0]

        kernel[(1,)](x, 3, 4)
        kernel.add_pre_run_hook(before)
        for _ in range(2):
            stream[0] = 16
            kernel[(1,)](x, 3, 4, num_warps=2)
        kernel.warmup(x, 3, 4, grid=(1,))
        kernel.pre_run_hooks.clear()
        for hooks in ((None, None), (lambda _: seen.append("enter"), None), (None, lambda _: seen.append("exit"))):
            knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook = hooks
            for _ in range(2):
                kernel[(1,)](x, 3, 4)
        knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook = enter, leave
        for chain, name in ((enter, "in enter"), (leave, "in exit")):
            for calls in ([lambda _, name=name: seen.append(name)], []):
                kernel[(1,)](x, 3, 4)
                chain.calls = calls  # another list
                for _ in range(2):
                    kernel[(1,)](x, 3, 4)
        found = []
        knobs.runtime.add_stages_inspection_hook = stages
        for stage[0] in ("one", "two", "one"):
            found.append(outcome(lambda: kernel[(1,)](x, 3, 4)))
        knobs.runtime.add_stages_inspection_hook = None
        return seen, [*found, outcome(lambda: kernel[(1,)](x, 3, 4))]

    seen, found = same(add_up, act)
    assert seen.count("in enter") == seen.count("in exit") == 3
    assert seen.count("enter") == seen.count("exit") == 2 and seen.count("stages") == 5 and len(set(found)) == 3


def another_run():
    """Triton's `kernel[grid](...)` calls what is `run` then: of the kernel, of its type, or of a type of its own."""
    takes(8, 4, 4, 8, 8)

    class Doubling(JITFunction):
        def run(self, x, a, b, *, grid, warmup, **options):
            return super().run(x, 2 * a, b, grid=grid, warmup=warmup, **options)

    class Counting(JITFunction):
        runs = 0

        def count(self):
            self.runs += 1

    def with_own_run(kernel, seen):
        def own(*args, **kwargs):
            seen.append((args[1:], kwargs.pop("num_warps", None)))
            return JITFunction.run(kernel, *args, **kwargs)

        for _ in range(2):
            for _ in range(3):
                kernel[(1,)](x, 3, 4)
            kernel.run = own
            for i in range(3):
                kernel[(2,)](x, 5, i, num_warps=2)
                kernel[lambda meta: (meta["b"],)](x, a=5, b=1)
            kernel.warmup(x, 7, 8, grid=(1,))
            del kernel.run

    def act():
        seen = []
        kernel, doubling, counting = triton.jit(add_up.fn), Doubling(add_up.fn), Counting(add_up.fn)
        with_own_run(kernel, seen)
        with_own_run(counting, seen)
        before = JITFunction.run

        def traced(self, *args, **kwargs):
            seen.append(args[1:])
            return before(self, *args, **kwargs)

        for _ in range(2):
            JITFunction.run = traced
            for each in (kernel, doubling, counting):
                each[(1,)](x, 3, 4)
                each.run(x, 5, 4, grid=(2,), warmup=False)
            JITFunction.run = before
            for each in (kernel, doubling, counting):
                each[(1,)](x, 3, 4)
        Counting.run = traced
        counting[(1,)](x, 3, 4)
        del Counting.run
        counting[(1,)](x, 3, 4)
        return seen, kernel, counting

    theirs = []
    their_launches = launched(lambda: theirs.append(act()))
    rl.install(mode="inline")
    ours = []
    assert launched(lambda: ours.append(act())) == their_launches
    assert ours[0][0] == theirs[0][0] and len(ours[0][0]) == 4 * 7 + 2 * 6 + 1
    for kernel in ours[0][1:]:
        twin = kernel.__dict__["_ringlaunch_twin"]
        before = twin._slow_calls
        kernel[(1,)](x, 3, 4)
        assert twin._slow_calls == before
    rl.uninstall()

    seen = []
    kernel = rl.wrap(triton.jit(add_up.fn), mode="inline")
    assert launched(lambda: with_own_run(kernel, seen)) == launched(lambda: with_own_run(triton.jit(add_up.fn), []))
    assert len(seen) == 2 * 7
    kernel.run = None  # which nothing of ringlaunch's own asks
    assert launched(lambda: type(kernel).run(kernel, x, 3, 4, grid=(1,), warmup=False))
    assert "run of its own" in str(error_of(rl.Unsupported, lambda: rl.wrap(Doubling(add_up.fn))))
    assert type(rl.wrap(Counting(add_up.fn))) is type(kernel)


def keywords():
    """Of run() itself; those that Triton no longer takes, but for the stream, are refused as by Triton."""
    takes(8, 4, 8, 8)

    def act(kernel):
        found = []
        for name in ("grid", "warmup", "device", "device_type", "nonsense"):
            found += [outcome(lambda name=name: kernel[(1,)](x, 3, **{name: 2}))[0] for _ in range(2)]
        return found

    same(named_like_run, act)


def parameters_named_like_options():
    """Set these, too, by keyword, and by position they do not; to Triton both are one, and the first call decides."""
    takes(8, 4, 8, 8)
    calls = [((8, 2), {}), ((8,), {"num_stages": 2}), ((), {"num_warps": 8}), ((2,), {}), ((), {"num_warps": 2})]

    for order in (calls, calls[::-1], calls[2:] + calls[:2]):

        def act(kernel, order=order):
            found = []
            for args, keywords in order:
                for n in (5, 7):
                    of = kernel[(1,)](x, n, *args, **keywords)
                    found.append((of.hash, of.metadata.num_warps, of.metadata.num_stages))
            return found

        same(named_like_options, act)
        assert quick_calls(named_like_options, act)


def compilations():
    """In threads, and ahead of calls: what was compiled is not compiled once more."""
    takes(8, 4, 4, 8, 8)
    told = []

    def hook(**of):
        told.append((of["compile"]["key"], of["is_manual_warmup"]))
        data.append(of["compile"]["specialization_data"])

    def act(kernel):
        told.clear()
        found = []
        with concurrent.futures.ThreadPoolExecutor(2) as pool, _async_compile.AsyncCompileMode(pool):
            for warps in (1, 2, 1):
                found.append(outcome(lambda warps=warps: kernel[(1,)](x, 3, 4, num_warps=warps)))
            kernel.warmup(x, 3, 4, grid=(1,), num_warps=8)
        kernel.preload(ahead)
        for options in ({"num_warps": 1}, {"num_warps": 8}, {"num_stages": 7}, {"num_stages": 7}):
            found.append(outcome(lambda options=options: kernel[(1,)](x, 3, 4, **options)))
        return found, list(told)

    data = []
    knobs.runtime.jit_post_compile_hook = hook
    triton.jit(add_up.fn)[(1,)](x, 3, 4, num_stages=7)
    (ahead,) = data
    found, told_of = same(add_up, act)
    assert len(set(found)) == 4 and len(told_of) == 4


def scratch_memory():
    """Is asked for at every launch, and where there is none; in the thread that has an allocator."""
    takes(8, 4, 8, 8)
    asked = []

    def allocate(size, alignment, stream):
        asked.append((size, alignment, stream))
        return Tensor(4096 * len(asked))

    def act(kernel):
        asked.clear()
        found = []
        for grid in ((1,), (1,), (3, 2), (0,), (0, 5), (2**30, 4), lambda meta: (0,), lambda meta: (2,)):
            found.append(outcome(lambda grid=grid: kernel[grid](x, 64)))
        found.append(outcome(lambda: kernel[(2,)](x, 64, num_ctas=2)))
        other = threading.Thread(target=lambda: found.append(outcome(lambda: kernel[(1,)](x, 64))))
        other.start()
        other.join()
        return found, list(asked)

    triton.set_allocator(allocate)
    found, sizes = same(with_scratch, act)
    assert len(sizes) == 9 and [size for size, *_ in sizes].count(0) == 3
    assert found[-1][0] is RuntimeError and "no allocator was set" in found[-1][1]


def addresses():
    """Those of tensors are asked of the driver: what it calls them is passed, and what it does not know is refused."""
    takes(8, 8, 8, 8, 8)
    pinned, host = 1 << 40, 1 << 41

    class NoAddress(Tensor):
        def data_ptr(self):
            raise LookupError("no address")

    values = [(Tensor(4096), None, 2**40 + 16), (Tensor(pinned + 256), 4096, Tensor(8192)), (x, None, Tensor(host))]
    values += [(Tensor(0), 0, None), (x, pinned + 32, x), (x, host + 48, 2**50), (NoAddress(), None, x)]
    values += [(x, True, x), (x, 2**64 - 16, x), (x, -16, x), (Tensor(pinned), Tensor(pinned + 16), Tensor(host - 16))]
    values += [(x, Tensor(host), x), ((Tensor(pinned + 16)), None, (Tensor(pinned),))]

    def act(kernel):
        found = []
        for at, given in enumerate(values * 2):
            for grid in ((1,), (0,)):
                result = outcome(lambda given=given, grid=grid: kernel[grid](*given))
                found.append((at, grid, result if isinstance(result, str) else result[0]))
        return found

    refused = {at % len(values): kind for at, _, kind in same(pointers, act) if isinstance(kind, type)}
    assert refused == {2: ValueError, 6: LookupError, 9: TypeError, 11: ValueError}, (
        refused
    )  # a number is not asked for
    assert {entry.words[0] for entry in entries()} >= {4096, 64 + 256}
    assert quick_calls(pointers, lambda kernel: [kernel[(1,)](*given) for given in (values[0], values[1], values[4])])


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print(sys.argv[1])
