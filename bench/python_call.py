"""What a launch costs the Python thread: the call into a live daemon's ring beside an empty vectorcall.

    python bench/python_call.py [--driver null] [--csv FILE]

Each figure is the median over many bursts of the time a call takes, in ns, the loop's own cost taken off (measured
with an empty loop in the same rounds). A burst is smaller than the ring and the ring is drained between bursts, so
that no call waits for room. Last comes a row without a pause, many times the ring: whether the daemon keeps up.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
import report

import ringlaunch as rl

SOURCE = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void five(const float* x, const float* y, float* z, int n, float a) {}
RINGLAUNCH_EXPORT(five)
"""


def scalars(count: int) -> str:
    """A kernel of one pointer and `count` ints."""
    params = "".join(f", int p{i}" for i in range(count))
    return f'extern "C" __global__ void scalars{count}(float* x{params}) {{}}\nRINGLAUNCH_EXPORT(scalars{count})\n'


def per_call_ns(burst, drain, calls: int, rounds: int) -> list[float]:
    """`burst(calls)` returns the ns its loop took; returns ns a call for each round."""
    times = []
    for _ in range(rounds):
        times.append(burst(calls) / calls)
        drain()
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--driver", default="null", help="driver of the daemon started for this (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=500, help="calls a burst (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=400, help="bursts a figure (default: %(default)s)")
    parser.add_argument("--row", type=int, default=1_000_000, help="launches without a pause (default: %(default)s)")
    parser.add_argument("--csv", type=pathlib.Path, help="write the table to this file")
    options = parser.parse_args()

    folder = tempfile.mkdtemp(prefix="ringlaunch-bench-")
    client = rl.connect(socket=os.path.join(folder, "daemon.sock"), driver=options.driver)
    counts = (0, 8, 16, 24)  # from 31 arguments on CPython itself makes a tuple for every call
    module = client.compile(SOURCE + "".join(scalars(count) for count in counts))
    five = module["five"]
    x, y, z = (client.array(np.zeros(64, np.float32)) for _ in range(3))
    grid, block, stream = (1,), (32,), client.stream()
    empty = rl._core._empty_vectorcall
    bound = five.bind(grid, block, stream)
    clock = time.perf_counter_ns

    def loop(calls):
        begin = clock()
        for _ in range(calls):
            pass
        return clock() - begin

    def empty_call(calls):
        begin = clock()
        for _ in range(calls):
            empty(x, y, z, 64, 2.0)
        return clock() - begin

    def as_written(calls):
        begin = clock()
        for _ in range(calls):
            five[grid, block](x, y, z, 64, 2.0, stream=stream)
        return clock() - begin

    def default_stream(calls):
        begin = clock()
        for _ in range(calls):
            five[grid, block](x, y, z, 64, 2.0)
        return clock() - begin

    def bound_call(calls):
        begin = clock()
        for _ in range(calls):
            bound(x, y, z, 64, 2.0)
        return clock() - begin

    def with_scalars(count):
        # Written out, as a program would: `*arguments` makes a list and a tuple for every call.
        arguments = "".join(f", p{i}" for i in range(count))
        names = {"call": module[f"scalars{count}"].bind(grid, block, stream), "x": x, "clock": clock}
        assignments = "".join(f"    p{i} = {7 + i}\n" for i in range(count))
        exec(
            "def burst(calls):\n"
            f"{assignments}"
            "    begin = clock()\n"
            "    for _ in range(calls):\n"
            f"        call(x{arguments})\n"
            "    return clock() - begin\n",
            names,
        )
        return names["burst"]

    cases = {
        "empty vectorcall, 5 arguments": empty_call,
        "ringlaunch kernel[grid, block](..., stream=)": as_written,
        "ringlaunch kernel[grid, block](...)": default_stream,
        "ringlaunch bound once": bound_call,
    } | {f"ringlaunch bound, 1 buffer and {count} ints": with_scalars(count) for count in counts}

    def drain():
        client.synchronize()

    samples = {name: [] for name in cases}
    loops = []
    for _ in range(10):  # interleaved, so that a slow moment of the machine meets every case
        loops += per_call_ns(loop, lambda: None, options.calls, options.rounds // 10)
        for name, burst in cases.items():
            samples[name] += per_call_ns(burst, drain, options.calls, options.rounds // 10)

    in_a_row = bound_call(options.row) / options.row
    begin = clock()
    drain()
    row = (
        f"{options.row:,} launches in a row, bound once: {in_a_row:.1f} ns each, the loop's own included; "
        f"the last completed {(clock() - begin) / 1e3:.0f} us after it was enqueued"
    )

    own = statistics.median(loops)
    rows = []
    base = statistics.median(samples["empty vectorcall, 5 arguments"]) - own
    for name, times in samples.items():
        p50 = statistics.median(times) - own
        p90 = sorted(times)[int(len(times) * 0.9)] - own
        rows.append((name, p50, p90, p50 / base))
    few, many = (next(r[1] for r in rows if r[0].endswith(f"{count} ints")) for count in (counts[0], counts[-1]))
    slope = (many - few) / (counts[-1] - counts[0])

    notes = [f"each further int: {slope:.1f} ns; the loop's own {own:.1f} ns are taken off", row]
    report.finish(
        f"What a launch costs the Python thread ({options.driver} driver)",
        ("p50_ns", "p90_ns", "x_empty"),
        rows,
        notes,
        options.csv,
    )
    client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
