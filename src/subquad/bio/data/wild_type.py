"""Full sequences from variants and variants from full sequences, on one wild type. Costs one pass over the letters.

Axes: n rows, T positions. A place is a position in the wild type, from 0; a table writes place + 1 + offset. Letters
are bytes (ASCII) here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from subquad.bio.data.alphabet import are_wrong, flatten
from subquad.bio.data.variants import Variants, canonical, differences
from subquad.errors import SubquadError, raise_errors

__all__ = ["Construct", "from_both", "from_sequences", "from_variants"]

SOME = 500
MOST = 1000


@dataclass(frozen=True, kw_only=True)
class Construct:
    """Sequences of all rows, and what they are variants of."""

    sequences: list[str]
    mutants: list[str] | None = None
    """`A24G:K30R` of each row, counted from 1 in the wild type."""
    wild_type: str | None = None
    offset: int = 0
    remarks: list[str] = field(default_factory=list)


def from_variants(path: Path | str, variants: Variants, wild_type: str, *, offset: int | None = None) -> Construct:
    """Return the full sequences of variants.

    Args:
        path: the table, for messages.
        variants: of all rows.
        wild_type: letters; DNA is translated where the variants are of its protein.
        offset: what to take off a position; found from the letters where it is not given.

    Raises:
        SubquadError: no offset fits, or letters of the wild type or positions are wrong, each with its row.
    """
    remarks = []
    protein = _translated(variants, wild_type)
    if protein is not None:
        wild_type = protein
        remarks.append(f"the wild type is DNA, the variants are of its protein: translated ({len(protein)} residues)")
    wild = flatten([wild_type])[0]
    offset, said = _offset_of(path, variants, wild, offset)
    place = variants.position - 1 - offset
    _check(path, variants, wild, place, offset)
    letters = np.repeat(wild[None], variants.rows, axis=0)
    letters[variants.row, place] = variants.new
    text, width = letters.tobytes().decode(), len(wild)
    return Construct(
        sequences=[text[start : start + width] for start in range(0, len(text), width)],
        mutants=canonical(variants.row, place, variants.old, variants.new, rows=variants.rows),
        wild_type=wild_type,
        offset=offset,
        remarks=remarks + said,
    )


def _translated(variants: Variants, wild_type: str) -> str | None:
    is_dna = set(wild_type) <= set("ACGTU") and len(wild_type) % 3 == 0
    is_protein = bool(set(np.unique(variants.old).tolist()) - set(b"ACGTU"))
    if not (is_dna and is_protein):
        return None
    from Bio.Seq import translate

    return translate(wild_type).rstrip("*")


def _offset_of(path: Path | str, variants: Variants, wild: np.ndarray, given: int | None) -> tuple[int, list[str]]:
    """Return the offset with which most letters agree with the wild type, and a remark."""
    total = len(np.unique(variants.row))
    if given is not None or not total:
        return given or 0, []
    votes = _votes(variants, wild)
    best = _ranked(votes)[:3]
    fits = {offset: _rows_that_fit(variants, wild, offset) for offset in best}
    if not best or fits[best[0]] < total / 2:
        best.sort(key=lambda offset: -fits[offset])
        shown = ", ".join(f"{offset} ({fits[offset]:,} of {total:,} rows)" for offset in best) or "none"
        raise SubquadError(
            f"{path}: no offset puts the variants on the wild type of {len(wild)} letters; the best are {shown}; "
            "check --wild-type, or say --offset"
        )
    first = best[0]
    rows = f"all {total:,} rows" if fits[first] == total else f"{fits[first]:,} of {total:,} rows"
    remark = f"positions of the variants: offset {first} fits {rows}"
    if len(best) > 1 and votes[best[1]] == votes[first]:
        remark += f", and so does {best[1]}; say --offset if {first} is wrong"
    return first, [remark]


def _ranked(votes: dict[int, int]) -> list[int]:
    return sorted(votes, key=lambda offset: (-votes[offset], abs(offset), offset))


def _votes(variants: Variants, wild: np.ndarray) -> dict[int, int]:
    """Return how many letters agree with the wild type at each offset."""
    (position, letter), counts = np.unique(np.stack([variants.position, variants.old]), axis=1, return_counts=True)
    offsets, weights = [], []
    for byte in np.unique(letter):
        places, chosen = np.flatnonzero(wild == byte), letter == byte
        offsets.append(np.subtract.outer(position[chosen] - 1, places).ravel())
        weights.append(np.repeat(counts[chosen], len(places)))
    unique, inverse = np.unique(np.concatenate(offsets), return_inverse=True)
    return dict(zip(unique.tolist(), np.bincount(inverse, np.concatenate(weights)).astype(int).tolist(), strict=True))


def _agrees(variants: Variants, wild: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which substitutions lie in the wild type, and which have its letter too."""
    is_inside = (place >= 0) & (place < len(wild))
    return is_inside, is_inside & (wild[np.clip(place, 0, len(wild) - 1)] == variants.old)


def _rows_that_fit(variants: Variants, wild: np.ndarray, offset: int) -> int:
    good = _agrees(variants, wild, variants.position - 1 - offset)[1]
    return len(np.unique(variants.row)) - len(np.unique(variants.row[~good]))


def _check(path: Path | str, variants: Variants, wild: np.ndarray, place: np.ndarray, offset: int) -> None:
    is_inside, is_good = _agrees(variants, wild, place)
    total, fit = len(np.unique(variants.row)), _rows_that_fit(variants, wild, offset)
    mistakes = {}
    for k in np.flatnonzero(~is_good)[::-1]:
        row, position = int(variants.row[k]), int(variants.position[k])
        if is_inside[k]:
            found = f"expected {chr(variants.old[k])} at {position}, found {chr(wild[place[k]])}"
        else:
            found = f"{position} is outside the wild type, which has the positions {1 + offset} to {len(wild) + offset}"
        mistakes[row] = f"row {row + 1}: {found}; offset {offset} fits {fit:,} of {total:,} rows"
    # rows are in rising order, so the same place twice stands side by side after sorting
    order = np.lexsort((place, variants.row))
    twice = (np.diff(variants.row[order]) == 0) & (np.diff(place[order]) == 0)
    for k in order[1:][twice]:
        row = int(variants.row[k])
        mistakes.setdefault(row, f"row {row + 1}: two variants at {variants.position[k]} ({variants.text[row]})")
    remedy = "mend or remove them"
    if fit < total / 2:
        best = next(iter(_ranked(_votes(variants, wild))), offset)
        better = _rows_that_fit(variants, wild, best)
        remedy = f"--offset {best} fits {better:,} of {total:,} rows" if better > total / 2 else "check --wild-type"
    raise_errors(
        f"{path}: {len(mistakes):,} of {variants.rows:,} rows do not fit the wild type; {remedy}",
        [mistakes[row] for row in sorted(mistakes)],
    )


def from_both(
    path: Path | str,
    sequences: Sequence[str],
    variants: Variants,
    *,
    wild_type: str | None = None,
    offset: int | None = None,
    column: str,
    is_named: bool,
    alphabet: str,
    ambiguity: str = "any",
) -> Construct:
    """Return the construct of a table with full sequences and variants, after checking that they agree.

    Args:
        path: the table, for messages.
        sequences: of all rows.
        variants: of all rows.
        wild_type: letters; found by undoing the variants where it is not given.
        offset: what to take off a position; found from the letters where it is not given.
        column: of the variants, for messages.
        is_named: the user named the column; else it is left aside where it does not fit most rows.
        alphabet: of the sequences.
        ambiguity: `any` or `refuse`: whether letters that stand for several are mistakes.

    Raises:
        SubquadError: sequences that are not the wild type with the variants, each with its row. Of rows that are a
            mistake in themselves (letters, variants that cannot be read) nothing more is said.
    """
    aside = Construct(
        sequences=list(sequences),
        remarks=[f"column {column!r} does not fit the sequences and is left aside (--mutant {column} shows why)"],
    )
    flat, lengths = flatten(sequences)
    width = len(wild_type) if wild_type else int(np.bincount(lengths).argmax())
    is_read = lengths > 0
    is_read[list(variants.unread)] = False
    if not len(variants.row):
        return Construct(sequences=list(sequences))
    if (lengths != width).any():
        if is_named:
            _refuse_lengths(path, lengths, width, column, np.flatnonzero((lengths != width) & is_read))
        return aside
    letters = flat.reshape(len(sequences), width)
    if offset is None:
        offset = _offset_in(variants, letters)
    place = variants.position - 1 - offset
    base, has_new = _undone(variants, letters, place)
    wild = flatten([wild_type])[0] if wild_type else _consensus(base)
    is_bad = (base != wild).any(1)
    is_bad[variants.row[~has_new]] = True
    if is_bad.mean() > 0.5 and not is_named:
        return aside
    bad = np.flatnonzero(is_bad & is_read)
    bad = bad[~are_wrong(letters[bad], alphabet, ambiguity).any(1)]
    raise_errors(
        f"{path}: variants and sequences disagree in {len(bad):,} of {len(letters):,} rows (offset {offset})",
        [f"row {row + 1}: {_disagreement(variants, letters[row], wild, row, offset)}" for row in bad[:MOST]],
    )
    rows, undone = len(np.unique(variants.row)), f"; undoing them gives a wild type of {len(wild)} letters"
    remark = f"positions of the variants: offset {offset} fits all {rows:,} rows, and the sequences agree"
    return Construct(
        sequences=list(sequences),
        mutants=canonical(variants.row, place, variants.old, variants.new, rows=variants.rows),
        wild_type=wild.tobytes().decode(),
        offset=offset,
        remarks=[remark + ("" if wild_type else undone)],
    )


def _refuse_lengths(path: Path | str, lengths: np.ndarray, width: int, column: str, wrong: np.ndarray) -> None:
    raise_errors(
        f"{path}: {len(wrong):,} sequences are not as long as the wild type ({width} letters), so the variants in "
        f"column {column!r} cannot have made them; remove them, or leave out --mutant",
        [f"row {row + 1}: {lengths[row]:,} letters" for row in wrong],
    )


def _undone(variants: Variants, letters: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the letters without the variants, and which variants stand in the sequences."""
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
        f"{variants.text[row] or 'an empty variant'!r} does not say so"
    )


def _offset_in(variants: Variants, letters: np.ndarray) -> int:
    """Return the offset with which most new letters stand in the sequences."""
    some = np.unique(np.linspace(0, len(variants.row) - 1, SOME).astype(int))
    # [some, T]
    is_new = letters[variants.row[some]] == variants.new[some, None]
    which, place = np.nonzero(is_new)
    offsets, counts = np.unique(variants.position[some][which] - 1 - place, return_counts=True)
    if not len(offsets):
        return 0
    return int(min(zip(-counts, np.abs(offsets), offsets, strict=True))[2])


def _consensus(letters: np.ndarray) -> np.ndarray:
    """Return the commonest letter of each position: no sequence has a smaller sum of distances to all rows."""
    best, most = np.zeros(letters.shape[1], dtype=np.uint8), np.zeros(letters.shape[1], dtype=np.int64)
    for byte in np.unique(letters):
        counts = (letters == byte).sum(0)
        best[counts > most] = byte
        most = np.maximum(most, counts)
    return best


def from_sequences(sequences: Sequence[str], *, wild_type: str | None = None) -> Construct:
    """Return the construct of full sequences alone: variants where they are few substitutions away from one sequence.

    Args:
        sequences: of all rows.
        wild_type: letters; the commonest of each position where it is not given, if half of the rows are within six
            substitutions, or a tenth of the length, of it.
    """
    flat, lengths = flatten(sequences)
    width = int(lengths[0])
    if (lengths != width).any() or not width or (wild_type is not None and len(wild_type) != width):
        remarks = []
        if wild_type is not None:
            remarks = [f"not all sequences have the {len(wild_type)} letters of the wild type: no variants are shown"]
        return Construct(sequences=list(sequences), wild_type=wild_type, remarks=remarks)
    letters = flat.reshape(len(sequences), width)
    wild = flatten([wild_type])[0] if wild_type else _consensus(letters)
    distance = (letters != wild).sum(1)
    median = int(np.median(distance))
    # in a short sequence six substitutions are no kinship
    if wild_type is None and (median > max(6, 0.1 * width) or median > 0.25 * width):
        return Construct(sequences=list(sequences))
    remarks = []
    if wild_type is None:
        remarks = [
            f"the wild type is taken from the commonest letters; half of the rows have at most {median} substitutions "
            "(--wild-type gives another)"
        ]
    mutants = canonical(*differences(letters, wild), rows=len(sequences))
    return Construct(sequences=list(sequences), mutants=mutants, wild_type=wild.tobytes().decode(), remarks=remarks)
