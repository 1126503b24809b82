"""Draw docs/images/scaling.png from tables of the results pages: python tools/results_pictures.py.

Nothing is measured here: the numbers are read from docs/*-results.md, which name the scripts that measured them.
"""

import math
import re
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

DOCS = Path(__file__).parents[1] / "docs"
PICTURE = DOCS / "images" / "scaling.png"
COLOURS = ("#1f6f54", "#b3541e", "#6b7280")


def rows(page: str, heading: str, first: str) -> list[list[str]]:
    """Return the cells of the table below a heading whose header row begins with `first`."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    start = next(number for number, cells in enumerate(lines) if cells[0] == first)
    table = [lines[start]]
    for cells in lines[start + 2 :]:
        if len(cells) != len(table[0]):
            break
        table.append(cells)
    return table


def number(cell: str) -> float:
    """Return the first number of a cell, or NaN if it has none."""
    found = re.search(r"\d[\d,.]*", cell)
    return float(found[0].replace(",", "")) if found else math.nan


def draw(axes: Axes, curves: dict[str, list[tuple[float, float]]], x: str, y: str) -> None:
    """Draw curves on logarithmic axes, each named at its last point."""
    for colour, (name, points) in zip(COLOURS, curves.items(), strict=False):
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    axes.set_xticks([point for point, _ in max(curves.values(), key=len)])
    axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:g}"))
    axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(mpl.ticker.NullLocator())
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)


def decoding() -> dict[str, list[tuple[float, float]]]:
    """Return milliseconds per token of one sequence against the context."""
    header, *table = rows("llm-results.md", "Speed and memory of decoding", "")
    columns = [column for column, cell in enumerate(header) if cell.endswith(" tokens")]
    names = ("default", "static key-value cache", "dynamic key-value cache")
    return {
        name: [(number(header[column]), number(cells[column])) for column in columns]
        for name in names
        for cells in table
        if cells[0].strip("*").startswith(name)
    }


def training() -> dict[str, list[tuple[float, float]]]:
    """Return how many times longer the quadratic form of attention takes, against the number of tokens."""
    header, *table = rows("llm-results.md", "Time and memory of training", "tokens")
    column = header.index("stage 2, terrace")
    points = [(number(cells[0]), number(cells[column])) for cells in table]
    return {"quadratic / chunked": [point for point in points if not math.isnan(point[1])]}


def particles() -> dict[str, list[tuple[float, float]]]:
    """Return milliseconds per jet against the number of particles, of `auto` and both forms of `auto-chebyshev`."""
    header, *table = rows("hep-results.md", "Growth with the number of particles", "milliseconds per jet")
    counts = [number(cell) for cell in header[1:-1]]
    names = ("auto", "auto-chebyshev", "auto-chebyshev, whole matrices")
    curves = {name: cells[1:-1] for name, cells in zip(names, table, strict=False)}
    return {
        name: [(count, number(cell)) for count, cell in zip(counts, cells, strict=True)]
        for name, cells in curves.items()
    }


def main() -> None:
    """Write the picture."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    draw(panels[0], decoding(), "tokens of context", "milliseconds per token")
    draw(panels[1], training(), "tokens", "times longer")
    draw(panels[2], particles(), "particles per jet", "milliseconds per jet")
    titles = ("decoding, one sequence", "attention in training", "jet networks")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
