"""Histograms by class: of few classes in one panel, of many in one small panel per class. About 0.5 s each."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subquad.hep.metrics.predictions import Predictions
from subquad.hep.plots.style import class_colours, draw_fractions, latex_name
from subquad.reporting.page import Picture, picture
from subquad.reporting.style import panel_grid, panels

MAX_TOGETHER = 4
"""Classes whose histograms are still told apart in one panel."""
COLUMNS, BINS = 5, 30
"""Small panels in a row, and bins of a histogram."""


def observer_histograms(predictions: Predictions, classes: Sequence[str], background: str) -> Iterator[Picture]:
    """Yield soft-drop mass, pT and number of particles by class, as far as known; one figure if the classes are few."""
    known = {
        "soft-drop mass": ("soft-drop mass [GeV]", predictions.sdmass),
        "pT": (r"jet $p_T$ [GeV]", predictions.pt),
        "number of particles": ("number of particles", predictions.multiplicity),
    }
    shown = {title: (label, values) for title, (label, values) in known.items() if values is not None}
    if shown and len(classes) <= MAX_TOGETHER:
        figure = _observers_figure(predictions, classes, background, dict(shown.values()))
        yield picture(figure, f"Test jets by class: {', '.join(shown)}.")
        return
    for title, (label, values) in shown.items():
        figure = _small_panels(predictions, classes, background, values, label)
        yield picture(figure, f"Test jets by class: {title}. Thin line: {background}.")


def _edges(values: np.ndarray) -> np.ndarray:
    """Return the limits of the bins: from 0, unless all values are far from it."""
    values = values[np.isfinite(values)]
    low, high = (float(end) for end in np.quantile(values, [0, 0.99])) if len(values) else (0.0, 1.0)
    low = low if low > high / 3 else 0.0
    if np.array_equal(values, np.round(values)):
        # bins with as many whole numbers each
        step = max(1, -(-int(high - low) // BINS))
        return np.arange(low - 0.5, high + step, step)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def _observers_figure(
    predictions: Predictions, classes: Sequence[str], background: str, observers: Mapping[str, np.ndarray]
) -> Figure:
    figure, grid = panels(9.6, 3.4, columns=len(observers), squeeze=False)
    for axes, (label, values) in zip(grid.flat, observers.items(), strict=True):
        edges = _edges(values)
        draw_classes([axes], predictions, classes, background, values=values, edges=edges)
        axes.set(xlabel=label, ylabel="fraction of jets", xlim=(edges[0], edges[-1]), ylim=(0, None))
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, ncols=5, loc="outside upper center", frameon=False, fontsize=9)
    return figure


def _small_panels(
    predictions: Predictions, classes: Sequence[str], background: str, values: np.ndarray, label: str
) -> Figure:
    size = {"columns": COLUMNS, "width": 1.95, "height": 1.75, "extra": 0.4}
    figure, grid = panel_grid(len(classes), sharex=True, sharey=True, **size)
    edges = _edges(values)
    draw_classes(grid, predictions, classes, background, values=values, edges=edges)
    grid[0].set(xlim=(edges[0], edges[-1]), ylim=(0, None))
    figure.supxlabel(label, fontsize=11)
    figure.supylabel("fraction of jets", fontsize=11)
    return figure


def draw_classes(
    grid: Sequence[Axes],
    predictions: Predictions,
    classes: Sequence[str],
    background: str,
    *,
    values: np.ndarray,
    edges: np.ndarray,
) -> None:
    """Draw a histogram of each class, all in one panel or one in each; then the background is in all of them.

    Args:
        grid: One panel, or one per class.
        predictions: The jets.
        classes: Names of the classes.
        background: Class with the thin line, in the colour of text.
        values: `(J,)`; NaN is left out.
        edges: Limits of the bins.
    """
    colours = class_colours(classes, background)

    def draw(axes: Axes, i: int, width: float) -> None:
        rows = (predictions.labels == i) & ~np.isnan(values)
        if rows.any():
            looks = {"colour": colours[classes[i]], "label": latex_name(classes[i]), "width": width}
            draw_fractions(axes, values[rows], edges, weights=predictions.weights_of(rows)[1], **looks)

    for i, name in enumerate(classes):
        if len(grid) == 1:
            draw(grid[0], i, 1.1)
            continue
        if name != background:
            draw(grid[i], classes.index(background), 0.8)
        draw(grid[i], i, 1.4)
        grid[i].set_title(latex_name(name), loc="left", fontsize=10)
