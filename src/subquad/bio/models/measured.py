"""Measurements in a table that is read like the table of a fit. Cost: one pass over the rows.

Axes: n rows, K columns of measurements.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subquad.bio.data.dataset import Target
from subquad.bio.data.table import Table, read_like
from subquad.bio.data.targets import read_target
from subquad.errors import SubquadError, raise_errors, unknown

if TYPE_CHECKING:
    from subquad.bio.models.fitted import BioModel

__all__ = ["MeasuredTable", "classes_of_model", "read_measured"]


@dataclass(frozen=True, kw_only=True)
class MeasuredTable:
    """A table with measurements of what a model predicts."""

    table: Table
    y: np.ndarray
    """`(n, K)` measurements, NaN where missing; or `(n,)` indices into the classes of the model, -1 where missing."""
    has: np.ndarray
    """`(n,)` whether the row has a measurement."""


def read_measured(path: Path | str, model: "BioModel", *, column: str | None = None) -> MeasuredTable:
    """Read the measurements of a table as the fit of a model reads them.

    Args:
        path: Table with the columns of the fit.
        model: The fitted model.
        column: Read the numbers of this column only. Default: all target columns of the model.

    Raises:
        SubquadError: The table cannot be read, lacks a target column or has no measurement in it, or has a class that
            the model does not have.
    """
    table = read_like(path, model.schema)
    frame = table.frame
    names, task_type = ([column], "regression") if column is not None else (list(model.names), model.task_type)
    for name in names:
        if name not in frame.columns:
            raise SubquadError(f"{path}: {unknown('column', name, frame.columns)}; the fit reads it")
    target, has, _ = read_target(path, frame, names, None, task_type=task_type)
    return MeasuredTable(table=table, y=classes_of_model(path, target, model), has=has)


def classes_of_model(path: Path | str, target: Target, model: "BioModel") -> np.ndarray:
    """Return measurements as they are, and classes of rows as indices into those of the model.

    Raises:
        SubquadError: There are classes that the model does not have.
    """
    y: np.ndarray = np.asarray(target.y)
    if target.task_type not in ("binary", "multiclass"):
        return y
    classes, known = target.classes, model.classes
    place = {name: k for k, name in enumerate(known)}
    raise_errors(
        f"{path}: classes that the fit does not have ({', '.join(known)}):",
        [f"row {row + 1}: {classes[y[row]]!r}" for row in np.flatnonzero(y >= 0) if classes[y[row]] not in place],
    )
    return np.array([place[classes[int(value)]] if value >= 0 else -1 for value in y])
