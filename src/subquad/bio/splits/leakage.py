"""Leakage between the parts of a split: equal sequences, near-duplicates and replicates.

Cost: a few passes over the letters, at most about ten seconds (`MAX_LETTERS`).
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from subquad.bio.data.alphabet import is_nucleotide
from subquad.bio.data.dataset import Target
from subquad.bio.data.table import Table
from subquad.bio.data.wild_type import from_sequences
from subquad.bio.settings import FitSettings
from subquad.bio.splits.clusters import HOMOLOG, SHORTEST, have_homologs
from subquad.bio.splits.near_duplicates import (
    are_reverse_complements,
    equal_sequences,
    within_one_indel,
    within_substitutions,
)
from subquad.bio.splits.units import equal_partners
from subquad.errors import SubquadError

__all__ = ["Leakage", "find_leakage"]

MAX_LETTERS = 200_000_000
"""Maximum number of letters of test rows and the rows they are compared with; of larger tables a sample is compared."""
MAX_PAIRS = 5e11
"""Maximum number of pairs of letters for which homologs are searched, in about half a minute; of more, a sample of the
test rows is searched."""
DENSE = 0.01
"""A table with at least this fraction of all combinations of its letters is a combinatorial library."""


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Rows of a split that are not independent of each other, as numbers of rows unless stated otherwise."""

    exact: int
    """Test rows whose sequence, or pair of sequences, is also in the training or validation set."""
    near_duplicates: int
    """Other test rows that are near-duplicates of a training or validation row."""
    definition: str
    """Definition of a near-duplicate."""
    kept_because: str
    """Why near-duplicates stay in the test set; empty if they do not."""
    compared: int
    """Training and validation rows that near-duplicates were searched in."""
    not_compared: int
    """Training and validation rows beyond `MAX_LETTERS`."""
    removed: int
    """Rows of `exact` and `near_duplicates` that were removed from the test set."""
    validation_exact: int
    """Validation rows whose sequence is in the training set."""
    replicated: int
    """Sequences with several rows."""
    conflicts: int
    """Those of them with different targets."""
    homologs: int | None = None
    """Test rows with a homolog (see `HOMOLOG`) in the training or validation set; None if not searched: only proteins
    of varying lengths are."""
    homology: str = ""
    """Definition of a homolog and number of test rows searched, or why none were."""
    known_sequences: int = 0
    """Of pairs, test rows whose first sequence is also in the training or validation set."""
    known_partners: int = 0
    """Of pairs, test rows whose partner sequence is also in the training or validation set."""
    marked: int = 0
    """Rows that the table marks as duplicates of test rows (`test_duplicate`)."""
    unused: int = 0
    """Measured rows in no part of the split."""

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return asdict(self)


def find_leakage(
    table: Table, settings: FitSettings, parts: dict[str, np.ndarray], equal: np.ndarray, *, is_given: bool
) -> tuple[Leakage, np.ndarray]:
    """Return the leakage of a split, and the test rows that stay.

    Args:
        table: The table.
        settings: `leak_distance` and `keep_duplicates` decide what is removed from the test set.
        parts: Rows of each part.
        equal: `(n,)` index of the sequence of each row; see `equal_sequences`.
        is_given: The split comes from a column of the table.
    """
    test = parts["test"]
    known = np.concatenate([parts["train"], parts["validation"]])
    is_exact = np.isin(equal[test], equal[known])
    compared = _sample(table, test, known)
    is_near, definition = _near_duplicates(table, test, compared, distance=settings.leak_distance or 1)
    is_near &= ~is_exact
    reason = _reason_to_keep(table, settings, is_given=is_given)
    is_removed = (is_near & (not reason)) | (is_exact & (not settings.keep_duplicates))
    homologs, homology = _homologs(table, test[~is_removed], known, equal)
    replicated, conflicts = _replicates(table.target, equal, np.concatenate([known, test]))
    leakage = Leakage(
        exact=int(is_exact.sum()),
        near_duplicates=int(is_near.sum()),
        definition=definition,
        kept_because=reason,
        compared=len(compared),
        not_compared=len(known) - len(compared),
        removed=int(is_removed.sum()),
        validation_exact=int(np.isin(equal[parts["validation"]], equal[parts["train"]]).sum()),
        replicated=replicated,
        conflicts=conflicts,
        homologs=homologs,
        homology=homology,
        **_known_chains(table, test[~is_removed], known),
    )
    return leakage, test[~is_removed]


def _sample(table: Table, test: np.ndarray, known: np.ndarray) -> np.ndarray:
    most = MAX_LETTERS // max(table.inputs.all_positions, 1) - len(test)
    if len(known) <= most:
        return known
    return np.random.default_rng(0).choice(known, max(most, 1), replace=False)


def _near_duplicates(table: Table, test: np.ndarray, others: np.ndarray, *, distance: int) -> tuple[np.ndarray, str]:
    inputs = table.inputs
    found = within_substitutions(inputs, test, others, distance)
    definition = f"up to {distance} substitution{'s' if distance > 1 else ''}"
    if inputs.partner is not None or not inputs.codes.shape[1]:
        return found, definition
    if any(len(np.unique(chain.lengths)) > 1 for chain in inputs.chains):
        found |= within_one_indel(inputs, test, others)
        definition += ", or one insertion or deletion"
    if inputs.partner_chain is None and table.schema.alphabet.startswith("dna"):
        found |= are_reverse_complements(inputs, test, others)
        definition += ", or its reverse complement"
    return found, definition


def _homologs(table: Table, test: np.ndarray, known: np.ndarray, equal: np.ndarray) -> tuple[int | None, str]:
    """Return the number of test rows with homologs among the known rows, and the definition; None if not searched."""
    inputs = table.inputs
    # variants of one protein are homologs by design, and lengths that are all equal are mostly those of variants
    is_nucleic = is_nucleotide(table.schema.alphabet)
    if is_nucleic or inputs.is_aligned or inputs.partner is not None or inputs.partner_chain is not None:
        return None, ""
    if _is_library(table) or not len(test) or np.median(inputs.lengths) < SHORTEST["protein"]:
        return None, ""
    known = known[np.unique(equal[known], return_index=True)[1]]
    letters = inputs.lengths
    most = int(MAX_PAIRS / max(float(letters[known].sum()) * max(float(letters[test].mean()), 1.0), 1.0))
    if len(test) > max(most, 1):
        test = np.random.default_rng(0).choice(test, max(most, 1), replace=False)
    try:
        found = have_homologs([table.sequences[row] for row in test], [table.sequences[row] for row in known])
    except SubquadError as error:
        return None, f"homologs were not searched for: {error}"
    return int(found.sum()), f"{HOMOLOG}; {len(test):,} test rows were searched"


def _known_chains(table: Table, test: np.ndarray, known: np.ndarray) -> dict[str, int]:
    """Return the fields `known_sequences` and `known_partners`."""
    partners = equal_partners(table.inputs)
    if partners is None:
        return {}
    sequences = equal_sequences(replace(table.inputs, partner=None, partner_chain=None))
    return {
        "known_sequences": int(np.isin(sequences[test], sequences[known]).sum()),
        "known_partners": int(np.isin(partners[test], partners[known]).sum()),
    }


def _reason_to_keep(table: Table, settings: FitSettings, *, is_given: bool) -> str:
    if settings.leak_distance is not None:
        return "" if settings.leak_distance else "--leak-distance is 0"
    if settings.keep_duplicates:
        return "--keep-duplicates keeps them"
    if is_given:
        return "the split comes from a column"
    return "the table is a library of variants, which are near-duplicates of each other" if _is_library(table) else ""


def _is_library(table: Table) -> bool:
    """Return whether rows are variants of one sequence, or a large fraction of all combinations of letters.

    Of pairs of two chains only the first chain counts.
    """
    if table.mutants is not None or table.wild_type is not None:
        return True
    if table.inputs.partner_chain is not None:
        # variants of one first chain, whatever their partners are
        return from_sequences([text.rpartition("|")[2] for text in table.sequences]).mutants is not None
    codes = table.inputs.codes[table.has_target]
    if not table.inputs.is_aligned or table.inputs.partner is not None:
        return False
    return len(codes) >= DENSE * math.prod(len(np.unique(column)) for column in codes.T)


def _replicates(target: Target | None, equal: np.ndarray, rows: np.ndarray) -> tuple[int, int]:
    """Return the number of sequences with several rows, and the number of those with different targets."""
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
