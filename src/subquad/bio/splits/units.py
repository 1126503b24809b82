"""Units that a split keeps together: groups, whole sequences or partner sequences, and clusters of similar sequences.

Cost: one pass over the rows, plus MMseqs2 for clusters.
"""

from dataclasses import replace

import numpy as np

from subquad.bio.data.alphabet import is_nucleotide
from subquad.bio.data.dataset import Inputs
from subquad.bio.data.table import Table
from subquad.bio.settings import FitSettings
from subquad.bio.splits.clusters import cluster
from subquad.bio.splits.near_duplicates import equal_sequences
from subquad.errors import SubquadError

__all__ = ["KINDS", "equal_partners", "units_of"]

KINDS = {"group": "groups", "sequence": "sequences", "partner": "partner sequences", "homology": "clusters"}
"""Methods of `--split-by` that hold out whole units, and the names of these."""


def equal_partners(inputs: Inputs) -> np.ndarray | None:
    """Return an index of the partner sequence of each row, `(n,)`, in either form; None without partner sequences."""
    if inputs.partner_chain is not None:
        return equal_sequences(inputs.partner_chain)
    if inputs.partner is None:
        return None
    # an aligned partner is the same guide at another position
    codes = np.take_along_axis(inputs.partner, np.argsort(inputs.partner < 0, axis=1, kind="stable"), axis=1)
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)


def units_of(table: Table, settings: FitSettings) -> tuple[np.ndarray, str]:
    """Return the index of the unit of each row (-1 for rows without a target), and a description.

    Args:
        table: The table.
        settings: `split_by` is one of `KINDS`.

    Raises:
        SubquadError: There are no groups or no partner sequences, or fewer than three units.
    """
    rows, units = np.flatnonzero(table.has_target), np.full(len(table.has_target), -1)
    own, description = _indices(table, settings, rows)
    units[rows] = np.unique(own, return_inverse=True)[1].reshape(-1)
    sizes = np.unique(units[rows], return_counts=True)[1]
    count, what = len(sizes), KINDS[settings.split_by]
    if count < 3:
        raise SubquadError(f"{table.path}: {what}: {count}, but training, validation and test need three")
    largest = f", the largest with {sizes.max() / len(rows):.0%} of the rows" if sizes.max() > len(rows) / 2 else ""
    return units, f"{description} ({count:,}{largest})"


def _indices(table: Table, settings: FitSettings, rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the index of the unit of each of the rows, and a description."""
    inputs = table.inputs.take(rows)
    match settings.split_by:
        case "group":
            assert table.groups is not None, "the settings name a group column"
            groups = np.unique(np.asarray(table.groups)[rows].astype(str), return_inverse=True)[1]
            return groups.reshape(-1), f"whole groups of {settings.group!r}"
        case "sequence":
            return equal_sequences(replace(inputs, partner=None, partner_chain=None)), "whole sequences"
        case "partner":
            partners = equal_partners(inputs)
            if partners is None:
                raise SubquadError(
                    f"{table.path}: a split by partner needs pairs of sequences; name the partner column"
                )
            return partners, f"whole partner sequences of {table.schema.partner!r}"
        case _:
            return _clusters(table, settings, rows)


def _clusters(table: Table, settings: FitSettings, rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the index of the cluster of each of the rows, and a description."""
    sequences, is_pair = [table.sequences[row] for row in rows], table.inputs.partner_chain is not None
    if is_pair:
        # the chains may have different alphabets
        sequences = [text.rpartition("|")[2] for text in sequences]
    found, description = cluster(sequences, settings.identity, is_nucleotide=is_nucleotide(table.schema.alphabet))
    return found, description + (" of the first chain" if is_pair else "")
