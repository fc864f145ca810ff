"""What `python -m ringlaunch.bench triton` measures, prints, writes and draws."""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.metadata
import importlib.util
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ringlaunch as rl

_TABLE_RUNS = 10
_FIRST_CALLS = 30  # of each
# Autograd hands each step to a thread of its own and back, which takes longer or shorter for seconds on end: what is
# compared with the torch operation runs in many short turns with it.
_PAIRED = ("torch operation", "short, ringlaunch inline", "long, ringlaunch inline")
_PAIRS, _STEPS_OF_A_PAIR = 60, 500
_LENGTH_RUNS = 5
_BURST = 500  # calls, fewer than a ring has slots
_SCALARS, _TENSORS = (0, 8, 16, 24), (2, 10, 18)
_STEPS_OF_LENGTH, _FEWEST_STEPS = 1 << 29, 200
_LENGTHS = [1 << k for k in range(10, 27, 2)]
_STATISTICS = ("mean", "std", "min", "p25", "p50", "p75", "max")
_COLUMNS = ("table", "row", "machine", "measure", *_STATISTICS, "mean_all", "std_all")
_HERE, _SEEDS = "this machine", "another machine"
_SEED_MACHINE = "Xeon 6154 at 3.00 GHz, RTX 2080 SUPER, CUDA 12.1, PyTorch 2.2.2"
_TITLES = {
    "calls": "A call of a Triton kernel, us",
    "growth": "A call of a kernel with more parameters, us",
    "once": "What happens once, us",
    "autograd": "Forward and backward of x * 2, us a step",
    "length": "y = 2 x, us a step against length",
}

_SHORT = "x, y, 1000, BLOCK=256"
_LONG = "a, b, c, d, e, f, g, 3, 5, 7, 1.0, 2.0, 3.0, A=64, B=1, C=2, D=3, E=4, F=5"

_EMPTY_KERNELS = r"""
extern "C" __global__ void empty_short(const float* x, float* y, int n) {}
extern "C" __global__ void empty_long(float* a, float* b, float* c, float* d, float* e, float* f, float* g, int n0,
                                      int n1, int n2, float s0, float s1, float s2) {}
"""


class Row(NamedTuple):
    """Figures of one way, in us: of its call alone, or of a step until all is done."""

    table: str
    name: str
    machine: str
    measure: str  # "call", "step", or a length
    figures: tuple[float, ...]  # as _STATISTICS has them
    mean_all: float
    std_all: float


# What the documents give that this project grew from; NaN where they give nothing.
def _seeds() -> list[Row]:
    nan = math.nan
    columns = ("noop", "torch operation", "short, Triton", "long, Triton", "short, optimized", "long, optimized")
    backward = (
        (1.41, 72.63, 185.60, 258.91, 76.71, 83.59),
        (0.01, 0.07, 19.89, 22.92, 1.93, 6.04),
        (1.39, 72.58, 167.03, 235.47, 75.04, 75.54),
        (1.41, 72.59, 170.12, 244.80, 75.09, 77.79),
        (1.41, 72.61, 176.35, 247.28, 75.72, 84.85),
        (1.42, 72.63, 195.56, 277.37, 78.37, 87.37),
        (1.43, 72.81, 218.99, 298.59, 80.18, 92.60),
    )
    rows = [Row("autograd", name, _SEEDS, "step", figures, nan, nan) for name, figures in zip(columns, zip(*backward))]
    forward = {
        "noop": (0.06, 0.00),
        "short, C launcher": (20.27, 0.00),
        "short, Triton": (44.96, 0.18),
        "long, Triton": (61.26, 0.15),
        "short, optimized": (20.28, 0.00),
        "long, optimized": (23.27, 0.12),
    }
    rows += [
        Row("calls", name, _SEEDS, "step", (mean, std, *[nan] * 5), nan, nan) for name, (mean, std) in forward.items()
    ]
    warm = {
        "short, Triton, nothing launched": (30.77, 0.15),
        "long, Triton, nothing launched": (46.49, 0.15),
        "short, optimized, nothing launched": (8.26, 0.11),
        "long, optimized, nothing launched": (11.11, 0.12),
    }
    rows += [
        Row("calls", name, _SEEDS, "call", (mean, std, *[nan] * 5), nan, nan) for name, (mean, std) in warm.items()
    ]
    alone = {
        "Triton 2.0": (38.57, 61.34),
        "Triton 2.0, optimized in Python": (7.02, 10.03),
        "Triton 2.0, optimized in C++": (7.46, 10.24),
        "Triton 3.0": (101.07, 158.28),
        "Triton 3.0, optimized in Python": (98.18, 154.86),
    }
    for name, means in alone.items():
        for size, mean in zip(("short", "long"), means):
            rows.append(Row("calls", f"{size}, {name}, nothing launched", _SEEDS, "call", (nan,) * 7, mean, nan))
    return rows


# ---- the ways ----


class Way(NamedTuple):
    """One way to do something: a loop of so many steps, and what waits for them; None: there is nothing to wait for."""

    table: str
    name: str
    loop: Callable[[int], None]
    drain: Callable[[], None] | None
    length: int = 0
    region: bool = False  # the steps stand in one; entering and leaving it is no call's time


def _loop(call: str, **names: Any) -> Callable[[int], None]:
    """The call as a program would write it, so many times."""
    exec(f"def loop(count):\n    for _ in range(count):\n        {call}\n", names)
    made: Callable[[int], None] = names["loop"]
    return made


class _NoDevice:
    """As much of a driver as a Triton call that launches nothing asks for."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


def _on_one_thread(torch: Any, loop: Callable[[int], None]) -> Callable[[int], None]:
    """Autograd has no thread of its own for the device then."""

    def on_one_thread(count: int) -> None:
        with torch.autograd.set_multithreading_enabled(False):
            loop(count)

    return on_one_thread


def _noop() -> None:
    pass


class _Ways:
    """All ways of this machine; what is missing is noted."""

    def __init__(self, client: rl.Client, folder: Path, notes: list[str]) -> None:
        from ringlaunch import _bench_kernels

        self.client, self.folder, self.notes = client, folder, notes
        self.kernels = _bench_kernels
        self.versions = ["Triton " + importlib.metadata.version("triton")]
        self.torch: Any = None
        try:
            import torch

            if torch.cuda.is_available():
                self.torch = torch
                self.versions.append(f"torch {torch.__version__}")
        except ModuleNotFoundError:
            pass
        if self.torch is None:
            notes.append("no torch with a GPU: Triton's calls without their launch, no peers, no autograd")
            import triton

            triton.runtime.driver.set_active(_NoDevice())

    def _try(self, what: str, make: Callable[[], Iterator[Way]]) -> Iterator[Way]:
        try:
            yield from make()
        except Exception as error:  # a peer that is not there, whatever it says of that
            self.notes.append(f"{what}: left out: {type(error).__name__}: {' '.join(str(error).split())[:160]}")

    def calls(self) -> Iterator[Way]:
        yield Way("calls", "noop", _loop("noop()", noop=_noop), None)
        yield from self._ours()
        if self.torch is not None:
            yield from self._try("ringlaunch inline", self._inline)
            yield from self._try("Triton", self._triton)
            yield from self._try("C launcher", self._launcher)
            yield from self._try("cuda.core", self._cuda_core)
            yield from self._try("CuPy", self._cupy)
        yield from self._try("Triton, nothing launched", self._triton_warm)

    def _ours(self) -> Iterator[Way]:
        client, kernels = self.client, self.kernels
        buffers = dict(zip("abcdefg", (client.zeros(1000) for _ in range(7))))
        buffers |= {"x": buffers["a"], "y": buffers["b"]}
        for name, kernel, arguments in (("short", kernels.short, _SHORT), ("long", kernels.long, _LONG)):
            kernel = rl.wrap(kernel, client)
            call = f"kernel[grid]({arguments})"
            loop = _loop(call, kernel=kernel, grid=(4,), **buffers)
            yield Way("calls", f"{name}, ringlaunch", loop, client.synchronize)
            nothing = _loop(call, kernel=kernel, grid=(0,), **buffers)
            yield Way("calls", f"{name}, ringlaunch, nothing launched", nothing, None)
            loop(1)  # compiles what is saved
            kernel.save(self.folder / name)
            loaded = rl.load(self.folder / name, client)
            loop = _loop(call, kernel=loaded, grid=(4,), **buffers)
            yield Way("calls", f"{name}, ringlaunch, from a file", loop, client.synchronize)
        by_function = f"kernel[lambda meta: (meta['n'] // meta['BLOCK'],)]({_SHORT})"
        for name, kernel, call in (
            ("a function as grid", kernels.short, by_function),
            ("annotated", kernels.annotated, f"kernel[(4,)]({_SHORT})"),
        ):
            loop = _loop(call, kernel=rl.wrap(kernel, client), **buffers)
            yield Way("calls", f"short, ringlaunch, {name}", loop, client.synchronize)

    def _tensors(self) -> dict[str, Any]:
        tensors = dict(zip("abcdefg", (self.torch.zeros(1000, device="cuda") for _ in range(7))))
        return tensors | {"x": tensors["a"], "y": tensors["b"]}

    def _inline(self) -> Iterator[Way]:
        tensors, wait = self._tensors(), self.torch.cuda.synchronize
        for name, kernel, arguments in (("short", self.kernels.short, _SHORT), ("long", self.kernels.long, _LONG)):
            loop = _loop(f"kernel[(4,)]({arguments})", kernel=rl.wrap(kernel, mode="inline"), **tensors)
            loop(1)
            yield Way("calls", f"{name}, ringlaunch inline", loop, wait)
            yield Way("calls", f"{name}, ringlaunch in a region", loop, wait, region=True)

    def _triton(self) -> Iterator[Way]:
        tensors, wait = self._tensors(), self.torch.cuda.synchronize
        yield Way("calls", "torch operation", _loop("x * 2", **tensors), wait)
        for name, kernel, arguments in (("short", self.kernels.short, _SHORT), ("long", self.kernels.long, _LONG)):
            yield Way("calls", f"{name}, Triton", _loop(f"kernel[(4,)]({arguments})", kernel=kernel, **tensors), wait)

    def _triton_warm(self) -> Iterator[Way]:
        """All of Triton's call but the launch."""
        if self.torch is not None:
            tensors = self._tensors()
        else:
            tensors = dict(zip("abcdefg", (self.client.zeros(1000) for _ in range(7))))
            tensors |= {"x": tensors["a"], "y": tensors["b"]}
        for name, kernel, arguments in (("short", self.kernels.short, _SHORT), ("long", self.kernels.long, _LONG)):
            loop = _loop(f"kernel.warmup({arguments}, grid=(4,))", kernel=kernel, **tensors)
            loop(1)
            yield Way("calls", f"{name}, Triton, nothing launched", loop, None)

    def _launcher(self) -> Iterator[Way]:
        """The C function at the end of Triton's call, with the arguments that the call gave it, and no hooks."""
        tensors, wait = self._tensors(), self.torch.cuda.synchronize
        for name, kernel, arguments in (("short", self.kernels.short, _SHORT), ("long", self.kernels.long, _LONG)):
            seen: list[Any] = []
            given: list[tuple[Any, ...]] = []
            once = _loop(f"seen.append(kernel[(4,)]({arguments}))", kernel=kernel, seen=seen, **tensors)
            once(1)
            launcher = seen[0].run
            real = launcher.launch
            launcher.launch = lambda *args, given=given: given.append(args)
            try:
                once(1)
            finally:
                launcher.launch = real
            hooks = ("HookChain", "LazyDict")
            passed = tuple(None if type(each).__name__ in hooks else each for each in given[0])
            yield Way("calls", f"{name}, C launcher", _loop("launch(*passed)", launch=real, passed=passed), wait)

    def _cuda_core(self) -> Iterator[Way]:
        import numpy as np

        try:
            from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch
        except ImportError:
            from cuda.core.experimental import Device, LaunchConfig, Program, ProgramOptions, launch
        self.versions.append("cuda.core " + importlib.metadata.version("cuda-core"))
        device = Device()
        device.set_current()
        stream = device.create_stream()
        architecture = "sm_" + "".join(str(part) for part in device.compute_capability)
        names = ("empty_short", "empty_long")
        module = Program(_EMPTY_KERNELS, code_type="c++", options=ProgramOptions(arch=architecture)).compile(
            "cubin", name_expressions=names
        )
        pointers = [each.data_ptr() for each in self._tensors().values()]
        numbers = [np.int32(3), np.int32(5), np.int32(7), np.float32(1), np.float32(2), np.float32(3)]
        given = {"empty_short": [*pointers[:2], np.int32(1000)], "empty_long": [*pointers[:7], *numbers]}
        for name in names:
            listed = {f"p{i}": value for i, value in enumerate(given[name])}
            loop = _loop(
                f"launch(stream, config, kernel, {', '.join(listed)})",
                launch=launch, stream=stream, config=LaunchConfig(grid=4, block=128), kernel=module.get_kernel(name),
                **listed,
            )  # fmt: skip
            yield Way("calls", f"{name.removeprefix('empty_')}, cuda.core", loop, stream.sync)

    def _cupy(self) -> Iterator[Way]:
        import cupy
        import numpy as np

        self.versions.append(f"CuPy {cupy.__version__}")
        module = cupy.RawModule(code=_EMPTY_KERNELS)
        arrays = [cupy.zeros(1000, np.float32) for _ in range(7)]
        numbers = [np.int32(3), np.int32(5), np.int32(7), np.float32(1), np.float32(2), np.float32(3)]
        given = {"empty_short": (*arrays[:2], np.int32(1000)), "empty_long": (*arrays, *numbers)}
        for name, arguments in given.items():
            loop = _loop(
                "kernel(grid, block, given)", kernel=module.get_function(name), grid=(4,), block=(128,), given=arguments
            )
            yield Way("calls", f"{name.removeprefix('empty_')}, CuPy", loop, cupy.cuda.Device().synchronize)

    def growth(self) -> Iterator[Way]:
        """Kernels of one file that is made for this: Triton reads a function's source from its file."""
        sizes = [("scalars", 1, count) for count in _SCALARS] + [("tensors", count, 0) for count in _TENSORS]
        lines = ["import triton", "import triton.language as tl"]
        names = [(f"{kind}_{tensors}_{scalars}", tensors, scalars) for kind, tensors, scalars in sizes]
        for name, tensors, scalars in names:
            params = [f"t{i}" for i in range(tensors)] + [f"s{i}" for i in range(scalars)]
            lines.append(f"@triton.jit\ndef {name}({', '.join(params)}):\n    pass")
        path = self.folder / "ringlaunch_bench_growth.py"
        path.write_text("\n".join(lines) + "\n")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        buffers = {f"t{i}": self.client.zeros(1000) for i in range(max(_TENSORS))}
        tensors_of_torch = (
            {name: self.torch.zeros(1000, device="cuda") for name in buffers} if self.torch is not None else {}
        )
        for name, tensors, scalars in names:
            arguments = ", ".join([f"t{i}" for i in range(tensors)] + [f"{7 + i}" for i in range(scalars)])
            title = f"{tensors} tensors, {scalars} integers" if tensors > 1 else f"1 tensor, {scalars} integers"
            kernel, call = getattr(module, name), f"kernel[(4,)]({arguments})"
            ours = rl.wrap(kernel, self.client)
            yield Way("growth", f"{title}, ringlaunch", _loop(call, kernel=ours, **buffers), self.client.synchronize)
            if self.torch is not None:
                wait = self.torch.cuda.synchronize
                yield Way("growth", f"{title}, Triton", _loop(call, kernel=kernel, **tensors_of_torch), wait)

    def once(self) -> Iterator[Row]:
        """The import, and the first call of a kernel that Triton has compiled before."""

        def row(name: str, times: list[float]) -> Row:
            return Row("once", name, _HERE, "once", *_summary(times))

        program = "import time; t = time.perf_counter(); import ringlaunch; print((time.perf_counter() - t) * 1e6)"
        imports = [
            float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
            for _ in range(_TABLE_RUNS)
        ]
        yield row("import ringlaunch", imports)
        import triton

        fn = self.kernels.short.fn
        x = self.client.zeros(1000)
        ways: dict[str, tuple[Callable[[], Any], Any]] = {
            "first call, ringlaunch": (lambda: rl.wrap(triton.jit(fn), self.client), x)
        }
        if self.torch is not None:
            ways["first call, Triton"] = (lambda: triton.jit(fn), self.torch.zeros(1000, device="cuda"))
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(_FIRST_CALLS + 1):  # in turn
            for name, (make, x) in ways.items():
                kernel = make()
                begin = time.perf_counter_ns()
                kernel[(4,)](x, x, 1000, BLOCK=512)
                times[name].append((time.perf_counter_ns() - begin) / 1e3)
                del kernel  # with what it has loaded
        for name in ways:
            yield row(name, times[name][1:])

    def autograd(self) -> Iterator[Way]:
        if self.torch is None:
            return
        torch, kernels, wait = self.torch, self.kernels, self.torch.cuda.synchronize
        x = torch.ones(1024, device="cuda", requires_grad=True)
        dy = torch.ones(1024, device="cuda")
        yield Way("autograd", "noop", _loop("noop()", noop=_noop), wait)
        yield Way("autograd", "torch operation", _loop("(x * 2).backward(dy)", x=x, dy=dy), wait)

        def of(name: str, function: Any, one_thread: bool = False) -> Way:
            loop = _loop("function(x).backward(dy)", function=function, x=x, dy=dy)
            if one_thread:
                loop = _on_one_thread(torch, loop)
            x.grad = None
            loop(1)
            if not name.endswith("nothing launched") and not bool((x.grad == 2).all()):
                raise RuntimeError(f"{name}: the gradient is {x.grad[:3].tolist()}, and not 2")
            return Way("autograd", name, loop, wait)

        yield of("function, nothing launched", kernels.function_of_nothing())
        yield of("short, Triton", kernels.function_of(kernels.double))
        yield of("long, Triton", kernels.function_of(kernels.double, kernels.double_long))

        def inline() -> Iterator[Way]:
            short, long = (rl.wrap(each, mode="inline") for each in (kernels.double, kernels.double_long))
            yield of("short, ringlaunch inline", kernels.function_of(short))
            yield of("long, ringlaunch inline", kernels.function_of(short, long))
            yield of("short, ringlaunch inline, one thread", kernels.function_of(short), one_thread=True)

        yield of("torch operation, one thread", lambda x: x * 2, one_thread=True)
        yield from self._try("autograd, ringlaunch inline", inline)

    def length(self) -> Iterator[Way]:
        call = "kernel[(blocks,)](x, y, n, BLOCK=1024)"
        ours = rl.wrap(self.kernels.double, self.client)
        for n in _LENGTHS:
            names: dict[str, Any] = {"n": n, "blocks": -(-n // 1024)}
            x, y = self.client.zeros(n), self.client.zeros(n)
            yield Way("length", "ringlaunch", _loop(call, kernel=ours, x=x, y=y, **names), self.client.synchronize, n)
            if self.torch is None:
                continue
            wait = self.torch.cuda.synchronize
            a, b = (self.torch.zeros(n, device="cuda") for _ in range(2))
            yield Way("length", "Triton", _loop(call, kernel=self.kernels.double, x=a, y=b, **names), wait, n)
            mul = self.torch.mul
            yield Way("length", "torch operation", _loop("mul(a, 2, out=b)", mul=mul, a=a, b=b), wait, n)

            def inline(a: Any = a, b: Any = b, names: dict[str, Any] = names, n: int = n) -> Iterator[Way]:
                loop = _loop(call, kernel=rl.wrap(self.kernels.double, mode="inline"), x=a, y=b, **names)
                loop(1)
                yield Way("length", "ringlaunch inline", loop, self.torch.cuda.synchronize, n)

            yield from self._try("length, ringlaunch inline", inline)


# ---- measuring ----


def _call_us(way: Way, steps: int) -> float:
    """us of a call alone: in bursts that fit into a queue, which is drained between them."""
    empty = _loop("pass")
    took = 0
    done = 0
    while done < steps:
        count = min(_BURST, steps - done)
        with rl.region() if way.region else contextlib.nullcontext():
            begin = time.perf_counter_ns()
            way.loop(count)
            middle = time.perf_counter_ns()
            empty(count)
            took += 2 * middle - begin - time.perf_counter_ns()
        done += count
        if way.drain is not None:
            way.drain()
    return took / steps / 1e3


def _step_us(way: Way, steps: int) -> float:
    """us of a step, until all of them are done."""
    begin = time.perf_counter_ns()
    with rl.region() if way.region else contextlib.nullcontext():
        way.loop(steps)
    if way.drain is not None:
        way.drain()
    return (time.perf_counter_ns() - begin) / steps / 1e3


def _summary(times: list[float]) -> tuple[tuple[float, ...], float, float]:
    table = times[:_TABLE_RUNS]
    quartiles = statistics.quantiles(table, n=4, method="inclusive") if len(table) > 1 else table * 3

    def deviation(of: list[float]) -> float:
        return statistics.stdev(of) if len(of) > 1 else math.nan

    figures = (statistics.fmean(table), deviation(table), min(table), *quartiles, max(table))
    return figures, statistics.fmean(times), deviation(times)


_Times = dict[tuple[str, str, str], list[float]]  # of each run, by table, name and measure


def _targets(rows: list[Row], times: _Times) -> Iterator[str]:
    """What the project wants to reach, and whether this run did; medians, of ratios those of the runs' own."""

    def ratio(table: str, name: str, other: str, measure: str) -> float | None:
        pairs = zip(times.get((table, name, measure), ()), times.get((table, other, measure), ()))
        found = [a / b for a, b in pairs]
        return statistics.median(found) if found else None

    median = {(row.table, row.name, row.measure): row.figures[4] for row in rows if row.machine == _HERE}
    calls = {name: us for (table, name, measure), us in median.items() if table == "calls" and measure == "call"}

    def most(what: str, found: float, bound: float) -> str:
        verdict = "met" if found <= bound else "NOT met"
        return f"target: {what}: {_beside(found, bound)}, at most {bound:g}: {verdict}"

    def least(what: str, found: float, bound: float) -> str:
        verdict = "met" if found >= bound else "NOT met"
        return f"target: {what}: {_beside(found, bound)}, at least {bound:g}: {verdict}"

    into_ring = ((0.25, 50), (1.0, 17))
    for mode, bounds in (
        ("ringlaunch", into_ring),
        ("ringlaunch in a region", into_ring),
        ("ringlaunch inline", ((2.1, 5.5), (3.3, 5))),
    ):
        for size, (bound, least_ratio) in zip(("short", "long"), bounds):
            if (ours := calls.get(f"{size}, {mode}")) is None:
                continue
            yield most(f"{size}, {mode}, us a call", ours, bound)
            if (found := ratio("calls", f"{size}, Triton", f"{size}, {mode}", "call")) is not None:
                yield least(f"{size}, Triton's time over {mode}'s", found, least_ratio)
    for mode in ("ringlaunch", "ringlaunch in a region"):
        if (found := ratio("calls", "short, Triton", f"short, {mode}", "step")) is not None:
            yield least(f"short, until done, Triton's time over {mode}'s", found, 15)
    for kind, counts, bound in (("integer", _SCALARS, 8), ("tensor", _TENSORS, 70)):
        titles = [f"1 tensor, {n} integers" if kind == "integer" else f"{n} tensors, 0 integers" for n in counts]
        few, many = (median.get(("growth", f"{title}, ringlaunch", "call")) for title in (titles[0], titles[-1]))
        if few is not None and many is not None:
            yield most(f"ns for each further {kind}", (many - few) / (counts[-1] - counts[0]) * 1e3, bound)
    for size, bound in (("short", 1.15), ("long", 1.20)):
        if (found := ratio("autograd", f"{size}, ringlaunch inline", "torch operation", "pairs")) is not None:
            yield most(f"{size}, forward and backward over the torch operation's", found, bound)
    if (ours := median.get(("once", "import ringlaunch", "once"))) is not None:
        yield most("ms of import", ours / 1e3, 150)
    first = [median.get(("once", f"first call, {who}", "once")) for who in ("ringlaunch", "Triton")]
    if first[0] is not None and first[1] is not None:
        yield most("first call, ringlaunch's time over Triton's", first[0] / first[1], 1)


def _measure(ways: list[Way], runs: int, steps: int, notes: list[str], kept: _Times) -> list[Row]:
    """All ways in turn, run by run, so that a slow moment of the machine meets each."""
    times: dict[tuple[int, str], list[float]] = {}
    failed: set[int] = set()
    for way in ways:
        way.loop(20)
        if way.drain is not None:
            way.drain()
    for run in range(runs):
        for number, way in enumerate(ways):
            if number in failed:
                continue
            count = max(_FEWEST_STEPS, min(steps, _STEPS_OF_LENGTH // way.length)) if way.length else steps
            try:
                if way.length and way.drain is not None:  # so that the device and its threads are at it already
                    way.loop(_FEWEST_STEPS)
                    way.drain()
                if way.table in ("calls", "growth"):
                    times.setdefault((number, "call"), []).append(_call_us(way, count))
                if way.table == "growth" or run >= _TABLE_RUNS:
                    continue
                if way.table != "calls" or way.drain is not None:
                    measure = str(way.length) if way.length else "step"
                    times.setdefault((number, measure), []).append(_step_us(way, count))
            except Exception as error:
                failed.add(number)
                notes.append(f"{way.name}: stopped: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
    rows = []
    for (number, measure), found in sorted(times.items()):
        figures, mean, deviation = _summary(found)
        rows.append(Row(ways[number].table, ways[number].name, _HERE, measure, figures, mean, deviation))
        kept[ways[number].table, ways[number].name, measure] = found
    return rows


def _measure_pairs(ways: list[Way], kept: _Times) -> list[Row]:
    """Those of _PAIRED once more, in short turns."""
    ways = [way for way in ways if way.name in _PAIRED and (way.table, way.name, "step") in kept]
    for _ in range(_PAIRS):
        for way in ways:
            kept.setdefault((way.table, way.name, "pairs"), []).append(_step_us(way, _STEPS_OF_A_PAIR))
    return [Row(way.table, way.name, _HERE, "pairs", *_summary(kept[way.table, way.name, "pairs"])) for way in ways]


# ---- the output ----


def _machine() -> str:
    model = "unknown CPU"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":")[1].strip()
                break
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def _beside(found: float, bound: float) -> str:
    """With as many digits, at least four, as tell it from the bound."""
    texts = (f"{found:.{digits}g}" for digits in range(4, 18))
    return next((text for text in texts if float(text) != bound or found == bound), repr(found))


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}" if value < 10 else f"{value:.2f}"


def _print(rows: list[Row]) -> None:
    for table, title in _TITLES.items():
        chosen = [row for row in rows if row.table == table]
        if not chosen:
            continue
        width = max(len(row.name) for row in chosen) + 2
        print(f"\n{title}\n")
        heads = (*_STATISTICS, "mean all", "std all")
        print(" " * (width + 10) + "".join(f"{head:>10}" for head in heads))
        for machine in (_HERE, _SEEDS):
            of = [row for row in chosen if row.machine == machine]
            if of and machine == _SEEDS:
                print(f"-- another machine ({_SEED_MACHINE}):")
            for row in of:
                figures = (*row.figures, row.mean_all, row.std_all)
                print(f"{row.name:{width}}{row.measure:>10}" + "".join(f"{_shown(value):>10}" for value in figures))


def _write(path: Path, comments: list[str], rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        file.writelines(f"# {comment}\n" for comment in comments)
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for row in rows:
            figures = (*row.figures, row.mean_all, row.std_all)
            shown = ("" if math.isnan(value) else repr(value) for value in figures)
            writer.writerow((row.table, row.name, row.machine, row.measure, *shown))


def _read(path: Path) -> tuple[list[str], list[Row]]:
    comments = []
    lines = []
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            comments.append(line[1:].strip())
        else:
            lines.append(line)
    head, *listed = csv.reader(lines)
    if head != list(_COLUMNS):
        raise ValueError(f"no such columns: {head}")
    rows = []
    for table, name, machine, measure, *figures in listed:
        *values, mean, deviation = (float(each) if each else math.nan for each in figures)
        rows.append(Row(table, name, machine, measure, tuple(values), mean, deviation))
    return list(dict.fromkeys(comments)), rows


def _draw(path: Path, comments: list[str], rows: list[Row]) -> bool:
    if importlib.util.find_spec("matplotlib") is None:
        print(f"{path} is not drawn: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tables = [table for table in _TITLES if table != "once" and any(row.table == table for row in rows)]
    tallest = max(12, *(len([row for row in rows if row.table == table]) for table in tables if table != "length"))
    figure, axes = plt.subplots(1, len(tables), figsize=(6.5 * len(tables), 1.6 + 0.22 * tallest), squeeze=False)
    for axis, table in zip(axes[0], tables):
        chosen = [row for row in rows if row.table == table]
        axis.set_title(_TITLES[table], fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        if table == "length":
            for name in dict.fromkeys(row.name for row in chosen):
                points = [row for row in chosen if row.name == name]
                axis.errorbar(
                    [int(row.measure) for row in points], [row.figures[0] for row in points],
                    yerr=[row.figures[1] for row in points], label=name, marker="o", markersize=3, capsize=2,
                    **({"color": "#c44e52", "linewidth": 2} if name == "ringlaunch" else {}),
                )  # fmt: skip
            axis.set(xscale="log", yscale="log", xlabel="elements")
            axis.legend(fontsize=7)
            continue
        means = [row.figures[0] if not math.isnan(row.figures[0]) else row.mean_all for row in chosen]
        labels = [f"{row.name} ({row.measure}{', ' + row.machine if row.machine != _HERE else ''})" for row in chosen]
        colours = [
            "#bbbbbb" if row.machine != _HERE else "#c44e52" if "ringlaunch" in row.name else "#4c72b0"
            for row in chosen
        ]
        axis.barh(range(len(chosen)), means, color=colours)
        for y, (row, mean) in enumerate(zip(chosen, means)):
            if not math.isnan(row.figures[2]):
                spread = [[mean - row.figures[2]], [row.figures[6] - mean]]
                axis.errorbar(mean, y, xerr=spread, color="black", capsize=2, linewidth=0.8)
            axis.annotate(f" {mean:.3g}", (mean, y), va="center", fontsize=7)
        axis.set_xscale("log")
        axis.set_yticks(range(len(chosen)), labels, fontsize=7)
        axis.invert_yaxis()
        axis.margins(x=0.2)
    figure.suptitle("\n".join(comments[:2]), fontsize=10, y=1.0, va="bottom")
    figure.text(0.01, 0.0, "\n".join([f"grey: another machine ({_SEED_MACHINE})", *comments[2:]]), fontsize=7, va="top")
    figure.tight_layout()
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return True


def _refuse(text: str) -> int:
    print(f"python -m ringlaunch.bench triton: {text}", file=sys.stderr)
    return 2


def run(options: argparse.Namespace) -> int:
    """Measures, or reads, and shows."""
    if options.source is not None:
        try:
            comments, rows = _read(options.source)
        except OSError as error:
            return _refuse(f"--from {options.source}: {error.strerror}")
        except (ValueError, TypeError):
            return _refuse(f"--from {options.source}: expected a file that --csv has written, found another")
        _print(rows)
        return 0 if options.png is None or _draw(options.png, comments, rows) else 1
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # an answer to a warning of Triton's
    notes: list[str] = []
    rows = []
    times: _Times = {}
    with tempfile.TemporaryDirectory(prefix="rl-triton-") as folder:
        driver = None if options.driver == "auto" else options.driver
        try:
            client = rl.connect(os.path.join(folder, "daemon.sock"), driver=driver)
        except rl.Error as error:
            return _refuse(f"--driver {options.driver}: {error}")
        with client:
            if client.daemon.driver == "host":
                return _refuse(
                    f"--driver {options.driver}: Triton's kernels do not run on the host driver, which is what there "
                    "is without a GPU; --driver null runs nothing and measures the calls"
                )
            ways = _Ways(client, Path(folder), notes)
            for table, listed, most_runs in (
                ("calls", ways.calls, options.runs),
                ("growth", ways.growth, _TABLE_RUNS),
                ("autograd", ways.autograd, _TABLE_RUNS),
                ("length", ways.length, _LENGTH_RUNS),
            ):
                if table not in options.only:
                    continue
                made = list(listed())
                rows += _measure(made, min(most_runs, options.runs), options.steps, notes, times)
                if table == "autograd":
                    rows += _measure_pairs(made, times)
            if "once" in options.only:
                rows += ways.once()
            info = client.daemon
    comments = [
        "What a Triton kernel's call costs, and a step until it is done",
        f"{info.device_name} ({info.driver} driver), {_machine()}, {', '.join(ways.versions)}",
        f"{min(options.runs, _TABLE_RUNS)} runs of {options.steps} steps; all: {options.runs} runs, of calls",
        f"call: the calling thread's time, in bursts of {_BURST}; step: until all steps are done; pairs: the same in "
        f"{_PAIRS} turns of {_STEPS_OF_A_PAIR} steps",
        *dict.fromkeys(notes),
    ]
    tables = {row.table for row in rows}
    rows += [row for row in _seeds() if row.table in tables]
    comments += _targets(rows, times)
    print("\n".join(comments))
    _print(rows)
    if options.csv is not None:
        _write(options.csv, comments, rows)
    return 0 if options.png is None or _draw(options.png, comments, rows) else 1
