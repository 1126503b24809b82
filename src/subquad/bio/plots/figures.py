"""Figures of a report: comparisons of models, data, calibration, residuals, training and single sequences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from subquad.bio.compared_models import colour_of, label_of
from subquad.bio.plots.maps import draw_base_pairs, draw_points
from subquad.reporting.style import FILL, GREEN, GREY, INK, LINE, OCHRE, confusion_figure, literal, panels, tidy

PARTS = {"train": GREY, "validation": OCHRE, "test": GREEN}
LEGEND_COLUMNS = 4


def histograms(parts: Sequence[Mapping[str, Any]]) -> Figure:
    """Return histograms side by side; each panel has `edges`, `counts` by name, `label` and perhaps `is_integer`."""
    figure, grid = panels(min(11.0, 3.9 * len(parts)), 2.7, columns=len(parts), squeeze=False)
    for axes, panel in zip(grid.flat, parts, strict=True):
        edges = np.asarray(panel["edges"])
        # centre the bars on integers
        shift = 0.5 if panel.get("is_integer") else 0.0
        for name, counts in panel["counts"].items():
            values = np.asarray(counts, dtype=float)
            if len(panel["counts"]) > 1:
                values = values / max(values.sum(), 1)
                axes.stairs(values, edges - shift, color=PARTS.get(name, GREEN), linewidth=1.6, label=name)
            else:
                axes.stairs(values, edges - shift, color=GREEN, fill=True, alpha=0.75)
        if panel.get("is_integer"):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(literal(panel["label"]), fontsize=9)
        axes.set_ylabel("fraction of the part" if len(panel["counts"]) > 1 else "rows", fontsize=9)
        axes.tick_params(labelsize=8)
        if len(panel["counts"]) > 1:
            # above the axes, where it covers no bars
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8, borderaxespad=0.2)
    return figure


def measured_predicted(models: Sequence[tuple[str, np.ndarray, np.ndarray]], *, target: str) -> Figure:
    """Return predicted against measured values, one panel per model: title, measured and predicted."""
    figure, grid = panels(4.3 * len(models), 4.0, columns=len(models), squeeze=False)
    values = np.concatenate([own for _, *both in models for own in both])
    ends = [float(values.min()), float(values.max())]
    for axes, (title, x, y) in zip(grid.flat, models, strict=True):
        draw_points(axes, x, y, extent=(*ends, *ends))
        axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle="--")
        axes.set_title(title, fontsize=10)
        axes.set(xlabel=literal(f"measured {target}"), ylabel=literal(f"predicted {target}"))
    return figure


def probability_histogram(
    is_positive: np.ndarray, probability: np.ndarray, names: Sequence[str], *, unit: str = "rows"
) -> Figure:
    """Return histograms of the predicted probability of the second class, by measured class."""
    figure, axes = panels(5.8, 3.4)
    for k, own in enumerate((GREY, GREEN)):
        values = probability[is_positive == bool(k)]
        label = literal(f"measured {names[k]} ({len(values):,} {unit})")
        axes.hist(values, bins=np.linspace(0, 1, 31).tolist(), density=True, alpha=0.65, color=own, label=label)
    axes.set(xlabel=literal(f"predicted probability of {names[1]}"), ylabel="density")
    axes.legend(loc="upper center", frameon=False)
    return figure


def confusion(measured: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Figure:
    """Return the confusion matrix; both arguments are indices into `classes`."""
    from sklearn.metrics import confusion_matrix

    rates = confusion_matrix(measured, predicted, labels=range(len(classes)), normalize="true")
    return confusion_figure(rates, list(map(literal, classes)))


def reliability_diagram(tables: Mapping[str, Sequence[Mapping[str, float]]], *, band: str) -> Figure:
    """Return observed rates against predicted probabilities by model, with the intervals of the model `band`."""
    figure, axes = panels(4.8, 4.3)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
    for model, bins in tables.items():
        x, y = ([entry[key] for entry in bins] for key in ("predicted", "observed"))
        axes.plot(x, y, "o-", color=colour_of(model), markersize=4, linewidth=1.3, label=label_of(model))
        if model == band:
            low, high = ([entry[key] for entry in bins] for key in ("low", "high"))
            axes.fill_between(x, low, high, color=colour_of(model), alpha=0.15, linewidth=0)
    axes.set(xlabel="predicted probability", ylabel="observed rate", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    return figure


def residual_plot(predicted: np.ndarray, residual: np.ndarray) -> Figure:
    """Return residuals against predictions, with their running mean and central 80 %."""
    figure, axes = panels(6.2, 3.6)
    draw_points(axes, predicted, residual)
    bins = np.array_split(np.argsort(predicted), max(1, min(20, len(predicted) // 15)))
    x = [predicted[own].mean() for own in bins]
    axes.plot(x, [residual[own].mean() for own in bins], color=OCHRE, linewidth=2, label="mean")
    for level, label in ((0.1, "central 80 %"), (0.9, None)):
        line = [np.quantile(residual[own], level) for own in bins]
        axes.plot(x, line, color=OCHRE, linewidth=1, linestyle=":", label=label)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="predicted", ylabel="measured − predicted")
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    return figure


def boxes(numbers: np.ndarray, values: np.ndarray, *, label: str, axis: str) -> Figure:
    """Return box plots of values by an integer, with the number of rows below each; twelve and more share a box."""
    own = np.minimum(numbers, 12)
    known = np.unique(own)
    figure, axes = panels(max(3.6, 0.65 * len(known) + 1.6), 3.3)
    drawn = axes.boxplot([values[own == k] for k in known], showfliers=False, widths=0.6, patch_artist=True)
    for box in drawn["boxes"]:
        box.set(facecolor=FILL, edgecolor=GREEN)
    for line in drawn["medians"]:
        line.set(color=INK)
    names = [f"{k}{'+' if k == 12 and (numbers > 12).any() else ''}\n{(own == k).sum():,}" for k in known]
    axes.set_xticks(range(1, len(known) + 1), names, fontsize=8)
    axes.set(xlabel=f"{axis} (below: number of rows)", ylabel=label)
    axes.axhline(0, color=INK, linewidth=0.8, linestyle="--")
    return figure


def dot_plot(names: Sequence[str], values: Mapping[str, Sequence[float]], *, label: str) -> Figure:
    """Return one row per group, with one dot per model."""
    legend_rows = -(-len(values) // LEGEND_COLUMNS)
    figure, axes = panels(6.6, 0.6 + 0.26 * (len(names) + legend_rows))
    y = np.arange(len(names))[::-1]
    for model, own in values.items():
        axes.plot(own, y, "o", color=colour_of(model), markersize=6, alpha=0.85, label=label_of(model))
    axes.set_yticks(y, list(map(literal, names)), fontsize=8)
    axes.set_xlabel(label)
    tidy(axes, grid="y")
    figure.legend(frameon=False, fontsize=8, ncols=LEGEND_COLUMNS, loc="outside upper left")
    return figure


def learning_curve(
    rows: Sequence[float], values: Mapping[str, Sequence[float]], std: Mapping[str, Sequence[float]], *, label: str
) -> Figure:
    """Return a metric against the number of training rows, one line per model with a band of its deviation."""
    figure, axes = panels(5.8, 3.5)
    for model, own in values.items():
        axes.plot(rows, own, "o-", color=colour_of(model), markersize=4, linewidth=1.5, label=label_of(model))
        middle, half = np.asarray(own), np.asarray(std[model])
        if half.any():
            axes.fill_between(rows, middle - half, middle + half, color=colour_of(model), alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set(xlabel="training rows", ylabel=label)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return figure


def profiles(examples: Sequence[tuple[str, np.ndarray, Mapping[str, np.ndarray]]], *, label: str) -> Figure:
    """Return measured (NaN where unknown) and predicted values along sequences: title, `(L,)`, and `(L,)` by model."""
    figure, grid = panels(10.5, 2.0 * len(examples), rows=len(examples), squeeze=False)
    for axes, (title, measured, predicted) in zip(grid.flat, examples, strict=True):
        x = np.arange(1, len(measured) + 1)
        known = np.isfinite(measured)
        if known.any() and set(np.unique(measured[known])) <= {0.0, 1.0}:
            axes.fill_between(x, 0, np.nan_to_num(measured), step="mid", color=LINE, label="measured", linewidth=0)
            if not known.all():
                # half as high, because it is neither 0 nor 1
                half = np.where(known, 0.0, 0.5)
                axes.fill_between(x, 0, half, step="mid", color="#f3e3c8", label="not measured", linewidth=0)
        elif known.any():
            axes.plot(x, measured, color=INK, linewidth=1.1, label="measured")
        for model, values in predicted.items():
            axes.plot(x, values, color=colour_of(model), linewidth=1.3, label=label_of(model))
        axes.set_title(literal(title), fontsize=9, loc="left")
        axes.set_xlim(0.5, len(measured) + 0.5)
        axes.set_ylabel(literal(label), fontsize=8)
        axes.tick_params(labelsize=7.5)
    # not every panel has all of them
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {label: handle for own in drawn for handle, label in zip(*own, strict=True)}
    options: dict[str, Any] = {"frameon": False, "fontsize": 8, "ncols": 5, "loc": "lower right"}
    figure.axes[0].legend(list(handles.values()), list(handles), bbox_to_anchor=(1, 1.0), **options)
    return figure


def base_pair_panels(examples: Sequence[tuple[str, int, np.ndarray, np.ndarray]]) -> Figure:
    """Return base pairs as arcs, predicted above and measured below: title, length, and `(p, 2)` of each."""
    figure, grid = panels(9.5, 2.6 * len(examples), rows=len(examples), squeeze=False)
    for axes, (title, length, predicted, measured) in zip(grid.flat, examples, strict=True):
        strong = [np.column_stack([pairs, np.ones(len(pairs))]) for pairs in (predicted, measured)]
        draw_base_pairs(axes, strong[0], strong[1], length=length)
        axes.set_title(literal(title), fontsize=9, loc="left")
    return figure
