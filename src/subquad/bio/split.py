"""Which rows are learned from, which choices are made on, and which are kept for the test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from subquad.errors import SubquadError, raise_mistakes, unknown

__all__ = ["PARTS", "find_split", "given_split", "random_split"]

PARTS = ("train", "validation", "test")
WORDS = {
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
    "test_duplicate": "",
}
"""What people write, and what it means; nothing: the row is left out."""

Split = dict[str, np.ndarray]
"""Row numbers of each part."""


def find_split(path: Path | str, frame: pd.DataFrame, name: str | None) -> str | None:
    """Return the column that holds the split: the named one, or one called split or set with the words in it.

    Raises:
        SubquadError: there is no such column.
    """
    if name is not None:
        if name not in frame.columns:
            raise SubquadError(f"{path}: {unknown('column', name, frame.columns)} (--split)")
        return name
    for column in frame.columns:
        if column.lower() in ("split", "set") and set(frame[column].str.strip().str.lower()) & {"train", "training"}:
            return column
    return None


def given_split(
    path: Path | str, column: pd.Series, sequences: Sequence[str], *, validation_fraction: float, seed: int
) -> Split:
    """Return the split that the table gives; without validation rows, a part of the training rows is taken.

    Raises:
        SubquadError: words that are none of the known, or no rows to learn from or to test on.
    """
    words = column.str.strip().str.lower()
    strange = words[~words.isin(list(WORDS))]
    raise_mistakes(
        f"{path}: column {column.name!r} must say train, validation or test (or unused)",
        [f"row {row + 1}: {column.iloc[row]!r}" for row in strange.index],
    )
    part = words.map(WORDS).to_numpy()
    split = {name: np.flatnonzero(part == name) for name in PARTS}
    for name in ("train", "test"):
        if not len(split[name]):
            raise SubquadError(f"{path}: no row of column {column.name!r} says {name}; mark some rows so")
    if not len(split["validation"]):
        rows = split["train"]
        groups = _grouped([sequences[row] for row in rows])
        chosen = _take(groups, validation_fraction, np.random.default_rng(seed))
        split["train"], split["validation"] = rows[~chosen], rows[chosen]
    return split


def random_split(sequences: Sequence[str], *, test_fraction: float, validation_fraction: float, seed: int) -> Split:
    """Return a random split in which equal sequences are never in two parts."""
    groups, random = _grouped(sequences), np.random.default_rng(seed)
    order = random.permutation(groups.max() + 1)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    part = place[groups] / len(order)
    is_test = part < test_fraction
    is_validation = ~is_test & (part < test_fraction + validation_fraction)
    return {
        "train": np.flatnonzero(~is_test & ~is_validation),
        "validation": np.flatnonzero(is_validation),
        "test": np.flatnonzero(is_test),
    }


def _grouped(sequences: Sequence[str]) -> np.ndarray:
    return np.unique(np.asarray(sequences, dtype=object).astype(str), return_inverse=True)[1]


def _take(groups: np.ndarray, fraction: float, random: np.random.Generator) -> np.ndarray:
    names = np.unique(groups)
    return np.isin(groups, random.choice(names, max(1, round(fraction * len(names))), replace=False))
