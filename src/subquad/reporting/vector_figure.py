"""Matplotlib figures as SVG inside a page: colours follow light and dark mode, and values can be read off.

The page's style sheet and script (`page.py`) belong to it. Without JavaScript the figures are the same, but silent.
"""

import hashlib
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import escape
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.text import Text

__all__ = [
    "BAND",
    "DARK",
    "FILL",
    "INK",
    "ON_DARK",
    "ON_LIGHT",
    "PAPER",
    "SOFT",
    "CellFigure",
    "literal",
    "vector_figure",
]

INK = "#000000"
"""Colour of text and frames."""
PAPER = "#ffffff"
"""Colour of the background."""
BAND = "#ebebeb"
"""Colour of an area behind curves."""
FILL = "#cfe3d8"
"""Colour of an area with a frame."""
SOFT = "#5b6474"
"""Colour of text of less importance."""
NAMED = {
    INK: "currentColor",
    PAPER: "var(--paper)",
    BAND: "var(--band)",
    FILL: "var(--mark)",
    SOFT: "var(--soft)",
    "#1c2330": "currentColor",
    "#dfe3ea": "var(--line)",
}
"""Colours of text, frames and background, which follow the page."""
ON_LIGHT = "#111111"
"""Colour of what is drawn on light cells, the same on a light and on a dark page."""
ON_DARK = "#fefefe"
"""Colour of what is drawn on dark cells, the same on a light and on a dark page."""
DARK = {
    "#1f6f54": "#4fb893",
    "#2f6db3": "#6ca6e6",
    "#8a94a6": "#98a2b3",
    "#bd1f01": "#ee6a50",
    "#832db6": "#b98be0",
    "#a33b3b": "#e07b7b",
    "#6d4b9a": "#a98bd6",
}
"""Colours of curves that are too dark on a dark page, and what replaces them there."""
MAX_MARKS = 600
"""More marks than these become an image inside the figure, which then stays small."""
DPI = PIXELS = 144
"""Resolution of images inside a figure, and width of an inch of it on a wide screen, in pixels."""
NUMBER_SCALES = ("linear", "log")


class CellFigure(Figure):
    """A figure with images whose cells have texts, which are shown under the pointer and by the arrow keys."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.cell_texts: dict[Axes, Sequence[Sequence[str]]] = {}
        """Texts of the cells of an image, by row from the top and by column; the image fills its axes."""


def vector_figure(figure: Figure, *, label: str) -> str:
    """Return a figure as an SVG element of an HTML page.

    Under the pointer, cells of a `CellFigure` show their texts, and other axes with numbers on both sides coordinates.
    The arrow keys move over the cells.

    Args:
        figure: The figure.
        label: What a screen reader says of it.
    """
    readings = _mark_axes(figure)
    for artist in _heavy_artists(figure):
        artist.set_rasterized(True)
    buffer = io.StringIO()
    # a fixed salt, so that equal figures are equal files
    with matplotlib.rc_context({"svg.hashsalt": "subquad", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", dpi=DPI, bbox_inches="tight", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: _themed(found.group()), text)
    text = _unique(re.sub(r"\n\s*", "\n", text))
    opening = re.match(r"<svg[^>]*>", text)
    assert opening is not None, "matplotlib writes an svg element"
    box = re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', opening.group())
    assert box is not None, "matplotlib writes the size of a figure"
    width = f"{float(box[1]) / 72 * PIXELS:.0f}px"
    # as a variable too, by which style sheets bound how small the figure becomes
    attributes = f'role="img" aria-label="{escape(label)}" style="--width: {width}; width: {width}"'
    if readings:
        attributes += f' data-readings="{escape(json.dumps(readings, ensure_ascii=False, separators=(",", ":")))}"'
    return f'<svg viewBox="0 0 {box[1]} {box[2]}" {attributes}>{text[opening.end() :].rstrip()}'


def _mark_axes(figure: Figure) -> dict[str, dict[str, object]]:
    """Give the background of axes an id, and return what the script needs to read values off them."""
    texts = figure.cell_texts if isinstance(figure, CellFigure) else {}
    readings: dict[str, dict[str, object]] = {}
    for number, axes in enumerate(figure.axes):
        if axes in texts:
            readings[f"reading-{number}"] = {"cells": texts[axes]}
        elif _has_numbers(axes):
            readings[f"reading-{number}"] = {
                "x": [*axes.get_xlim(), axes.get_xscale(), _plain(axes.get_xlabel()) or "x"],
                "y": [*axes.get_ylim(), axes.get_yscale(), _plain(axes.get_ylabel()) or "y"],
            }
        else:
            continue
        axes.patch.set_gid(f"reading-{number}")
    return readings


def _has_numbers(axes: Axes) -> bool:
    """Return whether both sides of axes are numbers whose ticks are shown, and something is drawn by them."""
    if not axes.axison or axes.images or not (axes.lines or axes.collections or axes.patches):
        return False
    if axes.name != "rectilinear" or {axes.get_xscale(), axes.get_yscale()} - set(NUMBER_SCALES):
        return False
    return all(_is_numeric(axis.get_ticklabels()) for axis in (axes.xaxis, axes.yaxis))


def _is_numeric(labels: Sequence[Text]) -> bool:
    shown = [_plain(label.get_text()) for label in labels if label.get_text()]
    return bool(shown) and all(
        re.fullmatch(r"[-+−]?[\d.,]+(e[-+−]?\d+)?%?|([-−]?[\d.]+×)?10[-−]?\d+", text) for text in shown
    )


def literal(text: str) -> str:
    """Return what matplotlib draws as this text, such as the name of a column, also if two `$` are in it."""
    return text.replace("$", r"\$")


def _plain(text: str) -> str:
    """Return a label without TeX."""
    # only formulas have TeX, and a text without them is drawn as it is
    if "$" not in text.replace(r"\$", ""):
        return text.replace(r"\$", "$").strip()
    text = re.sub(r"\\math\w+|[${}]|\\[,;!]", "", text.replace("\\times", "×").replace("\\eta", "η"))
    return re.sub(r"\\([a-zA-Z]+)", r"\1", text.replace("\\phi", "φ").replace("^", "")).strip()


def _heavy_artists(figure: Figure) -> list[Artist]:
    """Return collections with many marks, and the patches of axes that have many, such as the letters of a logo."""
    found: list[Artist] = [artist for artist in figure.findobj(Collection) if _marks(artist) > MAX_MARKS]
    for axes in figure.axes:
        found += axes.patches if len(axes.patches) > MAX_MARKS else []
    return found


def _marks(collection: Any) -> int:
    return max(len(collection.get_paths()), np.shape(collection.get_offsets())[0])


def _themed(colour: str) -> str:
    if colour in NAMED:
        return NAMED[colour]
    return f"var(--c{colour[1:]},{colour})" if colour in DARK else colour


def _unique(text: str) -> str:
    """Return an SVG whose ids occur in no other figure of the page."""
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    return re.sub(r'(url\(|href="|xlink:href=")#', rf"\1#{prefix}-", text)
