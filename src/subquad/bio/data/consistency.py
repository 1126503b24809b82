"""Checks that the sequences of a table belong together: one length in an alignment, one type of sequence.

Axes: n rows.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from subquad.bio.data.alphabet import GAP, OTHER_GAP, flatten, has_gap, is_nucleotide, letter_mask
from subquad.errors import SubquadError, raise_errors

__all__ = ["check_aligned", "check_lengths", "check_mixed", "check_same_type", "few_other_lengths"]

FEW = 0.01
"""Fraction of rows that may look like DNA in a table of proteins without an error."""
FEW_OTHERS = 0.05
"""If at most this fraction of the sequences has another length, it is likely an error or a deletion."""
MIN_LETTERS = 12
"""Minimum length of a sequence of a protein table that is taken for DNA or RNA."""
ROWS_AT_ONCE = 1000
"""Rows examined at a time, since they need eight bytes or more per letter."""


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
        f"{path}: {gapped:,} sequences in column {column!r} have gaps ({GAP} or {OTHER_GAP}), but lengths differ, so "
        "they are not aligned; give all sequences as rows of one alignment, with gaps at their ends too, or remove "
        f"all gaps. Most have {common:,} letters, others:",
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
        raise SubquadError(
            f"{path}: {found}: sequences are not aligned, so that positions could not be used as features, which makes "
            "most models much worse; correct or remove these rows, or accept it with --lengths vary"
        )


def check_mixed(path: Path | str, sequences: Sequence[str], alphabet: str, *, flag: str = "--alphabet") -> list[str]:
    """Check that a table does not mix proteins with DNA or RNA, and return a remark if very few rows do.

    Args:
        path: The table, for messages.
        sequences: One per row, in upper case.
        alphabet: Name of the alphabet.
        flag: Flag that sets the alphabet, for messages.

    Raises:
        SubquadError: Proteins among DNA, or DNA in more than 1 % of the rows of proteins.
    """
    if has_gap(alphabet):
        sequences = [sequence.replace(GAP, "").replace(OTHER_GAP, "") for sequence in sequences]
    if is_nucleotide(alphabet):
        # degenerate DNA has many letters outside ACGT, but none of these
        bases, lengths = _base_fraction(sequences)
        rows = [
            row
            for row in np.flatnonzero((lengths >= 5) & (bases <= 0.7)).tolist()
            if set(sequences[row]) & set("EFILPQ")
        ]
        most, others = "DNA or RNA", "proteins"
    else:
        rows = _look_like_dna(sequences)
        most, others = "proteins", "DNA or RNA"
        if len(rows) > len(sequences) / 2:
            rows = sorted(set(range(len(sequences))) - set(rows))
            most, others = others, most
    shown = [f"row {row + 1}: {_shortened(sequences[row])!r}" for row in rows]
    if rows and others != "proteins" and len(rows) < FEW * len(sequences):
        return [
            f"{len(rows):,} sequences among proteins look like DNA; they are read as proteins: {', '.join(shown[:3])}"
        ]
    raise_errors(
        f"{path}: most sequences are {most}, but {len(rows):,} of {len(sequences):,} look like {others}; "
        f"keep one type of sequence in a table, or set {flag}",
        shown,
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
    if is_nucleotide(alphabet):
        # of letters outside its alphabet `encode` tells the place
        return
    rows = _look_like_dna(sequences)
    if len(rows) < FEW * len(sequences):
        return
    raise_errors(
        f"{path}: the model was trained on proteins, but {len(rows):,} of {len(sequences):,} sequences are of the "
        "letters of DNA or RNA only; translate them, or remove these rows",
        [f"row {row + 1}: {_shortened(sequences[row])!r}" for row in rows],
    )


def _look_like_dna(sequences: Sequence[str]) -> list[int]:
    """Return the rows that are DNA or RNA; a protein of their letters alone rarely has all four."""
    bases, lengths = _base_fraction(sequences)
    rows = np.flatnonzero((lengths >= MIN_LETTERS) & (bases == 1)).tolist()
    return [row for row in rows if set("ACG") < set(sequences[row]) and set("TU") & set(sequences[row])]


def _base_fraction(sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the fraction of A, C, G, T, U and N in each sequence, and its length."""
    fractions, all_lengths = [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
    for row in range(0, len(sequences), ROWS_AT_ONCE):
        flat, lengths = flatten(sequences[row : row + ROWS_AT_ONCE])
        ends = np.cumsum(lengths)
        totals = np.concatenate([[0], np.cumsum(letter_mask("ACGTUN")[flat])])
        fractions.append((totals[ends] - totals[ends - lengths]) / np.maximum(lengths, 1))
        all_lengths.append(lengths)
    return np.concatenate(fractions), np.concatenate(all_lengths)


def _shortened(sequence: str) -> str:
    return sequence if len(sequence) <= 40 else f"{sequence[:37]}…"
