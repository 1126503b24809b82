"""Figures of fitness landscapes: single mutants, sequence logos, profiles, base pairs, scatter plots.

Axes: A letters, L positions.
"""

import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

from subquad.errors import require
from subquad.reporting.page import signed
from subquad.reporting.style import BLUE, GREEN, GREY, INK, OCHRE, ON_LIGHT, literal, tidy
from subquad.reporting.vector_figure import CellFigure
from subquad.runs.storage import atomic

BY_PROPERTY = "KRHDENQSTCGPAVILMFYW*"
"""Amino acids grouped by property: charged, polar, small, hydrophobic, aromatic; then the stop."""
CELL = 0.145
"""Size of a heat map cell, in inches."""
HATCH, HATCH_INK = "////", "#5a6375"
HATCH_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 7.5, "handlelength": 1.6, "borderaxespad": 0.2}
WIDEST = 80
"""Most positions in one row of a heat map."""
MAX_POINTS = 5000
"""Points that are drawn singly; more are drawn as a density."""


def rows_of(length: int, widest: int = WIDEST) -> list[range]:
    """Return the positions in each row of a wrapped map: rows of equal length, rounded to tens."""
    count = -(-length // widest)
    step = length if count == 1 else min(widest, -(-length // (10 * count)) * 10)
    return [range(start, min(start + step, length)) for start in range(0, length, step)]


def heat_map(
    effects: np.ndarray,
    wild_type: str,
    letters: str,
    *,
    label: str,
    offset: int = 0,
    unobserved: np.ndarray | None = None,
    notes: np.ndarray | None = None,
) -> CellFigure:
    """Return the heat map of all single mutants: one column per position, wrapped into rows.

    Args:
        effects: `(A, L)` difference to the wild type; NaN where there is none, as in the wild type's own cell.
        wild_type: L letters, written over the columns and marked by a dot in their cells.
        letters: The A letters of the rows.
        label: Label of the colour bar.
        offset: Positions are numbered from 1 + `offset`.
        unobserved: `(A, L)` bool: letters without training data, which are hatched.
        notes: `(A, L)` further lines of what cells show under the pointer.
    """
    texts = _cell_texts(effects, wild_type, letters, offset=offset, notes=notes)
    ordered = sorted(range(len(letters)), key=lambda k: BY_PROPERTY.find(letters[k]) if len(letters) > 5 else k)
    effects, texts, letters = effects[ordered], texts[ordered], "".join(letters[k] for k in ordered)
    unobserved = np.zeros(effects.shape, dtype=bool) if unobserved is None else unobserved[ordered]
    norm, cmap, extend = _diverging(effects)
    rows = rows_of(len(wild_type))
    widest = max(len(row) for row in rows)
    # from the top: wild-type letters, position means, cells, position numbers
    block = 0.2 + CELL + 0.06 + len(letters) * CELL + 0.34
    left, right, foot = 0.62, 1.05, 0.34 if unobserved.any() else 0.12
    width, height = left + max(widest, 20) * CELL + right, len(rows) * block + foot + 0.1
    figure = CellFigure(figsize=(width, height))
    mean = _column_means(effects)
    for k, row in enumerate(rows):
        top = height - 0.1 - k * block - 0.2
        size = (left / width, (top - CELL) / height, len(row) * CELL / width, CELL / height)
        strip = figure.add_axes(size)
        strip.imshow(mean[None, row], cmap=cmap, norm=norm, aspect="auto", interpolation="nearest")
        _bare(strip, ["mean"])
        for x, position in enumerate(row):
            strip.text(x, -0.75, wild_type[position], ha="center", va="bottom", fontsize=7, family="monospace")
        base = top - CELL - 0.06 - len(letters) * CELL
        axes = figure.add_axes((left / width, base / height, size[2], len(letters) * CELL / height))
        axes.imshow(effects[:, row], cmap=cmap, norm=norm, aspect="auto", interpolation="nearest")
        figure.cell_texts[axes] = texts[:, row].tolist()
        hatch(axes, unobserved[:, row])
        _bare(axes, list(letters))
        _number(axes, row, offset)
        own = [(x, letters.find(wild_type[p])) for x, p in enumerate(row) if wild_type[p] in letters]
        axes.scatter(*zip(*own, strict=True), s=5, color=ON_LIGHT, linewidths=0)
    bar = CELL + 0.06 + len(letters) * CELL
    place = (
        (left + max(widest, 20) * CELL + 0.2) / width,
        (height - 0.3 - bar) / height,
        0.13 / width,
        bar / height,
    )
    colours = figure.colorbar(ScalarMappable(norm, cmap), cax=figure.add_axes(place), extend=extend)
    label = literal(label if len(letters) > 5 else label.replace(": ", ":\n"))
    colours.set_label(label, fontsize=8 if len(letters) > 5 else 6.5)
    colours.ax.tick_params(labelsize=7)
    if unobserved.any():
        text = "letter not observed at this position in training (extrapolation)"
        figure.legend([hatch_patch()], [text], loc="lower left", bbox_to_anchor=(left / width, 0.0), **HATCH_LEGEND)
    return figure


def _cell_texts(
    effects: np.ndarray, wild_type: str, letters: str, *, offset: int, notes: np.ndarray | None
) -> np.ndarray:
    """Return mutation and effect of each cell, `(A, L)`, with its note on further lines."""
    texts = np.empty(effects.shape, dtype=object)
    for (k, x), value in np.ndenumerate(effects):
        position = f"{wild_type[x]}{x + 1 + offset}"
        if letters[k] == wild_type[x]:
            texts[k, x] = f"{position}: wild type"
            continue
        texts[k, x] = f"{position}{letters[k]}: " + (signed(float(value), 3) if np.isfinite(value) else "no value")
        if notes is not None and notes[k, x]:
            texts[k, x] += f"\n{notes[k, x]}"
    return texts


def hatch(axes: Axes, cells: np.ndarray) -> None:
    """Hatch the cells of an image, `(rows, columns)` bool."""
    y, x = np.nonzero(cells)
    if not len(x):
        return
    # one path of all cells: thousands of hatched patches take seconds
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    vertices = np.stack([x, y], axis=1)[:, None] + corners
    cells_path = Path.make_compound_path_from_polys(vertices)
    axes.add_patch(PathPatch(cells_path, hatch=HATCH, facecolor="none", edgecolor=HATCH_INK, linewidth=0))


def hatch_patch() -> Patch:
    """Return what stands for hatched cells in a legend."""
    return Patch(hatch=HATCH, facecolor="white", edgecolor=HATCH_INK, linewidth=0.5)


def logo(heights: np.ndarray, letters: str, *, label: str, offset: int = 0) -> Figure:
    """Return the sequence logo of `(L, A)` letter heights, wrapped as the heat map is.

    Raises:
        MissingExtra: logomaker is not installed.
    """
    logomaker = require("logomaker", extra="bio")
    import pandas as pd

    rows = rows_of(len(heights))
    widest = max(20, *(len(row) for row in rows))
    left, right, block = 0.62, 1.05, 1.35
    width, height = left + widest * CELL + right, len(rows) * block + 0.1
    figure = Figure(figsize=(width, height))
    scheme = "chemistry" if len(letters) > 5 else "classic"
    top = float(np.clip(heights, 0, None).sum(1).max())
    # without any information the heights are rounding errors
    top = top if top > 1e-9 else 1.0
    for k, row in enumerate(rows):
        base = height - (k + 1) * block + 0.25
        axes = figure.add_axes((left / width, base / height, len(row) * CELL / width, (block - 0.35) / height))
        # drawing a glyph is slow, so letters too low to be visible are left out
        shown = pd.DataFrame(np.where(heights[row] > 0.012 * top, heights[row], 0.0), columns=list(letters))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logomaker.Logo(shown, ax=axes, color_scheme=scheme, show_spines=False, vpad=0.02)
        axes.set(ylim=(0, top * 1.02), xlim=(-0.5, len(row) - 0.5))
        axes.spines["left"].set_visible(True)
        axes.spines["bottom"].set_visible(True)
        axes.tick_params(axis="y", labelsize=7)
        axes.set_ylabel(label, fontsize=8)
        _number(axes, row, offset)
    # below the last row only, since all rows have the same axis
    figure.axes[-1].set_xlabel("position", fontsize=8)
    return figure


def profile(values: np.ndarray, letters: str, *, names: Sequence[str], label: str) -> Figure:
    """Return predicted values `(L, O)` along a sequence, one line per output, wrapped into rows of 200 positions."""
    rows = rows_of(len(letters), 200)
    figure = Figure(figsize=(11.5, 0.4 + 1.7 * len(rows)))
    panels = np.atleast_1d(figure.subplots(len(rows), 1, sharey=True))
    widest = max(len(row) for row in rows)
    colours = [GREEN, OCHRE, BLUE, GREY, "#a33b3b", "#6d4b9a", "#3c9aa3", "#777722", INK]
    for row, axes in zip(rows, panels, strict=True):
        for k, name in enumerate(names):
            line = values[row, k]
            axes.plot(np.arange(len(row)), line, color=colours[k % len(colours)], linewidth=1.3, label=literal(name))
            if len(names) == 1:
                axes.fill_between(
                    np.arange(len(row)), line, min(0.0, float(np.nanmin(values))), color=GREEN, alpha=0.15
                )
        axes.set_xlim(-0.5, widest - 0.5)
        _number(axes, row)
        axes.set_ylabel(literal(label), fontsize=8)
        axes.tick_params(axis="y", labelsize=7)
        tidy(axes)
        if len(row) <= 100:
            for x, position in enumerate(row):
                axes.annotate(letters[position], (x, 1.0), xycoords=("data", "axes fraction"), fontsize=6, ha="center")
    if len(names) > 1:
        panels[0].legend(
            frameon=False, fontsize=8, ncols=min(len(names), 8), loc="lower left", bbox_to_anchor=(0, 1.08)
        )
    figure.tight_layout()
    return figure


def draw_base_pairs(axes: Axes, upper: np.ndarray, lower: np.ndarray | None = None, *, length: int) -> None:
    """Draw base pairs as arcs above and below a line: `(p, 3)` first and second position (from 0) and opacity."""
    for pairs, sign, colour in ((upper, 1, GREEN), (lower, -1, GREY)):
        if pairs is None:
            continue
        for first, second, strength in np.asarray(pairs, dtype=float).reshape(-1, 3):
            angle = np.linspace(0, np.pi, 60)
            radius = (second - first) / 2
            x, y = (first + second) / 2 + radius * np.cos(angle), sign * radius * np.sin(angle)
            axes.plot(x + 1, y, color=colour, linewidth=1.1, alpha=float(np.clip(strength, 0.05, 1)))
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlim=(0, length + 1), yticks=[])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=7)


def base_pair_figure(pairs: np.ndarray, length: int) -> Figure:
    """Return base pairs, `(p, 3)` first and second position (from 1) and probability, as arcs over the sequence."""
    figure = Figure(figsize=(max(5.0, min(12.0, 0.12 * length)), 4.0))
    draw_base_pairs(figure.add_subplot(), pairs - np.array([1, 1, 0]), length=length)
    return figure


def draw_points(axes: Axes, x: np.ndarray, y: np.ndarray, **options: Any) -> Any:
    """Draw points, or the density of more than `MAX_POINTS`, which is returned; `options` are those of `hexbin`."""
    if len(x) > MAX_POINTS:
        return axes.hexbin(x, y, gridsize=60, bins="log", cmap="Greens", mincnt=1, linewidths=0, **options)
    axes.scatter(x, y, s=8, alpha=min(0.7, 60 / len(x) ** 0.6 + 0.05), color=GREEN, linewidths=0)
    return None


def scatter(
    x: np.ndarray,
    y: np.ndarray,
    *,
    labels: tuple[str, str],
    curve: tuple[np.ndarray, np.ndarray] | None = None,
    has_line: bool = True,
) -> Figure:
    """Return a scatter plot, or a density plot of many points, perhaps with the line of agreement and a curve."""
    figure = Figure(figsize=(5.2, 4.4))
    axes = figure.add_subplot()
    density = draw_points(axes, x, y)
    if density is not None:
        figure.colorbar(density, ax=axes, label="rows")
    if curve is not None:
        axes.plot(*curve, color=OCHRE, linewidth=2)
    if has_line:
        ends = [max(x.min(), y.min()), min(x.max(), y.max())]
        axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle="--")
    axes.set(xlabel=literal(labels[0]), ylabel=literal(labels[1]))
    tidy(axes)
    return figure


def correlation_text(x: np.ndarray, y: np.ndarray) -> str:
    """Return Spearman's correlation as text; there is none for constant values."""
    from scipy.stats import spearmanr

    if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return "no correlation: all values are equal"
    correlation: Any = spearmanr(x, y)
    return f"Spearman {correlation.statistic:.3f}"


def save(figure: Figure, stem: pathlib.Path) -> None:
    """Write a figure as PNG and as PDF."""
    for ending in (".png", ".pdf"):
        with atomic(stem.with_suffix(ending)) as temporary:
            figure.savefig(temporary, format=ending[1:], dpi=200, bbox_inches="tight")


def _diverging(effects: np.ndarray) -> tuple[Normalize, Colormap, str]:
    known = effects[np.isfinite(effects)]
    # saturate at the 1st and 99th percentile, so that few outliers do not flatten the colours of all others
    low, high = np.quantile(known, [0.01, 0.99]) if known.size else (-1.0, 1.0)
    most = max(abs(low), abs(high)) or 1.0
    is_below, is_above = bool((known < -most).any()), bool((known > most).any())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
        is_below, is_above
    ]
    return TwoSlopeNorm(0.0, -most, most), with_grey("RdBu"), extend


def with_grey(name: str) -> Colormap:
    """Return a colour map that shows missing values in grey."""
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad="#eceef2")


def _column_means(effects: np.ndarray) -> np.ndarray:
    count = np.isfinite(effects).sum(0)
    return np.where(count > 0, np.nansum(effects, 0) / np.maximum(count, 1), np.nan)


def _bare(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=7, family="monospace" if len(names) > 1 else None)
    axes.set_xticks([])
    axes.tick_params(length=0, pad=3)
    for side in axes.spines.values():
        side.set(linewidth=0.5, color=GREY)


def _number(axes: Axes, row: range, offset: int = 0) -> None:
    numbers = [position + 1 + offset for position in row]
    ticks = [x for x, number in enumerate(numbers) if number % 10 == 0 or (x == 0 and number % 10 == 1)] or [0]
    axes.set_xticks(ticks, [str(numbers[x]) for x in ticks], fontsize=7)
    axes.tick_params(axis="x", length=2, pad=2)
