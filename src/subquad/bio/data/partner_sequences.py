"""Guides beside their target contexts: where each lies, as a second channel. Costs one comparison for each offset.

Axes: n rows, T positions of a context, G of a guide. Codes are places in the alphabet, `PAD` after the end.
"""

from pathlib import Path
from typing import Any

import numpy as np

from subquad.bio.data.dataset import PAD
from subquad.errors import raise_errors

__all__ = ["align_guides"]

SOME = 2000
ENOUGH = 0.9
BADLY = 0.35


def align_guides(
    path: Path | str, contexts: np.ndarray, guides: np.ndarray, *, known: dict[str, Any] | None = None
) -> tuple[np.ndarray, dict[str, Any], list[str]]:
    """Return the guides as a second channel `(n, T)`, how they were laid (JSON), and remarks.

    A guide lies, without gaps, where it has the fewest mismatches; ties go to the offset that is the commonest in the
    table. Where nearly all rows have one offset, all take it. Guides that fit badly are tried as their reverse
    complement.

    Args:
        path: the table, for messages.
        contexts: codes `(n, T)` in an alphabet ACGT or ACGU.
        guides: codes `(n, G)`.
        known: how the guides of an earlier table were laid, to do the same here.

    Raises:
        SubquadError: guides that are longer than their context, each with its row.
    """
    long, short = (contexts != PAD).sum(1), (guides != PAD).sum(1)
    wrong = np.flatnonzero(short > long)
    raise_errors(
        f"{path}: {len(wrong):,} guides are longer than their context; mend them, or swap --sequence and --partner",
        [f"row {row + 1}: a guide of {short[row]} letters, a context of {long[row]}" for row in wrong],
    )
    if known is None:
        known, remarks = _learn(contexts, guides)
    else:
        remarks = []
    if known["reverse"]:
        guides = _reverse_complement(guides)
    if known["offset"] is not None and (known["offset"] + short <= long).all():
        offset = np.full(len(guides), known["offset"])
    else:
        offset = _best(contexts, guides, known["commonest"])[0]
    return _lay(contexts, guides, offset), known, remarks


def _learn(contexts: np.ndarray, guides: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    some = np.unique(np.linspace(0, len(guides) - 1, SOME).astype(int))
    seen = contexts[some]
    letters = (guides[some] != PAD).sum()
    chosen, is_reverse = guides[some], False
    offset, mismatches = _best(seen, chosen, None)
    if mismatches.sum() > BADLY * letters:
        other = _reverse_complement(chosen)
        turned, fewer = _best(seen, other, None)
        if fewer.sum() < mismatches.sum():
            chosen, is_reverse, offset, mismatches = other, True, turned, fewer
    common = int(np.bincount(offset).argmax())
    at_common = _mismatches(seen, chosen, common)
    share = float((at_common <= mismatches).mean())
    known = {"offset": common if share >= ENOUGH else None, "commonest": common, "reverse": is_reverse}
    strand = "as their reverse complement, " if is_reverse else ""
    place = f"at position {common + 1} of the context" if share >= ENOUGH else "each where it fits best"
    wrong = mismatches.sum() / max(letters, 1)
    return known, [f"guides lie {strand}{place} ({share:.0%} of rows fit best there; {wrong:.0%} of letters mismatch)"]


def _mismatches(contexts: np.ndarray, guides: np.ndarray, offset: int) -> np.ndarray:
    """Return the mismatches of each row at one offset; more than there are letters where the guide sticks out."""
    part = contexts[:, offset : offset + guides.shape[1]]
    beyond = guides[:, part.shape[1] :] != PAD
    guides = guides[:, : part.shape[1]]
    is_letter = guides != PAD
    count = (is_letter & (guides != part)).sum(1)
    sticks_out = beyond.any(1) | (is_letter & (part == PAD)).any(1)
    return np.where(sticks_out, np.iinfo(np.int32).max, count)


def _best(contexts: np.ndarray, guides: np.ndarray, common: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the offset with the fewest mismatches of each row, and how many it has."""
    shortest = int((guides != PAD).sum(1).min())
    offsets = list(range(contexts.shape[1] - shortest + 1))
    if common in offsets:
        # the first of equals is kept
        offsets.insert(0, offsets.pop(offsets.index(common)))
    best, least = np.zeros(len(guides), dtype=np.int64), np.full(len(guides), np.iinfo(np.int64).max)
    for offset in offsets:
        count = _mismatches(contexts, guides, offset)
        better = count < least
        best[better], least[better] = offset, count[better]
    return best, least


def _reverse_complement(codes: np.ndarray) -> np.ndarray:
    # ACGT and ACGU are in an order in which the complement of k is 3 - k
    turned = np.full_like(codes, PAD)
    lengths = (codes != PAD).sum(1)
    flipped = np.where(codes >= 0, 3 - codes, codes)[:, ::-1]
    for length in np.unique(lengths):
        rows = lengths == length
        turned[rows, :length] = flipped[rows, codes.shape[1] - length :]
    return turned


def _lay(contexts: np.ndarray, guides: np.ndarray, offset: np.ndarray) -> np.ndarray:
    partner = np.full_like(contexts, PAD)
    row, place = np.nonzero(guides != PAD)
    partner[row, place + offset[row]] = guides[row, place]
    return partner
