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
from matplotlib.ticker import LogFormatter, PercentFormatter, ScalarFormatter, StrMethodFormatter

from subquad.reporting.style import DARK, PAGE_COLOURS

NUMBERS = (LogFormatter, PercentFormatter, ScalarFormatter, StrMethodFormatter)
"""What writes numbers at ticks; names are written by others."""
MAX_MARKS = 600
"""More marks than these become an image inside the figure, which then stays small."""
DPI = PIXELS = 144
"""Resolution of images inside a figure, and width of an inch of it on a wide screen, in pixels."""


class CellFigure(Figure):
    """A figure with images whose cells have texts, which are shown under the pointer and by the arrow keys."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.cell_texts: dict[Axes, Sequence[Sequence[str]]] = {}
        """Texts of the cells of an image, by row from the top and by column; the image fills its axes."""


def vector_figure(figure: Figure, *, label: str) -> str:
    """Return a figure as an SVG element of an HTML page, of which a screen reader says `label`.

    Under the pointer, cells of a `CellFigure` show their texts, and other axes with numbers on both sides coordinates.
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
    colours = PAGE_COLOURS | {colour: f"var(--c{colour[1:]},{colour})" for colour in DARK}
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: colours.get(found.group(), found.group()), text)
    text = _unique(re.sub(r"\n\s*", "\n", text))
    opening = re.match(r'<svg[^>]*viewBox="\S+ \S+ (\S+) (\S+)"[^>]*>', text)
    assert opening is not None, "matplotlib writes an svg element with its size"
    width = f"{float(opening[1]) / 72 * PIXELS:.0f}px"
    # as a variable too, by which style sheets bound how small the figure becomes
    attributes = f'role="img" aria-label="{escape(label)}" style="--width: {width}; width: {width}"'
    if readings:
        attributes += f' data-readings="{escape(json.dumps(readings, ensure_ascii=False, separators=(",", ":")))}"'
    return f'<svg viewBox="0 0 {opening[1]} {opening[2]}" {attributes}>{text[opening.end() :].rstrip()}'


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
    is_drawn = axes.axison and not axes.images and (axes.lines or axes.collections or axes.patches)
    sides = (axes.xaxis, axes.yaxis) if is_drawn and axes.name == "rectilinear" else ()
    return bool(sides) and all(
        isinstance(side.get_major_formatter(), NUMBERS) and side.get_scale() in ("linear", "log") for side in sides
    )


def _plain(text: str) -> str:
    """Return a label without TeX."""
    # only formulas have TeX, and a text without them is drawn as it is
    if "$" not in text.replace(r"\$", ""):
        return text.replace(r"\$", "$").strip()
    text = re.sub(r"\\math\w+|[${}]|\\[,;!]", "", text.replace("\\times", "×").replace("\\eta", "η"))
    return re.sub(r"\\([a-zA-Z]+)", r"\1", text.replace("\\phi", "φ").replace("^", "")).strip()


def _heavy_artists(figure: Figure) -> list[Artist]:
    """Return collections with many marks, and the patches of axes that have many, such as the letters of a logo."""
    marks: dict[Artist, int] = {
        one: max(len(one.get_paths()), np.shape(one.get_offsets())[0]) for one in figure.findobj(Collection)
    }
    marks |= {patch: len(axes.patches) for axes in figure.axes for patch in axes.patches}
    return [artist for artist, count in marks.items() if count > MAX_MARKS]


def _unique(text: str) -> str:
    """Return an SVG whose ids occur in no other figure of the page."""
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    return re.sub(r'(url\(|href="|xlink:href=")#', rf"\1#{prefix}-", text)
