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
from subquad.bio.data.variants import Variants, canonical, differences
from subquad.errors import SubquadError, raise_errors

__all__ = ["SequenceSet", "from_both", "from_sequences", "from_variants", "with_stops"]

SAMPLE_VARIANTS, SAMPLE_ROWS = 500, 1000
"""Substitutions from which the offset is inferred, and rows from which a wild type is."""
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
    offset, notes = _infer_offset(path, variants, wild, offset)
    place = variants.position - 1 - offset
    _check(path, variants, wild, place, offset)
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


def _infer_offset(path: Path | str, variants: Variants, wild: np.ndarray, given: int | None) -> tuple[int, list[str]]:
    """Return the offset at which most letters agree with the wild type, and a remark."""
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
            f"{path}: no offset aligns the variants with the wild type of {len(wild)} letters; the best are {shown}; "
            "check --wild-type, or set --offset"
        )
    first = best[0]
    is_ambiguous = len(best) > 1 and votes[best[1]] == votes[first]
    if is_ambiguous and first != 0:
        # a wrong letter fits somewhere; positions are then counted from 1, and the check names the letter
        return 0, []
    rows = f"all {total:,} rows" if fits[first] == total else f"{fits[first]:,} of {total:,} rows"
    remark = f"positions of the variants: offset {first} fits {rows}"
    if is_ambiguous:
        remark += f", and so does {best[1]}; set --offset if {first} is wrong"
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
    """Return which substitutions lie in the wild type, and which of them also have its letter."""
    is_inside = (place >= 0) & (place < len(wild))
    return is_inside, is_inside & (wild[np.clip(place, 0, len(wild) - 1)] == variants.old)


def _rows_that_fit(variants: Variants, wild: np.ndarray, offset: int) -> int:
    good = _agrees(variants, wild, variants.position - 1 - offset)[1]
    return len(np.unique(variants.row)) - len(np.unique(variants.row[~good]))


def _check(path: Path | str, variants: Variants, wild: np.ndarray, place: np.ndarray, offset: int) -> None:
    is_inside, is_good = _agrees(variants, wild, place)
    total, fit = len(np.unique(variants.row)), _rows_that_fit(variants, wild, offset)
    errors = {}
    for k in np.flatnonzero(~is_good)[::-1]:
        row, position = int(variants.row[k]), int(variants.position[k])
        if is_inside[k]:
            found = f"expected {chr(variants.old[k])} at {position}, found {chr(wild[place[k]])}"
        else:
            found = f"{position} is outside the wild type, which has the positions {1 + offset} to {len(wild) + offset}"
        errors[row] = f"row {row + 1}: {found}"
    order = np.lexsort((place, variants.row))
    twice = (np.diff(variants.row[order]) == 0) & (np.diff(place[order]) == 0)
    for k in order[1:][twice]:
        row = int(variants.row[k])
        errors.setdefault(row, f"row {row + 1}: two variants at {variants.position[k]} ({variants.text[row]})")
    remedy = f"offset {offset} fits {fit:,} of {total:,} variants; correct or remove these rows"
    if fit < total / 2:
        best = next(iter(_ranked(_votes(variants, wild))), offset)
        better = _rows_that_fit(variants, wild, best)
        is_better = better > total / 2
        remedy = f"--offset {best} fits {better:,} of {total:,} variants" if is_better else "check --wild-type"
    raise_errors(
        f"{path}: rows that do not fit the wild type: {len(errors):,} of {variants.rows:,}; {remedy}",
        [errors[row] for row in sorted(errors)],
    )


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
        remarks=[f"column {column!r} does not fit the sequences and is ignored (--mutant {column} shows why)"],
    )
    flat, lengths = flatten(sequences)
    width = len(wild_type) if wild_type else int(np.bincount(lengths).argmax())
    is_read = lengths > 0
    is_read[list(variants.unread)] = False
    if not len(variants.row):
        return SequenceSet(sequences=list(sequences))
    if (lengths != width).any():
        if is_named:
            _check_lengths(path, lengths, width, column, np.flatnonzero((lengths != width) & is_read))
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


def _check_lengths(path: Path | str, lengths: np.ndarray, width: int, column: str, wrong: np.ndarray) -> None:
    raise_errors(
        f"{path}: {len(wrong):,} sequences are not as long as the wild type ({width} letters), so the variants in "
        f"column {column!r} cannot produce them; remove the rows, or leave out --mutant",
        [f"row {row + 1}: {lengths[row]:,} letters" for row in wrong],
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


def _final_stops(sequences: Sequence[str]) -> list[str]:
    """Return a remark if sequences differ in length only because some of them end with the stop codon."""
    count = sum(text.endswith("*") for text in sequences)
    if count in (0, len(sequences)) or len({len(text.rstrip("*")) for text in sequences}) > 1:
        return []
    return [
        f"{count:,} of {len(sequences):,} sequences end with the stop codon *, the others do not, so that they differ "
        "in length and are not compared position by position; remove it from all of them"
    ]


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
        remarks = _final_stops(sequences)
        if wild_type is not None:
            if not (lengths == len(wild_type)).any():
                low, high = lengths.min(), lengths.max()
                raise SubquadError(
                    f"the wild type has {len(wild_type):,} letters, and no sequence has: they have {low:,}"
                    f"{f' to {high:,}' if high > low else ''}; give the wild type of these sequences"
                )
            remarks += [
                f"not all sequences are as long as the wild type ({len(wild_type)} letters); variants are not derived"
            ]
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
    prefixes = {row: sequences[row].removesuffix("*") for row in truncated}
    if not all(wild_type.startswith(prefix) for prefix in prefixes.values()):
        return list(sequences), []
    result = list(sequences)
    for row, prefix in prefixes.items():
        result[row] = prefix + "*" + wild_type[len(prefix) + 1 :]
    return result, [f"{len(truncated):,} sequences are truncated wild types; they are read as variants with a stop (*)"]
