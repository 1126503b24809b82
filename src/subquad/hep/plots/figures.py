"""Figures of taggers: one training of a tagger, or several models compared. About 0.3 s each.

Axes: J jets, C classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from subquad.hep.metrics.classification import confusion
from subquad.hep.metrics.curves import Curve, Sculpted, reliability, roc
from subquad.hep.metrics.predictions import ModelPredictions, Predictions
from subquad.hep.metrics.rejection import discriminant
from subquad.hep.metrics.weighting import effective_number
from subquad.hep.plots.style import GREY, class_colours, draw_fractions, latex_name, line_looks, wrapped
from subquad.reporting import style
from subquad.reporting.style import BAND, RED, SOFT, label_log_axis, panel_grid, panels

BLUE = "#3f90da"
CUT_COLOURS = (BLUE, "#e76300", RED)
FEW_JETS = 10
"""ROC curves are shaded where fewer background jets pass."""


def roc_figure(predictions: Predictions, classes: Sequence[str], background: str) -> Figure:
    """Return the background rejection against the efficiency of each signal."""
    figure, axes = panels(7.2, 5.2)
    b = list(classes).index(background)
    curves = {name: roc([predictions], i, b) for i, name in enumerate(classes) if name != background}
    shown = {name: curve for name, curve in curves.items() if curve is not None}
    colours = class_colours(classes, background)
    for name, curve in shown.items():
        x, value, _, _ = _finite(curve)
        axes.plot(x, value, color=colours[name], label=latex_name(name))
    total = effective_jets(predictions, b)
    _shade_few_jets(axes, total)
    axes.text(
        # the shade always ends at the top; the legend is at the bottom
        0.02,
        0.98,
        f"fewer than {FEW_JETS} background jets pass",
        fontsize=9,
        color=SOFT,
        ha="left",
        va="top",
        transform=axes.transAxes,
        # curves begin there too
        bbox={"facecolor": "0.92", "edgecolor": "none", "pad": 1},
        zorder=3,
    )
    axes.set(
        yscale="log",
        xlim=(0, 1),
        xlabel=r"signal efficiency $\varepsilon_S$",
        ylabel=rf"background rejection $1/\varepsilon_B$ ({latex_name(background)})",
    )
    if shown:
        axes.legend(ncols=2, loc="lower left", frameon=False)
    return figure


def effective_jets(predictions: Predictions, label: int) -> float:
    """Return the number of jets of a class, or the effective number if they have weights."""
    _, own = predictions.weights_of(predictions.labels == label)
    return float((predictions.labels == label).sum()) if own is None else effective_number(own)


def _shade_few_jets(axes: Axes, background_jets: float) -> None:
    top = max(background_jets, 2) * 1.5
    axes.axhspan(background_jets / FEW_JETS, top, color=BAND, zorder=0)
    axes.set_ylim(1, top)


def confusion_figure(predictions: Predictions, classes: Sequence[str]) -> Figure:
    """Return the confusion matrix in per cent of each true class."""
    rates = confusion(predictions.probabilities, predictions.labels, predictions.weights)
    return style.confusion_figure(rates, list(map(latex_name, classes)))


def scores_figure(predictions: Predictions, classes: Sequence[str], background: str) -> Figure:
    """Return the distribution of each signal's score, for jets of the signal and of the background."""
    signals = [(i, name) for i, name in enumerate(classes) if name != background]
    figure, grid = panel_grid(len(signals), columns=3, width=3.1, height=2.3, extra=0.5)
    b = list(classes).index(background)
    edges, colours = np.linspace(0, 1, 26), class_colours(classes, background)
    for axes, (i, name) in zip(grid, signals, strict=True):
        score = discriminant(predictions.probabilities, i, b)
        for label, of in ((background, b), (name, i)):
            rows = predictions.labels == of
            weights = predictions.weights_of(rows)[1]
            draw_fractions(axes, score[rows], edges, weights=weights, colour=colours[label], label=latex_name(label))
        # the limits first: there may be no jet of either class to find them from
        axes.set(ylim=(1e-3, 3), xlim=(0, 1), yscale="log")
        axes.legend(frameon=False, loc="upper center", ncols=2, fontsize=8, handlelength=1.2)
    figure.supxlabel(rf"score $p_S / (p_S + p_B)$, $B$: {latex_name(background)}", fontsize=11)
    figure.supylabel("fraction of jets", fontsize=11)
    return figure


def history_figure(history: Sequence[Mapping[str, float]]) -> Figure:
    """Return loss and top-1 accuracy of the training and validation jets against the steps."""
    # a penalty or regression targets add to the cross-entropy
    has_more = any(name in entry for entry in history for name in ("penalty", "regression"))
    charts = {}
    for name, label in {"loss": "loss" if has_more else "cross-entropy", "accuracy": "top-1 accuracy"}.items():
        keys = {"training": (name, BLUE), "validation": (f"validation_{name}", "#e76300")}
        points = {
            part: [(entry["step"], entry[key]) for entry in history if key in entry] for part, (key, _) in keys.items()
        }
        charts[label] = {part: (own, keys[part][1]) for part, own in points.items() if own}
    return style.history_figure(charts)


def _finite(curve: Curve, divisor: np.ndarray | float = 1.0) -> tuple[np.ndarray, ...]:
    """Return x, value, low and high over the divisor where the value is finite; an open interval ends at the value."""
    divisor = np.broadcast_to(divisor, curve.value.shape)
    is_kept = np.isfinite(curve.value) & np.isfinite(divisor)
    x, value, low, high, by = (a[is_kept] for a in (curve.x, curve.value, curve.low, curve.high, divisor))
    return x, value / by, low / by, np.where(np.isfinite(high), high, value) / by


def _draw_band(axes: Axes, curve: Curve, look: Mapping[str, str], *, divisor: np.ndarray | float = 1.0, **line) -> None:
    x, value, low, high = _finite(curve, divisor)
    axes.plot(x, value, **look, **line)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.22, linewidth=0)


def has_ratios(curves: Mapping[str, Curve], reference: str) -> bool:
    """Return whether curves have a ratio to that of the reference: both are finite where a background jet passes."""
    others = (curve for name, curve in curves.items() if name != reference)
    return any(len(_finite(curve, curves[reference].value)[0]) for curve in others)


def ratio_figure(
    curves: Mapping[str, Curve],
    *,
    reference: str,
    signal: str,
    background: str,
    efficiency: float,
    background_jets: float,
) -> Figure:
    """Return the background rejection against the efficiency of one signal; of several models also any ratios.

    Args:
        curves: ROC curve of each model, as `curves.roc` returns them.
        reference: Model that the others are divided by.
        signal: Class.
        background: Class.
        efficiency: Working point, which is marked.
        background_jets: Number or effective number of background jets, the upper end of the axis.
    """
    rows = 2 if has_ratios(curves, reference) else 1
    figure, grid = panels(5.2, 4.9, rows=rows, sharex=True, height_ratios=(3, 1.25)[:rows], squeeze=False)
    top, *below = grid[:, 0]
    left = efficiency
    for look, (name, curve) in zip(line_looks(len(curves)), curves.items(), strict=True):
        _draw_band(top, curve, look, label=wrapped(name))
        left = min([left, *_finite(curve)[0][:1]])
    for axes in below:
        _draw_ratios(axes, curves, curves[reference].value)
        axes.set_ylabel(f"ratio to\n{_short(reference)}")
    for axes in grid.flat:
        axes.axvline(efficiency, color="0.6", linewidth=0.8, linestyle=":")
    _shade_few_jets(top, background_jets)
    # a curve begins where the first background jet passes
    top.set(yscale="log", xlim=(max(0.0, np.floor(10 * left - 0.5) / 10), 1))
    top.set_ylabel(r"rejection $1/\varepsilon_B$")
    grid[-1, 0].set_xlabel(r"signal efficiency $\varepsilon_S$")
    top.set_title(f"{latex_name(signal)} against {latex_name(background)}", loc="left")
    top.legend(loc="lower left", frameon=False)
    return figure


def _draw_ratios(axes: Axes, curves: Mapping[str, Curve], divisor: np.ndarray) -> None:
    ratios = [1.0]
    for look, curve in zip(line_looks(len(curves)), curves.values(), strict=True):
        _draw_band(axes, curve, look, divisor=divisor)
        x, ratio, _, _ = _finite(curve, divisor)
        # at low efficiencies few background jets pass, and the ratio fluctuates
        ratios += [*ratio[x >= 0.2]]
    low, high = min(ratios), max(ratios)
    if high > 6 * low:
        axes.set(yscale="log", ylim=(low / 1.5, high * 1.5))
        label_log_axis(axes.yaxis)
    else:
        room = 0.15 * max(high - low, 0.2)
        axes.set_ylim(max(0.0, low - room), high + room)
        axes.yaxis.set_major_locator(MaxNLocator(4))


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def pt_figure(curves: Mapping[str, tuple[Curve, Curve]], *, signal: str, background: str, efficiency: float) -> Figure:
    """Return signal efficiency and background rejection of each model against pT, by `curves.against_pt`."""
    figure, (top, bottom) = panels(5.2, 4.9, rows=2, sharex=True)
    lowest, largest = np.inf, 1.0
    ends = np.concatenate([curve.x for pair in curves.values() for curve in pair])
    for k, (look, (name, pair)) in enumerate(zip(line_looks(len(curves)), curves.items(), strict=True)):
        _draw_band(top, pair[0], look, marker="o", markersize=3.5, label=wrapped(name))
        # points of several models would hide each other
        offset = (k - (len(curves) - 1) / 2) * 0.012 * np.ptp(ends)
        x, value, low, high = _finite(pair[1])
        errors, points = [value - low, high - value], {"color": look["color"], "markersize": 3.5, "linewidth": 1.2}
        bottom.errorbar(x + offset, value, errors, fmt="o", label=name, **points)
        # lower limits, where no background jet passes
        is_open = ~np.isfinite(pair[1].value)
        bottom.plot(pair[1].x[is_open] + offset, pair[1].low[is_open], "^", color=look["color"], markersize=6)
        lowest = min(lowest, *pair[1].low)
        largest = max(largest, *pair[1].low, *high)
    top.axhline(efficiency, color="0.6", linewidth=0.8, linestyle=":")
    top.set(ylabel=r"efficiency $\varepsilon_S$", ylim=(0, 1.32))
    low = max(0.8, lowest / 1.6)
    # two decades at least, so that the axis has a labelled tick
    bottom.set(ylim=(low, max(largest * 1.6, 25 * low)), xlabel=r"jet $p_T$ [GeV]")
    label_log_axis(bottom.yaxis)
    bottom.set_ylabel(r"rejection $1/\varepsilon_B$")
    percent = rf"overall $\varepsilon_S$ = {100 * efficiency:g} %"
    top.set_title(f"{latex_name(signal)} against {latex_name(background)}, {percent}", loc="left")
    top.legend(loc="upper right", frameon=False, ncols=2)
    return figure


def mass_figure(
    found: Mapping[str, tuple[np.ndarray, Sequence[Sculpted]]], *, edges: np.ndarray, background: str
) -> Figure:
    """Return the background's soft-drop mass before and after cuts on each signal's score, by `curves.sculpting`."""
    figure, grid = panel_grid(len(found), columns=3, width=3.4, height=2.7, extra=0.4)
    for axes, (signal, (before, after)) in zip(grid, found.items(), strict=True):
        axes.stairs(before, edges, color=GREY, label="all", fill=True, alpha=0.3)
        for colour, cut in zip(CUT_COLOURS, after, strict=False):
            label = f"{100 * cut.efficiency:g} %: {cut.distance:.2f} ({cut.by_chance:.2f})"
            axes.stairs(cut.density, edges, color=colour, label=label, linewidth=1.3)
        highest = max(density.max() for density in (before, *(cut.density for cut in after)))
        axes.set(xlim=(0, edges[-1]), ylim=(0, 1.75 * highest))
        axes.set_title(f"cut on {latex_name(signal)}", loc="left", fontsize=10)
        axes.legend(frameon=False, loc="upper right", fontsize=8, handlelength=1.2)
    figure.supxlabel(f"soft-drop mass of {latex_name(background)} [GeV]", fontsize=11)
    figure.supylabel("fraction of jets", fontsize=11)
    return figure


def calibration_figure(models: Sequence[ModelPredictions], classes: Sequence[str]) -> Figure:
    """Return, for each class with jets, the observed fraction of the class against the predicted probability."""
    shown = [(c, name) for c, name in enumerate(classes) if any((m.median_training.labels == c).any() for m in models)]
    figure, grid = panel_grid(len(shown), columns=4, width=2.7, height=2.6, extra=0.4)
    for axes, (c, name) in zip(grid, shown, strict=True):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")
        for look, model in zip(line_looks(len(models)), models, strict=True):
            curve, error = reliability(model.median_training, c)
            label = f"{_short(model.name)}: {error:.3f}"
            _draw_band(axes, curve, look, marker="o", markersize=2.5, linewidth=1.2, label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1.0 + 0.14 * (1 + len(models))), yticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
        axes.set_title(latex_name(name), loc="left", fontsize=10)
        axes.legend(frameon=False, loc="upper left", fontsize=8, handlelength=1.6)
    figure.supxlabel("predicted probability", fontsize=11)
    figure.supylabel("observed fraction", fontsize=11)
    return figure


def time_figure(models: Sequence[ModelPredictions]) -> Figure:
    """Return the network's time per jet against the number of particles, one point per batch, for timed models."""
    timed = {model.name: model.median_training.batches for model in models}
    timed = {name: batches for name, batches in timed.items() if batches is not None}
    figure, axes = panels(5.2, 3.9)
    largest = 0.0
    for look, (name, batches) in zip(line_looks(len(timed)), timed.items(), strict=True):
        particles, jets, seconds = batches.T
        milliseconds = 1e3 * seconds / jets
        mean = 1e3 * seconds.sum() / jets.sum()
        axes.plot(particles, milliseconds, "o", color=look["color"], markersize=3, alpha=0.55)
        axes.plot([], [], "o", color=look["color"], markersize=5, label=wrapped(f"{name}: mean {mean:.3g} ms"))
        # one delayed batch must not flatten all others
        largest = max(largest, float(np.quantile(milliseconds, 0.98)))
    axes.set(ylim=(0, 1.5 * largest), xlim=(0, None), xlabel="particles of the jet", ylabel="time per jet [ms]")
    axes.legend(loc="upper left", frameon=False)
    return figure
