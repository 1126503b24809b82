"""Conversion of scikit-learn's y to targets of this field. Costs one pass over the rows.

Axes: n rows, T positions, L letters of a sequence, p base pairs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.dataset import Inputs, Target
from subquad.bio.data.residue_targets import UNKNOWN, read_pairs
from subquad.errors import raise_errors

__all__ = ["base_pairs", "is_known", "residue_labels", "residue_target"]


def is_known(values: Sequence[Any]) -> np.ndarray:
    """Return `(L,)` bool: residues of a row that have a value; `-`, `?`, None and NaN are unknown."""
    return np.fromiter(map(_is_known, values), dtype=bool, count=len(values))


def residue_labels(values: Sequence[Any]) -> list[Any]:
    """Return all known labels or numbers of the residues of all rows."""
    return [label for own in values for label in own if _is_known(label)]


def _is_known(label: Any) -> bool:
    # NaN differs from itself
    return not (label is None or (isinstance(label, str) and label in UNKNOWN) or label != label)  # noqa: PLR0124


def residue_target(values: Sequence[Any], inputs: Inputs, classes: np.ndarray | None) -> Target:
    """Return values of residues as a target; `-`, `?`, None and NaN are unknown.

    Args:
        values: For each row a string, or as many labels or numbers as the sequence has letters.
        inputs: Inputs of the same rows.
        classes: All labels that occur; None if the values are numbers.

    Raises:
        SubquadError: A row has more or fewer values than letters.
        ValueError: Another number of rows.
    """
    lengths = inputs.lengths
    if len(values) != len(lengths):
        raise ValueError(f"X has {len(lengths)} rows and y {len(values)}")
    raise_errors(
        "y: each row must have one value per letter",
        [
            f"row {row + 1}: {len(own):,} values for {length:,} letters"
            for row, (own, length) in enumerate(zip(values, lengths, strict=True))
            if len(own) != length
        ],
    )
    if classes is None:
        y = np.full(inputs.codes.shape, np.nan)
        for row, own in enumerate(values):
            y[row, : len(own)] = [value if _is_known(value) else np.nan for value in own]
        return Target(task_type="residue_regression", y=y)
    place = {label: k for k, label in enumerate(classes.tolist())}
    y = np.full(inputs.codes.shape, -1, dtype=np.int16)
    for row, own in enumerate(values):
        y[row, : len(own)] = [place[label] if _is_known(label) else -1 for label in own]
    task_type = "residue_binary" if len(place) == 2 else "residue_multiclass"
    return Target(task_type=task_type, y=y, classes=[str(label) for label in place])


def base_pairs(values: Sequence[Any], lengths: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Return base pairs as positions counted from 0, `(p, 2)` with the lower one first.

    Args:
        values: For each row a dot-bracket string, or the paired positions counted from 0, `(p, 2)`.
        lengths: Number of letters of each row.

    Raises:
        SubquadError: Unbalanced brackets, or pairs outside the sequence, each with its row.
        ValueError: Another number of rows.
    """
    if len(values) != len(lengths):
        raise ValueError(f"X has {len(lengths)} rows and y {len(values)}")
    if all(isinstance(own, str) for own in values):
        every = np.ones(len(values), dtype=bool)
        return read_pairs("y", pd.Series(list(values), name="y", dtype=object), np.asarray(lengths), every)[0]
    found, errors = [], []
    for row, own in enumerate(values):
        pairs = np.asarray(own if len(own) else np.zeros((0, 2), dtype=np.int64))
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
            errors.append(f"row {row + 1}: pairs are integers of the shape (p, 2), got {pairs.shape}")
        elif (pairs < 0).any() or (pairs >= lengths[row]).any() or (pairs[:, 0] == pairs[:, 1]).any():
            errors.append(f"row {row + 1}: a pair is two different positions from 0 to {lengths[row] - 1}")
        found.append(pairs)
    raise_errors("y: base pairs cannot be read", errors)
    return [np.unique(np.sort(own, axis=1), axis=0).astype(np.int64) for own in found]
