"""Displays of single jets: particles and edges in Δη and Δφ, coloured by their attributions.

Axes: P particles of a jet, E edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from subquad.hep.plots.style import latex_name
from subquad.reporting.style import PALETTE, RED, panel_grid

PARTICLE_TYPES = {
    "isChargedHadron": "charged hadron",
    "isNeutralHadron": "neutral hadron",
    "isPhoton": "photon",
    "isElectron": "electron",
    "isMuon": "muon",
}
"""Endings of the columns with the type of a particle, and the names of the types."""

MARKERS = dict(zip(PARTICLE_TYPES.values(), ("o", "s", "D", "^", "v"), strict=True))
COLOURS = dict(zip(PARTICLE_TYPES.values(), (PALETTE[i] for i in (0, 3, 4, 6, 9)), strict=True))
HALO = "#ffd23f"


@dataclass(frozen=True, kw_only=True)
class JetDisplay:
    """One jet with its attributions."""

    label: str
    """True class."""
    predicted: str
    """Class with the largest probability, whose logit is explained."""
    probability: float
    """Probability of the predicted class."""
    points: np.ndarray
    """[P, 2]: Δη and Δφ."""
    pt: np.ndarray
    """[P]: fraction of the summed pT."""
    types: Sequence[str]
    """[P]: names as in `PARTICLE_TYPES`; empty if the type is not known."""
    is_displaced: np.ndarray
    """[P]: whether the particle is a displaced track."""
    particles: np.ndarray
    """[P]: attribution, relative to the largest."""
    edges: np.ndarray
    """[E, 2]: indices of the two particles, each edge once."""
    weights: np.ndarray
    """[E]: edge weights, at most 1."""
    importance: np.ndarray
    """[E]: attribution, relative to the largest."""


def displays_figure(displays: Sequence[JetDisplay]) -> Figure:
    """Return the jets in Δη and Δφ, two per row, with a legend."""
    figure, grid = panel_grid(len(displays), columns=2, width=4.8, height=4.3, extra=0.6)
    for i, (axes, display) in enumerate(zip(grid, displays, strict=True)):
        _draw(axes, display)
        if i % 2 == 0:
            axes.set_ylabel(r"$\Delta\phi$")
    handles = [
        Line2D([], [], linestyle="", marker=marker, markersize=6, color=COLOURS[name], label=name)
        for name, marker in MARKERS.items()
        if any(name in display.types for display in displays)
    ]
    ring = {"linestyle": "", "marker": "o", "markersize": 9, "markerfacecolor": "none"}
    if any(display.is_displaced.any() for display in displays):
        handles.append(Line2D([], [], markeredgecolor="k", markeredgewidth=1.4, label="displaced track", **ring))
    halo = {**ring, "markerfacecolor": HALO, "markeredgecolor": "none"}
    handles += [
        Line2D([], [], label="particle of high importance", **halo),
        Line2D([], [], color=colormaps["Reds"](0.9), label="edge of high importance"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, display: JetDisplay) -> None:
    order = np.argsort(display.importance, kind="stable")
    importance = display.importance[order]
    reds = LinearSegmentedColormap.from_list("edges", ["0.85", *colormaps["Reds"]([0.4, 0.7, 0.95])])
    colour = reds(importance)
    colour[:, 3] = 0.35 + 0.65 * importance
    segments = list(display.points[display.edges[order]])
    widths = 0.4 + 1.8 * display.weights[order]
    axes.add_collection(LineCollection(segments, colors=colour, linewidths=widths, zorder=1))
    # areas are proportional to pT, and the softest particles remain visible
    area = 6 + 700 * display.pt
    eta, phi = display.points.T
    halo = to_rgba_array([HALO] * len(area), display.particles)
    axes.scatter(eta, phi, s=2.2 * area + 60, c=halo, edgecolors="none", zorder=2)
    types = np.array(display.types or [""] * len(area))
    widths, rims = np.where(display.is_displaced, 1.4, 0.3), np.where(display.is_displaced, "k", "w")
    for name, marker in {**MARKERS, "": "o"}.items():
        of = types == name
        looks = {"marker": marker, "color": COLOURS.get(name, "0.5"), "linewidths": widths[of], "edgecolors": rims[of]}
        axes.scatter(eta[of], phi[of], s=area[of], zorder=3, **looks)
    reach = max(0.2, 1.12 * float(np.abs(display.points).max(initial=0)))
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel=r"$\Delta\eta$")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    is_correct = display.label == display.predicted
    title = latex_name(display.label) + ("" if is_correct else f" predicted as {latex_name(display.predicted)}")
    axes.set_title(f"{title}, score {display.probability:.2f}", color="k" if is_correct else RED)
