"""Draws the CSV of a benchmark program as a PNG beside it.

    python bench/plot.py results/NAME/round_trip.csv [...]

One panel a column, one bar a row; a panel whose values span more than a factor of 30 is logarithmic. The comment
lines of the CSV (question, machine, notes) become title and footer.
"""

import argparse
import csv
import math
import pathlib
import sys


def read(path: pathlib.Path):
    """Returns (comments, column names, [(row name, figures)]) of a benchmark's CSV."""
    comments, lines = [], []
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            comments.append(line[1:].strip())
        elif line:
            lines.append(line)
    header, *body = csv.reader(lines)
    return comments, header[1:], [(row[0], [float(x) for x in row[1:]]) for row in body]


def draw(path: pathlib.Path) -> pathlib.Path:
    """Draws one CSV; returns the path of the PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    comments, columns, rows = read(path)
    names = [name for name, _ in rows]
    figure, axes = plt.subplots(
        1, len(columns), figsize=(2.5 + 3.2 * len(columns), 1.4 + 0.42 * len(rows)), sharey=True, squeeze=False
    )
    for axis, column, i in zip(axes[0], columns, range(len(columns))):
        values = [figures[i] for _, figures in rows]
        colours = ["#c44e52" if "ringlaunch" in name else "#4c72b0" for name in names]
        axis.barh(range(len(rows)), [0 if math.isnan(v) else v for v in values], color=colours)
        positive = [v for v in values if v > 0]
        if positive and max(positive) / min(positive) > 30:
            axis.set_xscale("log")
        for y, value in enumerate(values):
            if not math.isnan(value):
                axis.annotate(f" {value:,.3g}", (max(value, 0), y), va="center", fontsize=8)
        axis.margins(x=0.25)
        axis.set_title(column, fontsize=9)
        axis.set_yticks(range(len(rows)), names, fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].invert_yaxis()
    figure.suptitle("\n".join(comments[:2]), fontsize=10)
    figure.text(0.01, 0.0, "\n".join(comments[2:]), fontsize=7, va="top")
    figure.tight_layout()
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("csv", nargs="+", type=pathlib.Path, help="what a benchmark program wrote with --csv")
    for path in parser.parse_args().csv:
        try:
            print(draw(path))
        except (OSError, ValueError) as error:
            print(f"cannot draw {path}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
