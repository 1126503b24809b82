"""Figures of a report: comparisons of models, data, calibration, residuals, training and single sequences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from subquad.bio.compared_models import COMPARED_MODELS, colour_of, label_of
from subquad.bio.plots.maps import GREEN, GREY, INK, OCHRE, draw_base_pairs, draw_points, tidy
from subquad.reporting.page import signed
from subquad.reporting.vector_figure import FILL, ON_DARK, ON_LIGHT, literal

__all__ = [
    "base_pair_panels",
    "boxes",
    "confusion",
    "coverage",
    "dot_plot",
    "forest",
    "histograms",
    "learning_curve",
    "measured_predicted",
    "probability_histogram",
    "profiles",
    "reliability_diagram",
    "residual_plot",
    "training_curves",
]

PARTS = {"train": GREY, "validation": OCHRE, "test": GREEN}
LEGEND_COLUMNS = 4
FINE_RANGE = 0.05
"""Range of an axis below which values have four decimals."""


def forest(rows: Sequence[tuple[str, str, float, float, float]], *, label: str, zero: bool = False) -> Figure:
    """Return values with their intervals in rows: label, model, value, low and high."""
    figure = Figure(figsize=(6.6, 0.45 + 0.36 * (len(rows) + 1)), layout="constrained")
    axes = figure.add_subplot()
    digits = 4 if max(high for *_, high in rows) - min(low for *_, low, _ in rows) < FINE_RANGE else 3
    for k, (name, model, value, low, high) in enumerate(reversed(rows)):
        axes.plot([low, high], [k, k], color=colour_of(model), linewidth=3, alpha=0.45, solid_capstyle="butt")
        axes.plot([value], [k], "o", color=colour_of(model), markersize=7)
        text = signed(value, digits) if zero else f"{value:.{digits}f}"
        axes.annotate(text, (high, k), (6, -3.5), textcoords="offset points", fontsize=8)
        axes.text(-0.02, k, literal(name), transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=9)
    if zero:
        axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(ylim=(-0.6, len(rows) - 0.4), yticks=[], xlabel=literal(label))
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x", color="#dfe3ea", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def histograms(panels: Sequence[Mapping[str, Any]]) -> Figure:
    """Return histograms side by side; each panel has `edges`, `counts` by name, `label` and perhaps `is_integer`."""
    figure = Figure(figsize=(min(11.0, 3.9 * len(panels)), 2.7), layout="constrained")
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
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
        tidy(axes)
    return figure


def measured_predicted(panels: Sequence[tuple[str, np.ndarray, np.ndarray]], *, target: str) -> Figure:
    """Return predicted against measured values, one panel per model: title, measured and predicted."""
    figure = Figure(figsize=(4.3 * len(panels), 4.0), layout="constrained")
    ends = [
        min(min(float(x.min()), float(y.min())) for _, x, y in panels),
        max(max(float(x.max()), float(y.max())) for _, x, y in panels),
    ]
    for axes, (title, x, y) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        draw_points(axes, x, y, extent=(*ends, *ends))
        axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle="--")
        axes.set_title(title, fontsize=10)
        axes.set(xlabel=literal(f"measured {target}"), ylabel=literal(f"predicted {target}"))
        tidy(axes)
    return figure


def probability_histogram(
    is_positive: np.ndarray, probability: np.ndarray, names: Sequence[str], *, unit: str = "rows"
) -> Figure:
    """Return histograms of the predicted probability of the second class, by measured class."""
    figure = Figure(figsize=(5.8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for k, own in enumerate((GREY, GREEN)):
        values = probability[is_positive == bool(k)]
        label = literal(f"measured {names[k]} ({len(values):,} {unit})")
        axes.hist(values, bins=np.linspace(0, 1, 31).tolist(), density=True, alpha=0.65, color=own, label=label)
    axes.set(xlabel=literal(f"predicted probability of {names[1]}"), ylabel="density")
    axes.legend(loc="upper center", frameon=False)
    tidy(axes)
    return figure


def confusion(measured: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Figure:
    """Return the confusion matrix, normalized by measured class; both arguments are indices into `classes`."""
    count = len(classes)
    rate = np.zeros((count, count))
    np.add.at(rate, (measured, predicted), 1)
    rate /= np.maximum(rate.sum(1, keepdims=True), 1)
    size = min(7.5, 2.8 + 0.36 * count)
    figure = Figure(figsize=(size + 0.9, size), layout="constrained")
    axes = figure.add_subplot()
    figure.colorbar(
        axes.imshow(rate, cmap="Greens", vmin=0, vmax=1), ax=axes, label="fraction of the measured class", shrink=0.8
    )
    ticks = list(map(literal, classes))
    axes.set_xticks(range(count), ticks, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(count), ticks, fontsize=8)
    if count <= 14:
        for (i, j), value in np.ndenumerate(rate):
            shade = ON_DARK if value > 0.55 else ON_LIGHT
            axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5, color=shade)
    axes.set(xlabel="predicted", ylabel="measured")
    return figure


def reliability_diagram(tables: Mapping[str, Sequence[Mapping[str, float]]], *, band: str) -> Figure:
    """Return observed rates against predicted probabilities by model, with the intervals of the model `band`."""
    figure = Figure(figsize=(4.8, 4.3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
    for model, bins in tables.items():
        x, y = ([entry[key] for entry in bins] for key in ("predicted", "observed"))
        axes.plot(x, y, "o-", color=colour_of(model), markersize=4, linewidth=1.3, label=label_of(model))
        if model == band:
            low, high = ([entry[key] for entry in bins] for key in ("low", "high"))
            axes.fill_between(x, low, high, color=colour_of(model), alpha=0.15, linewidth=0)
    axes.set(xlabel="predicted probability", ylabel="observed rate", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    tidy(axes)
    return figure


def coverage(levels: Sequence[float], measured: Sequence[float], rows: int) -> Figure:
    """Return the coverage of prediction intervals against their nominal level, with 95 % intervals."""
    figure = Figure(figsize=(4.3, 3.9), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle="--")
    covered = np.asarray(measured)
    error = 196 * np.sqrt(np.maximum(covered * (1 - covered), 0) / max(rows, 1))
    axes.errorbar(100 * np.asarray(levels), 100 * covered, error, fmt="o", color=GREEN, capsize=3)
    start = 100 * max(0.0, min(*levels, *measured) - 0.1)
    axes.set(xlabel="nominal coverage, %", ylabel="coverage of test rows, %", xlim=(start, 101), ylim=(start, 101))
    tidy(axes)
    return figure


def residual_plot(predicted: np.ndarray, residual: np.ndarray) -> Figure:
    """Return residuals against predictions, with their running mean and central 80 %."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
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
    tidy(axes)
    return figure


def boxes(numbers: np.ndarray, values: np.ndarray, *, label: str, axis: str) -> Figure:
    """Return box plots of values by an integer, with the number of rows below each; twelve and more share a box."""
    own = np.minimum(numbers, 12)
    known = np.unique(own)
    figure = Figure(figsize=(max(3.6, 0.65 * len(known) + 1.6), 3.3), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.boxplot([values[own == k] for k in known], showfliers=False, widths=0.6, patch_artist=True)
    for box in drawn["boxes"]:
        box.set(facecolor=FILL, edgecolor=GREEN)
    for line in drawn["medians"]:
        line.set(color=INK)
    names = [f"{k}{'+' if k == 12 and (numbers > 12).any() else ''}\n{(own == k).sum():,}" for k in known]
    axes.set_xticks(range(1, len(known) + 1), names, fontsize=8)
    axes.set(xlabel=f"{axis} (below: number of rows)", ylabel=label)
    axes.axhline(0, color=INK, linewidth=0.8, linestyle="--")
    tidy(axes)
    return figure


def dot_plot(names: Sequence[str], values: Mapping[str, Sequence[float]], *, label: str) -> Figure:
    """Return one row per group, with one dot per model."""
    legend_rows = -(-len(values) // LEGEND_COLUMNS)
    figure = Figure(figsize=(6.6, 0.6 + 0.26 * (len(names) + legend_rows)), layout="constrained")
    axes = figure.add_subplot()
    y = np.arange(len(names))[::-1]
    for model, own in values.items():
        axes.plot(own, y, "o", color=colour_of(model), markersize=6, alpha=0.85, label=label_of(model))
    axes.set_yticks(y, list(map(literal, names)), fontsize=8)
    axes.set_xlabel(label)
    axes.grid(axis="y", color="#dfe3ea", linewidth=0.7)
    axes.set_axisbelow(True)
    figure.legend(frameon=False, fontsize=8, ncols=LEGEND_COLUMNS, loc="outside upper left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def learning_curve(
    rows: Sequence[float], values: Mapping[str, Sequence[float]], std: Mapping[str, Sequence[float]], *, label: str
) -> Figure:
    """Return a metric against the number of training rows, one line per model with a band of its deviation."""
    figure = Figure(figsize=(5.8, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for model, own in values.items():
        axes.plot(rows, own, "o-", color=colour_of(model), markersize=4, linewidth=1.5, label=label_of(model))
        middle, half = np.asarray(own), np.asarray(std[model])
        if half.any():
            axes.fill_between(rows, middle - half, middle + half, color=colour_of(model), alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set(xlabel="training rows", ylabel=label)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    tidy(axes)
    return figure


def training_curves(history: Sequence[Mapping[str, Any]], main: str, title: str) -> Figure:
    """Return training loss and validation metric by step, one line per network in the colour of its model."""
    figure = Figure(figsize=(8.6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    labelled = set()
    for part in dict.fromkeys(line["part"] for line in history):
        # several networks of one model are numbered
        model = part if part in COMPARED_MODELS else part.rpartition(" ")[0]
        own = [line for line in history if line["part"] == part]
        losses = np.array([(line["step"], line["loss"]) for line in own if "loss" in line]).reshape(-1, 2)
        shade = colour_of(model)
        if len(losses):
            # a running mean smooths the noise of single batches
            near = max(1, len(losses) // 15)
            smooth = np.convolve(losses[:, 1], np.ones(near) / near, mode="valid")
            left.plot(losses[:, 0], losses[:, 1], color=shade, linewidth=0.6, alpha=0.3)
            left.plot(losses[near - 1 :, 0], smooth, color=shade, linewidth=1.6)
        values = [(line["step"], line[f"validation_{main}"]) for line in own if f"validation_{main}" in line]
        if values:
            label = "_" if model in labelled else label_of(model)
            right.plot(*zip(*values, strict=True), color=shade, linewidth=1.2, marker=".", label=label)
            labelled.add(model)
    left.set(xlabel="step", ylabel="training loss")
    right.set(xlabel="step", ylabel=f"{title}, validation rows")
    if len(labelled) > 1:
        right.legend(loc="lower right", frameon=False, fontsize=8)
    tidy(left)
    tidy(right)
    return figure


def profiles(examples: Sequence[tuple[str, np.ndarray, Mapping[str, np.ndarray]]], *, label: str) -> Figure:
    """Return measured (NaN where unknown) and predicted values along sequences: title, `(L,)`, and `(L,)` by model."""
    figure = Figure(figsize=(10.5, 2.0 * len(examples)), layout="constrained")
    for axes, (title, measured, predicted) in zip(
        np.atleast_1d(figure.subplots(len(examples), 1)), examples, strict=True
    ):
        x = np.arange(1, len(measured) + 1)
        known = np.isfinite(measured)
        if known.any() and set(np.unique(measured[known])) <= {0.0, 1.0}:
            axes.fill_between(x, 0, np.nan_to_num(measured), step="mid", color="#dfe3ea", label="measured", linewidth=0)
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
        tidy(axes)
    # not every panel has all of them
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {label: handle for own in drawn for handle, label in zip(*own, strict=True)}
    options: dict[str, Any] = {"frameon": False, "fontsize": 8, "ncols": 5, "loc": "lower right"}
    figure.axes[0].legend(list(handles.values()), list(handles), bbox_to_anchor=(1, 1.0), **options)
    return figure


def base_pair_panels(examples: Sequence[tuple[str, int, np.ndarray, np.ndarray]]) -> Figure:
    """Return base pairs as arcs, predicted above and measured below: title, length, and `(p, 2)` of each."""
    figure = Figure(figsize=(9.5, 2.6 * len(examples)), layout="constrained")
    for axes, (title, length, predicted, measured) in zip(
        np.atleast_1d(figure.subplots(len(examples), 1)), examples, strict=True
    ):
        strong = [np.column_stack([pairs, np.ones(len(pairs))]) for pairs in (predicted, measured)]
        draw_base_pairs(axes, strong[0], strong[1], length=length)
        axes.set_title(literal(title), fontsize=9, loc="left")
    return figure
