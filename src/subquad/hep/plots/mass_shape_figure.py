"""Background rejection against the distance of the background's mass before and after a cut."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subquad.hep.metrics.mass_shape import EFFICIENCIES
from subquad.hep.plots.style import latex_name, line_looks, wrapped
from subquad.reporting.style import label_log_axis, panel_grid

MARKERS = dict(zip(EFFICIENCIES, ("o", "s"), strict=True))


def has_mass_shapes(models: Sequence[Mapping[str, Any]], signal: str) -> bool:
    """Return whether a cut on the score of a signal was measured for any model."""
    return any(one["mass_shapes"].get(signal) for model in models for one in model["trainings"])


def _label(model: Mapping[str, Any], efficiency: float) -> str:
    return wrapped(f"{model['name']}, {100 * efficiency:g} %")


def mass_shape_figure(models: Sequence[Mapping[str, Any]], background: str, signals: Sequence[str]) -> Figure:
    """Return rejection against 1/JSD, one panel per signal and one colour per model.

    Args:
        models: As in `metrics.json`: `name` and `trainings` with `mass_shapes`.
        background: Class whose mass is compared.
        signals: Classes with measured cuts.
    """
    # a legend of few columns for long names, above the panels
    columns = 4 if len(signals) > 2 and max(len(model["name"]) for model in models) < 16 else 1
    rows = -(-len(models) * len(MARKERS) // columns)
    width = 3.4 if len(signals) > 1 else 5.2
    figure, grid = panel_grid(len(signals), columns=3, width=width, height=2.9, extra=0.4 + 0.2 * rows)
    for axes, signal in zip(grid, signals, strict=True):
        for look, model in zip(line_looks(len(models)), models, strict=True):
            for efficiency, marker in MARKERS.items():
                cuts = [
                    cut
                    for one in model["trainings"]
                    for cut in one["mass_shapes"].get(signal, ())
                    if cut["efficiency"] == efficiency and cut["inverse_jsd"] and cut["rejection"]["value"]
                ]
                if not cuts:
                    continue
                x = [cut["inverse_jsd"] for cut in cuts]
                y = [cut["rejection"]["value"] for cut in cuts]
                low, high = (cuts[0]["rejection"][end] for end in ("low", "high"))
                # of several trainings the range, of one the interval over jets
                ends_y = (min(y), max(y)) if len(cuts) > 1 else (low, high or y[0])
                point = (median(x), median(y))
                axes.errorbar(
                    *point,
                    xerr=[[point[0] - min(x)], [max(x) - point[0]]],
                    yerr=[[point[1] - ends_y[0]], [ends_y[1] - point[1]]],
                    **{"fmt": marker, "color": look["color"], "markersize": 5, "linewidth": 1.2},
                    label=_label(model, efficiency),
                )
                chance = [cut["by_chance"] for cut in cuts if cut["by_chance"]]
                if chance:
                    axes.plot([median(chance)] * 2, ends_y, color=look["color"], alpha=0.35, linewidth=3)
        label_log_axis(axes.xaxis)
        label_log_axis(axes.yaxis)
        axes.set_title(latex_name(signal), loc="left", fontsize=10)
    # a panel lacks the models of which too few jets pass
    drawn = {name for axes in grid for name in axes.get_legend_handles_labels()[1]}
    shown = {
        name: Line2D([], [], color=look["color"], marker=marker, linestyle="", markersize=5)
        for look, model in zip(line_looks(len(models)), models, strict=True)
        for efficiency, marker in MARKERS.items()
        if (name := _label(model, efficiency)) in drawn
    }
    figure.legend(shown.values(), shown, ncols=columns, loc="outside upper center", frameon=False, fontsize=8)
    figure.supxlabel(f"1 / JSD of the mass of {latex_name(background)}", fontsize=11)
    figure.supylabel(r"rejection $1/\varepsilon_B$", fontsize=11)
    return figure
