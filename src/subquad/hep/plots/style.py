"""How pictures of jets look: the frame and ticks of the field (mplhep), no experiment's label, colours all can tell."""

import functools
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from subquad.errors import require

__all__ = ["colours", "in_style", "line_styles", "name_of", "panels"]

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
"""How the classes of JetClass are written; others stand as they are."""

# ten colours that people with any eyes tell apart (arXiv:2107.02270)
COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)


def name_of(label: str) -> str:
    """Return how a class is written."""
    return NAMES.get(label, label.replace("_", " ").replace("$", r"\$"))


def colours(count: int) -> list[str]:
    """Return so many colours, over again after ten."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def line_styles(count: int) -> list[str]:
    """Return so many ways to draw a line, over again after four."""
    return [("-", "--", "-.", ":")[i % 4] for i in range(count)]


def in_style(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw with the frame and ticks of the field, at the size of a page; nothing global stays changed."""

    @functools.wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        parameters = {
            **require("mplhep", extra="hep").style.CMS,
            **{"font.size": 11, "axes.labelsize": 12, "xtick.labelsize": 10, "ytick.labelsize": 10},
            **{"legend.fontsize": 9, "axes.titlesize": 12, "lines.linewidth": 1.6, "axes.linewidth": 1.0},
            **{"xtick.major.size": 5, "xtick.minor.size": 2.5, "ytick.major.size": 5, "ytick.minor.size": 2.5},
            **{"font.sans-serif": ["DejaVu Sans"], "mathtext.fontset": "dejavusans", "savefig.transparent": False},
        }
        with matplotlib.rc_context({key: value for key, value in parameters.items() if key in matplotlib.rcParams}):
            figure = draw(*args, **kwargs)
            # texts take their fonts when they are drawn
            figure.draw_without_rendering()
        # the places are found; to find them again for every file takes longer than to draw
        figure.set_layout_engine("none")
        return figure

    return drawn


def panels(width: float, height: float, *, rows: int = 1, columns: int = 1, **given: Any) -> tuple[Figure, Any]:
    """Return a figure of this size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **given)
