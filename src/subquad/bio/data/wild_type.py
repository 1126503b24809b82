"""Full sequences from variants, and variants from full sequences. Cost: one pass over the letters.

Axes: n rows, T positions. A place is a position in the wild type counted from 0; a table writes place + 1 + offset.
Letters are ASCII bytes here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase

import numpy as np

from subquad.bio.data.alphabet import flatten, is_invalid
from subquad.bio.data.numbering import check_numbering, infer_offset
from subquad.bio.data.variants import Variants, canonical, differences
from subquad.errors import SubquadError, raise_errors

__all__ = ["SequenceSet", "each_with_stop", "from_both", "from_sequences", "from_variants", "with_stops"]

SAMPLE_VARIANTS, SAMPLE_ROWS = 500, 1000
"""Substitutions from which the offset is inferred in full sequences, and rows from which a wild type is."""
MAX_TRUNCATED = 0.2
"""Maximum fraction of truncated proteins; if more sequences are shorter, lengths differ for another reason."""
LETTERS = ascii_uppercase + "*"


@dataclass(frozen=True, kw_only=True)
class SequenceSet:
    """Sequences of all rows, and the variants that they are of a wild type."""

    sequences: list[str]
    mutants: list[str] | None = None
    """Variant of each row, such as `A24G:K30R`, counted from 1 in the wild type."""
    wild_type: str | None = None
    offset: int = 0
    remarks: list[str] = field(default_factory=list)


def from_variants(path: Path | str, variants: Variants, wild_type: str, *, offset: int | None = None) -> SequenceSet:
    """Return the full sequences of variants.

    Args:
        path: The table, for messages.
        variants: Variants of all rows.
        wild_type: Letters; DNA is translated if the variants are substitutions in its protein.
        offset: Position in the table minus position in the wild type; inferred from the letters by default.

    Raises:
        SubquadError: No offset fits, or letters or positions do not fit the wild type.
    """
    remarks = []
    protein = _translated(variants, wild_type)
    if protein is not None:
        wild_type = protein
        remarks.append(
            f"the wild type is DNA and the variants are of its protein: translated to {len(protein)} residues"
        )
    wild = flatten([wild_type])[0]
    if offset is None:
        offset, notes = infer_offset(path, variants, wild)
    else:
        notes = []
    check_numbering(path, variants, wild, offset)
    place = variants.position - 1 - offset
    letters = np.repeat(wild[None], variants.rows, axis=0)
    letters[variants.row, place] = variants.new
    text, width = letters.tobytes().decode(), len(wild)
    return SequenceSet(
        sequences=[text[start : start + width] for start in range(0, len(text), width)],
        mutants=canonical(variants.row, place, variants.old, variants.new, rows=variants.rows),
        wild_type=wild_type,
        offset=offset,
        remarks=remarks + notes,
    )


def _translated(variants: Variants, wild_type: str) -> str | None:
    is_dna = set(wild_type) <= set("ACGTU") and len(wild_type) % 3 == 0
    is_protein = bool(set(np.unique(variants.old).tolist()) - set(b"ACGTU"))
    if not (is_dna and is_protein):
        return None
    from Bio.Seq import translate

    return str(translate(wild_type)).rstrip("*")


def from_both(
    path: Path | str,
    sequences: Sequence[str],
    variants: Variants,
    *,
    wild_type: str | None,
    offset: int | None,
    column: str,
    is_named: bool,
    alphabet: str,
    ambiguity: str,
) -> SequenceSet:
    """Combine the full sequences and the variants of a table, after checking that they agree.

    Args:
        path: The table, for messages.
        sequences: Sequences of all rows.
        variants: Variants of all rows.
        wild_type: Letters; None infers them by undoing the variants.
        offset: Position in the table minus position in the wild type; None infers it from the letters.
        column: Column of the variants, for messages.
        is_named: The user named the column; otherwise it is ignored if it does not fit most rows.
        alphabet: Alphabet of the sequences.
        ambiguity: Whether ambiguous letters are encoded (`any`) or errors (`refuse`).

    Raises:
        SubquadError: Sequences are not the wild type with the variants. Rows with other errors (invalid letters,
            unreadable variants) are not reported a second time.
    """
    ignored = SequenceSet(
        sequences=list(sequences),
        remarks=[f"column {column!r} does not fit the sequences and is ignored"],
    )
    flat, lengths = flatten(sequences)
    width = len(wild_type) if wild_type else int(np.bincount(lengths).argmax())
    is_read = lengths > 0
    is_read[list(variants.unread)] = False
    if not len(variants.row):
        return SequenceSet(sequences=list(sequences))
    if (lengths != width).any():
        wrong = np.flatnonzero((lengths != width) & is_read)
        if is_named and len(wrong):
            raise SubquadError(
                f"{path}, row {wrong[0] + 1}: {lengths[wrong[0]]:,} letters, which variants in column {column!r} "
                f"cannot make of a wild type of {width:,}"
            )
        return ignored
    letters = flat.reshape(len(sequences), width)
    if offset is None:
        offset = _infer_offset_in(variants, letters)
    place = variants.position - 1 - offset
    base, has_new = _undone(variants, letters, place)
    wild = flatten([wild_type])[0] if wild_type else _consensus(base)
    is_bad = (base != wild).any(1)
    is_bad[variants.row[~has_new]] = True
    if is_bad.mean() > 0.5 and not is_named:
        return ignored
    bad = np.flatnonzero(is_bad & is_read)
    bad = bad[~is_invalid(letters[bad], alphabet, ambiguity).any(1)]
    raise_errors(
        f"{path}: variants and sequences disagree in {len(bad):,} of {len(letters):,} rows (offset {offset})",
        [f"row {row + 1}: {_disagreement(variants, letters[row], wild, row, offset)}" for row in bad[:SAMPLE_ROWS]],
    )
    rows, undone = len(np.unique(variants.row)), f"; undoing them gives a wild type of {len(wild)} letters"
    remark = f"positions of the variants: offset {offset} fits all {rows:,} rows, and the sequences agree"
    return SequenceSet(
        sequences=list(sequences),
        mutants=canonical(variants.row, place, variants.old, variants.new, rows=variants.rows),
        wild_type=wild.tobytes().decode(),
        offset=offset,
        remarks=[remark + ("" if wild_type else undone)],
    )


def _undone(variants: Variants, letters: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the letters with the variants undone, and which variants occur in the sequences."""
    inside = np.flatnonzero((place >= 0) & (place < letters.shape[1]))
    row, place = variants.row[inside], place[inside]
    has_new = np.zeros(len(variants.row), dtype=bool)
    has_new[inside] = letters[row, place] == variants.new[inside]
    base = letters.copy()
    base[row, place] = variants.old[inside]
    return base, has_new


def _disagreement(variants: Variants, letters: np.ndarray, wild: np.ndarray, row: int, offset: int) -> str:
    """Return what is wrong with a row whose sequence is not the wild type with its variants."""
    start, end = np.searchsorted(variants.row, [row, row + 1])
    places = set()
    for k in range(start, end):
        position = int(variants.position[k])
        place, old, new = position - 1 - offset, chr(variants.old[k]), chr(variants.new[k])
        places.add(place)
        if not 0 <= place < len(wild):
            return f"position {position} is outside the sequence ({1 + offset} to {len(wild) + offset})"
        if chr(letters[place]) != new:
            return f"{old}{position}{new} puts {new} at {position}, but the sequence has {chr(letters[place])}"
        if chr(wild[place]) != old:
            return f"expected {old} at {position}, but the wild type has {chr(wild[place])}"
    place = next(int(place) for place in np.flatnonzero(letters != wild) if place not in places)
    return (
        f"the sequence has {chr(letters[place])} at {place + 1 + offset}, the wild type {chr(wild[place])}, and "
        f"{variants.text[row] or 'an empty variant'!r} does not include this"
    )


def _infer_offset_in(variants: Variants, letters: np.ndarray) -> int:
    """Return the offset at which most mutant letters occur in the sequences."""
    sample = np.unique(np.linspace(0, len(variants.row) - 1, SAMPLE_VARIANTS).astype(int))
    is_new = letters[variants.row[sample]] == variants.new[sample, None]
    which, place = np.nonzero(is_new)
    offsets, counts = np.unique(variants.position[sample][which] - 1 - place, return_counts=True)
    if not len(offsets):
        return 0
    return int(min(zip(-counts, np.abs(offsets), offsets, strict=True))[2])


def _consensus(letters: np.ndarray) -> np.ndarray:
    """Return the most common letter at each position."""
    best, most = np.zeros(letters.shape[1], dtype=np.uint8), np.zeros(letters.shape[1], dtype=np.int64)
    for byte in np.unique(letters):
        counts = (letters == byte).sum(0)
        best[counts > most] = byte
        most = np.maximum(most, counts)
    return best


def from_sequences(sequences: Sequence[str], *, wild_type: str | None = None) -> SequenceSet:
    """Return full sequences as variants of a wild type, if they are few substitutions away from it.

    Args:
        sequences: Sequences of all rows.
        wild_type: Letters; by default the most common letter at each position, if half of the rows are within six
            substitutions of it, or within a tenth of the length.

    Raises:
        SubquadError: No sequence has the length of the given wild type.
    """
    flat, lengths = flatten(sequences)
    width = int(lengths[0])
    if (lengths != width).any() or not width or (wild_type is not None and len(wild_type) != width):
        remarks = []
        if wild_type is not None:
            if not (lengths == len(wild_type)).any():
                raise SubquadError(f"no sequence has as many letters as the wild type, {len(wild_type):,}")
            remarks = ["not all sequences are as long as the wild type; variants are not derived"]
        return SequenceSet(sequences=list(sequences), wild_type=wild_type, remarks=remarks)
    letters = flat.reshape(len(sequences), width)
    wild = flatten([wild_type])[0] if wild_type else _consensus(letters)
    distance = (letters != wild).sum(1)
    median = int(np.median(distance))
    # in a short sequence six substitutions do not mean that the sequences are related
    if wild_type is None and (median > max(6, 0.1 * width) or median > 0.25 * width):
        return SequenceSet(sequences=list(sequences))
    remarks = []
    if wild_type is None:
        remarks = [
            f"wild type: inferred from the most common letters; half of the rows have at most {median} "
            f"substitution{'' if median == 1 else 's'} (--wild-type overrides)"
        ]
    mutants = canonical(*differences(letters, wild), rows=len(sequences))
    return SequenceSet(sequences=list(sequences), mutants=mutants, wild_type=wild.tobytes().decode(), remarks=remarks)


def with_stops(sequences: Sequence[str], wild_type: str | None = None) -> tuple[list[str], list[str]]:
    """Write truncated proteins like other variants: with a stop `*`, followed by the rest of the wild type.

    Nothing is changed unless each shorter sequence is a prefix of the wild type, with or without a stop at its end.

    Args:
        sequences: Proteins, in upper case.
        wild_type: Letters; by default the most common letters of the sequences of the most common length.

    Returns:
        The sequences, and remarks.
    """
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    full = len(wild_type) if wild_type is not None else int(np.bincount(lengths, minlength=1).argmax())
    truncated = np.flatnonzero(lengths < full).tolist()
    if not truncated or lengths.max() > full or not lengths.min():
        return list(sequences), []
    if wild_type is None:
        if len(truncated) > MAX_TRUNCATED * len(sequences):
            return list(sequences), []
        whole = [str(sequences[row]) for row in np.flatnonzero(lengths == full)[:SAMPLE_ROWS].tolist()]
        letters = flatten(whole)[0].reshape(-1, full)
        counts = np.stack([(letters == ord(letter)).sum(0) for letter in LETTERS])
        wild_type = "".join(LETTERS[k] for k in counts.argmax(0))
    result, remarks = each_with_stop(sequences, wild_type)
    return (list(sequences), []) if any(len(result[row]) < full for row in truncated) else (result, remarks)


def each_with_stop(sequences: Sequence[str], wild_type: str) -> tuple[list[str], list[str]]:
    """Write the truncated ones of proteins with a stop `*` and the rest of the wild type, each by itself.

    Args:
        sequences: Proteins, in upper case; those that are no prefix of the wild type, with or without a stop at the
            end, are left as they are.
        wild_type: Letters.

    Returns:
        The sequences, and remarks.
    """
    result, count = list(sequences), 0
    for row, sequence in enumerate(sequences):
        prefix = sequence.removesuffix("*")
        if 0 < len(sequence) < len(wild_type) and wild_type.startswith(prefix):
            result[row] = prefix + "*" + wild_type[len(prefix) + 1 :]
            count += 1
    remark = f"{count:,} sequences are truncated wild types; they are read as variants with a stop (*)"
    return result, [remark] if count else []
