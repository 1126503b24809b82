"""The column of a table that says to which part of the split, or to which fold, each row belongs."""

from pathlib import Path

import numpy as np
import pandas as pd

from subquad.bio.data.columns import SPLIT_NAMES
from subquad.bio.data.files import column_of
from subquad.bio.data.numbers import to_numbers
from subquad.bio.data.table import Table
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError, raise_errors, unknown

__all__ = [
    "PART_OF", "are_folds", "check_split_column", "column_values", "count_folds", "find_split", "parts_of_column",
    "split_column",
]  # fmt: skip

PART_OF = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "": "",
    "unused": "",
    "test_duplicate": "duplicate",
}
"""Part of each value in a split column; rows of the empty part are not used."""


def check_split_column(path: Path | str, frame: pd.DataFrame, settings: FitSettings) -> None:
    """Check the values of the split column, before the rest of the table is read.

    Raises:
        SubquadError: The column has other values than names of parts or numbers of folds.
    """
    name = split_column(frame, settings)
    if name is not None and not are_folds(column_values(path, frame, name)):
        parts_of_column(path, frame, name)


def parts_of_column(path: Path | str, frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return the part of the split that a column gives each row, `(n,)`, as in `PART_OF`.

    Raises:
        SubquadError: The column has other values than names of parts.
    """
    values = column_values(path, frame, name)
    wrong = np.flatnonzero(~values.isin(list(PART_OF)))
    raise_errors(
        f"{path}: column {name!r} must hold train, validation or test (or unused), or numbers of folds",
        [f"row {row + 1}: {frame[name].iloc[row]!r}" for row in wrong],
    )
    return values.map(PART_OF).to_numpy(dtype=object)


def find_split(frame: pd.DataFrame) -> str | None:
    """Return the column named split or set that contains the value train, or None."""
    for column in frame.columns:
        if str(column).lower() in SPLIT_NAMES and set(_lower(column_of(frame, column))) & {"train", "training"}:
            return str(column)
    return None


def count_folds(table: Table, settings: FitSettings) -> int:
    """Return the number of folds: of a column of fold numbers, otherwise `settings.folds`.

    Raises:
        SubquadError: The split column has no fold numbers.
    """
    name = settings.split
    if name is None:
        return settings.folds
    values = column_values(table.path, table.frame, name).loc[np.asarray(table.has_target)]
    if not are_folds(values):
        raise SubquadError(f"{table.path}: column {name!r} has no fold numbers, but {values.iloc[0]!r}")
    return len(np.unique(to_numbers(values.loc[values != ""])))


def column_values(path: Path | str, frame: pd.DataFrame, name: str) -> pd.Series:
    """Return a column in lower case, indexed from 0.

    Raises:
        SubquadError: The table has no such column.
    """
    if name not in frame.columns:
        raise SubquadError(f"{path}: {unknown('column', name, frame.columns)} (--split)")
    return _lower(column_of(frame, name))


def _lower(column: pd.Series) -> pd.Series:
    return column.astype(str).str.strip().str.lower().reset_index(drop=True)


def are_folds(values: pd.Series) -> bool:
    """Return whether the values of a split column are numbers of folds, or empty."""
    return bool(values.loc[values != ""].str.fullmatch(r"\d+(\.0+)?").all() and (values != "").any())


def split_column(frame: pd.DataFrame, settings: FitSettings) -> str | None:
    """Return the column that gives the split: the named one, or one that is found; None if the split is made."""
    if settings.split is not None:
        return settings.split
    return find_split(frame) if settings.split_by == "random" and settings.fold is None else None
