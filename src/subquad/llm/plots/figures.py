"""Figures of the pages of linearized models and of evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from subquad.llm.metrics import LABELS, STUDENT, TEACHER, WITHOUT_LINEAR
from subquad.reporting.style import (
    BLUE,
    GREEN,
    GREY,
    PAPER,
    SOFT,
    draw_cells,
    history_figure,
    interval_figure,
    label_log_axis,
    panel_grid,
    panels,
)

ORANGE, YELLOW = "#d55e00", "#b8860b"
STYLES = {
    TEACHER: (SOFT, "--", "p"),
    "teacher_fine_tuned": (SOFT, "-", "s"),
    "window": (ORANGE, "--", "v"),
    "cache": (BLUE, "--", "P"),
    "window_fine_tuned": (ORANGE, "-", "^"),
    "wide_window_fine_tuned": (YELLOW, "-", "D"),
    "cache_fine_tuned": (BLUE, "-", "X"),
    WITHOUT_LINEAR: (GREEN, ":", "<"),
    STUDENT: (GREEN, "-", "o"),
}
"""Colour by attention, dashes for what was not fine-tuned, and a marker of its own for those who see no colours."""
COLOURS = {TEACHER: SOFT, "teacher_fine_tuned": SOFT, STUDENT: GREEN}

Interval = Sequence[float] | None


def perplexity_dots(values: Mapping[str, float], intervals: Mapping[str, Interval]) -> Figure:
    """Return the perplexities of models with their intervals, as far as these are known."""
    rows = []
    for name, value in values.items():
        low, high = intervals.get(name) or (value, value)
        rows.append((LABELS[name], value, low, high, COLOURS.get(name, GREY)))
    return interval_figure(rows, label="perplexity", reference=values.get(STUDENT), is_log=True)


def training_curves(history: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Figure:
    """Return the loss of each stage by step; block-wise transfer has one part of the history per block of layers."""
    charts: dict[str, Any] = {}
    for stage, title in titles.items():
        curves: dict[str, Any] = {}
        for part in dict.fromkeys(entry["part"] for entry in history if entry["part"].split("-")[0] == stage):
            for key, name, colour in (("loss", "training", GREEN), ("validation_loss", "validation", BLUE)):
                points = [(entry["step"], entry[key]) for entry in history if entry["part"] == part and key in entry]
                if points:
                    # one entry of the legend for all blocks
                    curves[f"_{name} {part}" if name in curves else name] = (points, colour)
        charts |= {title: curves} if curves else {}
    figure = history_figure(charts)
    if "transfer" in titles and titles["transfer"] in charts:
        label_log_axis(figure.axes[0].yaxis)
    return figure


def layer_errors(errors: Mapping[str, Sequence[float]]) -> Figure:
    """Return the error of each layer's attention output before and after attention transfer."""
    figure, axes = panels(7.5, 2.8)
    for name, colour, shape in (("untrained", GREY, "s--"), ("transferred", GREEN, "o-")):
        axes.plot(range(len(errors[name])), errors[name], shape, color=colour, label=LABELS[name], markersize=4)
    label_log_axis(axes.yaxis)
    _by_layer(axes, xlabel="layer", ylabel="relative error")
    return figure


def layer_choice(choice: Mapping[str, Any]) -> Figure:
    """Return the divergence of the student with softmax attention in one layer, layer by layer."""
    values = {int(layer): value for layer, value in choice["divergences"].items()}
    without = values.pop(-1)
    figure, axes = panels(7.5, 2.8)
    axes.scatter([*values], [*values.values()], color=[GREEN if k in choice["chosen"] else GREY for k in values])
    axes.axhline(without, color=SOFT, linestyle="--", label="all layers linearized")
    _by_layer(axes, xlabel="layer with softmax attention", ylabel="nats per token")
    return figure


def _by_layer(axes: Axes, **labels: str) -> None:
    axes.set(**labels)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)


def by_position(positions: Sequence[Mapping[str, Any]], roles: Sequence[str], lines: Mapping[str, int]) -> Figure:
    """Return the perplexity of models by position in the sequence.

    Args:
        positions: Bins of positions, each with `from`, `to` and the estimates of `models`.
        roles: The models.
        lines: Positions of vertical lines by their dashes.
    """
    figure, axes = panels(8.2, 4.2)
    centres = [(place["from"] * place["to"]) ** 0.5 for place in positions]
    for role in roles:
        estimates = [place["models"][role] for place in positions]
        style = {**_line(role), "zorder": 3 if role == STUDENT else 2}
        axes.plot(centres, [estimate["value"] for estimate in estimates], label=LABELS[role], **style)
        if all(estimate["low"] is not None for estimate in estimates):
            low, high = ([estimate[end] for estimate in estimates] for end in ("low", "high"))
            axes.fill_between(centres, low, high, color=style["color"], alpha=0.13, linewidth=0)
    for dashes, position in lines.items():
        axes.axvline(position, color=SOFT, linestyle=dashes, linewidth=1)
    _log2_axis(axes, "position in the sequence")
    label_log_axis(axes.yaxis)
    axes.set_ylabel("perplexity")
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3, handlelength=3.2)
    return figure


def passkey_maps(lengths: Mapping[str, Any]) -> Figure:
    """Return the percentage of passkeys that each model reproduces, by length of the prompt and depth."""
    first = next(iter(lengths.values()))["by_depth"]
    roles = [role for role in LABELS if role in first]
    depths, texts = list(first[roles[0]]), [f"{int(length):,}" for length in lengths]
    figure, grid = panel_grid(len(roles), columns=5, width=1.9, height=1.1 + 0.3 * len(depths))
    for axes, role in zip(grid, roles, strict=True):
        rates = np.array([[result["by_depth"][role][depth] for result in lengths.values()] for depth in depths])
        draw_cells(axes, 100 * rates, rows=depths, columns=texts)
        axes.set_title(LABELS[role].replace(", ", ",\n"), fontsize=9)
    figure.supxlabel("tokens", fontsize=9)
    figure.supylabel("depth", fontsize=9)
    return figure


def speed_curves(speed: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Return speed and memory by length of the context."""
    figure, grid = panels(9.5, 2.9, columns=3)
    charts = {"decoding, tokens/s": ("decoded_per_second", 1), "prefill, tokens/s": ("prefill_per_second", 1)}
    charts["memory, MiB"] = ("bytes", 2**20)
    for axes, (title, (key, unit)) in zip(grid, charts.items(), strict=True):
        for role, rows in speed.items():
            points = [(row["tokens"], row[key] / unit) for row in rows]
            axes.plot(*zip(*points, strict=True), label=LABELS[role], **_line(role))
        axes.set_title(title, fontsize=10)
        _log2_axis(axes, "context, tokens")
        axes.set_ylim(bottom=0)
    grid[0].legend(loc="lower left", frameon=False, fontsize=8)
    return figure


def _line(role: str) -> dict[str, Any]:
    """Return how the line of a model is drawn; the rim of a marker separates it from lines below."""
    colour, dashes, marker = STYLES[role]
    rim = {"markersize": 6, "markeredgecolor": PAPER, "markeredgewidth": 0.4}
    return {"color": colour, "linestyle": dashes, "marker": marker, **rim}


def _log2_axis(axes: Axes, label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(label)
