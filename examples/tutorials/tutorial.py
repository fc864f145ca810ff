"""What the tutorial programs share: the command line, a client, and comparing with NumPy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import numpy as np

import ringlaunch as rl

# A name, what the GPU has computed, what NumPy has, and by how much an element may differ (relatively, absolutely).
Comparison = tuple[str, np.ndarray, np.ndarray, float, float]


def run(about: str, compare: Callable[[rl.Client], Iterator[Comparison]]) -> int:
    """Runs a tutorial's comparisons against a daemon; the exit code is 0 only if all agree."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--driver", choices=("cuda", "null"), help="what the daemon must launch on (default: any)")
    options = parser.parse_args()
    failed = False
    try:
        with rl.connect(driver=options.driver) as client:
            info = client.daemon
            print(f"driver {info.driver}, {info.device_name} ({info.architecture})")
            for name, found, expected, relative, absolute in compare(client):
                far = ~np.isclose(found, expected, rtol=relative, atol=absolute)
                if far.any():
                    failed = True
                    print(f"{name}: FAILED: {far.sum()} of {far.size} elements differ from NumPy's", file=sys.stderr)
                else:
                    print(f"{name}: all {far.size} elements agree with NumPy")
            if failed and info.driver == "null":
                print("the null driver runs no kernel; use one that does", file=sys.stderr)
    except rl.Error as error:
        print(error, file=sys.stderr)
        return 1
    return int(failed)
