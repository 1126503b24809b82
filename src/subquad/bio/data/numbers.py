"""Reading of numbers from columns of text, in the notations that tables have. Cost: one pass over a column."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.files import column_of
from subquad.errors import collect_errors, raise_errors, shortened

__all__ = [
    "MISSING",
    "is_missing",
    "look_like_numbers",
    "read_number_columns",
    "read_numbers",
    "rows_without",
    "to_numbers",
    "with_decimal_points",
]

MISSING = ("", "na", "nan", "null", "none", "n/a", "#n/a")
"""Values, in lower case, that mean: not measured."""
LARGEST = 1e100
"""Largest number that is read: the square of a larger one overflows."""
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
PERCENT = re.compile(r"[+-]?\d+([.,]\d*)?\s*%")


def is_missing(column: pd.Series) -> np.ndarray:
    """Return which rows of a column have no measurement, `(n,)` bool."""
    return column.str.strip().str.lower().isin(MISSING).to_numpy(dtype=bool)


def rows_without(count: int) -> str:
    """Return the start of a sentence: `1 row has no`, or `2 rows have no`."""
    return "1 row has no" if count == 1 else f"{count:,} rows have no"


def with_hyphens(text: pd.Series) -> pd.Series:
    """Return a column with the typographic minus sign (U+2212) replaced by a hyphen."""
    return text.str.replace("\u2212", "-", regex=False)


def to_numbers(text: pd.Series) -> np.ndarray:
    """Return text as a new array of float64, NaN where it is not a number."""
    numbers: Any = pd.to_numeric(text, errors="coerce")
    return np.array(numbers, dtype=np.float64)


def with_decimal_points(text: pd.Series) -> pd.Series:
    """Return a column with a hyphen for the typographic minus sign, and points for decimal commas."""
    return with_hyphens(text).str.replace(",", ".", regex=False)


def look_like_numbers(text: pd.Series) -> np.ndarray:
    """Return which values are numbers, `(n,)` bool, also with percent signs or commas between thousands.

    Those of the latter two are errors where they are read, and no classes.
    """
    text = with_hyphens(text.str.strip())
    written = text.str.fullmatch(THOUSANDS) | text.str.fullmatch(PERCENT)
    return np.isfinite(to_numbers(with_decimal_points(text))) | written.to_numpy(dtype=bool)


def read_numbers(path: Path | str, column: pd.Series, what: str) -> tuple[np.ndarray, list[str]]:
    """Return a column of text as float64 (NaN where not measured), and remarks.

    Args:
        path: The table, for messages.
        column: The column, as text.
        what: What the numbers are, for messages.

    Raises:
        SubquadError: Values that are not finite numbers, or beyond 1e100.
    """
    text, missing, remarks = with_hyphens(column.str.strip()), is_missing(column), []
    numbers = to_numbers(text)
    wrong = ~(np.abs(numbers) <= LARGEST) & ~missing
    bad: Any = text[wrong]
    known: Any = text[~missing]
    if wrong.any() and _has_decimal_commas(known, bad):
        numbers[wrong] = to_numbers(with_decimal_points(bad))
        remarks.append(f"commas in column {column.name!r} are read as decimal points ({bad.iloc[0]})")
        wrong = ~(np.abs(numbers) <= LARGEST) & ~missing
    raise_errors(
        f"{path}: not all {what} in column {column.name!r} are finite numbers ({wrong.sum():,} wrong)",
        [f"row {row + 1}: {shortened(column.iloc[row])!r}" for row in np.flatnonzero(wrong)],
    )
    return numbers, remarks


def read_number_columns(
    path: Path | str, frame: pd.DataFrame, names: Sequence[str], what: str
) -> tuple[np.ndarray, list[str]]:
    """Return several columns as `(n, K)` float64, and remarks; see `read_numbers`."""
    read = collect_errors(*(lambda name=name: read_numbers(path, column_of(frame, name), what) for name in names))
    values = np.stack([numbers for numbers, _ in read], axis=1) if names else np.zeros((len(frame), 0))
    return values, [remark for _, remarks in read for remark in remarks]


def _has_decimal_commas(values: pd.Series, wrong: pd.Series) -> bool:
    if not wrong.str.fullmatch(r"[+-]?\d*,\d+([eE][+-]?\d+)?").all() or values.str.contains(".", regex=False).any():
        return False
    # 1,234 may be a thousand; 0,5 and 12,3456 cannot be
    return bool(wrong.str.contains(r"^[+-]?0?,|,\d{1,2}(?!\d)|,\d{4}", regex=True).any())
