"""What a launch from Python costs that is one of many on one stream of a GPU, beside the other ways there are.

    python bench/gpu_python.py [--c-loop PROGRAM] [--csv FILE]

A kernel that does nothing, with five parameters that all change, and 24 functions at random: through the daemon
(ringlaunch), Triton, cuda.core, CuPy, and CUDA graphs of 100 Triton kernels, replayed by torch with the parameters
that they were captured with. A peer that is not installed is left out, with the reason. The arguments are made
beforehand, so that a figure is the call and what stands behind it until all launches have completed. Every 256th
launch of the kernel that does nothing lets it write, each of the others changes a word: the words are compared.
`--c-loop` is bench_gpu_launch, whose loop of cuLaunchKernel runs in turn with the rest.
"""

import argparse
import csv
import importlib.metadata
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import report

import ringlaunch as rl

WORDS, FUNCTIONS, FACTOR, NODES = 8, 24, 1664525, 100
CASES = ("null", "24 functions")

KERNELS = r"""
extern "C" __global__ void seldom(unsigned* words, unsigned a, unsigned b, int at, float more) {
    if (a % 2 != 0) words[at] = words[at] * a + b + (unsigned)more;
}
""" + "".join(
    f"""
extern "C" __global__ void mix_{k}(unsigned* words, unsigned a, unsigned b, int at, float more) {{
    words[at] = words[at] * (a + {2 * k}) + b + (unsigned)more;
}}"""
    for k in range(FUNCTIONS)
)
NAMES = {"null": ["seldom"], "24 functions": [f"mix_{k}" for k in range(FUNCTIONS)]}


def calls(case: str, count: int) -> list[tuple[int, int, int, int, int, float]]:
    """(function, array, a, b, at, more) of each launch."""
    i = np.arange(count, dtype=np.uint64)
    if case == "null":
        function, array, at = i * 0, (i ^ i // 256) % 2, i // 256 % WORDS
        a = np.where(i % 256 == 255, FACTOR, 2 * i)
    else:
        function, array, at = (i * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) % FUNCTIONS, i * 0, i * 0
        a = FACTOR + 2 * (i % 1000)
    more = (i % 100).astype(np.float64)
    return list(zip(function.tolist(), array.tolist(), a.tolist(), i.tolist(), at.tolist(), more.tolist()))


def after(case: str, words: list[list[int]], made: list) -> None:
    """What the launches make of the words, in place."""
    for function, array, a, b, at, more in made:
        if case != "null" or a % 2:
            words[array][at] = (words[array][at] * (a + 2 * function) + b + int(more)) & 0xFFFFFFFF


class Ringlaunch:
    """Calls of kernels that are bound once; `bound=False`: kernel[grid, block](..., stream=) at every launch."""

    def __init__(self, client: rl.Client, bound: bool):
        self.name = "ringlaunch, bound once" if bound else "ringlaunch, kernel[grid, block](...)"
        self.client, self.bound = client, bound
        self.stream = client.stream()
        exports = "".join(f"RINGLAUNCH_EXPORT({name})\n" for case in CASES for name in NAMES[case])
        self.module = client.compile(f"#include <ringlaunch/kernel.h>\n{KERNELS}\n{exports}")

    def prepare(self, case, made):
        arrays = [self.client.zeros(WORDS, np.uint32) for _ in range(2)]
        grid, block, stream = (1,), (1,), self.stream
        kernels = [self.module[name] for name in NAMES[case]]
        bound = [kernel.bind(grid, block, stream) for kernel in kernels]
        prepared = [
            (bound[f] if self.bound else kernels[f], arrays[array], a, b, at, more) for f, array, a, b, at, more in made
        ]

        def launch_bound(part):
            for call, words, a, b, at, more in part:
                call(words, a, b, at, more)

        def launch(part):
            for kernel, words, a, b, at, more in part:
                kernel[grid, block](words, a, b, at, more, stream=stream)

        return (
            prepared,
            launch_bound if self.bound else launch,
            self.stream.synchronize,
            lambda: [array.numpy().tolist() for array in arrays],
        )


class Triton:
    name = "Triton"

    def __init__(self):
        import torch
        import triton

        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU")
        self.torch = torch
        self.version = f"Triton {triton.__version__}, torch {torch.__version__}"
        import triton_kernels

        self.seldom, self.mix = triton_kernels.seldom, triton_kernels.mix

    def launcher(self, case, made):
        torch = self.torch
        arrays = [torch.zeros(WORDS, dtype=torch.int32, device="cuda") for _ in range(2)]
        prepared = [(f, arrays[array], a, b, at, more) for f, array, a, b, at, more in made]
        seldom, mix, grid = self.seldom, self.mix, (1,)

        def launch_seldom(part):
            for _, words, a, b, at, more in part:
                seldom[grid](words, a, b, at, more, num_warps=1)

        def launch_mix(part):
            for function, words, a, b, at, more in part:
                mix[grid](words, a, b, at, more, k=function, num_warps=1)

        def read():
            return [array.cpu().numpy().view(np.uint32).tolist() for array in arrays]

        return prepared, launch_seldom if case == "null" else launch_mix, read, arrays

    def prepare(self, case, made):
        prepared, launch, read, _ = self.launcher(case, made)
        return prepared, launch, self.torch.cuda.synchronize, read


class Replay:
    """A CUDA graph of the first NODES launches, replayed until there are as many as the others make."""

    name = "CUDA graph, fixed parameters (torch)"
    repeats = True

    def __init__(self, triton: Triton):
        self.triton, self.version = triton, ""

    def prepare(self, case, made):
        torch = self.triton.torch
        prepared, launch, read, arrays = self.triton.launcher(case, made[:NODES])
        launch(prepared)  # compiles what the graph holds
        torch.cuda.synchronize()
        for array in arrays:
            array.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch(prepared)
        replay = graph.replay

        def run(part):
            for _ in part:
                replay()

        return range(len(made) // NODES), run, torch.cuda.synchronize, read


class CudaCore:
    name = "cuda.core"

    def __init__(self):
        try:
            from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch
        except ImportError:
            from cuda.core.experimental import Device, LaunchConfig, Program, ProgramOptions, launch
        self.version = "cuda.core " + importlib.metadata.version("cuda-core")
        self.device = Device()
        self.device.set_current()
        self.stream = self.device.create_stream()
        arch = "sm_" + "".join(str(part) for part in self.device.compute_capability)
        names = [name for case in CASES for name in NAMES[case]]
        module = Program(KERNELS, code_type="c++", options=ProgramOptions(arch=arch)).compile(
            "cubin", name_expressions=tuple(names)
        )
        self.kernels = {name: module.get_kernel(name) for name in names}
        self.launch, self.config = launch, LaunchConfig(grid=1, block=1)

    def prepare(self, case, made):
        import torch

        arrays = [torch.zeros(WORDS, dtype=torch.int32, device="cuda") for _ in range(2)]
        torch.cuda.synchronize()
        kernels = [self.kernels[name] for name in NAMES[case]]
        addresses = [array.data_ptr() for array in arrays]
        prepared = [
            (kernels[f], addresses[array], np.uint32(a), np.uint32(b), np.int32(at), np.float32(more))
            for f, array, a, b, at, more in made
        ]
        launch, stream, config = self.launch, self.stream, self.config

        def run(part):
            for kernel, words, a, b, at, more in part:
                launch(stream, config, kernel, words, a, b, at, more)

        return prepared, run, stream.sync, lambda: [array.cpu().numpy().view(np.uint32).tolist() for array in arrays]


class CuPy:
    name = "CuPy RawKernel"

    def __init__(self):
        import cupy

        self.cupy, self.version = cupy, f"CuPy {cupy.__version__}"
        self.module = cupy.RawModule(code=KERNELS)

    def prepare(self, case, made):
        arrays = [self.cupy.zeros(WORDS, np.uint32) for _ in range(2)]
        kernels = [self.module.get_function(name) for name in NAMES[case]]
        prepared = [
            (kernels[f], (arrays[array], np.uint32(a), np.uint32(b), np.int32(at), np.float32(more)))
            for f, array, a, b, at, more in made
        ]
        one = (1,)

        def run(part):
            for kernel, arguments in part:
                kernel(one, one, arguments)

        wait = self.cupy.cuda.Device().synchronize
        return prepared, run, wait, lambda: [self.cupy.asnumpy(array).tolist() for array in arrays]


def c_loop(program: str) -> dict[str, float]:
    """Microseconds a launch by a loop of cuLaunchKernel, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "c_loop.csv")
        command = [program, "--c-loop", "--rounds", "1", "--many", "30000", "--csv", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
        rows = csv.reader(line for line in path.read_text().splitlines() if not line.startswith("#"))
        figures = {row[0]: row[1] for row in rows}
    return {case: float(figures[f"{case}: cuLaunchKernel"]) for case in CASES}


class Way:
    """One way to do one case, prepared: its times and what must come of it."""

    def __init__(self, way, case: str, made: list):
        self.name, self.case, self.made = way.name, case, made
        self.repeats = getattr(way, "repeats", False)
        prepared, self.launch, self.wait, self.read = way.prepare(case, made)
        # The first fiftieth goes before each measurement, so that whoever was asleep meanwhile is awake.
        first = len(prepared) // 50
        self.first, self.rest = prepared[:first], prepared[first:]
        self.count = len(made) * len(self.rest) / len(prepared)
        self.us: list[float] = []
        self.rounds = 0

    def run(self) -> float:
        self.launch(self.first)
        self.wait()
        begin = time.perf_counter_ns()
        self.launch(self.rest)
        self.wait()
        self.rounds += 1
        return (time.perf_counter_ns() - begin) / 1e3 / self.count

    def check(self) -> None:
        words = [[0] * WORDS, [0] * WORDS]
        for _ in range(self.rounds):
            if self.repeats:
                for _ in range(len(self.made) // NODES):
                    after(self.case, words, self.made[:NODES])
            else:
                after(self.case, words, self.made)
        if self.read() != words:
            raise SystemExit(f"{self.case}, {self.name}: the words are not what the launches give")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--driver", default="cuda", help="any but cuda tries the program, without peers")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repetitions (default: %(default)s)")
    parser.add_argument("--many", type=int, default=100_000, help="launches a measurement (default: %(default)s)")
    parser.add_argument("--fewer", type=int, default=20_000, help="of peers that take longer (default: %(default)s)")
    parser.add_argument("--c-loop", help="bench_gpu_launch, for a loop of cuLaunchKernel beside the rest")
    parser.add_argument("--csv", type=pathlib.Path, help="write the table to this file")
    options = parser.parse_args()

    folder = tempfile.mkdtemp(prefix="ringlaunch-bench-")
    try:
        client = rl.connect(socket=os.path.join(folder, "daemon.sock"), driver=options.driver)
    except rl.Error as error:
        if options.driver != "cuda":
            raise
        print(f"no GPU here, nothing measured: {error}")
        return 77
    peers: list = [Ringlaunch(client, True), Ringlaunch(client, False)]
    notes, versions = [], [f"ringlaunch {client.daemon.version}"]
    if options.driver == "cuda":
        for peer in (Triton, lambda: Replay(next(p for p in peers if p.name == "Triton")), CudaCore, CuPy):
            try:
                peers.append(peer())
                if peers[-1].version:
                    versions.append(peers[-1].version)
            except StopIteration:
                notes.append("the CUDA graph of Triton kernels: not measured: Triton is not")
            except Exception as error:
                notes.append(f"{peer.name}: not measured: {type(error).__name__}: {str(error)[:200]}")

    ways: list[Way] = []
    for case in CASES:
        many, fewer = (calls(case, (count + NODES - 1) // NODES * NODES) for count in (options.many, options.fewer))
        for peer in peers:
            try:
                way = Way(peer, case, many if isinstance(peer, Ringlaunch | Replay) else fewer)
                way.run()  # warms up, compiles
                ways.append(way)
            except Exception as error:
                if isinstance(peer, Ringlaunch):
                    raise
                notes.append(f"{case}, {peer.name}: not measured: {type(error).__name__}: {str(error)[:200]}")
    loops: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for way in ways:
            way.us.append(way.run())
        if options.c_loop:
            for case, us in c_loop(options.c_loop).items():
                loops[case].append(us)
    if options.driver != "null":
        for way in ways:
            way.check()

    rows = []
    for case in CASES:
        base = loops[case] or [float("nan")] * options.rounds
        named = [(way.name, way.us) for way in ways if way.case == case]
        if loops[case]:
            named.append(("cuLaunchKernel in a loop (C++)", loops[case]))
        for name, us in named:
            p50 = statistics.median(us)
            ratio = statistics.median(b / u for b, u in zip(base, us))
            rows.append((f"{case}: {name}", p50, min(us), max(us), 1e6 / p50, ratio))
    figures = {row[0]: row for row in rows}
    if options.driver == "cuda":
        best, functions = (figures[f"{case}: ringlaunch, bound once"] for case in CASES)
        notes += [
            report.target("null kernel from Python, us", best[1], 0.60),
            report.target("null kernel from Python, x cuLaunchKernel", best[5], 5, at_most=False),
            report.target("24 functions at random from Python, us", functions[1], 1.05),
        ]
    else:
        notes.append("without peers beside it: this is not the cuda driver")
    compared = "all words" if options.driver != "null" else "no words"
    notes.insert(
        0,
        f"us a launch until all have completed, medians of {options.rounds} rounds in turn, least and most; {compared}",
    )
    notes.insert(1, "were compared; the arguments were made beforehand; the graphs' parameters do not change")
    notes.append(f"{client.daemon.device_name}; " + ", ".join(versions))

    title = f"Launches in a row on one stream from Python ({options.driver} driver)"
    columns = ("us", "us_min", "us_max", "launches/s", "x_plain_rate")
    report.finish(title, columns, rows, notes, options.csv)
    client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
