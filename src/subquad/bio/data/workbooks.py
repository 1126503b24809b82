"""Checks of an Excel file before it is read: that it is one, and that what it becomes in memory is like that of tables.

Cost: one pass over the sheets, a twentieth of what reading them takes.
"""

import io
import zipfile
from pathlib import Path
from typing import IO
from xml.parsers import expat

from subquad.errors import SubquadError
from subquad.runs.damage import damage_as_error
from subquad.runs.unpacking import check_expansion

__all__ = ["check_workbook"]

FORMATS = {"word/": "a Word document", "ppt/": "a PowerPoint presentation", "content.xml": "an OpenDocument file"}
"""Start of the name of a file within a zip archive, and what the archive then is."""
LARGEST_WORKBOOK = 2**24
"""Bytes that the files in an Excel file may have however small it is: elements of XML take 20 times as many."""
SHEETS = "xl/worksheets/"
MOST_ELEMENTS = 2**19
"""Elements of XML in a row of a sheet, or beside its rows: a row has up to 16,384 cells."""
BLOCK_SIZE = 2**16


def check_workbook(path: Path, data: bytes) -> None:
    """Check the content of an Excel file; archives cut at their end are reported by the reader.

    Raises:
        SubquadError: It is an archive of another kind, a file in it is damaged or far larger than packed, or a row has
            more cells than any sheet.
    """
    with damage_as_error(f"{path}: not a readable Excel file"):
        if not zipfile.is_zipfile(io.BytesIO(data)):
            return
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if not any(name.startswith("xl/") for name in names):
                found = (what for start, what in FORMATS.items() if any(name.startswith(start) for name in names))
                raise SubquadError(
                    f"{path}: this is {next(found, 'a zip archive')}, not an Excel file; save the table as .xlsx or CSV"
                )
            unpacked = sum(entry.file_size for entry in archive.infolist())
            check_expansion(path, "the Excel file", unpacked, len(data), least=LARGEST_WORKBOOK)
            for name in names:
                if name.startswith(SHEETS) and name.endswith(".xml"):
                    with archive.open(name) as file:
                        _check_elements(path, name, file)


def _check_elements(path: Path, name: str, file: IO[bytes]) -> None:
    """Check the number of elements of each row, which the reader holds at once."""
    count = 0

    def begin(element: str, _: object) -> None:
        nonlocal count
        count = 0 if element.rpartition(":")[2] == "row" else count + 1
        if count > MOST_ELEMENTS:
            raise SubquadError(
                f"{path}: {name} has more than {MOST_ELEMENTS:,} parts in one row, and a row of Excel has up to 16,384 "
                "cells; save the table again with Excel, or as CSV"
            )

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    try:
        while block := file.read(BLOCK_SIZE):
            parser.Parse(block)
    except expat.ExpatError:
        # the reader says what is damaged, if it reads this sheet at all
        return
