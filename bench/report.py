"""What a benchmark program in Python prints, as report.hpp does for C++: the machine, a table, a CSV for plot.py."""

import csv
import math
import os
import pathlib
import platform


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def target(what: str, found: float, bound: float, at_most: bool = True) -> str:
    """What the project wants to reach, and whether this run did: a line of notes."""
    met = (
        "not measured" if math.isnan(found) else "met" if (found <= bound if at_most else found >= bound) else "NOT met"
    )
    return f"target: {what}: {found:.3g}, {'at most' if at_most else 'at least'} {bound:.3g}: {met}"


def finish(
    question: str, columns: tuple[str, ...], rows: list[tuple], notes: list[str], path: pathlib.Path | None
) -> None:
    """Prints the table; writes it to `path`, if there is one. A row is a name and its figures."""
    width = max(len(row[0]) for row in rows)
    print(f"{question}\non {machine()}\n")
    print(" " * width + "".join(f"  {column:>10}" for column in columns))
    for name, *figures in rows:
        shown = ("-" if math.isnan(x) else f"{x:.2f}" if x < 100 else f"{x:.0f}" for x in figures)
        print(f"{name:{width}}" + "".join(f"  {x:>10}" for x in shown))
    print("\n".join(notes))
    if path:
        with path.open("w") as file:
            print("\n".join(f"# {line}" for line in (question, machine(), *notes)), file=file)
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("name", *columns))
            writer.writerows(rows)
