"""Tables, runs and outputs by the names that a user gives. Imports nothing heavy: a wrong name is refused at once."""

from pathlib import Path
from typing import Any

from subquad.errors import SubquadError
from subquad.runs.examples import run_folder
from subquad.runs.folder import load_config

__all__ = ["TABLES", "file_and_sheet", "file_of", "folder_and_config", "separator_of"]

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
"""Formats in which tables are written."""


def file_of(path: Path | str) -> Path:
    """Return the file of a table, without the sheet of an Excel file (`table.xlsx#Sheet`)."""
    return file_and_sheet(path)[0]


def file_and_sheet(path: Path | str) -> tuple[Path, str | None]:
    """Return the file of a table, and the sheet of an Excel file if the path names one."""
    path = Path(path)
    name, mark, sheet = path.name.partition("#")
    if mark and not path.exists() and Path(name).suffix.lower() in (".xlsx", ".xlsm"):
        return path.with_name(name), sheet
    return path, None


def separator_of(path: Path) -> str:
    """Return the column separator of a table: tabs for `.tsv`, otherwise commas."""
    return "\t" if ".tsv" in path.suffixes else ","


def folder_and_config(run: Path | str) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the `config.json` of a finished run; messages name it as it is named here.

    Raises:
        SubquadError: There is none, or it is of another field.
    """
    folder = run_folder(run)
    try:
        return folder, load_config(folder, "bio")
    except SubquadError as error:
        raise SubquadError(str(error).replace(str(folder), str(run))) from error
