"""Figures of the page of a linearized model."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from subquad.llm.plots.evaluation_tables import perplexity_text
from subquad.reporting.vector_figure import PAPER, SOFT

__all__ = [
    "curves",
    "has_transfer",
    "is_smoothed",
    "layer_choice",
    "layer_errors",
    "losses_by_part",
    "perplexity_dots",
]

COLOURS = {"teacher": "#5b6474", "teacher_fine_tuned": "#5b6474", "fine_tuned": "#1f6f54"}
GREY, GREEN = "#8a94a6", "#1f6f54"
ABOVE_LINES = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}
"""Background of a text that lines would cross."""
DECADE = 10
SMOOTHED = 50
"""Points of a curve from which on a running mean is drawn."""


def has_transfer(about: Mapping[str, Any]) -> bool:
    """Return whether a run began with attention transfer."""
    return about.get("has_linear", True) and not about.get("from")


def perplexity_dots(
    values: Mapping[str, float], names: Mapping[str, str], intervals: Mapping[str, tuple[float, float] | None]
) -> Figure:
    """Return the perplexities as dots with their intervals, as far as these are known.

    The axis is logarithmic, where the length of a bar would have no meaning.
    """
    order = list(values)[::-1]
    # names above their dots leave the dots in sight on a narrow screen
    figure = Figure(figsize=(5.4, 0.7 + 0.45 * len(order)))
    axes = figure.subplots()
    if "fine_tuned" in values:
        axes.axvline(values["fine_tuned"], color=COLOURS["fine_tuned"], linewidth=0.8, linestyle=":", zorder=0)
    ends = []
    for place, name in enumerate(order):
        low, high = intervals.get(name) or (values[name], values[name])
        ends += [low, high]
        colour = COLOURS.get(name, GREY)
        if high > low:
            axes.plot([low, high], [place, place], color=colour, linewidth=1.2, marker="|", markersize=7)
        axes.plot([values[name]], [place], "o", color=colour, markersize=6)
        # behind the interval, which may end far beyond the dot
        text = perplexity_text(values[name])
        axes.annotate(text, (high, place), xytext=(7, 0), textcoords="offset points", va="center", bbox=ABOVE_LINES)
        spot = {"transform": axes.get_yaxis_transform(), "va": "bottom", "bbox": ABOVE_LINES}
        axes.text(0.01, place + 0.24, names[name], color=SOFT, **spot)
    axes.set_yticks(range(len(order)), [""] * len(order))
    axes.set_ylim(-0.5, len(order) - 0.25)
    axes.tick_params(axis="y", length=0)
    axes.set_xscale("log")
    low, high = min(ends) / 1.1, max(ends) * 1.2
    # room for the number behind the last interval
    axes.set_xlim(low, high * (high / low) ** 0.1)
    # few decades have few powers of ten
    axes.xaxis.set_major_locator(MaxNLocator(5) if high < 4 * low else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("perplexity")
    axes.grid(axis="y", color="#dfe3ea", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
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


Losses = Sequence[tuple[int, float]]
"""Steps and losses."""


def losses_by_part(history: Sequence[Mapping[str, Any]], key: str = "loss") -> dict[str, Losses]:
    """Return steps and losses of each part of a history; block-wise transfer has one part per block of layers."""
    losses: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        if key in entry:
            losses.setdefault(entry["part"], []).append((entry["step"], entry[key]))
    return dict(losses)


def is_smoothed(losses: Losses) -> bool:
    """Return whether a running mean is drawn through a curve."""
    return len(losses) >= SMOOTHED


def curves(about: Mapping[str, Any], history: Sequence[Mapping[str, Any]], stages: Sequence[str]) -> Figure:
    """Return the training loss of these stages, `transfer` and `lora`, by step."""
    loss = "next-token loss and distillation" if about.get("distillation_weight") else "next-token loss"
    titles = {
        "transfer": "attention transfer: mean squared error",
        "lora": f"fine-tuning: {loss}",
    }
    figure = Figure(figsize=(4.5 * max(len(stages), 1.4), 3))
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        for key, shape in (("loss", "-"), ("validation_loss", "o")):
            for part, points in losses_by_part(history, key).items():
                if part.split("-")[0] == stage:
                    _draw_losses(axes, points, shape)
        axes.set_title(titles[stage], fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        if stage == "transfer":
            _logarithmic(axes)
    figure.tight_layout()
    return figure


def _draw_losses(axes: Axes, points: Losses, shape: str) -> None:
    steps, values = zip(*points, strict=True)
    is_noisy = shape == "-" and is_smoothed(points)
    # a line needs two points
    mark = "o" if len(steps) == 1 else shape
    axes.plot(steps, values, mark, color=GREY if is_noisy else GREEN, alpha=0.5 if is_noisy else 1)
    if is_noisy:
        width = len(values) // 10
        means = [fmean(values[max(0, place - width) : place + width + 1]) for place in range(len(values))]
        axes.plot(steps, means, color=GREEN)


def layer_errors(errors: Mapping[str, Sequence[float]], names: Mapping[str, str]) -> Figure:
    """Return the error of each layer's attention output before and after attention transfer."""
    figure = Figure(figsize=(7.5, 2.8))
    axes = figure.subplots()
    for name, colour, shape in (("untrained", GREY, "s--"), ("transferred", GREEN, "o-")):
        axes.plot(range(len(errors[name])), errors[name], shape, color=colour, label=names[name], markersize=4)
    _logarithmic(axes)
    _label(axes, "layer", "relative error")
    return figure


def _logarithmic(axes: Axes) -> None:
    """Make the vertical axis logarithmic; within one decade its numbers are not written with powers of ten."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < DECADE * low:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _label(axes: Axes, x: str, y: str) -> None:
    """Label axes with one point per layer."""
    axes.set_xlabel(x)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(y)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
