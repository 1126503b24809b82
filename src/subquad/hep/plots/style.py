"""Style of the figures: frame and ticks as in mplhep's CMS style, no experiment label, colour-blind-safe colours."""

import functools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from subquad.errors import require
from subquad.reporting.vector_figure import INK, ON_DARK, ON_LIGHT

__all__ = [
    "GREY",
    "RED",
    "class_colours",
    "colours",
    "draw_cells",
    "draw_fractions",
    "in_style",
    "label_within_decades",
    "latex_name",
    "line_looks",
    "panel_grid",
    "panels",
    "wrapped",
]

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

# ten colours that stay distinguishable with colour vision deficiencies (arXiv:2107.02270)
COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
GREY, RED = "#717581", "#bd1f01"


def latex_name(label: str) -> str:
    """Return the name of a class for figures."""
    return NAMES.get(label, label.replace("_", " ").replace("$", r"\$"))


def wrapped(name: str) -> str:
    """Return the name of a model for a legend, which must leave room for the curves."""
    return "\n".join(textwrap.wrap(name, 34, break_on_hyphens=False)).replace("$", r"\$")


def colours(count: int) -> list[str]:
    """Return this many colours, repeating after ten."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def class_colours(classes: Sequence[str], background: str) -> dict[str, str]:
    """Return the colour of each class, the same in all figures of a report: that of text for the background."""
    # the darker of two greys last, so that nine signals have one of them
    own = [*(colour for colour in COLOURS if colour != GREY), GREY]
    signals = [name for name in classes if name != background]
    return {background: INK, **{name: own[i % len(own)] for i, name in enumerate(signals)}}


def line_looks(count: int) -> Iterator[dict[str, str]]:
    """Return colour and line style of this many curves."""
    return ({"color": colour, "linestyle": ("-", "--", "-.", ":")[i % 4]} for i, colour in enumerate(colours(count)))


def in_style(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a function so that its figure has the style; matplotlib's global settings stay unchanged."""

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
            # fonts are resolved when texts are drawn
            figure.draw_without_rendering()
        # solving the layout again for every file takes longer than drawing
        figure.set_layout_engine("none")
        return figure

    return drawn


def panels(width: float, height: float, *, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure of this size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def draw_cells(
    axes: Axes, table: np.ndarray, template: str, *, cmap: str, limits: tuple[float, float], least: float = -np.inf
) -> Any:
    """Draw a table as coloured cells with numbers and return the image; NaN and cells below `least` have no number."""
    image = axes.imshow(table, cmap=cmap, aspect="auto", vmin=limits[0], vmax=limits[1])
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value) and value >= least:
            red, green, blue, _ = image.cmap(image.norm(value))
            is_dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            text, colour = template.format(value), ON_DARK if is_dark else ON_LIGHT
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
    axes.minorticks_off()
    axes.tick_params(which="both", length=0)
    return image


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
    mplhep = require("mplhep", extra="hep")
    mplhep.histplot(fractions, edges, ax=axes, color=colour, label=label, histtype="step", linewidth=width)


def label_within_decades(axis: Axis) -> None:
    """Label 2 and 5 times each power of ten of a logarithmic axis too, as few decades have few powers of ten."""

    def text(value: float, _: Any) -> str:
        digit = round(value / 10 ** np.floor(np.log10(value)))
        return f"{value:g}" if digit in (2, 5) else ""

    axis.set_minor_formatter(FuncFormatter(text))
    axis.set_tick_params(which="minor", labelsize=8)


def panel_grid(
    count: int, *, columns: int, width: float, height: float, extra: float, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure with this many panels in rows.

    Args:
        count: Number of panels.
        columns: Largest number of panels in a row.
        width: Width of a panel in inches.
        height: Height of a panel in inches.
        extra: Additional height of the figure, in inches.
        options: Those of matplotlib's `subplots`, such as `sharex`.
    """
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    figure, grid = panels(width * columns, height * rows + extra, rows=rows, columns=columns, squeeze=False, **options)
    for axes in list(grid.flat)[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat)[:count]
