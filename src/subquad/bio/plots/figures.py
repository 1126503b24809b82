"""The figures of a report: models and their intervals, data, calibration, residuals, training, examples. No arithmetic.

The colours say the same everywhere: green the net, grey ridge, ochre boosting, blue the stack.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from subquad.bio.plots.maps import BLUE, GREEN, GREY, INK, OCHRE, draw_base_pairs, tidy

__all__ = [
    "COLOURS",
    "by_number",
    "confusion",
    "coverage",
    "curves",
    "densities",
    "forest",
    "groups",
    "lines",
    "profiles",
    "reliability",
    "residuals",
    "steps",
    "structures",
    "two_classes",
]

COLOURS = {"net": GREEN, "ridge": GREY, "boosting": OCHRE, "stack": BLUE, "paper": "#7fb39c", "auto": "#7fb39c"}
COLOURS |= {"vienna": GREY, "vienna_bpp": OCHRE}
PARTS = {"train": GREY, "validation": OCHRE, "test": GREEN}


def colour(model: str) -> str:
    """Return the colour of a model."""
    return COLOURS.get(model, "#6d4b9a")


def forest(rows: Sequence[tuple[str, str, float, float, float]], *, label: str, zero: bool = False) -> Figure:
    """Return values with their intervals under each other: name, model, value, low, high."""
    figure = Figure(figsize=(6.6, 0.45 + 0.36 * (len(rows) + 1)), layout="constrained")
    axes = figure.add_subplot()
    for k, (name, model, value, low, high) in enumerate(reversed(rows)):
        axes.plot([low, high], [k, k], color=colour(model), linewidth=3, alpha=0.45, solid_capstyle="butt")
        axes.plot([value], [k], "o", color=colour(model), markersize=7)
        axes.annotate(
            f"{value:+.3f}" if zero else f"{value:.3f}", (high, k), (6, -3.5), textcoords="offset points", fontsize=8
        )
        axes.text(-0.02, k, name, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=9)
    if zero:
        axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(ylim=(-0.6, len(rows) - 0.4), yticks=[], xlabel=label)
    axes.margins(x=0.12)
    axes.grid(axis="x", color="#dfe3ea", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def steps(panels: Sequence[Mapping[str, Any]]) -> Figure:
    """Return histograms beside each other: each has `edges`, `counts` by name, `label`, perhaps `is_whole`."""
    figure = Figure(figsize=(min(11.0, 3.9 * len(panels)), 2.7), layout="constrained")
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        edges = np.asarray(panel["edges"])
        # whole numbers stand in the middle of their bar
        shift = 0.5 if panel.get("is_whole") else 0.0
        for name, counts in panel["counts"].items():
            values = np.asarray(counts, dtype=float)
            if len(panel["counts"]) > 1:
                values = values / max(values.sum(), 1)
                axes.stairs(values, edges - shift, color=PARTS.get(name, GREEN), linewidth=1.6, label=name)
            else:
                axes.stairs(values, edges - shift, color=GREEN, fill=True, alpha=0.75)
        if panel.get("is_whole"):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(panel["label"], fontsize=9)
        axes.set_ylabel("share of the part" if len(panel["counts"]) > 1 else "rows", fontsize=9)
        axes.tick_params(labelsize=8)
        if len(panel["counts"]) > 1:
            axes.legend(frameon=False, fontsize=8)
        tidy(axes)
    return figure


def densities(panels: Sequence[tuple[str, np.ndarray, np.ndarray]], *, target: str) -> Figure:
    """Return measured against predicted for some models: title, measured, predicted; as density where rows are many."""
    figure = Figure(figsize=(4.3 * len(panels), 4.0), layout="constrained")
    ends = [
        min(min(float(x.min()), float(y.min())) for _, x, y in panels),
        max(max(float(x.max()), float(y.max())) for _, x, y in panels),
    ]
    for axes, (title, x, y) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        if len(x) > 5000:
            axes.hexbin(x, y, gridsize=60, bins="log", cmap="Greens", mincnt=1, linewidths=0, extent=(*ends, *ends))
        else:
            axes.scatter(x, y, s=8, alpha=min(0.7, 60 / len(x) ** 0.6 + 0.05), color=GREEN, linewidths=0)
        axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle="--")
        axes.set_title(title, fontsize=10)
        axes.set(xlabel=f"measured {target}", ylabel=f"predicted {target}")
        tidy(axes)
    return figure


def two_classes(
    is_positive: np.ndarray, probability: np.ndarray, names: Sequence[str], *, unit: str = "rows"
) -> Figure:
    """Return what the net says of the rows of each of two classes."""
    figure = Figure(figsize=(5.8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for k, own in enumerate((GREY, GREEN)):
        values = probability[is_positive == bool(k)]
        label = f"measured {names[k]} ({len(values):,} {unit})"
        axes.hist(values, bins=np.linspace(0, 1, 31), density=True, alpha=0.65, color=own, label=label)
    axes.set(xlabel=f"the net's probability of {names[1]}", ylabel="density")
    axes.legend(frameon=False)
    tidy(axes)
    return figure


def confusion(measured: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Figure:
    """Return the shares of each measured class by predicted class; both as places in `classes`."""
    count = len(classes)
    share = np.zeros((count, count))
    np.add.at(share, (measured, predicted), 1)
    share /= np.maximum(share.sum(1, keepdims=True), 1)
    size = min(7.5, 2.8 + 0.36 * count)
    figure = Figure(figsize=(size + 0.9, size), layout="constrained")
    axes = figure.add_subplot()
    figure.colorbar(
        axes.imshow(share, cmap="Greens", vmin=0, vmax=1), ax=axes, label="share of the measured class", shrink=0.8
    )
    axes.set_xticks(range(count), classes, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(count), classes, fontsize=8)
    if count <= 14:
        for (i, j), value in np.ndenumerate(share):
            shade = "white" if value > 0.55 else INK
            axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5, color=shade)
    axes.set(xlabel="predicted", ylabel="measured")
    return figure


def reliability(tables: Mapping[str, Sequence[Mapping[str, float]]], words: Mapping[str, str]) -> Figure:
    """Return how often it was so against how likely it was called, by model; the net with its intervals."""
    figure = Figure(figsize=(4.8, 4.3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
    for model, bins in tables.items():
        x, y = ([entry[key] for entry in bins] for key in ("predicted", "observed"))
        axes.plot(x, y, "o-", color=colour(model), markersize=4, linewidth=1.3, label=words.get(model, model))
        if model == "net":
            low, high = ([entry[key] for entry in bins] for key in ("low", "high"))
            axes.fill_between(x, low, high, color=colour(model), alpha=0.15, linewidth=0)
    axes.set(xlabel="probability that was predicted", ylabel="share of rows where it was so", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def coverage(levels: Sequence[float], measured: Sequence[float], rows: int) -> Figure:
    """Return how often the truth was inside the intervals, against how often they say so, with its 95 % interval."""
    figure = Figure(figsize=(4.3, 3.9), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle="--")
    share = np.asarray(measured)
    error = 196 * np.sqrt(np.maximum(share * (1 - share), 0) / max(rows, 1))
    axes.errorbar(100 * np.asarray(levels), 100 * share, error, fmt="o", color=GREEN, capsize=3)
    start = 100 * max(0.0, min(*levels, *measured) - 0.1)
    axes.set(
        xlabel="% that the intervals promise", ylabel="% of test rows inside", xlim=(start, 101), ylim=(start, 101)
    )
    tidy(axes)
    return figure


def residuals(predicted: np.ndarray, residual: np.ndarray) -> Figure:
    """Return residuals against predictions, with the running mean and the middle 80 %."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    if len(predicted) > 5000:
        axes.hexbin(predicted, residual, gridsize=60, bins="log", cmap="Greens", mincnt=1, linewidths=0)
    else:
        alpha = min(0.6, 60 / len(predicted) ** 0.6 + 0.05)
        axes.scatter(predicted, residual, s=8, alpha=alpha, color=GREEN, linewidths=0)
    groups_ = np.array_split(np.argsort(predicted), max(1, min(20, len(predicted) // 15)))
    x = [predicted[own].mean() for own in groups_]
    axes.plot(x, [residual[own].mean() for own in groups_], color=OCHRE, linewidth=2, label="mean")
    for share, label in ((0.1, "middle 80 %"), (0.9, None)):
        line = [np.quantile(residual[own], share) for own in groups_]
        axes.plot(x, line, color=OCHRE, linewidth=1, linestyle=":", label=label)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="predicted", ylabel="measured less predicted")
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def by_number(numbers: np.ndarray, values: np.ndarray, *, label: str, axis: str) -> Figure:
    """Return boxes of values by a whole number, with the rows of each under it; from twelve on they are one box."""
    own = np.minimum(numbers, 12)
    known = np.unique(own)
    figure = Figure(figsize=(max(3.6, 0.65 * len(known) + 1.6), 3.3), layout="constrained")
    axes = figure.add_subplot()
    boxes = axes.boxplot([values[own == k] for k in known], showfliers=False, widths=0.6, patch_artist=True)
    for box in boxes["boxes"]:
        box.set(facecolor="#cfe3d8", edgecolor=GREEN)
    for line in boxes["medians"]:
        line.set(color=INK)
    names = [f"{k}{'+' if k == 12 and (numbers > 12).any() else ''}\n{(own == k).sum():,}" for k in known]
    axes.set_xticks(range(1, len(known) + 1), names, fontsize=8)
    axes.set(xlabel=f"{axis} (below: rows)", ylabel=label)
    axes.axhline(0, color=INK, linewidth=0.8, linestyle="--")
    tidy(axes)
    return figure


def groups(
    names: Sequence[str], values: Mapping[str, Sequence[float]], *, label: str, words: Mapping[str, str]
) -> Figure:
    """Return one line a group, with a dot a model."""
    figure = Figure(figsize=(6.6, 0.6 + 0.26 * (len(names) + 1)), layout="constrained")
    axes = figure.add_subplot()
    place = np.arange(len(names))[::-1]
    for model, own in values.items():
        axes.plot(own, place, "o", color=colour(model), markersize=6, alpha=0.85, label=words.get(model, model))
    axes.set_yticks(place, names, fontsize=8)
    axes.set_xlabel(label)
    axes.grid(axis="y", color="#dfe3ea", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, ncols=len(values), loc="lower left", bbox_to_anchor=(0, 1.0))
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def lines(
    x: Sequence[float],
    values: Mapping[str, Sequence[float]],
    spread: Mapping[str, Sequence[float]],
    *,
    axis: str,
    label: str,
    words: Mapping[str, str],
) -> Figure:
    """Return a learning curve: a line a model over the training rows, which grow by factors, with a band of spread."""
    figure = Figure(figsize=(5.8, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for model, own in values.items():
        axes.plot(x, own, "o-", color=colour(model), markersize=4, linewidth=1.5, label=words.get(model, model))
        middle, half = np.asarray(own), np.asarray(spread[model])
        if half.any():
            axes.fill_between(x, middle - half, middle + half, color=colour(model), alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set(xlabel=axis, ylabel=label)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def curves(history: Sequence[Mapping[str, Any]], main: str, title: str) -> Figure:
    """Return training loss and validation figure over the steps, one line a net."""
    figure = Figure(figsize=(8.6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, part in enumerate(dict.fromkeys(line["part"] for line in history)):
        own = [line for line in history if line["part"] == part]
        losses = np.array([(line["step"], line["loss"]) for line in own if "loss" in line]).reshape(-1, 2)
        shade = [GREEN, OCHRE, BLUE, GREY][k % 4]
        if len(losses):
            # single batches jump: a running mean shows where the loss goes
            near = max(1, len(losses) // 15)
            smooth = np.convolve(losses[:, 1], np.ones(near) / near, mode="valid")
            left.plot(losses[:, 0], losses[:, 1], color=shade, linewidth=0.6, alpha=0.3)
            left.plot(losses[near - 1 :, 0], smooth, color=shade, linewidth=1.6)
        values = [(line["step"], line[f"validation_{main}"]) for line in own if f"validation_{main}" in line]
        if values:
            right.plot(*zip(*values, strict=True), color=shade, linewidth=1.2, marker=".", label=str(part))
    left.set(xlabel="step", ylabel="training loss")
    right.set(xlabel="step", ylabel=f"{title}, validation rows")
    if 1 < len(right.get_lines()) <= 6:
        right.legend(frameon=False, fontsize=8)
    tidy(left)
    tidy(right)
    return figure


def profiles(
    examples: Sequence[tuple[str, np.ndarray, Mapping[str, np.ndarray]]], *, label: str, words: Mapping[str, str]
) -> Figure:
    """Return measured and predicted values along some sequences: title, `(L,)` measured with NaN, `(L,)` by model."""
    figure = Figure(figsize=(10.5, 2.0 * len(examples)), layout="constrained")
    for axes, (title, measured, predicted) in zip(
        np.atleast_1d(figure.subplots(len(examples), 1)), examples, strict=True
    ):
        x = np.arange(1, len(measured) + 1)
        if set(np.unique(measured[np.isfinite(measured)])) <= {0.0, 1.0}:
            axes.fill_between(x, 0, np.nan_to_num(measured), step="mid", color="#dfe3ea", label="measured", linewidth=0)
        else:
            axes.plot(x, measured, color=INK, linewidth=1.1, label="measured")
        for model, values in predicted.items():
            axes.plot(x, values, color=colour(model), linewidth=1.3, label=words.get(model, model))
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlim(0.5, len(measured) + 0.5)
        axes.set_ylabel(label, fontsize=8)
        axes.tick_params(labelsize=7.5)
        tidy(axes)
    figure.axes[0].legend(frameon=False, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1.0))
    return figure


def structures(examples: Sequence[tuple[str, int, np.ndarray, np.ndarray]]) -> Figure:
    """Return base pairs as arcs, predicted above and measured below: title, length, `(p, 2)` of each."""
    figure = Figure(figsize=(9.5, 2.6 * len(examples)), layout="constrained")
    for axes, (title, length, predicted, measured) in zip(
        np.atleast_1d(figure.subplots(len(examples), 1)), examples, strict=True
    ):
        strong = [np.column_stack([pairs, np.ones(len(pairs))]) for pairs in (predicted, measured)]
        draw_base_pairs(axes, strong[0], strong[1], length=length)
        axes.set_title(title, fontsize=9, loc="left")
    return figure
