"""Figures of the page of a linearized model."""

import itertools
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

__all__ = ["bars", "curves", "has_transfer", "layer_choice", "layer_errors"]

TRANSFER_LOSSES = {
    "mse": "mean squared error",
    "relative": "squared error relative to the teacher's mean square",
    "attention_weights": "squared error and cross-entropy",
}
COLOURS = {"teacher": "#5b6474", "teacher_fine_tuned": "#5b6474", "fine_tuned": "#1f6f54"}
GREY, GREEN = "#8a94a6", "#1f6f54"
SMOOTHED = 50
"""Points of a curve from which on a running mean is drawn."""


def has_transfer(about: Mapping[str, Any]) -> bool:
    """Return whether a run began with attention transfer."""
    return about.get("has_linear", True) and not about.get("from")


def bars(
    values: Mapping[str, float], names: Mapping[str, str], intervals: Mapping[str, tuple[float, float] | None]
) -> Figure:
    """Return the perplexities as bars with their intervals, as far as these are known."""
    figure = Figure(figsize=(7.5, 3.1))
    axes = figure.subplots()
    order = list(values)[::-1]
    axes.barh(
        [names[name] for name in order],
        [values[name] for name in order],
        color=[COLOURS.get(name, GREY) for name in order],
    )
    ends = []
    for place, name in enumerate(order):
        low, high = intervals.get(name) or (values[name], values[name])
        ends += [low, high]
        if high > low:
            axes.plot([low, high], [place, place], color="#1c2330", linewidth=1.2, marker="|", markersize=7)
        # behind the interval, which may end far beyond the bar
        axes.annotate(f"{values[name]:.3g}", (high, place), xytext=(7, 0), textcoords="offset points", va="center")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(ends) / 1.6, max(ends) * 1.6)
    axes.set_xlabel("perplexity")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def layer_choice(choice: Mapping[str, Any]) -> Figure:
    """Return the divergence of the student with softmax attention in one layer, layer by layer."""
    values = {int(layer): value for layer, value in choice["divergences"].items()}
    without = values.pop(-1)
    figure = Figure(figsize=(7.5, 2.8))
    axes = figure.subplots()
    # points, since the axis does not begin at 0
    colours = [GREEN if layer in choice["chosen"] else GREY for layer in values]
    axes.scatter([*values], [*values.values()], color=colours)
    axes.axhline(without, color="#5b6474", linestyle="--", label="all layers linearized")
    _label(axes, "layer with softmax attention", "nats per token")
    return figure


def curves(about: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the training loss of each stage."""
    loss = "next-token loss and distillation" if about.get("distillation_weight") else "next-token loss"
    stages = [
        ("transfer", f"attention transfer: {TRANSFER_LOSSES[about.get('transfer_loss', 'mse')]}"),
        ("lora", f"fine-tuning: {loss}"),
    ]
    if not has_transfer(about):
        del stages[0]
    figure = Figure(figsize=(4.5 * len(stages), 3))
    for axes, (stage, title) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        # block-wise transfer has one curve per block: transfer-0, transfer-1, …
        parts = dict.fromkeys(entry["part"] for entry in history if entry["part"].split("-")[0] == stage)
        for part, (key, shape) in itertools.product(parts, (("loss", "-"), ("validation_loss", "o"))):
            points = [(entry["step"], entry[key]) for entry in history if entry["part"] == part and key in entry]
            if not points:
                continue
            steps, values = zip(*points, strict=True)
            is_noisy = key == "loss" and len(values) >= SMOOTHED
            # a line needs two points
            pale = {"color": GREY, "alpha": 0.5} if is_noisy else {"color": GREEN}
            axes.plot(steps, values, "o" if len(steps) == 1 else shape, **pale)
            if is_noisy:
                width = len(values) // 10
                means = [fmean(values[max(0, place - width) : place + width + 1]) for place in range(len(values))]
                axes.plot(steps, means, color=GREEN)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    if len(stages) > 1:
        figure.axes[0].set_yscale("log")
    figure.tight_layout()
    return figure


def layer_errors(errors: Mapping[str, Sequence[float]], names: Mapping[str, str]) -> Figure:
    """Return the error of each layer's attention output before and after attention transfer."""
    figure = Figure(figsize=(7.5, 2.8))
    axes = figure.subplots()
    for name, colour, shape in (("untrained", GREY, "s--"), ("transferred", GREEN, "o-")):
        axes.plot(range(len(errors[name])), errors[name], shape, color=colour, label=names[name], markersize=4)
    axes.set_yscale("log")
    _label(axes, "layer", "relative error")
    return figure


def _label(axes: Axes, x: str, y: str) -> None:
    """Label axes with one point per layer."""
    axes.set_xlabel(x)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(y)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
