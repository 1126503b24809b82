"""Figure and table of regression targets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from subquad.hep.metrics.predictions import Predictions
from subquad.hep.metrics.regression import REGRESSION_METRICS, response
from subquad.hep.plots.class_histograms import MAX_TOGETHER, draw_classes
from subquad.reporting.page import Table

CAPTION = (
    "Left: predicted against true value, with the number of jets per cell; on the dotted line both are equal. Right: "
    "predicted / true of the jets of each class whose true value is above 0; the last bins hold all beyond the axis. "
    "Where each class has a panel, the thin line is the background."
)


def regression_figure(one: Predictions, target: str, classes: Sequence[str], background: str) -> Figure:
    """Return predicted against true values of a target, and the response of each class."""
    predicted, true = one.predicted[target].astype(np.float64), one.true[target].astype(np.float64)
    is_together = len(classes) <= MAX_TOGETHER
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    places = figure.add_gridspec(1, 2, width_ratios=(1, 1 if is_together else 1.3))
    left_half, right_half = (figure.add_subfigure(place) for place in places)
    left = left_half.subplots()
    low, high = (float(np.quantile(true, part)) for part in (0.005, 0.995))
    room = 0.1 * (high - low or 1.0)
    ends = (low - room, high + room)
    counts, x, y = np.histogram2d(true, predicted.clip(*ends), bins=40, range=(ends, ends))
    image = left.pcolormesh(x, y, np.where(counts.T > 0, counts.T, np.nan), cmap="Blues", vmin=0)
    left.plot(ends, ends, color="0.4", linewidth=0.8, linestyle=":")
    left.set(xlim=ends, ylim=ends, xlabel=f"true {target}", ylabel=f"predicted {target}")
    left_half.colorbar(image, ax=left, label="jets")

    columns = 1 if is_together else 3
    rows = 1 if is_together else -(-len(classes) // columns)
    cells = list(right_half.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    grid = cells[: 1 if is_together else len(classes)]
    for axes in cells[len(grid) :]:
        axes.set_axis_off()
    ratio, edges = response(predicted, true).clip(0, 2 - 1e-9), np.linspace(0, 2, 41)
    draw_classes(grid, one, classes, background, values=ratio, edges=edges)
    for axes in grid:
        axes.axvline(1, color="0.4", linewidth=0.8, linestyle=":")
    grid[0].set(xlim=(0, 2), ylim=(0, None))
    right_half.supxlabel("predicted / true", fontsize=12)
    right_half.supylabel("fraction of jets", fontsize=12)
    if is_together and grid[0].get_legend_handles_labels()[0]:
        grid[0].legend(loc="upper right", frameon=False, fontsize=8)
    return figure


def regression_table(models: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return the metrics of the targets, one row per model and target; None without targets."""
    rows = [
        [model["name"], target, *(_cell(model["trainings"], target, name) for name in REGRESSION_METRICS)]
        for model in models
        for target in model["trainings"][0].get("targets", {})
    ]
    if not rows:
        return None
    return Table(
        ["model", "target", *REGRESSION_METRICS.values()],
        rows,
        caption="Bias: median of predicted / true, minus 1. Resolution: half of the range of predicted / true "
        "between its 16 % and 84 % quantiles; both of jets whose true value is above 0. With the standard error by "
        "bootstrap over jets; of several trainings the mean.",
    )


def _cell(trainings: Sequence[Mapping[str, Any]], target: str, name: str) -> str:
    entries = [one["targets"][target] for one in trainings]
    if any(entry[name] is None for entry in entries):
        return "–"
    halves = [(high - low) / 2 for low, high in (entry["intervals"].get(name, (0.0, 0.0)) for entry in entries)]
    return f"{np.mean([entry[name] for entry in entries]):.4f} ± {np.mean(halves):.4f}"
