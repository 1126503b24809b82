"""Names and colours of classes and models in figures of jets."""

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes

from subquad.reporting.style import INK, PALETTE, literal

NAMES = {
    "QCD": "q/g",
    "Hbb": r"$H\to b\bar{b}$",
    "Hcc": r"$H\to c\bar{c}$",
    "Hgg": r"$H\to gg$",
    "H4q": r"$H\to 4q$",
    "Hqql": r"$H\to \ell\nu qq'$",
    "Zqq": r"$Z\to q\bar{q}$",
    "Wqq": r"$W\to qq'$",
    "Tbqq": r"$t\to bqq'$",
    "Tbl": r"$t\to b\ell\nu$",
}
"""LaTeX names of JetClass's classes; other names are shown as they are."""
GREY = "#717581"


def latex_name(label: str) -> str:
    """Return the name of a class for figures."""
    return NAMES.get(label, literal(label.replace("_", " ")))


def wrapped(name: str) -> str:
    """Return the name of a model for a legend, which must leave room for the curves."""
    return literal("\n".join(textwrap.wrap(name, 34, break_on_hyphens=False)))


def class_colours(classes: Sequence[str], background: str) -> dict[str, str]:
    """Return the colour of each class, the same in all figures of a report: that of text for the background."""
    # the darker of two greys last, so that nine signals have one of them
    own = [*(colour for colour in PALETTE if colour != GREY), GREY]
    signals = [name for name in classes if name != background]
    return {background: INK, **{name: own[i % len(own)] for i, name in enumerate(signals)}}


def line_looks(count: int) -> Iterator[dict[str, str]]:
    """Return colour and line style of this many curves."""
    dashes = ("-", "--", "-.", ":")
    return ({"color": PALETTE[i % len(PALETTE)], "linestyle": dashes[i % 4]} for i in range(count))


def draw_fractions(
    axes: Axes,
    values: np.ndarray,
    edges: np.ndarray,
    *,
    weights: np.ndarray | None,
    colour: str,
    label: str,
    width: float = 1.1,
) -> None:
    """Draw a histogram of the values as fractions of their number, or of the sum of their weights."""
    total = len(values) if weights is None else weights.sum()
    fractions = np.histogram(values, edges, weights=weights)[0] / (total or 1)
    axes.stairs(fractions, edges, color=colour, label=label, linewidth=width)
