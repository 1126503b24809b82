"""The pictures of one training of a tagger: what it says, how it learnt, which jets it saw. About 0.3 s each."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from subquad.errors import require
from subquad.hep.metrics.scores import confusion, discriminant
from subquad.hep.plots.style import colours, in_style, name_of, panels

__all__ = ["confusion_figure", "history_figure", "observables_figure", "roc_figure", "scores_figure"]


@in_style
def roc_figure(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], background: str) -> Figure:
    """Return the rejection of the background against the efficiency of each signal."""
    figure, axes = panels(7.2, 5.2)
    b = list(classes).index(background)
    total = int((labels == b).sum())
    signals = [(i, name) for i, name in enumerate(classes) if name != background and (labels == i).any()]
    for colour, (i, name) in zip(colours(len(signals)), signals, strict=True):
        score = discriminant(probabilities.astype(np.float64), i, b)
        thresholds = np.sort(score[labels == i])[::-1]
        passed = total - np.searchsorted(np.sort(score[labels == b]), thresholds, side="left")
        efficiency = (np.arange(len(thresholds)) + 1) / len(thresholds)
        is_seen = passed > 0
        axes.plot(efficiency[is_seen], total / passed[is_seen], color=colour, label=name_of(name))
    axes.axhspan(total / 10, max(total, 2) * 1.5, color="0.92", zorder=0)
    axes.text(
        0.02,
        max(total / 8.5, 1.1),
        "fewer than 10 background jets pass",
        fontsize=9,
        color="0.35",
        ha="left",
        va="bottom",
        # curves begin there too
        bbox={"facecolor": "0.92", "edgecolor": "none", "pad": 1},
        zorder=3,
    )
    axes.set(
        yscale="log",
        xlim=(0, 1),
        ylim=(1, max(total, 2) * 1.5),
        xlabel=r"signal efficiency $\varepsilon_S$",
        ylabel=rf"background rejection $1/\varepsilon_B$ ({name_of(background)})",
    )
    if signals:
        axes.legend(ncols=2, loc="lower left", frameon=False)
    return figure


@in_style
def confusion_figure(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Return what the jets of each class are taken for."""
    size = 2.6 + 0.52 * len(classes)
    figure, axes = panels(size + 0.8, size)
    table = confusion(probabilities, labels)
    image = axes.imshow(table, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(table):
        for j, value in enumerate(row):
            if round(100 * value) >= 1:
                axes.text(
                    j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color="w" if value > 0.5 else "k"
                )
    names = [name_of(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.minorticks_off()
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="taken for", ylabel="true class")
    figure.colorbar(image, ax=axes, label="part of the true class", shrink=0.85)
    return figure


@in_style
def scores_figure(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], background: str) -> Figure:
    """Return, for each signal, how its score is spread among its own jets and among the background's."""
    Hist = require("hist", extra="hep").Hist
    mplhep = require("mplhep", extra="hep")
    signals = [(i, name) for i, name in enumerate(classes) if name != background]
    columns = min(3, len(signals))
    rows = -(-len(signals) // columns)
    figure, grid = panels(3.1 * columns, 2.3 * rows + 0.5, rows=rows, columns=columns)
    b = list(classes).index(background)
    for axes, (i, name) in zip(np.atleast_1d(grid).flat, signals, strict=False):
        score = discriminant(probabilities.astype(np.float64), i, b)
        for label, colour, of in ((background, "#717581", labels == b), (name, "#3f90da", labels == i)):
            histogram = Hist.new.Reg(25, 0, 1).Double().fill(score[of])
            counts = histogram.values() / max(1, of.sum())
            mplhep.histplot(
                counts, histogram.axes[0].edges, ax=axes, color=colour, label=name_of(label), histtype="step"
            )
        axes.set(yscale="log", ylim=(1e-3, 3), xlim=(0, 1))
        axes.legend(frameon=False, loc="upper center", ncols=2, fontsize=8, handlelength=1.2)
    for axes in list(np.atleast_1d(grid).flat)[len(signals) :]:
        axes.set_axis_off()
    figure.supxlabel(rf"score $p_S / (p_S + p_B)$, $B$: {name_of(background)}", fontsize=11)
    figure.supylabel("part of the jets", fontsize=11)
    return figure


@in_style
def history_figure(history: Sequence[Mapping[str, float]]) -> Figure:
    """Return loss and accuracy over the steps, on the jets in training and on those in validation."""
    figure, (left, right) = panels(8.4, 3.2, columns=2)
    for axes, name in ((left, "loss"), (right, "accuracy")):
        for key, label, style in ((name, "training", "-"), (f"validation_{name}", "validation", "o-")):
            points = [(line["step"], line[key]) for line in history if key in line]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label, markersize=3.5)
        axes.set(xlabel="step", ylabel="cross-entropy" if name == "loss" else "top-1 accuracy")
        axes.legend(frameon=False)
    return figure


@in_style
def observables_figure(values: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Return how some observers are spread in each class: what the jets of the test look like."""
    Hist = require("hist", extra="hep").Hist
    mplhep = require("mplhep", extra="hep")
    figure, grid = panels(9.6, 3.4, columns=len(values))
    for axes, (name, value) in zip(np.atleast_1d(grid).flat, values.items(), strict=True):
        low, high = (float(end) for end in np.quantile(value, [0, 0.99]))
        # from 0, unless all lies far from it
        low = low if low > high / 3 else 0.0
        high = high if high > low else low + 1
        for i, (colour, label) in enumerate(zip(colours(len(classes)), classes, strict=True)):
            of = value[labels == i]
            histogram = Hist.new.Reg(30, low, high).Double().fill(of)
            counts = histogram.values() / max(1, len(of))
            edges, shown = histogram.axes[0].edges, {"color": colour, "label": name_of(label), "linewidth": 1.1}
            mplhep.histplot(counts, edges, ax=axes, histtype="step", **shown)
        axes.set(xlabel=name, ylabel="part of the jets", xlim=(low, high), ylim=(0, None))
    handles, names = np.atleast_1d(grid).flat[0].get_legend_handles_labels()
    figure.legend(handles, names, ncols=5, loc="outside upper center", frameon=False, fontsize=9)
    return figure
