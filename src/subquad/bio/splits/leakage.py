"""What stands on both sides of a split: equal sequences, near copies, repeated rows; and which test rows stay.

Costs a few looks at each letter, up to about ten seconds: near copies are looked for in `MOST_LETTERS` at most.
"""

import math
from typing import Any

import numpy as np

from subquad.bio.data.dataset import Target
from subquad.bio.data.table import Table
from subquad.bio.settings import FitSettings
from subquad.bio.splits.near_duplicates import edited_sequences, equal_sequences, near_sequences, reversed_sequences

__all__ = ["find_leaks"]

MOST_LETTERS = 200_000_000
"""Of test rows and the rows that they are compared with. Where there are more, they are compared with fewer rows."""
DENSE = 0.01
"""Part of all combinations of its letters that makes a table a library of them."""


def find_leaks(
    table: Table, settings: FitSettings, parts: dict[str, np.ndarray], *, is_given: bool
) -> tuple[dict[str, Any], np.ndarray]:
    """Return what is on both sides of the split, as JSON knows it, and the test rows that stay.

    Keys:
        exact: test rows whose sequence is in training or validation too.
        near: further test rows that are a near copy of such a row.
        near_how: what a near copy is, in words: up to so many substitutions; where lengths vary also one insertion or
            deletion; of DNA also the reverse complement.
        near_kept: why near copies stay in the test, in words; empty where they do not.
        looked, unseen: rows of training and validation that near copies were looked for in, and those that were too
            many for it.
        removed: of exact and near, out of the test.
        validation_exact: validation rows whose sequence is in training.
        replicated, conflicts: sequences with several rows, and those of them with different targets.

    Args:
        table: what was split.
        settings: `near` and `keep_duplicates` say what leaves the test.
        parts: rows of each part.
        is_given: a column gave the split.
    """
    equal, test = equal_sequences(table.inputs), parts["test"]
    seen = np.concatenate([parts["train"], parts["validation"]])
    is_exact = np.isin(equal[test], equal[seen])
    looked = _looked_at(table, test, seen)
    is_near, how = _near_copies(table, test, looked, within=settings.leak_distance or 1)
    is_near &= ~is_exact
    kept = _why_near_stay(table, settings, is_given=is_given)
    is_removed = (is_near & (not kept)) | (is_exact & (not settings.keep_duplicates))
    replicated, conflicts = _replicates(table.target, equal, np.concatenate([seen, test]))
    leaks = {
        "exact": int(is_exact.sum()),
        "near": int(is_near.sum()),
        "near_how": how,
        "near_kept": kept,
        "looked": len(looked),
        "unseen": len(seen) - len(looked),
        "removed": int(is_removed.sum()),
        "validation_exact": int(np.isin(equal[parts["validation"]], equal[parts["train"]]).sum()),
        "replicated": replicated,
        "conflicts": conflicts,
    }
    return leaks, test[~is_removed]


def _looked_at(table: Table, test: np.ndarray, seen: np.ndarray) -> np.ndarray:
    most = MOST_LETTERS // max(table.inputs.codes.shape[1], 1) - len(test)
    if len(seen) <= most:
        return seen
    return np.random.default_rng(0).choice(seen, max(most, 1), replace=False)


def _near_copies(table: Table, test: np.ndarray, others: np.ndarray, *, within: int) -> tuple[np.ndarray, str]:
    inputs = table.inputs
    found, how = near_sequences(inputs, test, others, within), f"up to {within} substitution{'s' if within > 1 else ''}"
    if inputs.partner is not None or not inputs.codes.shape[1]:
        return found, how
    if len(np.unique(inputs.lengths)) > 1:
        found |= edited_sequences(inputs, test, others)
        how += ", or one insertion or deletion"
    if table.schema.alphabet == "dna":
        found |= reversed_sequences(inputs, test, others)
        how += ", or its reverse complement"
    return found, how


def _why_near_stay(table: Table, settings: FitSettings, *, is_given: bool) -> str:
    if settings.leak_distance is not None:
        return "" if settings.leak_distance else "--leak-distance is 0"
    if settings.keep_duplicates:
        return "--keep-duplicates keeps them too"
    if is_given:
        return "a column gave the split"
    return "the table is a library of variants, whose rows are near copies of each other" if _is_library(table) else ""


def _is_library(table: Table) -> bool:
    """Return whether rows are variants of one sequence, or a large part of all combinations of letters."""
    if table.mutants is not None or table.wild_type is not None:
        return True
    codes = table.inputs.codes[table.has_target]
    if not table.inputs.is_aligned or table.inputs.partner is not None:
        return False
    return len(codes) >= DENSE * math.prod(len(np.unique(column)) for column in codes.T)


def _replicates(target: Target | None, equal: np.ndarray, rows: np.ndarray) -> tuple[int, int]:
    """Return how many sequences have several rows, and how many of those have different targets."""
    _, first, unit, counts = np.unique(equal[rows], return_index=True, return_inverse=True, return_counts=True)
    unit = unit.reshape(-1)
    several = np.flatnonzero((counts > 1)[unit])
    if target is None or not len(several):
        return int((counts > 1).sum()), 0
    own, other = rows[several], rows[first[unit[several]]]
    if target.task_type == "pairs":
        differs = np.array([not np.array_equal(target.y[a], target.y[b]) for a, b in zip(own, other, strict=True)])
    else:
        y = np.asarray(target.y)
        is_same = (y[own] == y[other]) | ((y[own] != y[own]) & (y[other] != y[other]))
        differs = ~is_same.reshape(len(own), -1).all(1)
    return int((counts > 1).sum()), len(np.unique(unit[several[differs]]))
