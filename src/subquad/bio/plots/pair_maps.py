"""Figures of epistasis: maps of pairs of positions, strongest partners along the sequence, variance by order.

Axes: L positions.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from subquad.bio.plots.maps import HATCH_LEGEND, hatch, hatch_patch, rows_of, with_grey
from subquad.reporting.page import show
from subquad.reporting.style import GREEN, GREY, INK, OCHRE, tidy
from subquad.reporting.vector_figure import CellFigure

__all__ = ["order_bars", "pair_map", "pair_stems"]

MAX_CELL_TEXTS = 20_000
"""Most cells of a map of pairs that have texts; those of larger maps would take megabytes."""


def pair_map(
    panels: Mapping[str, np.ndarray],
    *,
    labels: Sequence[str],
    axis: str,
    signed: Collection[str] = (),
    unobserved: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Return maps of pairs of positions side by side, each with its own colour scale.

    Args:
        panels: Title and `(L, L)` values of each map; NaN where there is no pair.
        labels: Labels of the L positions.
        axis: Label of the axes.
        signed: Titles of the maps whose values may be of either sign, with colours that diverge from zero.
        unobserved: `(L, L)` bool of maps, by title: pairs without training data, which are hatched.
    """
    count = len(panels)
    figure = CellFigure(figsize=(4.7 * count + 0.4, 4.3), layout="constrained")
    for axes, (title, values) in zip(np.atleast_1d(figure.subplots(1, count)), panels.items(), strict=True):
        known = values[np.isfinite(values)]
        is_signed = title in signed
        most = float(np.quantile(np.abs(known), 0.995)) if known.size else 1.0
        cmap, low = (with_grey("RdBu"), -most) if is_signed else (with_grey("magma_r"), 0.0)
        image = axes.imshow(values, cmap=cmap, vmin=low, vmax=most or 1.0, interpolation="nearest")
        if values.size <= MAX_CELL_TEXTS:
            figure.cell_texts[axes] = [
                [f"{one}, {other}: {show(float(value))}" if np.isfinite(value) else "" for other, value in line]
                for one, line in ((one, zip(labels, row, strict=True)) for one, row in zip(labels, values, strict=True))
            ]
        hatch(axes, (unobserved or {}).get(title, np.zeros(values.shape, dtype=bool)))
        is_cut = known.size and np.abs(known).max() > most * 1.001
        figure.colorbar(image, ax=axes, shrink=0.82, extend=("both" if is_signed else "max") if is_cut else "neither")
        axes.set_title(title, fontsize=10)
        step = max(1, -(-len(labels) // 24))
        # where the labels are consecutive numbers, label multiples of five
        start = (
            next((k for k, name in enumerate(labels) if name[1:].isdigit() and int(name[1:]) % 5 == 0), 0)
            if step > 1
            else 0
        )
        ticks = range(start, len(labels), 5 if step in (2, 3, 4) else step)
        axes.set_xticks(ticks, [labels[k] for k in ticks], rotation=90, fontsize=7)
        axes.set_yticks(ticks, [labels[k] for k in ticks], fontsize=7)
        axes.set_xlabel(axis, fontsize=9)
        axes.set_ylabel(axis, fontsize=9)
    if any(cells.any() for cells in (unobserved or {}).values()):
        text = "letters not observed in training (extrapolation)"
        figure.legend([hatch_patch()], [text], loc="outside lower center", **HATCH_LEGEND)
    return figure


def pair_stems(
    positions: np.ndarray, values: Mapping[str, np.ndarray], *, length: int, label: str, offset: int = 0
) -> Figure:
    """Return values at positions (numbered from 1 + `offset`) as stems along the sequence, one panel per source."""
    rows = [range(row.start + offset, row.stop + offset) for row in rows_of(length, 150)]
    figure = Figure(figsize=(10.5, 0.3 + 1.5 * len(rows) * len(values)), layout="constrained")
    panels = figure.subplots(len(rows) * len(values), 1, sharey=True, squeeze=False)[:, 0]
    for k, (axes, (row, name)) in enumerate(zip(panels, ((r, n) for r in rows for n in values), strict=True)):
        # midpoints of pairs lie between two positions, and so do the ends of rows
        own = (positions > row.start + 0.5) & (positions <= row.stop + 0.5) & np.isfinite(values[name])
        colour = (GREEN, OCHRE)[list(values).index(name) % 2]
        axes.vlines(positions[own], 0, values[name][own], color=colour, linewidth=1.6, label=name)
        axes.set(xlim=(row.start, row.start + len(rows[0]) + 1), ylim=(0, None))
        axes.set_ylabel(label if k == len(panels) // 2 else "", fontsize=8)
        axes.tick_params(labelsize=7.5)
        tidy(axes)
        if len(values) > 1 and k < len(values):
            axes.legend(frameon=False, fontsize=8, loc="upper right")
    panels[-1].set_xlabel("position", fontsize=8)
    return figure


def order_bars(fractions: Mapping[str, Sequence[float]], *, label: str) -> Figure:
    """Return bars of the variance explained by each order of interaction, one colour per source."""
    orders = max(len(values) for values in fractions.values())
    figure = Figure(figsize=(max(4.6, 0.75 * orders + 2), 3.4))
    axes = figure.add_subplot()
    width = 0.8 / len(fractions)
    for k, (name, values) in enumerate(fractions.items()):
        x = np.arange(len(values)) + 1 + (k - (len(fractions) - 1) / 2) * width
        bars = axes.bar(x, 100 * np.asarray(values), width * 0.94, color=[GREEN, OCHRE, GREY][k % 3], label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=7.5, padding=2)
    axes.set_xticks(range(1, orders + 1))
    axes.set(xlabel="order of interaction (sites involved)", ylabel=label)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.margins(y=0.12)
    if len(fractions) > 1:
        axes.legend(loc="upper right", frameon=False, fontsize=8.5)
    tidy(axes)
    return figure
