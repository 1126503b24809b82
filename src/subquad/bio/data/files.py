"""Table files (CSV, TSV, Excel, Parquet, FASTA), read as text so that no digit is lost. Cost: one pass."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.fasta import parse_fasta
from subquad.bio.data.quotation_marks import DATA, check_quotation_marks
from subquad.bio.data.workbooks import check_workbook
from subquad.errors import SubquadError, collect_errors, raise_errors, require, shortened, unknown
from subquad.runs.damage import damage_as_error, no_file
from subquad.runs.unpacking import check_expansion, most_bytes, open_unpacked, parquet_batches, parquet_bytes

__all__ = [
    "check_written_table",
    "column_of",
    "file_of",
    "read_frame",
    "sample_of",
    "separator_of",
]

MIN_ASCII = 0.9
"""Minimum fraction of ASCII in a text in Windows-1252."""
LARGEST_UNPACKED = 2**30
"""Largest content of a gzipped table in bytes; a few bytes can expand to more than the memory holds."""
PARQUET_ROWS = 1024
"""Rows that are read at once."""
MOST_COLUMNS = 2**14
"""Columns that a table may have, as many as Excel's; more take minutes."""
LONGEST_WORD = 40
"""Letters of a word that a message shows on each side of one that is not ASCII."""
BLOCK_ROWS = 1000
"""Rows in which text is looked for at once, from the end of a table."""
FEW_CELLS, CELLS_PER_VALUE = 10**7, 100
"""Cells of a sheet, and cells of a larger one per value, of which a single one far from the others makes billions."""
LARGEST_SHEET = 2**20
"""Number of rows that a sheet of Excel may have; a damaged row number can be any."""
CONTROL = bytes([*range(9), *range(14, 32)])
"""Control characters that no text has."""


def read_frame(path: Path | str) -> pd.DataFrame:
    """Return a table as text with one row per sequence; its `attrs` hold `remarks` and a `note` on row numbers.

    Args:
        path: CSV or TSV (commas, semicolons or tabs), Excel (`file.xlsx` or `file.xlsx#Sheet`), Parquet or FASTA, plain
            or gzipped. The format is recognised from the content, not from the name. Text is UTF-8, UTF-16 or
            Windows-1252; comment lines (#) and blank lines before the header are skipped.

    Raises:
        SubquadError: There is no such file, it is not a table, it has no rows or duplicate columns, or rows are longer
            than the header.
    """
    path, sheet = _with_sheet(path)
    if path.is_dir():
        raise SubquadError(f"{path}: this is a folder; give the table in it")
    if not path.is_file():
        # a path has no empty parts
        address = re.match(r"(https?|ftp|s3|gs):/+", str(path))
        if address:
            raise SubquadError(
                f"{address[1]}://{str(path)[address.end() :]}: addresses of the internet are not read; download the "
                "file and give its path"
            )
        raise no_file(path)
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            with open_unpacked(path, f"{path}: damaged or truncated", is_packed=True) as (file, _):
                data = file.read(LARGEST_UNPACKED + 1)
            if len(data) > LARGEST_UNPACKED:
                raise SubquadError(
                    f"{path}: expands to more than {LARGEST_UNPACKED / 2**30:.0f} GiB; if that is right, give the "
                    "unpacked file"
                )
    except PermissionError:
        raise SubquadError(f"{path}: no permission to read this file") from None
    except OSError as error:
        raise SubquadError(f"{path}: damaged or truncated ({error})") from error
    if data[:4] == b"PK\x03\x04":
        frame = _from_excel(path, data, sheet)
    elif data[:4] == b"PAR1":
        frame = _from_parquet(path, data)
    elif data[:4] == b"\xd0\xcf\x11\xe0":
        raise SubquadError(f"{path}: this is an Excel file of the format before 2007; save it as .xlsx or CSV")
    else:
        text, notes = _decoded(path, data)
        frame = parse_fasta(path, text) if text.lstrip()[:1] == ">" else _from_text(path, text)
        frame.attrs["remarks"] = notes + frame.attrs.get("remarks", [])
    frame = _without_empty_end(_named(frame))
    if not len(frame):
        raise SubquadError("\n".join(filter(None, [f"{path}: no rows under the header", frame.attrs.get("note")])))
    return frame


def separator_of(path: Path) -> str:
    """Return the column separator of a table: tabs for `.tsv`, otherwise commas."""
    return "\t" if ".tsv" in path.suffixes else ","


def check_written_table(out: Path) -> None:
    """Check that the name of a table to write says a format that is written.

    Raises:
        SubquadError: Another suffix than `.csv` and `.tsv`, alone or before `.gz`.
    """
    suffixes = [suffix for suffix in out.suffixes[-2:] if suffix != ".gz"]
    if suffixes[-1:] not in ([".csv"], [".tsv"]):
        raise SubquadError(f"{out}: tables are written as .csv or .tsv, alone or with .gz; give such a name to --out")


def file_of(path: Path | str) -> Path:
    """Return the file of a table, without the sheet of an Excel file (`table.xlsx#Sheet`)."""
    return _with_sheet(path)[0]


def _with_sheet(path: Path | str) -> tuple[Path, str | None]:
    path = Path(path)
    name, mark, sheet = path.name.partition("#")
    if mark and not path.exists() and Path(name).suffix.lower() in (".xlsx", ".xlsm"):
        return path.with_name(name), sheet
    return path, None


def _decoded(path: Path, data: bytes) -> tuple[str, list[str]]:
    # Excel's "Unicode text" is UTF-16 with a byte-order mark
    encoding, remarks = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", []
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = _from_windows(path, data)
        # the letters before and after the first one that is not ASCII
        place = next(match.start() for match in re.finditer(r"[^\x00-\x7f]", text))
        start = text[max(place - LONGEST_WORD, 0) : place]
        word = re.findall(r"\w*\Z", start)[0] + re.findall(r"\A.\w*", text[place : place + LONGEST_WORD])[0]
        remarks = [f"not UTF-8: read as Windows-1252, as in {word!r}; if that is wrong, save the file as UTF-8"]
    return text.replace("\r\n", "\n").replace("\r", "\n"), remarks


def _from_windows(path: Path, data: bytes) -> str:
    """Return the text of a file in Windows-1252, in which Excel saves CSV in western Europe and America."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        text = ""
    if any(byte in data for byte in CONTROL):
        raise SubquadError(f"{path}: this is a binary file, not a table; export the table as CSV")
    if not text or len(text.encode("ascii", "ignore")) < MIN_ASCII * len(data):
        raise SubquadError(f"{path}: not a text file in UTF-8; export the table as CSV")
    return text


def _from_text(path: Path, text: str) -> pd.DataFrame:
    before = text.count("\n")
    text, remarks = _skip_comments(text)
    head = text.split("\n", 1)[0]
    if not head.strip():
        raise SubquadError(f"{path}: the file is empty; it needs a header line and one row per sequence")
    separator = _separator_in(head)
    spans = check_quotation_marks(path, text, separator, skipped=before - text.count("\n"))
    stream = io.StringIO(text)
    options: dict[str, Any] = {"sep": separator, "dtype": str, "keep_default_na": False, "header": None}
    header, start = list[str](), 0
    try:
        # a quoted name may hold a line break
        header = [name.strip() for name in next(csv.reader(iter(stream.readline, ""), delimiter=separator))]
        start = stream.tell()
        _check_columns(path, len(header))
        first = pd.read_csv(stream, nrows=1, **options)
        if first.shape[1] == len(header) + 1 and first.iloc[0, -1] != "":
            _check_decimal_commas(path, first.iloc[0].tolist(), separator)
            # tables written by R have no header for the row names
            header.insert(0, "")
            remarks.append("the first column has no name; its values are taken as names of the rows")
        _check_duplicates(path, header)
        stream.seek(start)
        # one additional name catches rows that are too long
        options |= {"names": range(len(header) + 1), "index_col": False}
        frame = pd.read_csv(stream, **options).fillna("")
        note = _note_on_blank_lines(text[start:].rstrip(), options)
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=header)
    except (csv.Error, pd.errors.ParserError) as error:
        _check_lengths(path, text[start:], header, separator)
        raise SubquadError(f"{path}: not a table ({str(error).strip()})") from error
    collect_errors(lambda: _check_long_rows(path, frame, header), note=note)
    frame = frame.iloc[:, : len(header)].set_axis(header, axis=1)
    frame.attrs |= {"remarks": remarks, "note": note} | spans
    return frame


def _separator_in(head: str) -> str:
    return max("\t,;", key=head.count)


def _skip_comments(text: str) -> tuple[str, list[str]]:
    """Return the text without blank lines and comments before the header, and a remark."""
    before = re.findall(r"\A(?:[ \t]*(?:#[^\n]*)?\n)*", text)[0]
    text, comments = text[len(before) :], [line.strip() for line in before.split("\n") if line.strip()]
    head = text.split("\n", 1)[0]
    separator = _separator_in(head)
    # a comment with as many separators as the next line is a header that begins with #, if that line holds data
    is_table = head.count(separator) > 0 and any(DATA.fullmatch(cell.strip()) for cell in head.split(separator))
    if comments and comments[-1].count(separator) == head.count(separator) and is_table:
        text = f"{comments.pop()}\n{text}"
    remark = f"{len(comments):,} comment lines before the header are skipped"
    return text, [f"{remark} ({comments[0][:60]!r})"] if comments else []


def _note_on_blank_lines(body: str, options: dict[str, Any]) -> str:
    """Return how rows are counted if there are blank lines between them, otherwise nothing."""
    if not re.search(r"(?:\A|\n)[ \t]*\n", body):
        return ""
    kept, every = (
        pd.read_csv(io.StringIO(body), skip_blank_lines=skips, **options).fillna("") for skips in (True, False)
    )
    count = len(every) - len(kept)
    if not count:
        return ""
    first = int((every.iloc[: len(kept)].to_numpy() != kept.to_numpy()).any(1).argmax())
    place = f"row {first}" if first else "the header"
    return f"rows are counted from the header, without {count:,} blank lines (the first is below {place})"


def _check_long_rows(path: Path, frame: pd.DataFrame, header: Sequence[str]) -> None:
    rows = np.flatnonzero((frame[len(header)] != "").to_numpy())
    _raise_long_rows(path, {int(row): frame.iloc[row].tolist() for row in rows}, header)


def _check_lengths(path: Path, body: str, header: Sequence[str], separator: str) -> None:
    """Check the number of values of each row, of a table that pandas cannot read."""
    rows, is_large = list[list[str]](), False
    try:
        for row in csv.reader(io.StringIO(body), delimiter=separator):
            rows += [row] if row else []
    except csv.Error:
        is_large = True
    if header:
        _raise_long_rows(path, {k: row for k, row in enumerate(rows) if len(row) > len(header)}, header)
    if is_large:
        raise SubquadError(
            f"{path}: {f'row {len(rows) + 1}' if header else 'the header'} has a cell of more than "
            f"{csv.field_size_limit():,} characters; if a quotation mark begins it, close or remove the mark, and "
            "otherwise shorten the cell"
        )


def _raise_long_rows(path: Path, rows: Mapping[int, Sequence[str]], header: Sequence[str]) -> None:
    raise_errors(
        f"{path}: the header has {len(header)} columns; rows with more values: {len(rows):,}; correct them",
        [f"row {row + 1}: {', '.join(values)[:60]!r} …" for row, values in rows.items()],
    )


def _check_decimal_commas(path: Path, values: Sequence[str], separator: str) -> None:
    """Check that a row of one value more than the header does not end with a number that its decimal comma divides."""
    whole, decimals = values[-2:]
    if separator == "," and re.fullmatch(r"\s*[-+]?\d+", whole) and re.fullmatch(r"\d+(e[-+]?\d+)?\s*", decimals):
        raise SubquadError(
            f"{path}: rows have {len(values)} values, the header has {len(values) - 1}, and row 1 ends with "
            f"{whole.strip()},{decimals.strip()}: if this is one number with a decimal comma, separate the columns by "
            "semicolons, or write decimal points; if it is two, name all columns"
        )


def _check_columns(path: Path, count: int) -> None:
    if count > MOST_COLUMNS:
        raise SubquadError(
            f"{path}: has {count:,} columns, and at most {MOST_COLUMNS:,} are read; keep those of the fit"
        )


def _check_duplicates(path: Path, header: Sequence[str]) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        shown = ", ".join(repr(shortened(name)) for name in twice[:10])
        more = f" and {len(twice) - 10:,} more" * (len(twice) > 10)
        raise SubquadError(f"{path}: duplicate column names: {shown}{more}; rename or remove them")


def _named(frame: pd.DataFrame) -> pd.DataFrame:
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
    while last:
        block = frame.iloc[max(last - BLOCK_ROWS, 0) : last]
        filled = np.flatnonzero([any(str(value).strip() for value in row) for row in block.itertuples(index=False)])
        if len(filled):
            return frame.iloc[: last - len(block) + filled[-1] + 1]
        last -= len(block)
    return frame.iloc[:0]


def _from_excel(path: Path, data: bytes, sheet: str | None) -> pd.DataFrame:
    openpyxl = require("openpyxl", extra="bio")
    check_workbook(path, data)
    with damage_as_error(f"{path}: not a readable Excel file"):
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        # without sheets that hold a chart only
        names = [own.title for own in book.worksheets]
        if sheet is not None and sheet not in names:
            raise SubquadError(f"{path}: {unknown('sheet', sheet, names)}")
        if not names:
            raise SubquadError(f"{path}: no sheet with cells in it")
        chosen = book[sheet or names[0]]
        # the size in a sheet may be of an earlier state, and openpyxl leaves out what lies beyond it
        chosen.reset_dimensions()
        # read at the first row that is asked for
        read = (list(map(_as_text, row)) for row in chosen.iter_rows(max_row=LARGEST_SHEET, values_only=True))
        rows = list(dropwhile(lambda row: not any(row), read))
        while rows and not any(rows[-1]):
            rows.pop()
    note = ""
    if sheet is None and len(names) > 1:
        others = ", ".join(map(repr, names[1:]))
        note = f"reading sheet {chosen.title!r}; {path.name}#NAME selects another: {others}"
    ((header, body),) = collect_errors(lambda: _header_and_rows(path, rows, chosen.title), note=note)
    frame = pd.DataFrame(body, columns=header, dtype=str)
    if note:
        frame.attrs |= {"remarks": [note], "note": note}
    return frame


def _header_and_rows(path: Path, rows: Sequence[list[str]], sheet: str) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns of a sheet, and its rows, each with one value per column."""
    if not rows:
        raise SubquadError(f"{path}: sheet {sheet!r} is empty; it needs a header and one row per sequence")
    width = max(place + 1 for row in rows for place, value in enumerate(row) if value)
    filled = sum(bool(value) for row in rows for value in row)
    if len(rows) * width > FEW_CELLS + CELLS_PER_VALUE * filled:
        raise SubquadError(
            f"{path}: sheet {sheet!r} has {len(rows):,} rows and {width:,} columns, and {filled:,} values in them; "
            "remove values that stand far from the table"
        )
    header = [name.strip() for name in rows[0][:width]]
    header += [""] * (width - len(header))
    _check_duplicates(path, header)
    return header, [row[:width] + [""] * (width - len(row)) for row in rows[1:]]


def _as_text(value: Any) -> str:
    # repr keeps all digits of a float
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _from_parquet(path: Path, data: bytes) -> pd.DataFrame:
    parquet, arrow = require("pyarrow.parquet", extra="bio"), require("pyarrow", extra="bio")
    columns = {}
    with damage_as_error(f"{path}: not a readable Parquet file"):
        file = parquet.ParquetFile(given := io.BytesIO(data))
        _check_columns(path, len(file.schema_arrow.names))
        check_expansion(path, "the table", sum(parquet_bytes(file, given, of_value=1)), len(data))
        parts, left = [], most_bytes(path)
        for part in parquet_batches(file, PARQUET_ROWS):
            # repeated values take no space in the file; an empty one counts as much as the comma in a CSV file
            left -= sum(max(len(own), own.nbytes - 8 * own.null_count) for own in part.columns)
            if left < 0:
                check_expansion(path, "the table", most_bytes(path) - left, len(data))
            parts.append(part)
        table = arrow.Table.from_batches(parts, schema=file.schema_arrow)
        _check_duplicates(path, table.schema.names)
        for name in table.schema.names:
            values = table[name].to_pylist()
            nested = arrow.types.is_nested(table.schema.field(name).type)
            columns["" if name.startswith("__index_level_") else name.strip()] = [
                "" if value is None else json.dumps(value, default=str) if nested else _as_text(value)
                for value in values
            ]
    return pd.DataFrame(columns, dtype=str)


def column_of(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return one column of a table."""
    column: Any = frame[name]
    return column


def sample_of(column: pd.Series, count: int = 200) -> pd.Series:
    """Return an even sample of at least `count` non-empty values, since tables are often sorted."""
    text: Any = column[column.str.len() > 0]
    return text.iloc[:: max(1, len(text) // count)].head(2 * count)
