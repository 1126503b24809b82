"""Self-contained HTML pages: headings, paragraphs, tables and figures in one file."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

__all__ = ["Link", "Picture", "Section", "Table", "page", "picture", "show", "signed"]

LARGE, SMALL, ROUNDING_ERROR = 1e6, 5e-4, 1e-12
"""Numbers from `LARGE` on, and below `SMALL` but for rounding errors, are written with an exponent."""


@dataclass(frozen=True)
class Picture:
    """A figure."""

    source: str
    """The image as a data URI."""
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


@dataclass(frozen=True)
class Link:
    """A paragraph that is a link."""

    text: str
    """Text of the link."""
    target: str
    """Path relative to this page."""


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, tables, figures and links below it."""

    title: str
    blocks: Sequence[str | Table | Picture | Link] = field(default_factory=list)


def picture(figure: Figure, caption: str, *, is_half: bool = False) -> Picture:
    """Return a matplotlib figure as a PNG for a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, bbox_inches="tight")
    return Picture("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), caption, is_half)


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
    if size >= LARGE or ROUNDING_ERROR < size < SMALL:
        return f"{value:.3g}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}" if size >= 10 else f"{value:.3f}"


def signed(value: float, digits: int) -> str:
    """Return a difference with its sign, for text that is read: a minus sign instead of a hyphen."""
    return f"{value:+.{digits}f}".replace("-", "−")


def page(title: str, *, lead: str, sections: Sequence[Section]) -> str:
    """Return a page as HTML.

    Args:
        title: Title of the page.
        lead: The first sentence: the result.
        sections: Sections in order; more than two get a table of contents. All text is escaped.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["show"] = show
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.filters["text_columns"] = _text_columns
    environment.filters["with_code"] = _with_code
    environment.tests["link"] = lambda block: isinstance(block, Link)
    environment.tests["picture"] = lambda block: isinstance(block, Picture)
    return environment.from_string(_PAGE).render(title=title, lead=lead, sections=sections)


def _text_columns(table: Table) -> set[int]:
    """Return the columns with sentences: text is aligned to the left, numbers and their intervals to the right."""
    return {k for row in table.rows for k, cell in enumerate(row) if isinstance(cell, str) and len(cell) > 24}


def _with_code(text: str) -> Markup:
    """Return a paragraph as HTML, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { --ink: #1c2330; --soft: #5b6474; --line: #dfe3ea; --mark: #e8f3ec; --accent: #1f6f54; }
body { font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: var(--ink);
  max-width: 980px; margin: 2.5rem auto; padding: 0 1.25rem; background: #fff; }
h1 { font-size: 1.8rem; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 2px solid var(--accent); }
p { margin: .6rem 0; }
a { color: var(--accent); }
p.lead { font-size: 1.08rem; color: var(--soft); }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; color: var(--soft); font-size: .88rem; padding-top: .4rem;
  position: sticky; left: 0; max-width: calc(100vw - 2.5rem); }
th, td { padding: .34rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th.text, td.text { text-align: left; white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: .3rem; }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
tr.winner td { background: var(--mark); font-weight: 600; }
figure { margin: 1.1rem 0; }
figure img { max-width: 100%; height: auto; }
figure.half { display: inline-block; vertical-align: top; width: 49%; min-width: 320px; }
figure.half figcaption { padding-right: 1.2rem; }
figcaption { color: var(--soft); font-size: .9rem; }
nav a { margin-right: 1.2rem; }
@media (max-width: 700px) { figure.half { width: 100%; } td.text { min-width: 13rem; } }
@media print { body { margin: 0; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="lead">{{ lead }}</p>
{% if sections | length > 2 %}
<nav>{% for section in sections %}<a href="#s{{ loop.index }}">{{ section.title }}</a>{% endfor %}</nav>
{% endif %}
{% for section in sections %}
<section id="s{{ loop.index }}">
<h2>{{ section.title }}</h2>
{% for block in section.blocks %}
{% if block is table %}
{% set texts = block | text_columns %}
<div class="wide"><table>
{% if block.caption %}<caption>{{ block.caption }}</caption>{% endif %}
<thead><tr>{% for name in block.header %}
<th{% if loop.index0 in texts %} class="text"{% endif %}>{{ name }}</th>
{% endfor %}</tr></thead>
<tbody>
{% for row in block.rows %}
<tr{% if loop.index0 == block.winner %} class="winner"{% endif %}>
{% for cell in row %}<td{% if loop.index0 in texts %} class="text"{% endif %}>{{ cell | show }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% elif block is picture %}
<figure{% if block.is_half %} class="half"{% endif %}><img src="{{ block.source }}" alt="{{ block.caption }}">
<figcaption>{{ block.caption }}</figcaption></figure>
{% elif block is link %}
<p><a href="{{ block.target }}">{{ block.text }}</a></p>
{% else %}
<p>{{ block | with_code }}</p>
{% endif %}
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""
