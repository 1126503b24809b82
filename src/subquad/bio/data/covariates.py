"""Reading of covariates, the columns of numbers that a model reads beside the sequence.

Axes: n rows, E covariates.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from subquad.bio.data.numbers import read_number_columns
from subquad.errors import raise_errors, unknown

__all__ = ["fill_missing", "read_covariates"]


def read_covariates(
    path: Path | str, frame: pd.DataFrame, names: Sequence[str], fill: Mapping[str, float] | None
) -> tuple[np.ndarray, Mapping[str, float], list[str]]:
    """Return the covariates `(n, E)`, the value that replaces missing ones in each column, and remarks.

    Raises:
        SubquadError: A column is missing, has values that are no numbers, or has none at all.
    """
    missing = [name for name in names if name not in frame.columns]
    raise_errors(
        f"{path}: the model was trained with covariates that the table does not have; add the columns",
        [str(unknown("column", name, frame.columns)) for name in missing],
    )
    values, remarks = read_number_columns(path, frame, names, "covariates")
    values, fill, filled = fill_missing(path, values, names, fill, flag="--covariates")
    return values, fill, remarks + filled


def fill_missing(
    path: Path | str, values: np.ndarray, names: Sequence[str], fill: Mapping[str, float] | None, *, flag: str
) -> tuple[np.ndarray, Mapping[str, float], list[str]]:
    """Replace missing values; return the values `(n, E)`, the replacement of each column, and remarks.

    Args:
        path: The table, for messages.
        values: `(n, E)`, NaN where missing.
        names: Columns.
        fill: Replacements of the training table; None if this is the training table, whose medians are taken.
        flag: Flag that names the columns, for messages.

    Raises:
        SubquadError: Columns of the training table without any number.
    """
    if fill is None:
        raise_errors(
            f"{path}: covariates without any number; remove them from {flag}",
            [repr(name) for k, name in enumerate(names) if np.isnan(values[:, k]).all()],
        )
        fill = {name: float(np.nanmedian(values[:, k])) for k, name in enumerate(names)}
    values, remarks = values.copy(), []
    for k, name in enumerate(names):
        is_missing = np.isnan(values[:, k])
        if is_missing.any():
            values[is_missing, k] = fill[name]
            remarks.append(
                f"column {name!r}: {int(is_missing.sum()):,} missing values replaced by the median, {fill[name]:.4g}"
            )
    return values, fill, remarks
