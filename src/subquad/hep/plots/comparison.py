"""The pictures that hold models side by side, and what a tagger does to mass, pT and time. About 0.3 s each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from subquad.errors import require
from subquad.hep.evaluation.scores import Model
from subquad.hep.metrics.curves import Curve, Sculpted, reliability
from subquad.hep.plots.style import colours, in_style, line_styles, name_of, panels

__all__ = ["calibration_figure", "mass_figure", "pt_figure", "ratio_figure", "time_figure"]

GREYS_TO_RED = ("#717581", "#3f90da", "#e76300", "#bd1f01")


def _looks(count: int) -> list[dict[str, Any]]:
    return [{"color": c, "linestyle": s} for c, s in zip(colours(count), line_styles(count), strict=True)]


def _finite(curve: Curve, divisor: np.ndarray | float = 1.0) -> tuple[np.ndarray, ...]:
    """Return x, value, low and high over the divisor, where the value is finite; an open interval ends at the value."""
    divisor = np.broadcast_to(divisor, curve.value.shape)
    kept = np.isfinite(curve.value) & np.isfinite(divisor)
    x, value, low, high, by = (a[kept] for a in (curve.x, curve.value, curve.low, curve.high, divisor))
    return x, value / by, low / by, np.where(np.isfinite(high), high, value) / by


@in_style
def ratio_figure(
    curves: Mapping[str, Curve], *, reference: str, signal: str, background: str, efficiency: float, jets: int
) -> Figure:
    """Return the rejection of the background against the efficiency of one signal, and below over that of a model.

    Args:
        curves: of each model, as `curves.roc` gives them.
        reference: name of the model that the others are divided by.
        signal: name of the class.
        background: name of the class.
        efficiency: the working point, which is marked.
        jets: of the background, which is where the picture ends.
    """
    figure, (top, bottom) = panels(5.2, 4.9, rows=2, sharex=True, height_ratios=(3, 1.25))
    by = curves[reference].value
    ratios, left = [1.0], efficiency
    for look, (name, curve) in zip(_looks(len(curves)), curves.items(), strict=True):
        for axes, divisor in ((top, 1.0), (bottom, by)):
            x, value, low, high = _finite(curve, divisor)
            axes.plot(x, value, label=name, **look)
            axes.fill_between(x, low, high, color=look["color"], alpha=0.22, linewidth=0)
            if axes is bottom:
                ratios += [*value[x >= 0.2]]
            elif len(x):
                left = min(left, x[0])
    for axes in (top, bottom):
        axes.axvline(efficiency, color="0.6", linewidth=0.8, linestyle=":")
    top.axhspan(jets / 10, max(jets, 2) * 1.5, color="0.92", zorder=0)
    # a curve begins where a first background jet passes
    top.set(yscale="log", ylim=(1, max(jets, 2) * 1.5), xlim=(max(0.0, np.floor(10 * left - 0.5) / 10), 1))
    top.set_ylabel(r"rejection $1/\varepsilon_B$")
    low, high = min(ratios), max(ratios)
    if high > 6 * low:
        bottom.set(yscale="log", ylim=(low / 1.5, high * 1.5))
        bottom.yaxis.set_minor_formatter(NullFormatter())
    else:
        room = 0.15 * max(high - low, 0.2)
        bottom.set_ylim(max(0.0, low - room), high + room)
        bottom.yaxis.set_major_locator(MaxNLocator(4))
    bottom.set(xlabel=r"signal efficiency $\varepsilon_S$", ylabel=f"over\n{_short(reference)}")
    top.set_title(f"{name_of(signal)} against {name_of(background)}", loc="left")
    top.legend(loc="lower left", frameon=False)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


@in_style
def pt_figure(curves: Mapping[str, tuple[Curve, Curve]], *, signal: str, background: str, efficiency: float) -> Figure:
    """Return signal efficiency and background rejection against pT, as `curves.against_pt` gives them, per model."""
    figure, (top, bottom) = panels(5.2, 4.9, rows=2, sharex=True)
    lowest, largest = np.inf, 1.0
    ends = np.concatenate([curve.x for pair in curves.values() for curve in pair])
    for k, (look, (name, pair)) in enumerate(zip(_looks(len(curves)), curves.items(), strict=True)):
        x, value, low, high = _finite(pair[0])
        top.plot(x, value, marker="o", markersize=3.5, label=name, **look)
        top.fill_between(x, low, high, color=look["color"], alpha=0.22, linewidth=0)
        # side by side, since points of models lie on each other
        aside = (k - (len(curves) - 1) / 2) * 0.012 * np.ptp(ends)
        x, value, low, high = _finite(pair[1])
        errors = [value - low, high - value]
        bottom.errorbar(
            x + aside, value, errors, fmt="o", color=look["color"], markersize=3.5, linewidth=1.2, label=name
        )
        # where no background jet passes, from the lower limit upwards
        is_open = ~np.isfinite(pair[1].value)
        bottom.plot(pair[1].x[is_open] + aside, pair[1].low[is_open], "^", color=look["color"], markersize=6)
        lowest = min(lowest, *pair[1].low)
        largest = max(largest, *pair[1].low, *high)
    top.axhline(efficiency, color="0.6", linewidth=0.8, linestyle=":")
    top.set(ylabel=r"efficiency $\varepsilon_S$", ylim=(0, 1.32))
    low = max(0.8, lowest / 1.6)
    # two decades at least, so that there is a number on the axis
    bottom.set(yscale="log", ylim=(low, max(largest * 1.6, 25 * low)), xlabel=r"jet $p_T$ [GeV]")
    bottom.yaxis.set_minor_formatter(NullFormatter())
    bottom.set_ylabel(r"rejection $1/\varepsilon_B$")
    percent = f"{100 * efficiency:g} %"
    top.set_title(rf"{name_of(signal)} against {name_of(background)}, $\varepsilon_S$ = {percent} in all", loc="left")
    top.legend(loc="upper right", frameon=False, ncols=2)
    return figure


@in_style
def mass_figure(
    found: Mapping[str, tuple[np.ndarray, Sequence[Sculpted]]], *, edges: np.ndarray, background: str
) -> Figure:
    """Return the background's soft-drop mass before and after cuts on each signal's score, by `curves.sculpting`."""
    mplhep = require("mplhep", extra="hep")
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, grid = panels(3.4 * columns, 2.7 * rows + 0.4, rows=rows, columns=columns, squeeze=False)
    for axes, (signal, (before, after)) in zip(grid.flat, found.items(), strict=False):
        top = before.max()
        for colour, density, label in (
            (GREYS_TO_RED[0], before, "all"),
            *(
                (colour, cut.density, f"{100 * cut.part:g} %: {cut.distance:.2f} ({cut.by_chance:.2f})")
                for colour, cut in zip(GREYS_TO_RED[1:], after, strict=False)
            ),
        ):
            filled = {"histtype": "fill", "alpha": 0.3} if label == "all" else {"histtype": "step", "linewidth": 1.3}
            mplhep.histplot(density, edges, ax=axes, color=colour, label=label, **filled)
            top = max(top, density.max())
        axes.set(xlim=(0, edges[-1]), ylim=(0, 1.75 * top))
        axes.set_title(f"cut on {name_of(signal)}", loc="left", fontsize=10)
        axes.legend(frameon=False, loc="upper right", fontsize=8, handlelength=1.2)
    for axes in list(grid.flat)[len(found) :]:
        axes.set_axis_off()
    figure.supxlabel(f"soft-drop mass of {name_of(background)} [GeV]", fontsize=11)
    figure.supylabel("part of the jets", fontsize=11)
    return figure


@in_style
def calibration_figure(models: Sequence[Model], classes: Sequence[str]) -> Figure:
    """Return, for each class that has jets, the part of the jets that are of it against the probability given."""
    there = [(c, name) for c, name in enumerate(classes) if any((m.shown.labels == c).any() for m in models)]
    columns = min(4, len(there))
    rows = -(-len(there) // columns)
    figure, grid = panels(2.7 * columns, 2.6 * rows + 0.4, rows=rows, columns=columns, squeeze=False)
    for axes, (c, name) in zip(grid.flat, there, strict=False):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")
        for look, model in zip(_looks(len(models)), models, strict=True):
            curve, error = reliability(model.shown, c)
            x, value, low, high = _finite(curve)
            label = f"{_short(model.name)}: {error:.3f}"
            axes.plot(x, value, marker="o", markersize=2.5, linewidth=1.2, label=label, **look)
            axes.fill_between(x, low, high, color=look["color"], alpha=0.22, linewidth=0)
        axes.set(xlim=(0, 1), ylim=(0, 1.0 + 0.14 * (1 + len(models))), yticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
        axes.minorticks_off()
        axes.set_title(name_of(name), loc="left", fontsize=10)
        axes.legend(frameon=False, loc="upper left", fontsize=8, handlelength=1.6)
    for axes in list(grid.flat)[len(there) :]:
        axes.set_axis_off()
    figure.supxlabel("probability given", fontsize=11)
    figure.supylabel("part that is of the class", fontsize=11)
    return figure


@in_style
def time_figure(models: Sequence[Model]) -> Figure:
    """Return the time of a jet against the number of its particles, one point per batch, where it was measured."""
    timed = [(model.name, model.shown.batches) for model in models if model.shown.batches is not None]
    figure, axes = panels(5.2, 3.9)
    largest = 0.0
    for look, (name, batches) in zip(_looks(len(timed)), timed, strict=True):
        particles, jets, seconds = batches.T
        milliseconds = 1e3 * seconds / jets
        mean = 1e3 * seconds.sum() / jets.sum()
        axes.plot(particles, milliseconds, "o", color=look["color"], markersize=3, alpha=0.55)
        axes.plot([], [], "o", color=look["color"], markersize=5, label=f"{name}: {mean:.3g} ms in the mean")
        # one batch that had to wait must not flatten all others
        largest = max(largest, float(np.quantile(milliseconds, 0.98)))
    axes.set(ylim=(0, 1.5 * largest), xlim=(0, None), xlabel="particles of the jet", ylabel="time per jet [ms]")
    axes.legend(loc="upper left", frameon=False)
    return figure
