"""The pictures of what a tagger looks at, in the style of the field."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from subquad.hep.explanation.displays import TYPES, Display
from subquad.hep.plots.style import colours, in_style, latex_name, panels

__all__ = ["displays_figure", "exponents_figure", "features_figure", "table_figure"]

MARKERS = ("o", "s", "D", "^", "v")
ROWS = 24
"""Most features in one picture."""


def _cells(axes: Axes, table: np.ndarray, words: Sequence[Sequence[str]], *, cmap: str | Colormap, **given: Any) -> Any:
    image = axes.imshow(table, cmap=cmap, aspect="auto", **given)
    for i, row in enumerate(words):
        for j, text in enumerate(row):
            red, green, blue, _ = image.cmap(image.norm(table[i, j])) if np.isfinite(table[i, j]) else (1, 1, 1, 1)
            is_dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color="w" if is_dark else "k")
    axes.minorticks_off()
    axes.tick_params(which="both", length=0)
    return image


@in_style
def table_figure(
    tables: Mapping[str, np.ndarray], rows: Sequence[str], columns: Sequence[str], *, is_wide: bool = False
) -> Figure:
    """Return shares as per cent, a panel for each table [rows, columns]; NaN stays empty."""
    height, width = 1.3 + 0.36 * len(rows) + is_wide, (0.42 if is_wide else 0.9) * len(columns) + 0.6
    figure, grid = panels(1.3 + width * len(tables), height, columns=len(tables), sharey=True, squeeze=False)
    for axes, (title, table) in zip(grid.flat, tables.items(), strict=True):
        words = [["" if np.isnan(value) else f"{100 * value:.0f}" for value in row] for row in table]
        _cells(axes, table, words, cmap="Blues", vmin=0, vmax=max(0.01, float(np.nanmax(table, initial=0))))
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if is_wide else {}
        axes.set_xticks(range(len(columns)), columns, **turned)
        axes.set_yticks(range(len(rows)), [latex_name(name) for name in rows])
        axes.set_title(title)
    return figure


@in_style
def exponents_figure(exponents: np.ndarray, variables: Sequence[str]) -> Figure:
    """Return the learnt powers [graphs, variables] of the edges' weights."""
    most = max(0.1, float(np.abs(exponents).max()))
    figure, axes = panels(5.4, 1.2 + 0.36 * len(exponents))
    words = [[f"{value:+.2f}" for value in row] for row in exponents]
    image = _cells(axes, exponents, words, cmap="RdBu_r", vmin=-most, vmax=most)
    axes.set_xticks(range(len(variables)), variables)
    axes.set_yticks(range(len(exponents)), [f"graph {g + 1}" for g in range(len(exponents))])
    figure.colorbar(image, ax=axes, label="exponent")
    return figure


@in_style
def features_figure(rows: Mapping[str, Mapping[str, Any]], measure: str) -> Figure:
    """Return importance by gradients beside that by shuffling, the most important ones first.

    Args:
        rows: by feature `gradient`, a share, and `permutation`: `accuracy`, `auc` and their deviations.
        measure: what was lost by shuffling: `accuracy` or `auc`.
    """
    order = sorted(rows, key=lambda name: -rows[name]["permutation"][measure])[:ROWS]
    places = np.arange(len(order))
    figure, (left, right) = panels(9.6, 1.2 + 0.27 * len(order), columns=2, sharey=True)
    left.barh(places, [100 * rows[name]["gradient"] for name in order], color=colours(1)[0], height=0.7)
    lost = [rows[name]["permutation"] for name in order]
    right.barh(
        places,
        [100 * entry[measure] for entry in lost],
        xerr=[100 * entry[f"{measure}_deviation"] for entry in lost],
        color=colours(2)[1],
        height=0.7,
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    right.axvline(0, color="0.3", linewidth=0.8)
    left.set_yticks(places, order)
    left.set_ylim(len(order) - 0.4, -0.6)
    for axes in (left, right):
        axes.tick_params(axis="y", which="both", length=0)
        axes.yaxis.minorticks_off()
    left.set_xlabel("share of the gradients [%]")
    right.set_xlabel(f"{'top-1 accuracy' if measure == 'accuracy' else 'AUC'} lost by shuffling [%]")
    return figure


@in_style
def displays_figure(displays: Sequence[Display]) -> Figure:
    """Return jets as they lie in Δη and Δφ, two in a row; the legend says what is what."""
    rows = -(-len(displays) // 2)
    figure, grid = panels(9.6, 4.3 * rows + 0.6, rows=rows, columns=2, squeeze=False)
    for axes, display in zip(grid.flat, displays, strict=False):
        _draw(axes, display)
    for axes in grid[:, 0]:
        axes.set_ylabel(r"$\Delta\phi$")
    for axes in list(grid.flat)[len(displays) :]:
        axes.set_axis_off()
    names = [name for name in TYPES.values() if any(name in display.types for display in displays)]
    handles = [
        Line2D([], [], linestyle="", marker=marker, markersize=6, color=colour, label=name)
        for marker, colour, name in _looks()
        if name in names
    ]
    ring = {"linestyle": "", "marker": "o", "markersize": 9, "markerfacecolor": "none"}
    if any(display.displaced.any() for display in displays):
        handles.append(Line2D([], [], markeredgecolor="k", markeredgewidth=1.4, label="displaced track", **ring))
    halo = {**ring, "markerfacecolor": "#ffd23f", "markeredgecolor": "none"}
    handles += [
        Line2D([], [], label="particle that counts", **halo),
        Line2D([], [], color=colormaps["Reds"](0.9), label="edge that counts"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def _looks() -> list[tuple[str, str, str]]:
    return list(zip(MARKERS, (colours(10)[i] for i in (0, 3, 4, 6, 9)), TYPES.values(), strict=True))


def _draw(axes: Axes, display: Display) -> None:
    order = np.argsort(display.importance, kind="stable")
    shown = display.importance[order]
    reds = LinearSegmentedColormap.from_list("edges", ["0.85", *colormaps["Reds"]([0.4, 0.7, 0.95])])
    colour = reds(shown)
    colour[:, 3] = 0.35 + 0.65 * shown
    segments = display.points[display.edges[order]]
    axes.add_collection(
        LineCollection(list(segments), colors=colour, linewidths=0.4 + 1.8 * display.weights[order], zorder=1)
    )
    # areas go with pT, and the softest ones can still be seen
    area = 6 + 700 * display.pt
    eta, phi = display.points.T
    halo = np.tile(np.array([1.0, 0.82, 0.25, 1.0]), (len(area), 1))
    halo[:, 3] = display.particles
    axes.scatter(eta, phi, s=2.2 * area + 60, c=halo, edgecolors="none", zorder=2)
    types = np.array(display.types or [""] * len(area))
    ring = {"linewidths": np.where(display.displaced, 1.4, 0.3), "edgecolors": np.where(display.displaced, "k", "w")}
    for marker, fill, name in [*_looks(), ("o", "0.5", "")]:
        of = types == name
        looks = {key: value[of] for key, value in ring.items()}
        axes.scatter(eta[of], phi[of], s=area[of], marker=marker, color=fill, **looks, zorder=3)
    reach = max(0.2, 1.12 * float(np.abs(display.points).max(initial=0)))
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel=r"$\Delta\eta$")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    is_right = display.label == display.taken
    words = f"{latex_name(display.label)}, score {display.probability:.2f}"
    if not is_right:
        words = f"{latex_name(display.label)} taken for {latex_name(display.taken)}, {display.probability:.2f}"
    axes.set_title(words, color="k" if is_right else "#bd1f01")
