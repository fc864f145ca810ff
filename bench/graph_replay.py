"""Replays of a graph of short kernels from Python: ringlaunch beside torch.cuda.CUDAGraph, where torch is.

    python bench/graph_replay.py [--driver cuda] [--nodes 100] [--csv FILE]

Each kernel is x = x * 1.0 + 1.0 on one number. `x_torch`: the time of torch's replay divided by ours.
"""

import argparse
import csv
import statistics
import sys
import time

import numpy as np

import ringlaunch as rl

SOURCE = """
#include <ringlaunch/kernel.h>
extern "C" __global__ void bump(float* x, float by) { *x += by; }
RINGLAUNCH_EXPORT(bump)
"""


def replays_us(replay, wait, replays: int, rounds: int) -> float:
    """Microseconds a replay, all of them completed: the median of the rounds."""
    found = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        for _ in range(replays):
            replay()
        wait()
        found.append((time.perf_counter() - begin) / replays * 1e6)
    return statistics.median(found[1:])


def idle_us(replay, wait, replays: int) -> float:
    found = []
    for _ in range(replays):
        begin = time.perf_counter()
        replay()
        wait()
        found.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(found)


def ours(driver: str, nodes: int, replays: int, rounds: int) -> dict[str, float]:
    with rl.connect(driver=driver) as client:
        bump = client.compile(SOURCE, name="bump.cu")["bump"]
        stream = client.stream()
        x = client.zeros(1, np.float32)
        client.synchronize()
        with stream.record() as graph:
            for _ in range(nodes):
                bump[1, 1](x, 1.0, stream=stream)
        launch = graph[nodes // 2]

        def updated() -> None:
            launch.update(x, 1.0)
            graph.launch()

        figures = {
            "in a row": replays_us(graph.launch, stream.synchronize, replays, rounds),
            "one launch updated before each": replays_us(updated, stream.synchronize, replays, rounds),
            "on an idle stream": idle_us(graph.launch, stream.synchronize, replays),
        }
        expected = nodes * (2 * replays * (rounds + 1) + replays)
        found = float(x.numpy(stream=stream)[0])
        if driver != "null" and found != min(expected, 2**24):
            sys.exit(f"the kernels added {found}, expected {min(expected, 2**24)}")
        return figures


def torch_figures(nodes: int, replays: int, rounds: int) -> dict[str, float] | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    x = torch.zeros(1, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            x.add_(1.0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(nodes):
            x.add_(1.0)
    wait = torch.cuda.synchronize
    return {
        "in a row": replays_us(graph.replay, wait, replays, rounds),
        "on an idle stream": idle_us(graph.replay, wait, replays),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--driver", default="cuda")
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--replays", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv")
    args = parser.parse_args()
    mine = ours(args.driver, args.nodes, args.replays, args.rounds)
    theirs = torch_figures(args.nodes, args.replays, args.rounds) if args.driver == "cuda" else None
    rows = []
    for name, figure in mine.items():
        peer = (theirs or {}).get(name)
        rows.append((f"ringlaunch: {name}", figure, peer / figure if peer else float("nan")))
        if peer:
            rows.append((f"torch.cuda.CUDAGraph: {name}", peer, float("nan")))
    print(f"A graph of {args.nodes} short kernels from Python ({args.driver} driver), microseconds a replay\n")
    for name, figure, ratio in rows:
        print(f"{name:50} {figure:10.2f} {'' if ratio != ratio else f'{ratio:6.2f} x torch'}")
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "us", "x_torch"])
            writer.writerows(rows)


if __name__ == "__main__":
    main()
