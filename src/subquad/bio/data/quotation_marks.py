"""Cells of a text table that span several lines, which a stray quotation mark opens. Cost: one pass over the text."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from subquad.errors import counted, raise_errors

__all__ = ["DATA", "check_line_breaks", "check_quotation_marks"]

DATA = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[A-Z*-]{12,}|[A-Z]\d+[A-Z*=]")
"""A number, a sequence that is longer than the name of a column, or a variant."""
LINES = "lines"
"""Key in the `attrs` of a frame: first and last line of each row that spans several lines."""


@dataclass(frozen=True, kw_only=True)
class _Record:
    """One row of a table that spans several lines."""

    row: int
    """Row from 0; -1 for the header."""
    first: int
    """Number of its first line, from 1 in the text."""
    lines: Sequence[str]
    cells: Sequence[str]
    """None of them if a cell is larger than the `csv` module reads."""


def check_quotation_marks(path: Path, text: str, separator: str, *, skipped: int) -> dict[str, dict[int, list[int]]]:
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
    records, width = _records(text, separator)
    errors = [
        f"line {skipped + line}: {start!r} {end}"
        for line, start, end in (_fault(record, separator, width, skipped) for record in records)
        if line
    ]
    raise_errors(
        f"{path}: quotation marks that are not closed in their line; remove each, or close it at the end of its cell:",
        errors,
    )
    spans = {own.row: [skipped + own.first, skipped + own.first + len(own.lines) - 1] for own in records}
    return {LINES: spans} if spans else {}


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
        [
            f"row {row + 1}: a quotation mark in line {spans[row][0]} opens a cell which ends in line {spans[row][1]}"
            for row in rows
        ],
    )


def _records(text: str, separator: str) -> tuple[list[_Record], int]:
    """Return the rows that span several lines, and the most common number of values of the other rows."""
    lines = [f"{line}\n" for line in text.rstrip("\n").split("\n")]
    reader, widths = csv.reader(lines, delimiter=separator), Counter[int]()
    found, row = list[_Record](), -1
    while reader.line_num < len(lines):
        start = reader.line_num
        try:
            cells = next(reader)
        except csv.Error:
            # a cell larger than the limit of the module, which pandas reads if it is a line
            cells = []
        own = lines[start : reader.line_num]
        # in the last line, a cell with a line break is open
        if len(own) > 1 or any("\n" in cell for cell in cells):
            found.append(_Record(row=row, first=start + 1, lines=own, cells=cells))
            if not cells:
                # where the rest of the cell ends is unknown
                break
        elif not own[0].strip():
            # pandas skips blank lines
            continue
        else:
            widths[len(cells)] += 1
        row += 1
    return found, max(widths, key=lambda width: widths[width], default=0)


def _fault(record: _Record, separator: str, width: int, skipped: int) -> tuple[int, str, str]:
    """Return the line of a stray quotation mark, the text from the mark on, and where it is closed; or line 0."""
    lines, cells = record.lines, record.cells
    if not cells:
        end = f"is not closed within {csv.field_size_limit():,} characters"
        return record.first, _start(lines[0].rstrip("\n").rpartition('"')[2]), end
    if len(list(csv.reader([*lines, "\n"], delimiter=separator))) == 1:
        # the last cell is open, and has all line breaks from its mark on
        return record.first + len(lines) - cells[-1].count("\n"), _start(cells[-1]), "is not closed"
    cell = next(cell for cell in cells if "\n" in cell)
    last = record.first + cell.count("\n")
    try:
        for _ in csv.reader(lines, delimiter=separator, strict=True):
            pass
    except csv.Error:
        is_stray = True
    else:
        is_row = [line.rstrip("\n").split(separator) for line in lines]
        has_data = any(DATA.fullmatch(value.strip().strip('"')) for values in is_row[1:] for value in values)
        is_stray = width > 1 and has_data and all(len(values) == width for values in is_row)
    if not is_stray:
        return 0, "", ""
    return record.first, _start(cell), f"is closed in line {skipped + last}"


def _start(cell: str) -> str:
    """Return the first characters of a cell with the mark that opens it."""
    line = cell.partition("\n")[0]
    return '"' + (line if len(line) <= 30 else f"{line[:29]}…")
