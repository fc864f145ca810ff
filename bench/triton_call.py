"""What a call of a Triton kernel costs the Python thread: into the ring, beside Triton's own.

    python bench/triton_call.py [--driver null] [--csv FILE]

Each figure is the median over many bursts of the time a call takes, in us, the loop's own cost taken off. A burst is
smaller than the ring and the ring is drained between bursts, so that no call waits for room. Short: two buffers, an
int, a constexpr. Long: 13 arguments, six constexprs as keywords. Where torch has a GPU, Triton's own calls are
measured with tensors on it; without one, all of Triton's call but the launch (`warmup` of a compiled kernel, for a
driver that does nothing).
"""

import argparse
import csv
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    print("Triton is not installed: nothing to measure")
    sys.exit(77)

import ringlaunch as rl


@triton.jit
def short(x, y, n, BLOCK: tl.constexpr):
    pass


@triton.jit
def long(
    a, b, c, d, e, f, g, n0, n1, n2, s0, s1, s2,
    A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    pass


class NoDevice:
    """As much of a driver as a call that launches nothing asks for."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return device

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)


def has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"Triton {triton.__version__}"
    )


def calls_of(kernel, buffers, grid, warmup=False):
    """The calls that are measured: name and a function of how many."""
    a, b, c, d, e, f, g = buffers
    more = {"grid": (4,)} if warmup else {}
    take = (lambda kernel: kernel.warmup) if warmup else (lambda kernel: kernel[grid])

    def of_short(count, kernel=kernel[0]):
        for _ in range(count):
            take(kernel)(a, b, 1000, BLOCK=256, **more)

    def as_written(count, kernel=kernel[0]):
        for _ in range(count):
            kernel[(4,)](a, b, 1000, BLOCK=256)

    def of_long(count, kernel=kernel[1]):
        for _ in range(count):
            take(kernel)(a, b, c, d, e, f, g, 3, 5, 7, 1.0, 2.0, 3.0, A=64, B=1, C=2, D=3, E=4, F=5, **more)

    def long_as_written(count, kernel=kernel[1]):
        for _ in range(count):
            kernel[(4,)](a, b, c, d, e, f, g, 3, 5, 7, 1.0, 2.0, 3.0, A=64, B=1, C=2, D=3, E=4, F=5)

    def function_grid(count, kernel=kernel[0]):
        for _ in range(count):
            kernel[lambda meta: (meta["n"] // meta["BLOCK"],)](a, b, 1000, BLOCK=256)

    if warmup:
        return {"short": of_short, "long": of_long}
    return {"short": as_written, "long": long_as_written, "short, a function as grid": function_grid}


def measure(call, drain, calls: int, rounds: int) -> list[float]:
    """us a call, of each round."""
    call(3)
    drain()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter_ns()
        call(calls)
        took = time.perf_counter_ns() - begin
        begin = time.perf_counter_ns()
        for _ in range(calls):
            pass
        times.append((took - (time.perf_counter_ns() - begin)) / calls / 1000)
        drain()
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--driver", default="null", help="driver of the daemon started for this (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=500, help="calls a burst (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=200, help="bursts a figure (default: %(default)s)")
    parser.add_argument("--csv", type=pathlib.Path, help="write the table to this file")
    options = parser.parse_args()
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    rows = []

    def row(who, call, times):
        rows.append(
            (f"{who}: {call}", *(round(each, 3) for each in (statistics.median(times), min(times), max(times))))
        )

    with tempfile.TemporaryDirectory(prefix="rl-triton-") as folder:
        client = rl.connect(os.path.join(folder, "daemon.sock"), driver=options.driver)
        with client:
            buffers = [client.zeros(1000) for _ in range(7)]
            kernels = rl.wrap(short), rl.wrap(long)
            for name, call in calls_of(kernels, buffers, (4,)).items():
                row(
                    f"ringlaunch, {options.driver} driver",
                    name,
                    measure(call, client.synchronize, options.calls, options.rounds),
                )
            if has_gpu():
                import torch

                tensors = [torch.zeros(1000, device="cuda") for _ in range(7)]
                for name, call in calls_of((short, long), tensors, (4,)).items():
                    row(
                        "Triton, launch included",
                        name,
                        measure(call, torch.cuda.synchronize, options.calls, options.rounds),
                    )
            else:
                tensors = buffers
                triton.runtime.driver.set_active(NoDevice())
            for name, call in calls_of((short, long), tensors, (4,), warmup=True).items():
                row("Triton, without the launch", name, measure(call, lambda: None, options.calls, options.rounds))
    comments = ["What a call of a Triton kernel costs the Python thread", f"on {machine()}"]
    median = {name: us for name, us, *_ in rows}
    whole = "launch included" if has_gpu() else "without the launch"
    for call in ("short", "long"):
        times = median[f"Triton, {whole}: {call}"] / median[f"ringlaunch, {options.driver} driver: {call}"]
        comments.append(f"{call}: Triton's, {whole}, takes {times:.0f} times as long")
    heads = ("call", "us", "us_min", "us_max")
    print("\n".join(comments[:2]), "\n")
    print("{:56} {:>9} {:>9} {:>9}".format(*heads))
    for each in rows:
        print("{:56} {:>9.3f} {:>9.3f} {:>9.3f}".format(*each))
    print("\n".join(comments[2:]))
    if options.csv is not None:
        with open(options.csv, "w", newline="") as file:
            file.writelines(f"# {comment}\n" for comment in comments)
            writer = csv.writer(file)
            writer.writerow(heads)
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
