"""Cells of a text table that span several lines, which a stray quotation mark opens. Cost: one pass over the text."""

import csv
import io
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from subquad.errors import counted, raise_errors

__all__ = ["DATA", "check_line_breaks", "check_quotation_marks"]

DATA = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[A-Z*-]{12,}|[A-Z]\d+[A-Z*=]")
"""A number, a sequence that is longer than the name of a column, or a variant."""
LINES = "lines"
"""Key of `Spans` in the `attrs` of a frame."""
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
TYPICAL_ROWS = 1000
"""Rows from which the kind of each column is known."""
_LIMIT = threading.Lock()


class Spans(dict[int, tuple[int, int]]):
    """First and last line of each row that spans several lines; pandas copies `attrs` at each use of a column."""

    def __deepcopy__(self, memo: object) -> "Spans":
        """Return the same, which nobody changes."""
        return self


@dataclass(frozen=True, kw_only=True)
class _Record:
    """One row of a table that spans several lines."""

    row: int
    """Row from 0; -1 for the header."""
    first: int
    """Number of its first line, from 1 in the text."""
    lines: Sequence[str]
    cells: Sequence[str]


def check_quotation_marks(path: Path, text: str, separator: str, *, skipped: int) -> dict[str, Spans]:
    """Return the first and last line of each row that spans several lines, as `attrs` of a frame.

    A stray quotation mark at the start of a cell joins all lines up to the next one into this cell.

    Args:
        path: The table, for messages.
        text: Header and rows.
        separator: Separator of the columns.
        skipped: Number of lines of the file before the header.

    Raises:
        SubquadError: A quotation mark is not closed, or only inside another cell, or at the end of a later row.
    """
    if '"' not in text:
        return {}
    with _cells_of_any_size(text):
        records, kinds = _records(text, separator)
        faults = [_fault(record, separator, kinds, skipped) for record in records]
    errors = [f"line {skipped + line}: {start!r} {end}" for line, start, end in faults if line]
    raise_errors(
        f"{path}: quotation marks that are not closed in their line; remove each, or close it at the end of its cell:",
        errors,
    )
    spans = {own.row: (skipped + own.first, skipped + own.first + len(own.lines) - 1) for own in records}
    return {LINES: Spans(spans)} if spans else {}


def check_line_breaks(path: Path | str, frame: pd.DataFrame, name: str) -> None:
    """Check that no sequence in a column of a text table has a line break, since a stray quotation mark may join rows.

    Raises:
        SubquadError: Some have; with the lines of their quotation marks.
    """
    spans = frame.attrs.get(LINES, {})
    has_break = frame[name].str.strip().str.contains("\n", regex=False).to_numpy(dtype=bool)
    rows = [row for row in np.flatnonzero(has_break).tolist() if row in spans]
    raise_errors(
        f"{path}: {counted(len(rows), 'sequence')} with line breaks in column {name!r}; write each sequence in one "
        "line, and remove stray quotation marks",
        [f"row {row + 1}, in lines {spans[row][0]} to {spans[row][1]}" for row in rows],
    )


@contextmanager
def _cells_of_any_size(text: str) -> Iterator[None]:
    """Let the module `csv`, whose limit is one for all threads, read cells of any size of a text, as pandas does."""
    with _LIMIT:
        # an open cell also has the line breaks that are added at the end
        before = csv.field_size_limit(len(text) + 2)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _records(text: str, separator: str) -> tuple[list[_Record], list[str]]:
    """Return the rows that span several lines, and the kind of each column in the other rows."""
    lines = io.StringIO(text.rstrip("\n") + "\n").readlines()
    reader, widths = csv.reader(lines, delimiter=separator), Counter[int]()
    found, typical, row = list[_Record](), list[list[str]](), -1
    while reader.line_num < len(lines):
        start = reader.line_num
        cells = next(reader)
        own = lines[start : reader.line_num]
        # in the last line, a cell with a line break is open
        if len(own) > 1 or any("\n" in cell for cell in cells):
            found.append(_Record(row=row, first=start + 1, lines=own, cells=cells))
        elif not own[0].strip(" \n" if separator == "\t" else None):
            # pandas skips blank lines
            continue
        elif row >= 0:
            widths[len(cells)] += 1
            if len(typical) < TYPICAL_ROWS:
                typical.append(cells)
        row += 1
    width = max(widths, key=lambda width: widths[width], default=0)
    columns = zip(*(cells for cells in typical if len(cells) == width), strict=True)
    return found, [Counter(map(_kind, column)).most_common(1)[0][0] for column in columns]


def _kind(value: str) -> str:
    value = value.strip().strip('"')
    if NUMBER.fullmatch(value):
        return "number"
    return "sequence" if DATA.fullmatch(value) else "text"


def _fault(record: _Record, separator: str, kinds: Sequence[str], skipped: int) -> tuple[int, str, str]:
    """Return the line of a stray quotation mark, the text from the mark on, and where it is closed; or line 0."""
    lines, cells = record.lines, record.cells
    if len(list(csv.reader([*lines, "\n"], delimiter=separator))) == 1:
        # the last cell is open, and has all line breaks from its mark on
        return record.first + len(lines) - cells[-1].count("\n"), _start(cells[-1]), "is not closed"
    cell = next(cell for cell in cells if "\n" in cell)
    closing = 1 + cell.count("\n")
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        for _ in reader:
            pass
        is_stray = False
    except csv.Error:
        # text after the mark that closes the cell
        is_stray = reader.line_num == closing
    if not (is_stray or _are_rows(lines[:closing], separator, kinds)):
        return 0, "", ""
    return record.first, _start(cell), f"is closed in line {skipped + record.first + closing - 1}"


def _are_rows(lines: Sequence[str], separator: str, kinds: Sequence[str]) -> bool:
    """Return whether lines have a value for each column, of its kind where it has numbers or sequences."""
    if len(kinds) < 2 or set(kinds) == {"text"}:
        return False
    rows = [line.rstrip("\n").split(separator) for line in lines]
    return all(len(values) == len(kinds) for values in rows) and all(
        kind in ("text", _kind(value)) for values in rows for value, kind in zip(values, kinds, strict=True)
    )


def _start(cell: str) -> str:
    """Return the first characters of a cell with the mark that opens it."""
    line = cell.partition("\n")[0]
    return '"' + (line if len(line) <= 30 else f"{line[:29]}…")
