"""Measures on this machine: `python -m ringlaunch.bench triton`.

    python -m ringlaunch.bench triton [--driver cuda] [--runs 33] [--steps 5000] [--csv FILE] [--png FILE]
    python -m ringlaunch.bench triton --from FILE.csv --png FILE

What a call of a Triton kernel costs, beside Triton's own path, its bare C launcher, cuda.core, CuPy and torch, as far
as they are installed and there is a GPU; what each further parameter costs; a forward and backward pass through
autograd; time against length; the import and a first call.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_TABLES = ("calls", "growth", "autograd", "length", "once")


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, found {text!r}")
    return number


def _tables(text: str) -> tuple[str, ...]:
    for name in (names := tuple(text.split(","))):
        if name not in _TABLES:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(_TABLES)}, by commas, found {name!r}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """The program's entry point; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ringlaunch.bench", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="triton")
    triton = commands.add_parser("triton", help="what a call of a Triton kernel costs")
    triton.add_argument(
        "--driver", default="auto", help="of the daemon started for this: cuda, null, or auto (default: %(default)s)"
    )
    triton.add_argument(
        "--runs", type=_count, default=33, help="of which the first 10 are the table (default: %(default)s)"
    )
    triton.add_argument("--steps", type=_count, default=5000, help="of a run (default: %(default)s)")
    triton.add_argument(
        "--only", type=_tables, default=",".join(_TABLES), help="tables, by commas (default: %(default)s)"
    )
    triton.add_argument("--csv", type=Path, help="write the figures to this file")
    triton.add_argument("--png", type=Path, help="draw them (needs matplotlib)")
    triton.add_argument("--from", dest="source", type=Path, help="draw these figures instead of measuring")
    options = parser.parse_args(arguments)
    if options.source is None:
        try:
            import triton as _  # noqa: F401
        except ModuleNotFoundError:
            print("Triton is not installed: nothing to measure")
            return 77
    from ringlaunch import _bench_triton

    return _bench_triton.run(options)


if __name__ == "__main__":
    sys.exit(main())
