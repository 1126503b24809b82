"""Pieces of HTML for the page: tables, notices, links and pictures. All text is escaped here."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup, escape

from subquad.reporting.page import Block, Link, Picture, Table, Verbatim, show, with_code

__all__ = [
    "Cell",
    "blocks",
    "columns",
    "details",
    "drawing",
    "heading",
    "hint",
    "join",
    "links",
    "notice",
    "pairs",
    "picture",
    "progress_bar",
    "remarks",
    "table",
]

Cell = str | float | int | None
Kind = Literal["note", "error", "warning"]
LABELS = {"error": "Error", "warning": "Warning", "note": "Note"}
LONG = 24
"""Letters from which text of a cell may need several lines."""
WIDE = Markup('<div class="sq-wide" tabindex="0" role="group" aria-label="Figure">')
"""Opens what scrolls on a narrow screen, so that a figure keeps a size at which it can be read."""


def join(*pieces: str | Markup | None) -> Markup:
    """Return pieces of HTML below each other; text is escaped, and empty pieces are left out."""
    return Markup("\n").join(escape(piece) for piece in pieces if piece)


def notice(text: str, kind: Kind = "note") -> Markup:
    """Return a notice; the first line of an error is its sentence, and the other lines are a list."""
    first, *others = text.strip().split("\n")
    # a word, and not a name such as `table.csv` or `error_rate`
    if re.match(r"[a-z]+[ ,;]", first):
        first = first[0].upper() + first[1:]
    rows = Markup("").join(Markup("<li>{}</li>").format(line.strip()) for line in others if line.strip())
    body = Markup("<ul>{}</ul>").format(rows) if rows else Markup("")
    role = ' role="alert"' if kind == "error" else ""
    return Markup('<div class="sq-notice sq-{}"{}><strong>{}.</strong> {}{}</div>').format(
        kind, Markup(role), LABELS[kind], with_code(first), body
    )


def hint(text: str) -> Markup:
    """Return a sentence that helps, which screen readers announce when it changes."""
    return Markup('<p class="sq-hint" role="status">{}</p>').format(text)


def progress_bar(done: float, total: float, text: str, more: str = "") -> Markup:
    """Return a bar with what is being done; screen readers announce the text when it changes, but not `more`."""
    return Markup(
        '<div class="sq-progress"><progress value="{:.4g}" max="{:.4g}" aria-label="Progress"></progress>'
        '<p><span role="status">{}</span> {}</p></div>'
    ).format(min(done, total), total, text, more)


def heading(text: str) -> Markup:
    """Return a heading within a tab."""
    return Markup("<h3>{}</h3>").format(text)


def table(found: Table | None) -> Markup:
    """Return a table as the reports have it: numbers are rounded, and the best row is marked."""
    if found is None or not found.rows:
        return Markup("")
    kinds = [_kind(cells) for cells in zip(*found.rows, strict=True)]
    scope = Markup(' scope="col"')
    head = Markup("").join(_cell("th", name, kind, scope) for name, kind in zip(found.header, kinds, strict=True))
    rows = Markup("")
    for number, row in enumerate(found.rows):
        best = Markup(' class="sq-best"') if number == found.winner else Markup("")
        cells = Markup("").join(_cell("td", show(cell), kind) for cell, kind in zip(row, kinds, strict=True))
        rows += Markup("<tr{}>{}</tr>\n").format(best, cells)
    caption = Markup("<caption>{}</caption>").format(found.caption) if found.caption else Markup("")
    label = found.caption or ", ".join(found.header)
    return Markup(
        '<div class="sq-wide" tabindex="0" role="region" aria-label="{}"><table>{}<thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(f"Table: {label}"[:120], caption, head, rows)


def _kind(cells: Sequence[Cell]) -> str:
    """Return the class of a column: of sentences, of sequences, of other text, or none for numbers and intervals."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    long = [text for text in texts if len(text) > LONG]
    if long:
        # a sequence has no place where a line may end
        return "sq-sequence" if all(re.fullmatch(r"[A-Za-z*.…-]+", text) for text in long) else "sq-text"
    is_number = any(re.match(r"[^A-Za-z]*[\d∞]", cell) if isinstance(cell, str) else cell is not None for cell in cells)
    return "sq-left" if any(text[:1].isalpha() for text in texts) and not is_number else ""


def _cell(tag: str, text: str, kind: str, more: Markup = Markup("")) -> Markup:
    own = Markup(' class="{}"').format(kind) if kind else Markup("")
    return Markup("<{0}{1}{2}>{3}</{0}>").format(tag, own, more, text)


def remarks(lines: Sequence[str]) -> Markup:
    """Return a list of sentences."""
    rows = Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)
    return Markup('<ul class="sq-remarks">{}</ul>').format(rows) if lines else Markup("")


def pairs(values: Mapping[str, Cell]) -> Markup:
    """Return named values as tiles."""
    tiles = Markup("").join(
        Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, show(value)) for name, value in values.items()
    )
    return Markup('<dl class="sq-tiles">{}</dl>').format(tiles)


def links(targets: Mapping[str, str]) -> Markup:
    """Return links as buttons: text → address. Those to pages open beside this one."""
    found = []
    for text, target in targets.items():
        is_page = target.endswith(".html") or target.endswith(".txt")
        how = Markup(' target="_blank" rel="noopener"') if is_page else Markup(' download=""')
        found.append(Markup('<a class="sq-link" href="{}"{}>{}</a>').format(target, how, text))
    return Markup('<p class="sq-links">{}</p>').format(Markup(" ").join(found)) if found else Markup("")


def picture(source: str, caption: str, *, width: str = "") -> Markup:
    """Return a figure with its caption, on white as it is printed."""
    style = Markup(' style="max-width:{}"').format(width) if width else Markup("")
    return Markup(
        '<figure class="sq-figure"{}>{}<img src="{}" alt="{}"></div><figcaption>{}</figcaption></figure>'
    ).format(style, WIDE, source, caption, caption)


def drawing(block: Picture, *, width: str = "") -> Markup:
    """Return a figure of a report, on white as it is printed."""
    style = Markup(' style="max-width:{}"').format(width) if width else Markup("")
    return Markup('<figure class="sq-figure"{}>{}{}</div><figcaption>{}</figcaption></figure>').format(
        style, WIDE, Markup(block.svg), block.caption
    )


def blocks(found: Sequence[Block | Link]) -> Markup:
    """Return the blocks of a report's section; its links lead to files of the report, and are left out."""
    pieces = []
    for block in found:
        match block:
            case Table():
                pieces.append(table(block))
            case Picture():
                pieces.append(drawing(block))
            case Verbatim():
                pieces.append(Markup("<pre>{}</pre>").format(block.text))
            case str():
                pieces.append(Markup("<p>{}</p>").format(with_code(block)))
    return join(*pieces)


def details(title: str, content: str | Markup, *, name: str = "") -> Markup:
    """Return content that is opened by a click or a key.

    Args:
        title: What is clicked.
        content: What is shown then.
        name: Name within a view, by which it stays open when the view changes; the title by default.
    """
    return Markup('<details data-name="{}"><summary>{}</summary>{}</details>').format(name or title, title, content)


def columns(*pieces: Any) -> Markup:
    """Return pieces beside each other where there is room."""
    cells = Markup("").join(Markup("<div>{}</div>").format(piece) for piece in pieces if piece)
    return Markup('<div class="sq-columns">{}</div>').format(cells)
