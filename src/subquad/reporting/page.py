"""Self-contained HTML pages: headings, paragraphs, tables and figures in one file.

Pages follow the reader's choice of light or dark, can be printed, and need no JavaScript: with it, tables are sorted by
a click on a column's name, and values are read off figures under the pointer, and off heat maps with the arrow keys.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGE, SMALL, ROUNDING_ERROR = 1e6, 5e-4, 1e-12
"""Numbers from `LARGE` on, and below `SMALL` but for rounding errors, are written with an exponent."""


@dataclass(frozen=True)
class Picture:
    """A figure."""

    svg: str
    """The figure as an SVG element."""
    caption: str
    """What the figure shows, and how to read it."""
    is_half: bool = False
    """Half the width of the page, so that two figures stand side by side."""


@dataclass(frozen=True)
class Table:
    """A table with a header row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]
    caption: str = ""
    winner: int | None = None
    """Index of the row that is highlighted."""

    def as_markdown(self) -> str:
        """Return the table with its caption for a model card."""
        lines = [self.header, ["---"] * len(self.header), *([show(cell) for cell in row] for row in self.rows)]
        texts = [
            "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |" for line in lines
        ]
        return "\n".join([*texts, *(["", self.caption] if self.caption else [])])


@dataclass(frozen=True)
class Verbatim:
    """Text of others, such as that of a model, with its lines and spaces and without any markup."""

    text: str


Block = str | Table | Picture | Verbatim


@dataclass(frozen=True)
class Link:
    """A paragraph that is a link."""

    text: str
    target: str
    """Path relative to this page."""


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, tables, figures and links below it."""

    title: str
    blocks: Sequence[Block | Link] = field(default_factory=list)


def picture(figure: "Figure", caption: str, *, is_half: bool = False) -> Picture:
    """Return a matplotlib figure for a page."""
    from subquad.reporting.vector_figure import vector_figure

    return Picture(vector_figure(figure, label=caption), caption, is_half)


def show(value: str | float | int | None) -> str:
    """Return the text of a table cell: numbers with three significant digits, thousands with commas, None as a dash."""
    match value:
        case None:
            return "–"
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
    size = abs(value)
    if size <= ROUNDING_ERROR:
        return "0.000"
    if size >= LARGE or size < SMALL:
        text = f"{value:.3g}"
    else:
        text = f"{value:,.0f}" if size >= 999.5 else f"{value:.3g}" if size >= 10 else f"{value:.3f}"
    # a minus sign instead of a hyphen
    return text.replace("-", "−", 1) if value < 0 else text


def signed(value: float, digits: int) -> str:
    """Return a difference with its sign, for text that is read: a minus sign instead of a hyphen, but none of 0."""
    # the sum turns −0 into 0
    return f"{round(value, digits) + 0.0:+,.{digits}f}".replace("-", "−")


def page(title: str, *, lead: str, sections: Sequence[Section]) -> str:
    """Return a page as HTML, with the result in its `lead`; all text is escaped."""
    import jinja2

    from subquad.reporting.style import DARK

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("subquad.reporting", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": _cell, "text_columns": _text_columns, "with_code": with_code}
    environment.filters["type"] = lambda block: type(block).__name__
    dark_colours = Markup(" ".join(f"--c{colour[1:]}: {light};" for colour, light in DARK.items()))
    return environment.get_template("page.html").render(
        title=title, lead=lead, sections=sections, dark_colours=dark_colours
    )


def _text_columns(table: Table) -> set[int]:
    """Return the columns with sentences: text is aligned to the left, numbers and their intervals to the right."""
    texts = ((k, cell) for row in table.rows for k, cell in enumerate(row) if isinstance(cell, str))
    return {k for k, cell in texts if len(cell) > 24 and re.search(r"[^\W\d_]{2}", cell)}


def _cell(value: str | float | int | None) -> Markup:
    """Return a cell as HTML; what stands below its first line, such as an interval, is smaller."""
    first, _, rest = show(value).partition("\n")
    return escape(first) + Markup("<small>{}</small>").format(rest) * bool(rest)


def with_code(text: str) -> Markup:
    """Return a paragraph as HTML, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
