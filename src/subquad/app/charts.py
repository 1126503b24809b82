"""Charts as SVG in the page: they take the colours of its light or dark theme, and show values by mouse or keyboard.

Axes: A letters, L positions.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from subquad.app.markup import details, heading, table
from subquad.reporting.page import Table, show

__all__ = ["DRAWING", "HeatMap", "Line", "heat_map", "line_chart"]

DRAWING = threading.Lock()
"""Held while matplotlib draws, since all threads share its settings."""

# colours that stay distinguishable with colour vision deficiencies, on white and on black (Okabe and Ito)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f7f7f")
DASHES = ("", "8 3", "2 3", "9 3 2 3", "15 4", "9 3 2 3 2 3", "4 5", "15 3 5 3")
"""Patterns of dashes: another number than of colours, so that both together repeat after 56 lines only."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 270, 76, 14, 12, 44
MARK, LETTER = 15, 6.6
"""Height of a line of labels above a chart, and width of one of their letters, which is only estimated."""
MOST_POINTS = 240
"""Points of a line that are drawn."""
MOST_VALUES = 12
"""Points of a line in the table below a chart."""
CELL, HEAD, SIDE, FOOT = 16, 32, 26, 10
NEGATIVE, MIDDLE, POSITIVE = (178, 34, 40), (246, 246, 246), (33, 102, 172)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    number: int = 0
    """Number of its colour and of its pattern of dashes."""
    is_thin: bool = False
    """It is one of several alike, such as the members of an ensemble."""

    @property
    def look(self) -> Markup:
        """Attributes of its stroke."""
        return Markup('stroke="{}" stroke-width="{}" stroke-dasharray="{}"').format(
            self.colour, 1.1 if self.is_thin else 2.2, DASHES[self.number % len(DASHES)]
        )

    @property
    def colour(self) -> str:
        """Its colour."""
        return COLOURS[self.number % len(COLOURS)]


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Cells of a heat map, as `heat_map` draws them."""

    letters: str
    """Rows."""
    positions: Sequence[int]
    """Columns: numbers of positions."""
    wild_type: str
    """Letter of each column."""
    rows: Sequence[range] = ()
    """Columns below each other, so that the map is not wider than the page; all beside each other by default."""
    values: dict[tuple[int, str], float]
    """Value of the cells by position and letter."""
    texts: dict[tuple[int, str], str]
    """What is shown of a cell."""
    marked: set[tuple[int, str]] = field(default_factory=set)
    """Cells with a dot: those that were measured."""
    hatched: set[tuple[int, str]] = field(default_factory=set)
    """Cells that are hatched: those that training does not support."""


def line_chart(
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    title: str,
    is_log_x: bool = False,
    is_log_y: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    zero: bool = False,
    values: Table | None = None,
) -> Markup:
    """Return a line chart, with a table of its values that is opened below it.

    Args:
        lines: The lines; points that are not finite are left out.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        title: What the chart shows.
        is_log_x: Logarithmic horizontal axis.
        is_log_y: Logarithmic vertical axis.
        marks: Vertical lines, by place and label.
        zero: The vertical axis begins at 0.
        values: The table; by default some points of each line.
    """
    shown = [(line, _thinned(line, is_log_x, is_log_y)) for line in lines]
    shown = [(line, points) for line, points in shown if points]
    if not shown:
        return Markup("")
    xs = [a for _, points in shown for a, _ in points] + [place for place, _ in marks]
    ys = [b for _, points in shown for _, b in points]
    across = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, is_log_x)
    labels = _mark_labels(marks, across)
    top = TOP + MARK * (1 + max(label.level for label in labels)) if labels else TOP
    up = _Axis(0.0 if zero else min(ys), max(ys), HEIGHT - BOTTOM, top, is_log_y)
    body = _frame(across, up, x, y) + _marks(labels, top)
    for line, points in shown:
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in points)
        body += Markup('<polyline points="{}" fill="none" {}/>').format(path, line.look)
        # a line needs two points
        look = "sq-point" if len(points) == 1 else "sq-dot"
        for a, b in points[:: max(1, len(points) // 60)]:
            tip = f"{line.name}: {y} {show(float(b))} at {x} {show(float(a))}"
            body += Markup('<circle cx="{:.1f}" cy="{:.1f}" r="5" fill="{}" class="{}" data-tip="{}"/>').format(
                across(a), up(b), line.colour, look, tip
            )
    keys = Markup("").join(_key(line) for line, _ in shown)
    last = "; ".join(f"{line.name} {show(float(points[-1][1]))}" for line, points in shown[:8])
    return Markup(
        '<figure class="sq-chart"><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        '<figcaption>{}<span class="sq-keys">{}</span></figcaption>{}</figure>'
    ).format(
        WIDTH, HEIGHT, f"{title}. Last values: {last}", body, title, keys,
        details("Values of this chart", table(values or _values(shown, x, y)), name=f"values of {title}"),
    )  # fmt: skip


def _key(line: Line) -> Markup:
    return Markup(
        '<span><svg width="46" height="8" aria-hidden="true"><line x1="0" y1="4" x2="46" y2="4" {}/></svg> {}</span>'
    ).format(line.look, line.name)


def _values(shown: Sequence[tuple[Line, list[tuple[float, float]]]], x: str, y: str) -> Table:
    """Return some points of each line, evenly spaced, with the first and the last."""
    rows: list[list[str | float]] = []
    for line, points in shown:
        last, count = len(points) - 1, min(len(points), MOST_VALUES)
        chosen = [points[round(k * last / max(1, count - 1))] for k in range(count)]
        rows += [[line.name, int(a) if a == int(a) else a, b] for a, b in chosen]
    return Table(["line", x, y], rows, caption=f"Up to {MOST_VALUES} points of each line, from first to last.")


def _thinned(line: Line, is_log_x: bool, is_log_y: bool) -> list[tuple[float, float]]:
    points = [
        (float(a), float(b))
        for a, b in zip(line.x, line.y, strict=True)
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not is_log_x) and (b > 0 or not is_log_y)
    ]
    step = -(-len(points) // MOST_POINTS) or 1
    kept = points[::step]
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


class _Axis:
    """Maps values to places, and chooses round ticks."""

    def __init__(self, low: float, high: float, start: float, end: float, is_log: bool) -> None:
        self.is_log, self.start, self.end = is_log, start, end
        self.only = low if low == high else None
        if low == high:
            low, high = (low / 2, high * 2) if is_log else (low - 0.5, high + 0.5)
        # a little room, so that no point lies on the frame
        room = 0.0 if is_log else 0.03 * (high - low)
        self.low, self.high = (low if low == 0 else low - room), high + room

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.is_log else (self.low, self.high)
        part = ((math.log(value) if self.is_log else value) - low) / (high - low)
        return self.start + part * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        if self.only is not None:
            # a scale around a single value would be invented
            return [self.only]
        if self.is_log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            wide = self.high / self.low
            factors = (1,) if wide > 300 else (1, 2, 5) if wide > 6 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
            found = [factor * 10.0**k for k in decades for factor in factors]
            found = found if sum(self.low <= tick <= self.high for tick in found) > 1 else [self.low, self.high]
        else:
            step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
            step *= next(factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= 5)
            found = [step * k for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [tick for tick in found if self.low <= tick <= self.high]


def _frame(across: _Axis, up: _Axis, x: str, y: str) -> Markup:
    body = Markup("")
    for tick in up.ticks:
        body += Markup('<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}" class="sq-grid"/>').format(
            LEFT, WIDTH - RIGHT, up(tick), up(tick)
        )
        body += Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            LEFT - 7, up(tick) + 4, f"{tick:.4g}" if abs(tick) >= 1e-3 else f"{tick:.2g}"
        )
    for tick in across.ticks:
        body += Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            across(tick), HEIGHT - BOTTOM + 18, f"{tick:g}" if abs(tick) < 1e5 else f"{tick:.0e}"
        )
    body += Markup('<line x1="{0}" x2="{1}" y1="{2}" y2="{2}" class="sq-axis"/>').format(
        LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    )
    body += Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
        (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x
    )
    middle = (up.end + HEIGHT - BOTTOM) / 2
    return body + Markup('<text x="13" y="{0}" text-anchor="middle" transform="rotate(-90 13 {0})">{1}</text>').format(
        middle, y
    )


@dataclass(frozen=True, kw_only=True)
class _MarkLabel:
    """Where the label of a vertical line stands above a chart."""

    text: str
    at: float
    """Place of the line."""
    is_left: bool
    """The label ends at its line, and does not begin there."""
    level: int
    """Number of the line of labels, counted from the chart."""
    is_joined: bool
    """Its line can go on to it without crossing another label."""


def _mark_labels(marks: Sequence[tuple[float, str]], across: _Axis) -> list[_MarkLabel]:
    """Return labels that overlap neither each other nor a curve: left or right of their lines, or one level higher."""
    found: list[_MarkLabel] = []
    taken: list[tuple[int, float, float]] = []
    for at, text in sorted((across(place), text) for place, text in marks):
        width = LETTER * len(text)
        sides = {True: (at - width - 4, at + 4), False: (at - 4, at + width + 4)}
        inside = [left for left, (low, high) in sides.items() if low >= 0 and high <= WIDTH] or [True]
        level, is_left = next(
            (level, left)
            for level in range(len(marks))
            for left in inside
            if not any(level == k and sides[left][0] < high and low < sides[left][1] for k, low, high in taken)
        )
        is_joined = not any(k < level and low < at < high for k, low, high in taken)
        found.append(_MarkLabel(text=text, at=at, is_left=is_left, level=level, is_joined=is_joined))
        taken.append((level, *sides[is_left]))
    return found


def _marks(labels: Sequence[_MarkLabel], top: float) -> Markup:
    body = Markup("")
    for label in labels:
        rise, anchor = MARK * label.level, "end" if label.is_left else "start"
        body += Markup(
            '<line x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}" class="sq-mark"/>'
            '<text x="{0:.1f}" y="{3}" text-anchor="{4}">{5}</text>'
        ).format(
            label.at, top - rise if label.is_joined else top, HEIGHT - BOTTOM, top - rise - 5, anchor, label.text
        )  # fmt: skip
    return body


def heat_map(cells: HeatMap, *, title: str, label: str, limit: float, caption: str = "") -> Markup:
    """Return a heat map whose cells can be visited by mouse and by arrow keys.

    Args:
        cells: What is drawn.
        title: Heading of the map.
        label: What the colours stand for.
        limit: Absolute value at which the colours are saturated.
        caption: How to read it.
    """
    L, A = len(cells.positions), len(cells.letters)
    rows = cells.rows or [range(L)]
    block = HEAD + CELL * A + FOOT
    width, height = SIDE + CELL * max(len(row) for row in rows) + 4, block * len(rows) - FOOT + 4
    corners = [(SIDE + CELL * x, block * k + HEAD) for k, row in enumerate(rows) for x in range(len(row))]
    body = Markup("")
    # all cells of a letter follow each other, so that the arrow keys find the cell above and below
    for number, letter in enumerate(cells.letters):
        down = CELL * number
        for k in range(len(rows)):
            body += Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
                SIDE - 6, block * k + HEAD + down + 12, letter
            )
        for column, ((x, top), position) in enumerate(zip(corners, cells.positions, strict=True)):
            body += _cell(cells, x, top + down, column, (position, letter))
    starts = {row.start for row in rows}
    for column, (position, letter) in enumerate(zip(cells.positions, cells.wild_type, strict=True)):
        x, top = corners[column]
        x += CELL / 2
        body += Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x, top - 5, letter)
        if position % 5 == 0 or (column in starts and position % 5 == 1):
            body += Markup('<text x="{}" y="{}" text-anchor="middle" class="sq-small">{}</text>').format(
                x, top - 20, position
            )
    return Markup(
        '{}<figure class="sq-map"><div class="sq-wide" tabindex="0" role="application" aria-roledescription="heat map" '
        'aria-label="{}. Move over the cells with the arrow keys." data-columns="{}">'
        '<svg viewBox="0 0 {} {}" style="--width: {}px; width: {}px" aria-hidden="true">{}</svg></div>'
        '<p class="sq-legend"><span>{}:</span><span>≤ {}</span><span class="sq-scale"></span><span>≥ +{}</span></p>'
        '<p class="sq-tip" role="status" aria-live="polite">Point at a cell, or move over the map with the arrow keys.'
        "</p><figcaption>{}</figcaption></figure>"
    ).format(
        heading(title), title, L, width, height, width, width, body, label, show(-limit), show(limit), caption
    )  # fmt: skip


def _cell(cells: HeatMap, x: int, y: int, column: int, key: tuple[int, str]) -> Markup:
    text, value = cells.texts.get(key, ""), cells.values.get(key)
    is_wild_type = cells.wild_type[column] == key[1]
    colour = Markup("#8a94a6") if value is None else Markup(_colour(value))
    if is_wild_type:
        text, colour = f"{key[1]}{key[0]}: wild type", Markup("#ffffff")
    found = Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="{}" data-tip="{}"/>').format(
        x, y, CELL - 1, CELL - 1, colour, text
    )
    middle = (x + CELL / 2 - 0.5, y + CELL / 2 - 0.5)
    if is_wild_type or key in cells.marked:
        look = Markup("") if is_wild_type else Markup(' stroke="#fff" stroke-width="0.8"')
        found += Markup('<circle cx="{}" cy="{}" r="{}" fill="#000"{} pointer-events="none"/>').format(
            *middle, 1.8 if is_wild_type else 2.6, look
        )
    if key in cells.hatched:
        strokes = "M0 5l5 -5M0 10l10 -10M0 15l15 -15M5 15l10 -10M10 15l5 -5"
        found += Markup(
            '<path d="{}" transform="translate({} {})" stroke="#000" stroke-opacity="0.4" stroke-width="0.8" '
            'pointer-events="none"/>'
        ).format(strokes, x, y)
    return found


def _colour(part: float) -> str:
    """Return the colour of a value between -1 and 1: red, white, blue."""
    part = max(-1.0, min(1.0, part))
    end = POSITIVE if part > 0 else NEGATIVE
    mixed = [round(m + (e - m) * abs(part)) for m, e in zip(MIDDLE, end, strict=True)]
    return f"rgb({mixed[0]},{mixed[1]},{mixed[2]})"
