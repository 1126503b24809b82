"""Checks that the sequences of a table belong together: one length in an alignment, one type of sequence.

Axes: n rows.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from subquad.bio.data.alphabet import GAP, OTHER_GAP, has_gap, is_nucleotide
from subquad.errors import SubquadError, raise_errors, shortened

__all__ = ["check_aligned", "check_lengths", "check_mixed", "check_same_type", "few_other_lengths"]

FEW = 0.01
"""Fraction of rows that may look like DNA in a table of proteins without an error."""
FEW_OTHERS = 0.05
"""If at most this fraction of the sequences has another length, it is likely an error or a deletion."""
MIN_LETTERS = 12
"""Minimum length of a sequence of a protein table that is taken for DNA or RNA."""


def check_aligned(path: Path | str, sequences: Sequence[str], *, column: str) -> None:
    """Check that sequences with gaps have one length.

    Args:
        path: The table, for messages.
        sequences: One per row.
        column: Their column, for messages.

    Raises:
        SubquadError: Lengths differ; with the rows that differ from the most common length.
    """
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    gapped = sum(GAP in sequence or OTHER_GAP in sequence for sequence in sequences)
    if not gapped or not len(lengths) or (lengths == lengths[0]).all():
        return
    common = int(np.bincount(lengths).argmax())
    raise_errors(
        f"{path}: {gapped:,} sequences in column {column!r} have gaps, but not all have {common:,} letters; align "
        "them, or remove all gaps",
        [f"row {row + 1}: {lengths[row]:,} letters" for row in np.flatnonzero(lengths != common)],
    )


def few_other_lengths(lengths: np.ndarray) -> str | None:
    """Return which sequences have another length if nearly all have one, so that positions cannot be used; else None.

    Args:
        lengths: Letters of each sequence, `(n,)`.
    """
    common = int(np.bincount(lengths).argmax())
    others = np.flatnonzero(lengths != common)
    if not len(others) or len(others) > FEW_OTHERS * len(lengths):
        return None
    least, longest = lengths[others].min(), lengths[others].max()
    letters = f"{least:,}" if least == longest else f"{least:,} to {longest:,}"
    rows = ", ".join(f"{row + 1}" for row in others[:10]) + (", …" if len(others) > 10 else "")
    has, row = ("has", "row") if len(others) == 1 else ("have", "rows")
    what = f"{len(others):,} of {len(lengths):,} sequences {has} {letters} letters"
    return f"{what}, the others {common:,} ({row} {rows})"


def check_lengths(path: Path | str, lengths: np.ndarray) -> None:
    """Check that not only a few sequences have another length, which takes the positions from all others.

    Args:
        path: The table, for messages.
        lengths: Letters of each sequence, `(n,)`.

    Raises:
        SubquadError: At most 5 % of the sequences differ from the length of all others.
    """
    found = few_other_lengths(lengths)
    if found is not None:
        raise SubquadError(f"{path}: {found}, so that models cannot use positions; --lengths vary accepts it")


def check_mixed(path: Path | str, sequences: Sequence[str], alphabet: str) -> list[str]:
    """Check that a table does not mix proteins with DNA or RNA, and return a remark if very few rows do.

    Args:
        path: The table, for messages.
        sequences: One per row, in upper case.
        alphabet: Name of the alphabet.

    Raises:
        SubquadError: Proteins among DNA, or DNA in more than 1 % of the rows of proteins.
    """
    if has_gap(alphabet):
        sequences = [sequence.replace(GAP, "").replace(OTHER_GAP, "") for sequence in sequences]
    if is_nucleotide(alphabet):
        # degenerate DNA has many letters outside ACGT, but none of these
        rows = [
            row
            for row, text in enumerate(sequences)
            if len(text) >= 5 and sum(map(text.count, "ACGTUN")) <= 0.7 * len(text) and set(text) & set("EFILPQ")
        ]
        most, others = "DNA or RNA", "proteins"
    else:
        rows = _look_like_dna(sequences)
        most, others = "proteins", "DNA or RNA"
        if len(rows) > len(sequences) / 2:
            rows = sorted(set(range(len(sequences))) - set(rows))
            most, others = others, most
    if rows and others != "proteins" and len(rows) < FEW * len(sequences):
        return [f"{len(rows):,} sequences among proteins look like DNA, such as row {rows[0] + 1}; read as proteins"]
    raise_errors(
        f"{path}: most sequences are {most}, but {len(rows):,} of {len(sequences):,} look like {others}; keep one type",
        [f"row {row + 1}: {shortened(sequences[row], 40)!r}" for row in rows],
    )
    return []


def check_same_type(path: Path | str, sequences: Sequence[str], alphabet: str) -> None:
    """Check that sequences to predict with a model of proteins are not DNA or RNA, whose letters are amino acids too.

    Args:
        path: The table, for messages.
        sequences: One per row, in upper case.
        alphabet: Name of the alphabet of the model.

    Raises:
        SubquadError: At least 1 % of the rows are long enough and have the letters A, C, G, T, U and N only.
    """
    # `encode` reports letters outside the alphabet of a model of nucleotides
    rows = [] if is_nucleotide(alphabet) else _look_like_dna(sequences)
    if len(rows) >= FEW * len(sequences):
        raise_errors(
            f"{path}: the model reads proteins, but {len(rows):,} of {len(sequences):,} sequences look like DNA or RNA",
            [f"row {row + 1}: {shortened(sequences[row], 40)!r}" for row in rows],
        )


def _look_like_dna(sequences: Sequence[str]) -> list[int]:
    """Return the rows that are DNA or RNA; a protein of their letters alone rarely has all four."""
    return [
        row
        for row, text in enumerate(sequences)
        if len(text) >= MIN_LETTERS and set("ACG") < set(text) <= set("ACGTUN") and set(text) & set("TU")
    ]
