"""Table files (CSV, TSV, Excel, Parquet, FASTA), read as text so that no digit is lost. Cost: one pass."""

import gzip
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from subquad.bio.data.fasta import parse_fasta
from subquad.bio.data.names import file_and_sheet
from subquad.errors import SubquadError, reading, require, unknown

__all__ = [
    "column_of",
    "naming",
    "read_frame",
    "sample_of",
]

DATA = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[A-Z*-]{12,}|[A-Z]\d+[A-Z*=]")
"""A number, a sequence that is longer than the name of a column, or a variant."""

MOST_COLUMNS = 2**14
"""Columns that a table may have, as many as Excel's; more take minutes."""
LARGEST_SHEET = 2**20
"""Number of rows that a sheet of Excel may have; a damaged row number can be any."""


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Let errors of the checks inside begin with the name of the table."""
    try:
        yield
    except SubquadError as error:
        raise SubquadError(f"{path}: {error}") from error


def read_frame(path: Path | str) -> pd.DataFrame:
    """Return a table as text with one row per sequence; its `attrs` hold `remarks`.

    Args:
        path: CSV or TSV (commas, semicolons or tabs), Excel (`file.xlsx` or `file.xlsx#Sheet`), Parquet or FASTA, plain
            or gzipped. The format is recognised from the content, not from the name. Text is UTF-8, UTF-16 or
            Windows-1252; comment lines (#) and blank lines before the header are skipped.

    Raises:
        SubquadError: There is no such file, it is not a table, or it has no rows or two columns of one name.
    """
    path, sheet = file_and_sheet(path)
    with reading(path, "a table"):
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        if data[:4] == b"PK\x03\x04":
            frame = _from_excel(path, data, sheet)
        elif data[:4] == b"PAR1":
            frame = _from_parquet(data)
        else:
            text, remarks = _decoded(data)
            frame = parse_fasta(text) if text.lstrip()[:1] == ">" else _from_text(text)
            frame.attrs["remarks"] = remarks + frame.attrs.get("remarks", [])
        twice = frame.columns[frame.columns.duplicated()]
        if len(twice):
            raise SubquadError(f"{path}: has two columns {twice[0]!r}; rename one")
        frame = _without_empty_end(_without_empty_columns(frame))
    if not len(frame):
        raise SubquadError(f"{path}: no rows under the header")
    return frame


def _decoded(data: bytes) -> tuple[str, list[str]]:
    # Excel's "Unicode text" is UTF-16 with a byte-order mark
    encoding, remarks = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", []
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        # in which Excel saves CSV in western Europe and America
        text, remarks = data.decode("cp1252"), ["not UTF-8: read as Windows-1252"]
    if "\0" in text:
        raise ValueError("a binary file")
    return text.replace("\r\n", "\n").replace("\r", "\n"), remarks


def _from_text(text: str) -> pd.DataFrame:
    text, remarks = _without_comments(text)
    head = text.split("\n", 1)[0]
    separator = _separator_in(head)
    _check_columns(head.count(separator) + 1)
    options: dict[str, Any] = {"sep": separator, "dtype": str, "keep_default_na": False}
    frame = pd.read_csv(io.StringIO(text), **options).fillna("")
    # pandas renames columns of equal names
    names = pd.read_csv(io.StringIO(text), nrows=1, header=None, **options).iloc[0].str.strip().tolist()
    frame = frame.set_axis(names, axis=1)
    if not isinstance(frame.index, pd.RangeIndex):
        # tables written by R have no header for the row names
        frame = frame.reset_index(names="")
        remarks.append("the first column has no name; its values are taken as names of the rows")
    frame.attrs["remarks"] = remarks
    return frame


def _check_columns(count: int) -> None:
    if count > MOST_COLUMNS:
        raise ValueError(f"it has {count:,} columns, and at most {MOST_COLUMNS:,} are read")


def _separator_in(head: str) -> str:
    return max("\t,;", key=head.count)


def _without_comments(text: str) -> tuple[str, list[str]]:
    """Return the text without blank lines and comments before the header, and a remark."""
    before = re.findall(r"\A(?:[ \t]*(?:#[^\n]*)?\n)*", text)[0]
    text, comments = text[len(before) :], [line.strip() for line in before.split("\n") if line.strip()]
    head = text.split("\n", 1)[0]
    separator = _separator_in(head)
    # a comment with as many separators as the next line is a header that begins with #, if that line holds data
    is_table = head.count(separator) > 0 and any(DATA.fullmatch(cell.strip()) for cell in head.split(separator))
    if comments and comments[-1].count(separator) == head.count(separator) and is_table:
        text = f"{comments.pop()}\n{text}"
    return text, [f"{len(comments):,} comment lines before the header are skipped"] if comments else []


def _without_empty_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame without unnamed empty columns; other unnamed columns but the first get a name."""
    keep, names = [], []
    for place, name in enumerate(frame.columns):
        if name or not (frame.iloc[:, place] == "").all():
            keep.append(place)
            names.append(name or ("" if place == 0 else f"column {place + 1}"))
    return frame.iloc[:, keep].set_axis(names, axis=1)


def _without_empty_end(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame without empty rows at its end, as spreadsheets write them."""
    last = len(frame)
    while last and not any(value.strip() for value in frame.iloc[last - 1]):
        last -= 1
    return frame.iloc[:last]


def _from_excel(path: Path, data: bytes, sheet: str | None) -> pd.DataFrame:
    require("openpyxl", extra="bio")
    book: Any = pd.ExcelFile(io.BytesIO(data), engine="openpyxl")
    # without sheets that hold a chart only
    names = [worksheet.title for worksheet in book.book.worksheets]
    if sheet is not None and sheet not in names:
        raise SubquadError(f"{path}: {unknown('sheet', sheet, names)}")
    options: dict[str, Any] = {"header": None, "dtype": str, "na_filter": False, "nrows": LARGEST_SHEET}
    cells = pd.read_excel(book, sheet or names[0], **options)
    rows = [row for row in cells.itertuples(index=False) if any(row)]
    frame = pd.DataFrame(rows[1:], columns=[name.strip() for name in rows[0]], dtype=str)
    if sheet is None and len(names) > 1:
        others = ", ".join(map(repr, names[1:]))
        frame.attrs["remarks"] = [f"reading sheet {names[0]!r}; {path.name}#NAME selects another: {others}"]
    return frame


def _from_parquet(data: bytes) -> pd.DataFrame:
    file = require("pyarrow.parquet", extra="bio").ParquetFile(io.BytesIO(data))
    _check_columns(len(file.schema_arrow.names))
    table = file.read()
    if table.num_rows != file.metadata.num_rows:
        # pyarrow ends with a short column
        raise ValueError(f"a column ends after {table.num_rows:,} of {file.metadata.num_rows:,} rows")
    names = ["" if name.startswith("__index_level_") else name.strip() for name in table.schema.names]
    columns = [list(map(_as_text, column.to_pylist())) for column in table.columns]
    return pd.DataFrame(dict(enumerate(columns)), dtype=str).set_axis(names, axis=1)


def _as_text(value: Any) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, default=str)
    # repr keeps all digits of a float
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def column_of(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return one column of a table."""
    column: Any = frame[name]
    return column


def sample_of(column: pd.Series, count: int = 200) -> pd.Series:
    """Return an even sample of at least `count` non-empty values, since tables are often sorted."""
    text: Any = column[column.str.len() > 0]
    return text.iloc[:: max(1, len(text) // count)].head(2 * count)
