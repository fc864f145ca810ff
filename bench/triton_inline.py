"""What calls of Triton kernels of many kinds cost that the program launches by itself, beside Triton's own.

    python bench/triton_inline.py [--csv FILE]

Each figure is the median over many bursts of what a call takes the Python thread, the launch included, in us;
`us_sustained` is the time until the device has run them all. Bursts of the two take turns, so that both see the same
machine. Short: two tensors, an int, a constexpr. Long: 13 arguments, six constexprs as keywords. `other tensors`: at
each call tensors take turns, so that its parameters change. Needs a GPU, torch and Triton. The peers are in
`python -m ringlaunch.bench triton`.
"""

import argparse
import csv
import os
import pathlib
import platform
import statistics
import sys
import time

try:
    import torch
    import triton
    import triton.language as tl
except ModuleNotFoundError as error:
    print(f"{error.name} is not installed: nothing to measure")
    sys.exit(77)

import ringlaunch as rl

SIZE = 1000


@triton.jit
def short(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, i < n) * 2, i < n)


@triton.jit
def long(
    a, b, c, d, e, f, g, n0, n1, n2, s0, s1, s2,
    A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * A + tl.arange(0, A)
    tl.store(b + i, tl.load(a + i, i < n0) * 2, i < n0)


@triton.jit
def floats(x, a, b, c, d, n):
    tl.store(x, a + b + c + d + n)


@triton.jit
def optional(x, y, flag, n, NAME: tl.constexpr, TYPE: tl.constexpr):
    tl.store(x, n)


@triton.jit
def tuples(xs, sizes):
    tl.store(xs[0], sizes[0] + sizes[1])


@triton.jit
def described(x, n, BLOCK: tl.constexpr):
    x.store([0, 0], x.load([0, 0]) * 2)


@triton.jit
def with_scratch(x, n, BLOCK: tl.constexpr):
    whole = tl.make_tensor_descriptor(x, [n], [1], [BLOCK])
    whole.store([0], whole.load([0]))


def tensors():
    return [torch.arange(SIZE, dtype=torch.float32, device="cuda") + k for k in range(7)]


def calls_of(kernel, held):
    """Name and call of each case; `held`: two sets of tensors."""
    (a, b, c, d, e, f, g), (h, i, *_) = held

    def of_short(count, kernel=kernel[0]):
        for _ in range(count):
            kernel[(4,)](a, b, SIZE, BLOCK=256)

    def of_long(count, kernel=kernel[1]):
        for _ in range(count):
            kernel[(4,)](a, b, c, d, e, f, g, SIZE, 5, 7, 1.0, 2.0, 3.0, A=256, B=1, C=2, D=3, E=4, F=5)

    def short_of_others(count, kernel=kernel[0]):
        for _ in range(count // 2):
            kernel[(4,)](a, b, SIZE, BLOCK=256)
            kernel[(4,)](h, i, SIZE, BLOCK=256)

    def long_of_others(count, kernel=kernel[1]):
        for _ in range(count // 2):
            kernel[(4,)](a, b, c, d, e, f, g, SIZE, 5, 7, 1.0, 2.0, 3.0, A=256, B=1, C=2, D=3, E=4, F=5)
            kernel[(4,)](h, i, c, d, e, f, g, SIZE, 5, 7, 1.0, 2.0, 3.0, A=256, B=1, C=2, D=3, E=4, F=5)

    def function_grid(count, kernel=kernel[0]):
        for _ in range(count):
            kernel[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)](a, b, SIZE, BLOCK=256)

    return {
        "short": of_short,
        "long": of_long,
        "short, other tensors": short_of_others,
        "long, other tensors": long_of_others,
        "short, a function as grid": function_grid,
    }


class Number(int):
    """An int of a type of its own: Triton alone knows what it means."""


def signatures(held):
    """Name, kernel and its call."""
    (x, y, *_), _ = held
    half, matrix = torch.zeros(64, dtype=torch.float16, device="cuda"), torch.zeros(64, 64, device="cuda")
    calls = {
        "one tensor, five numbers": (floats, lambda kernel: kernel[(1,)](x, 1.5, 2.5, 3, 4.0, 7)),
        "None, True, a string, a dtype": (
            optional,
            lambda kernel: kernel[(1,)](x, None, True, 3, NAME="relu", TYPE=tl.float32),
        ),
        "a numpy-like view": (optional, lambda kernel: kernel[(1,)](x[1:], y[3:], False, 16, NAME="", TYPE=None)),
        "options": (short, lambda kernel: kernel[(4,)](x, y, SIZE, BLOCK=256, num_warps=8, num_stages=2)),
        "a grid of three": (short, lambda kernel: kernel[(1, 2, 3)](x, y, SIZE, BLOCK=256)),
        "a cluster": (short, lambda kernel: kernel[(4,)](x, y, SIZE, BLOCK=256, num_ctas=2)),
        "a programmatic launch": (short, lambda kernel: kernel[(4,)](x, y, SIZE, BLOCK=256, launch_pdl=True)),
        "tuples": (tuples, lambda kernel: kernel[(1,)]((half, x), (3, 4))),
        "an int of a type of its own": (short, lambda kernel: kernel[(4,)](x, y, Number(SIZE), BLOCK=256)),
        "scratch memory": (with_scratch, lambda kernel: kernel[(1,)](x, SIZE, BLOCK=256)),
    }
    try:
        from triton.tools.tensor_descriptor import TensorDescriptor

        of_host = TensorDescriptor.from_tensor(matrix, [32, 32])
        calls["a tensor descriptor"] = (described, lambda kernel: kernel[(1,)](of_host, 64, BLOCK=32))
    except ImportError:
        pass
    return calls


def repeated(call, kernel):
    def calls(count):
        for _ in range(count):
            call(kernel)

    return calls


def measure(ways, calls: int, rounds: int):
    """us a call, and us a call until all have run, of each way in turn."""
    times = {name: ([], []) for name in ways}
    for call in ways.values():
        call(20)
    for _ in range(rounds):
        for name, call in ways.items():
            torch.cuda.synchronize()
            begin = time.perf_counter_ns()
            call(calls)
            issued = time.perf_counter_ns()
            torch.cuda.synchronize()
            done = time.perf_counter_ns()
            for _ in range(calls):
                pass
            loop = time.perf_counter_ns() - done
            times[name][0].append((issued - begin - loop) / calls / 1000)
            times[name][1].append((done - begin - loop) / calls / 1000)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=500, help="calls a burst (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=60, help="bursts a figure (default: %(default)s)")
    parser.add_argument("--csv", type=pathlib.Path, help="write the table to this file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch sees no GPU: nothing to measure")
        return 77
    held = tensors(), tensors()
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device="cuda"))
    inline = rl.wrap(short, mode="inline"), rl.wrap(long, mode="inline")
    of_triton = calls_of((short, long), held)
    cases = {case: (call, of_triton[case]) for case, call in calls_of(inline, held).items()}
    for case, (kernel, call) in signatures(held).items():
        cases[case] = (repeated(call, rl.wrap(kernel, mode="inline")), repeated(call, kernel))
    rows, ratios = [], {}
    for case, (fast, plain) in cases.items():
        medians = []
        for who, (call, whole) in measure({"inline": fast, "Triton": plain}, options.calls, options.rounds).items():
            medians.append(statistics.median(call))
            figures = (medians[-1], min(call), max(call), statistics.median(whole))
            rows.append((f"{who}: {case}", *(round(each, 3) for each in figures)))
        ratios[case] = medians[1] / medians[0]
    for x, y in ((held[0][0], held[0][1]), (held[1][0], held[1][1])):
        inline[0][(4,)](x, y, SIZE, BLOCK=256)
        assert torch.equal(y, x * 2), "a result is wrong"
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    comments = [
        "What a call of a Triton kernel costs that is launched by the program itself",
        f"on {torch.cuda.get_device_name()}, {model}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, Triton {triton.__version__}",
    ]
    notes = [f"{case}: Triton takes {ratio:.2f} times as long" for case, ratio in ratios.items()]
    heads = ("call", "us", "us_min", "us_max", "us_sustained")
    print("\n".join(comments), "\n")
    print("{:52} {:>9} {:>9} {:>9} {:>13}".format(*heads))
    for each in rows:
        print("{:52} {:>9.3f} {:>9.3f} {:>9.3f} {:>13.3f}".format(*each))
    print("\n".join(notes))
    if options.csv is not None:
        with open(options.csv, "w", newline="") as file:
            file.writelines(f"# {comment}\n" for comment in (*comments, *notes))
            writer = csv.writer(file)
            writer.writerow(heads)
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
