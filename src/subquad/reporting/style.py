"""Style of all figures, colours that follow light and dark pages, and the figures that the three fields share."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

INK, PAPER, BAND, FILL, SOFT, LINE = "#000000", "#ffffff", "#ebebeb", "#cfe3d8", "#5b6474", "#dfe3ea"
"""Text and frames, background, an area behind curves, an area with a frame, less important text, and grid lines."""
PAGE_COLOURS = {
    INK: "currentColor",
    **{PAPER: "var(--paper)", BAND: "var(--band)", FILL: "var(--mark)", SOFT: "var(--soft)", LINE: "var(--line)"},
}
"""What these colours are on a page, which may be light or dark."""
ON_LIGHT, ON_DARK = "#111111", "#fefefe"
"""Text on light and on dark cells, the same on every page."""
GREEN, GREY, OCHRE, BLUE, RED = "#1f6f54", "#8a94a6", "#c08a3e", "#2f6db3", "#bd1f01"
# ten colours that stay distinguishable with colour vision deficiencies (arXiv:2107.02270)
PALETTE = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
DARK = {
    **{GREEN: "#4fb893", BLUE: "#6ca6e6", GREY: "#98a2b3", RED: "#ee6a50"},
    **{"#832db6": "#b98be0", "#a33b3b": "#e07b7b", "#6d4b9a": "#a98bd6"},
}
"""Colours of curves that are too dark on a dark page, and what replaces them there."""
SMOOTHED = 50
"""Points of a training curve from which on its running mean is drawn."""


def literal(text: str) -> str:
    """Return what matplotlib draws as this text, such as the name of a column, also if two `$` are in it."""
    return text.replace("$", r"\$")


def panels(width: float, height: float, *, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure of this size in inches and its axes, as matplotlib's `subplots`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, **options)
    for one in np.atleast_1d(axes).flat:
        tidy(one)
    return figure, axes


def panel_grid(
    count: int, *, columns: int, width: float, height: float, extra: float = 0.0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure with this many panels of a size in inches, at most `columns` in a row, and `extra` height."""
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    figure, grid = panels(width * columns, height * rows + extra, rows=rows, columns=columns, squeeze=False, **options)
    for axes in list(grid.flat)[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat)[:count]


def tidy(axes: Axes, *, grid: Literal["", "x", "y"] = "") -> None:
    """Remove the upper and right side of a frame; a `grid` along `x` or `y` replaces the left one too."""
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.spines["left"].set_visible(False)
        axes.grid(axis=grid, color=LINE, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)


def label_log_axis(axis: Axis) -> None:
    """Make an axis logarithmic and label it with plain numbers, also if it has no power of ten."""
    name = axis.axis_name  # pyright: ignore[reportAttributeAccessIssue]
    getattr(axis.axes, f"set_{name}scale")("log")
    low, high = axis.get_view_interval()
    is_wide = high >= 100 * low
    axis.set_major_locator(MaxNLocator(4) if high < 4 * low else LogLocator(subs=(1,) if is_wide else (1, 2, 5)))
    axis.set_minor_locator(LogLocator(subs="all") if is_wide else NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())


def draw_cells(
    axes: Axes,
    table: np.ndarray,
    template: str = "{:.0f}",
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    cmap: str = "Greens",
    limits: tuple[float, float] = (0, 100),
    least: float = -np.inf,
) -> Any:
    """Draw a table as coloured cells with numbers and return the image; NaN and cells below `least` have no number."""
    image = axes.imshow(table, cmap=cmap, aspect="auto", vmin=limits[0], vmax=limits[1])
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value) and value >= least:
            red, green, blue, _ = image.cmap(image.norm(value))
            colour = ON_DARK if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else ON_LIGHT
            axes.text(j, i, template.format(value), ha="center", va="center", fontsize=8, color=colour)
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(columns) > 5 else {}
    axes.set_xticks(range(len(columns)), columns, fontsize=9, **turned)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def confusion_figure(rates: np.ndarray, classes: Sequence[str]) -> Figure:
    """Return the confusion matrix, in per cent of each true class."""
    size = min(7.8, 2.6 + 0.5 * len(classes))
    figure, axes = panels(size + 0.4, size)
    # more numbers than these overlap
    least = 0.5 if len(classes) <= 14 else np.inf
    draw_cells(axes, 100 * rates, rows=classes, columns=classes, least=least)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


def interval_figure(
    rows: Sequence[tuple[str, float, float, float, str]],
    *,
    label: str,
    reference: float | None = None,
    is_log: bool = False,
) -> Figure:
    """Return values with their intervals, one below the other, and a vertical line at the `reference`.

    Args:
        rows: Name, value, low, high and colour of each.
    """
    figure, axes = panels(5.6, 0.7 + 0.42 * len(rows))
    if reference is not None:
        axes.axvline(reference, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)
    over = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}
    for y, (name, value, low, high, colour) in enumerate(reversed(rows)):
        axes.plot([low, high], [y, y], color=colour, linewidth=1.4, marker="|" if high > low else None, markersize=7)
        axes.plot([value], [y], "o", color=colour, markersize=6)
        text = f"{value:,.{3 if abs(value) < 9.9995 else 1}f}".replace("-", "−")
        axes.annotate(text, (high, y), (7, 0), textcoords="offset points", va="center", fontsize=8, bbox=over)
        # names above their dots leave these in sight on a narrow screen
        spot = {"transform": axes.get_yaxis_transform(), "va": "bottom", "bbox": over}
        axes.text(0.01, y + 0.2, literal(name), color=SOFT, fontsize=9, **spot)
    axes.set(ylim=(-0.5, len(rows) - 0.2), xlabel=literal(label))
    axes.margins(x=0.14)
    if is_log:
        label_log_axis(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    tidy(axes, grid="y")
    return figure


Points = Sequence[tuple[float, float]]


def history_figure(charts: Mapping[str, Mapping[str, tuple[Points, str]]]) -> Figure:
    """Return training curves side by side, each chart by its label: points and colour of each curve, by its name.

    Points of names that begin with `validation` have markers; a long curve is pale, with its running mean.
    """
    figure, grid = panels(4.4 * len(charts), 3.1, columns=len(charts), squeeze=False)
    for axes, (label, curves) in zip(grid.flat, charts.items(), strict=True):
        for name, (points, colour) in curves.items():
            steps, values = np.array(points, dtype=float).T
            is_noisy = len(points) >= SMOOTHED and not name.startswith("validation")
            marker = "o" if name.startswith("validation") or len(points) == 1 else None
            shown = "_" if name.startswith("_") or is_noisy else literal(name)
            axes.plot(
                steps, values, marker=marker, markersize=3.5, color=colour, alpha=0.3 if is_noisy else 1, label=shown
            )
            if is_noisy:
                width = len(points) // 15
                mean = np.convolve(values, np.ones(width) / width, mode="valid")
                axes.plot(steps[width - 1 :], mean, color=colour, label=literal(name))
        axes.set(xlabel="step", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(frameon=False, fontsize=8)
    return figure
