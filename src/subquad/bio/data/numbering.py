"""Numbering of the positions of variants: the offset at which their letters are those of the wild type.

A place is a position in the wild type counted from 0; a table writes place + 1 + offset. Letters are ASCII bytes here.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from subquad.bio.data.variants import Variants
from subquad.errors import SubquadError, raise_errors

__all__ = ["check_numbering", "infer_offset"]

MIN_VARIANTS = 5
"""Minimum number of variants from which an error suggests another offset."""
MAX_CHANCE = 0.01
"""Maximum probability that some offset fits so many wild-type letters by chance, for an error to suggest it."""


def infer_offset(
    path: Path | str, variants: Variants, wild: np.ndarray, *, is_training: bool = True
) -> tuple[int, list[str]]:
    """Return the offset at which most letters agree with the wild type, and a remark.

    Args:
        path: The table, for messages.
        variants: Variants of all rows.
        wild: `(T,)` letters of the wild type.
        is_training: The table is one to fit, whose command has the flags `--offset` and `--wild-type`.

    Raises:
        SubquadError: No offset fits half of the rows.
    """
    total = len(np.unique(variants.row))
    if not total:
        return 0, []
    votes = _votes(variants, wild)
    best = _ranked(votes)[:3]
    fits = {offset: _rows_that_fit(variants, wild, offset) for offset in best}
    if not best or fits[best[0]] < total / 2:
        # several variants of a row may fit at different offsets, so that none fits a whole row
        closest = sorted((offset for offset in best if fits[offset]), key=lambda offset: -fits[offset])
        shown = ", ".join(f"{offset} ({fits[offset]:,} of {total:,} rows)" for offset in closest)
        if closest:
            shown = f"; the best {'are' if len(closest) > 1 else 'is'} {shown}"
        remedy = "check --wild-type, or set --offset" if is_training else "give variants of this wild type"
        raise SubquadError(
            f"{path}: no offset aligns the variants with the wild type of {len(wild)} letters{shown}; {remedy}"
        )
    first = best[0]
    is_ambiguous = len(best) > 1 and votes[best[1]] == votes[first]
    if is_ambiguous and first != 0:
        # a wrong letter fits somewhere; positions are then counted from 1, and the check names the letter
        return 0, []
    rows = f"all {total:,} rows" if fits[first] == total else f"{fits[first]:,} of {total:,} rows"
    remark = f"positions of the variants: offset {first} fits {rows}"
    if is_ambiguous:
        remark += f", and so does {best[1]}"
        if is_training:
            remark += f"; set --offset if {first} is wrong"
    return first, [remark]


def check_numbering(
    path: Path | str, variants: Variants, wild: np.ndarray, offset: int, *, is_training: bool = True
) -> None:
    """Check that all variants have the letters of the wild type at an offset, each position once.

    Args:
        path: The table, for messages.
        variants: Variants of all rows.
        wild: `(T,)` letters of the wild type.
        offset: Position in the table minus position in the wild type.
        is_training: The table is one to fit, whose command has the flags `--offset` and `--wild-type`.

    Raises:
        SubquadError: Rows with another letter, outside the wild type, or with two variants at one position.
    """
    place = variants.position - 1 - offset
    is_inside, is_good = _agrees(variants, wild, place)
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
    if not errors:
        return
    remedy = _remedy(variants, wild, offset, is_training=is_training)
    raise_errors(
        f"{path}: rows that do not fit the wild type: {len(errors):,} of {variants.rows:,}; {remedy}",
        [errors[row] for row in sorted(errors)],
    )


def _remedy(variants: Variants, wild: np.ndarray, offset: int, *, is_training: bool) -> str:
    """Return what to do about rows that do not fit the wild type at an offset."""
    total, fit = len(np.unique(variants.row)), _rows_that_fit(variants, wild, offset)
    is_most = fit >= total / 2
    found = f"offset {offset} fits {fit:,} of {total:,} variants"
    numbering = f"number the positions as in the fit, from {1 + offset} to {len(wild) + offset}"
    other, others = _other_offset(variants, wild, offset)
    if other is None:
        if is_most:
            return f"{found}; correct or remove these rows"
        return f"{found}; {'check --wild-type and --offset' if is_training else numbering}"
    rest = f"{others:,} of the other {total - fit:,}" if others < total - fit else f"the other {others:,}"
    if not is_training:
        change = f"{abs(offset - other):,} is {'added to' if offset > other else 'subtracted from'} their positions"
        return f"{found}; {numbering} ({rest if fit else f'{others:,}'} fit if {change})"
    better = _rows_that_fit(variants, wild, other)
    if not is_most and better > total / 2:
        return f"{found}; --offset {other} fits {better:,} of {total:,}"
    return (
        f"{found}, and offset {other} fits {rest}: the table seems to have two numberings of the positions; give all "
        "rows the same one"
    )


def _other_offset(variants: Variants, wild: np.ndarray, offset: int) -> tuple[int | None, int]:
    """Return the offset that best fits the rows that do not fit at `offset`, unless by chance, and their number."""
    good = _agrees(variants, wild, variants.position - 1 - offset)[1]
    left = np.isin(variants.row, variants.row[~good])
    rest = replace(variants, **{name: getattr(variants, name)[left] for name in ("row", "position", "old", "new")})
    votes = _votes(rest, wild) if left.any() else {}
    other = next((found for found in _ranked(votes) if found != offset), None)
    if other is None:
        return None, 0
    fit = _rows_that_fit(rest, wild, other)
    is_supported = fit >= MIN_VARIANTS and len(votes) * _chance(rest, wild, other) <= MAX_CHANCE
    return (other, fit) if is_supported else (None, 0)


def _chance(variants: Variants, wild: np.ndarray, offset: int) -> float:
    """Return the probability that a random offset fits as many letters as this one; each position counts once."""
    from scipy.stats import binom

    position, old = np.unique(np.stack([variants.position, variants.old]), axis=1)
    place = position - 1 - offset
    inside = (place >= 0) & (place < len(wild))
    fit = int((wild[place[inside]] == old[inside]).sum())
    by_letter = np.bincount(wild, minlength=256) / len(wild)
    return float(binom.sf(fit - 1, len(old), by_letter[old].mean()))


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
