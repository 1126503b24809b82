"""Numbering of the positions of variants: the offset at which their letters are those of the wild type.

A place is a position in the wild type counted from 0; a table writes place + 1 + offset. Letters are ASCII bytes here.
"""

from pathlib import Path

import numpy as np

from subquad.bio.data.variants import Variants
from subquad.errors import SubquadError, raise_errors

__all__ = ["check_numbering", "infer_offset"]


def infer_offset(path: Path | str, variants: Variants, wild: np.ndarray) -> tuple[int, list[str]]:
    """Return the offset at which most letters agree with the wild type, and a remark.

    Args:
        path: The table, for messages.
        variants: Variants of all rows.
        wild: `(T,)` letters of the wild type.

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
        shown = f" (at most {max(fits.values(), default=0):,} of {total:,} rows fit)"
        raise SubquadError(f"{path}: no offset aligns the variants with the wild type of {len(wild)} letters{shown}")
    first = best[0]
    is_ambiguous = len(best) > 1 and votes[best[1]] == votes[first]
    if is_ambiguous and first != 0:
        # a wrong letter fits somewhere; positions are then counted from 1, and the check names the letter
        return 0, []
    rows = f"all {total:,} rows" if fits[first] == total else f"{fits[first]:,} of {total:,} rows"
    remark = f"positions of the variants: offset {first} fits {rows}"
    if is_ambiguous:
        remark += f", and so does {best[1]}"
    return first, [remark]


def check_numbering(path: Path | str, variants: Variants, wild: np.ndarray, offset: int) -> None:
    """Check that all variants have the letters of the wild type at an offset, each position once.

    Args:
        path: The table, for messages.
        variants: Variants of all rows.
        wild: `(T,)` letters of the wild type.
        offset: Position in the table minus position in the wild type.

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
    raise_errors(
        f"{path}: {len(errors):,} of {variants.rows:,} rows do not fit the wild type at offset {offset}",
        [errors[row] for row in sorted(errors)],
    )


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
