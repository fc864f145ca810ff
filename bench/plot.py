"""Draws the CSV of a benchmark program as a PNG beside it.

    python bench/plot.py results/NAME/round_trip.csv [...]

One panel a column, one bar a row; where the CSV says "along: X", lines along the first column instead, one for each
name. `us_min` and `us_max` are the spread of `us`, not panels. A panel whose values span more than a factor of 30 is
logarithmic. The comment lines of the CSV (question, machine, notes) become title and footer.
"""

import argparse
import csv
import math
import pathlib
import sys

ENDS = ("_min", "_max")
OURS = "#c44e52"


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


def spread_of(column: str, columns: list[str], figures: list[float]) -> tuple[float, float]:
    """How far the least and the most lie from a figure; NaN where the CSV has no such columns."""
    value = figures[columns.index(column)]
    low, high = (figures[columns.index(column + end)] if column + end in columns else math.nan for end in ENDS)
    return value - low, high - value


def wide(values: list[float]) -> bool:
    """Whether they want a logarithmic scale."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) / min(positive) > 30


def draw_bars(axes, columns, panels, rows):
    names = [name for name, _ in rows]
    for axis, column in zip(axes, panels):
        values = [figures[columns.index(column)] for _, figures in rows]
        colours = [OURS if "ringlaunch" in name else "#4c72b0" for name in names]
        axis.barh(range(len(rows)), [0 if math.isnan(v) else v for v in values], color=colours)
        if wide(values):
            axis.set_xscale("log")
        for y, (_, figures) in enumerate(rows):
            value, (below, above) = values[y], spread_of(column, columns, figures)
            if not math.isnan(below + above):
                axis.errorbar(
                    value, y, xerr=[[max(below, 0)], [max(above, 0)]], color="black", capsize=2, linewidth=0.8
                )
            if not math.isnan(value):
                axis.annotate(
                    f" {value:,.3g}",
                    (max(value, 0 if math.isnan(above) else value + above), y),
                    va="center",
                    fontsize=8,
                )
        axis.margins(x=0.25)
        axis.set_title(column, fontsize=9)
        axis.set_yticks(range(len(rows)), names, fontsize=8)
    axes[0].invert_yaxis()


def draw_lines(axes, columns, panels, rows):
    for axis, column in zip(axes, panels):
        for name in dict.fromkeys(name for name, _ in rows):
            points = [figures for of, figures in rows if of == name]
            points = [figures for figures in points if not math.isnan(figures[columns.index(column)])]
            if not points:
                continue
            style = {"color": OURS, "linewidth": 2} if "ringlaunch" in name else {}
            spreads = [spread_of(column, columns, figures) for figures in points]
            axis.errorbar(
                [figures[0] for figures in points],
                [figures[columns.index(column)] for figures in points],
                yerr=[[0 if math.isnan(end) else max(end, 0) for end in ends] for ends in zip(*spreads)],
                label=name,
                marker="o",
                markersize=3,
                capsize=2,
                elinewidth=0.8,
                **style,
            )
        if wide([figures[0] for _, figures in rows]):
            axis.set_xscale("log")
        if wide([figures[columns.index(column)] for _, figures in rows]):
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.set_title(column, fontsize=9)
        axis.set_xlabel(columns[0], fontsize=8)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)


def draw(path: pathlib.Path) -> pathlib.Path:
    """Draws one CSV; returns the path of the PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    comments, columns, rows = read(path)
    along = any(line.startswith("along: ") for line in comments)
    panels = [c for c in columns[1 if along else 0 :] if not (c.endswith(ENDS) and c.rsplit("_", 1)[0] in columns)]
    size = (1.5 + 4.2 * len(panels), 4.6) if along else (2.5 + 3.2 * len(panels), 1.4 + 0.42 * len(rows))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=not along, squeeze=False)
    (draw_lines if along else draw_bars)(axes[0], columns, panels, rows)
    for axis in axes[0]:
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("\n".join(comments[:2]), fontsize=10)
    figure.text(
        0.01, 0.0, "\n".join(line for line in comments[2:] if not line.startswith("along: ")), fontsize=7, va="top"
    )
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
