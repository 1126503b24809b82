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
from subquad.errors import SubquadError, raise_errors

__all__ = ["read_target"]

MAX_CLASSES = 100
DATE = r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}([./-])\d{1,2}\2\d{2,4}|\d{1,2}-[A-Z][a-z]{2}(-\d{2,4})?"
"""Dates, also as Excel writes what it takes for one."""
FAR = 20
"""Measurements that many interquartile ranges from the median are named."""
MARKERS = (-99, -999, 999, -9999, 9999, -99999, 99999)
"""Numbers that mark missing values in many tables, and that measurements far from them seldom have by chance."""
OTHER_MARKERS = (-1, -9)
"""Numbers that mark missing values too, but are as often measurements, such as logarithms of a detection limit."""
MOSTLY = 0.9
"""Minimum fraction of measurements with decimals in a column of which a repeated whole number is suspicious."""


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
            raise SubquadError(f"{path}: column {name!r} is empty; name the target with --target")
    chosen: Any = _infer(path, frame, columns, lengths, has) if task_type == "auto" else task_type
    if len(columns) > 1 and chosen not in ("regression", "multilabel"):
        shown = ", ".join(map(repr, columns))
        raise SubquadError(f"{path}: {chosen} takes one target column, but --target names {len(columns)} ({shown})")
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
    if text.str.fullmatch(DATE).mean() >= 0.5:
        raise SubquadError(
            f"{path}: column {columns[0]!r} has dates, such as {text.iloc[0]!r}; name the target with --target, or, if "
            "they are classes, set --task-type"
        )
    classes = text.nunique()
    if not classes <= min(MAX_CLASSES, max(2, has.sum() // 2)):
        shown = ", ".join(map(repr, text.unique()[:3]))
        raise SubquadError(
            f"{path}: column {columns[0]!r} has {classes:,} different values ({shown} …), which are neither numbers "
            "nor classes nor one value per residue; name the target with --target"
        )
    return "binary" if classes <= 2 else "multiclass"


def _far_values(path: Path | str, y: np.ndarray, columns: Sequence[str]) -> list[str]:
    """Return remarks about measurements in the columns `(n,)` of y that may mark missing values.

    Raises:
        SubquadError: Some of these are numbers that mark missing values.
    """
    found = [_markers(values, name) for values, name in zip(y.T, columns, strict=True)]
    is_positive = all((values[np.isfinite(values)] > 0).all() for values, own in zip(y.T, found, strict=True) if own)
    otherwise = "take logarithms" if is_positive else "write the column in another unit"
    raise_errors(
        f"{path}: numbers that mark missing values, far from all measurements; empty these cells, or {otherwise} if "
        "they are measurements:",
        [text for own in found for text in own],
    )
    remarks = []
    for values, name in zip(y.T, columns, strict=True):
        known, numbers = values[np.isfinite(values)], _possible_markers(values)
        for number in numbers:
            rows = np.flatnonzero(values == number)
            shown = ", ".join(str(row + 1) for row in rows[:3]) + (", …" if len(rows) > 3 else "")
            remarks.append(
                f"column {name!r}: {len(rows):,} measurements are {number} (rows {shown}), which often marks missing "
                "values; empty these cells if it does here"
            )
        if not len(known):
            continue
        low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
        # nothing is far in a column in which most values are equal, and no comparison with NaN is true
        is_far = (np.abs(values - middle) > FAR * (high - low)) & (high > low) & ~np.isin(values, numbers)
        rows = [f"row {row + 1}: {values[row]:g}" for row in np.flatnonzero(is_far)]
        if rows:
            shown = ", ".join(rows[:3]) + (", …" if len(rows) > 3 else "")
            otherwise = ", or take logarithms if the values are real" if (known > 0).all() else ""
            remarks.append(
                f"column {name!r}: {len(rows):,} of {len(known):,} measurements are more than {FAR} interquartile "
                f"ranges from the median ({shown}); empty these cells if they mark missing values{otherwise}"
            )
    return remarks


def _markers(values: np.ndarray, name: str) -> list[str]:
    """Return the numbers of a column `(n,)` that mark missing values: isolated from all others.

    They are twice as far from the median as all others and more than 20 interquartile ranges; or they are negative and
    occur repeatedly, with a gap to the others that is wider than the range of these. As a measurement may be -99, such
    as a change in percent, it marks missing values only if it is repeated, beside others of which most have decimals.
    """
    is_marker = np.isin(values, MARKERS)
    others = values[np.isfinite(values) & ~is_marker]
    if not (is_marker.any() and len(others)):
        return []
    low, middle, high = np.quantile(others, [0.25, 0.5, 0.75])
    reach = max(FAR * (high - low), 2 * np.abs(others - middle).max())
    wide = np.ptp(others)
    is_isolated = np.abs(values - middle) > reach
    for number in MARKERS:
        own = values == number
        # a repeated positive number may be a limit of detection
        is_isolated[own] |= number < 0 and own.sum() > 1 and np.abs(others - number).min() > wide
    is_percent = (values == -99) & (not _have_decimals(others) or (values == -99).sum() == 1)
    rows = np.flatnonzero(is_marker & is_isolated & ~is_percent)
    return [f"row {row + 1}, column {name!r}: {values[row]:g}" for row in rows]


def _possible_markers(values: np.ndarray) -> list[int]:
    """Return the numbers in a column `(n,)` that occur repeatedly and may mark missing values.

    They lie beyond all others, by more than any two neighbours of these are apart; or they are whole numbers that
    measurements with decimals seldom are.
    """
    found = [number for number in (*OTHER_MARKERS, *MARKERS) if (values == number).sum() > 1]
    others = values[np.isfinite(values) & ~np.isin(values, (*MARKERS, *OTHER_MARKERS))]
    if not found or len(distinct := np.unique(others)) < 2:
        return []
    return [
        number
        for number in found
        if (number in MARKERS and _have_decimals(others))
        or (not distinct[0] < number < distinct[-1] and np.abs(others - number).min() > np.diff(distinct).max())
    ]


def _have_decimals(values: np.ndarray) -> bool:
    return bool((values != np.round(values)).mean() >= MOSTLY)


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
        f"{path}: labels must be 0 or 1 (or empty); correct them, or set --task-type regression",
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
        shown = ", ".join(classes[:5]) + (", …" if len(classes) > 5 else "")
        raise SubquadError(
            f"{path}: column {column.name!r} has {len(classes):,} classes ({shown}); {task_type} takes at most {limit}"
        )
    if len(classes) == 2 and classes != ["0", "1"]:
        remarks.append(f"positive class: {classes[1]!r}, negative class: {classes[0]!r}")
    place = {name: k for k, name in enumerate(classes)}
    y = column.map(place).where(has, -1).to_numpy(dtype=np.int64, copy=True)
    return Target(task_type=task_type, y=y, classes=classes, names=(str(column.name),)), remarks
