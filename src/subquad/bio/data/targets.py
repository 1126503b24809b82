"""Targets from the columns of a table: numbers, classes, labels, values of residues, or base pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.dataset import Target, TaskType
from subquad.bio.data.files import column_of
from subquad.bio.data.numbers import is_missing, look_like_numbers, read_number_columns, to_numbers, with_decimal_points
from subquad.bio.data.residue_targets import (
    looks_like_pairs,
    looks_like_residues,
    order_of_classes,
    read_pairs,
    read_residues,
)
from subquad.errors import SubquadError, counted, raise_errors

__all__ = ["read_target"]

MAX_CLASSES = 100
FAR = 20
"""Measurements that many interquartile ranges from the median are named."""
MARKERS = (-999, 999, -9999, 9999, -99999, 99999)
"""Numbers that mark missing values in many tables, and that measurements far from them seldom have by chance."""


def read_target(
    path: Path | str,
    frame: pd.DataFrame,
    columns: Sequence[str],
    lengths: np.ndarray | None,
    *,
    task_type: str = "auto",
    codes: np.ndarray | None = None,
) -> tuple[Target, np.ndarray, list[str]]:
    """Return the target of all rows, which rows have one, and remarks; rows without one hold NaN, -1 or no pairs.

    Args:
        path: The table, for messages.
        frame: All columns as text.
        columns: Target columns; several columns are measurements, or labels if all values are 0 or 1.
        lengths: Letters of each sequence; None if the sequences are invalid, so that residues cannot be checked.
        task_type: Type of the task, or `auto`.
        codes: `(n, T)` codes of DNA or RNA; see `read_pairs`.

    Raises:
        SubquadError: Values do not fit the task type, or columns are empty.
    """
    missing: np.ndarray = np.stack([is_missing(column_of(frame, name)) for name in columns], axis=1)
    has: Any = ~missing.all(axis=1)
    for k, name in enumerate(columns):
        if missing[:, k].all():
            raise SubquadError(f"{path}: column {name!r} is empty")
    chosen: Any = _infer(path, frame, columns, lengths, has) if task_type == "auto" else task_type
    if len(columns) > 1 and chosen not in ("regression", "multilabel"):
        raise SubquadError(f"{path}: {chosen} takes one target column, got {', '.join(columns)}")
    remarks = []
    if task_type == "auto":
        remarks.append(f"task type: {chosen} (inferred; --task-type overrides)")
    column = column_of(frame, columns[0]).str.strip()
    match chosen:
        case "regression":
            y, more = read_number_columns(path, frame, columns, "measurements")
            target = Target(task_type="regression", y=y, names=tuple(columns))
            more = [*more, *_far_values(path, y, columns)]
        case "multilabel":
            target, more = _labels(path, frame, columns, has)
        case "binary" | "multiclass":
            target, more = _classes(path, column, has, chosen)
        case "pairs":
            pairs, more = read_pairs(path, column, lengths, has, codes=codes)
            target = Target(task_type="pairs", y=pairs, names=tuple(columns))
        case _:
            target, more = read_residues(path, column, lengths, has, task_type=chosen)
            # a sequence of which no residue is known has no measurement
            has &= target.is_known.any(axis=1)
    if not has.all():
        remarks.append(f"{int((~has).sum()):,} of {len(has):,} rows have no measurement and are not used")
    return target, has, remarks + more


def _infer(
    path: Path | str, frame: pd.DataFrame, columns: Sequence[str], lengths: np.ndarray | None, has: np.ndarray
) -> TaskType:
    if len(columns) > 1:
        texts = [column_of(frame, name).str.strip() for name in columns]
        is_label = all(set(text.loc[~is_missing(text)]) <= {"0", "1", "0.0", "1.0"} for text in texts)
        return "multilabel" if is_label else "regression"
    text = column_of(frame, columns[0]).str.strip().loc[has]
    if looks_like_pairs(text):
        return "pairs"
    if lengths is not None and (task_type := looks_like_residues(text, lengths[has])) is not None:
        return task_type
    numbers = to_numbers(with_decimal_points(text))
    is_number = look_like_numbers(text)
    if np.isfinite(numbers).all() and set(np.unique(numbers)) in ({0.0, 1.0}, {-1.0, 1.0}, {0.0}, {1.0}):
        return "binary"
    if is_number.mean() >= 0.5:
        return "regression"
    classes = text.nunique()
    if not classes <= min(MAX_CLASSES, max(2, has.sum() // 2)):
        raise SubquadError(
            f"{path}: column {columns[0]!r} has {classes:,} different values, neither numbers nor classes nor residues"
        )
    return "binary" if classes <= 2 else "multiclass"


def _far_values(path: Path | str, y: np.ndarray, columns: Sequence[str]) -> list[str]:
    """Return remarks about measurements in the columns `(n,)` of y that are far from all others.

    Raises:
        SubquadError: Some of these are numbers that mark missing values.
    """
    markers, remarks = [], []
    for values, name in zip(y.T, columns, strict=True):
        others = values[np.isfinite(values) & ~np.isin(values, MARKERS)]
        if not len(others):
            continue
        low, middle, high = np.quantile(others, [0.25, 0.5, 0.75])
        # no comparison with NaN is true
        distance = np.abs(values - middle)
        is_far = (distance > FAR * (high - low)) & (high > low)
        is_marker = is_far & np.isin(values, MARKERS) & (distance > 2 * np.abs(others - middle).max())
        markers += [f"row {row + 1}, column {name!r}: {values[row]:g}" for row in np.flatnonzero(is_marker)]
        rows = np.flatnonzero(is_far)
        if len(rows):
            remarks.append(
                f"column {name!r}: {counted(len(rows), 'measurement')} more than {FAR} interquartile ranges from the "
                f"median, such as {values[rows[0]]:g} in row {rows[0] + 1}; empty those that mark missing values"
            )
    raise_errors(f"{path}: numbers that mark missing values; empty these cells", markers)
    return remarks


def _labels(path: Path | str, frame: pd.DataFrame, columns: Sequence[str], has: np.ndarray) -> tuple[Target, list[str]]:
    if len(columns) == 1:
        text = frame[columns[0]].str.strip().str.replace(r"\s*[;,|]\s*", ";", regex=True)
        table = text.where(has, "").str.get_dummies(";").drop(columns="", errors="ignore")
        y = table.to_numpy(dtype=np.float64, copy=True)
        y[~has] = np.nan
        return Target(task_type="multilabel", y=y, names=tuple(map(str, table.columns))), []
    y, remarks = read_number_columns(path, frame, columns, "measurements")
    wrong = np.argwhere(~np.isnan(y) & (y != 0) & (y != 1))
    raise_errors(
        f"{path}: labels must be 0, 1 or empty",
        [f"row {row + 1}: {frame[columns[k]].iloc[row]!r} in column {columns[k]!r}" for row, k in wrong],
    )
    return Target(task_type="multilabel", y=y, names=tuple(columns)), remarks


def _classes(path: Path | str, column: pd.Series, has: np.ndarray, task_type: TaskType) -> tuple[Target, list[str]]:
    numbers = to_numbers(column)
    if np.isfinite(numbers[has]).all():
        # 1 and 1.0 are one class
        whole = has & (numbers == np.round(numbers))
        digits = np.where(whole, numbers, 0).astype(np.int64).astype(str)
        column = column.mask(whole, pd.Series(digits, index=column.index))
    counts = column.loc[has].value_counts()
    classes, remarks = order_of_classes(counts.index.tolist()), []
    limit = 2 if task_type == "binary" else MAX_CLASSES
    if len(classes) > limit:
        raise SubquadError(f"{path}: column {column.name!r} has {len(classes):,} classes; {task_type} takes {limit}")
    if len(classes) == 2 and classes != ["0", "1"]:
        remarks.append(f"positive class: {classes[1]!r}, negative class: {classes[0]!r}")
    place = {name: k for k, name in enumerate(classes)}
    y = column.map(place).where(has, -1).to_numpy(dtype=np.int64, copy=True)
    return Target(task_type=task_type, y=y, classes=classes, names=(str(column.name),)), remarks
