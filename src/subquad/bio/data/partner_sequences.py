"""Alignment of partner sequences (guides) with their sequences (target contexts), without gaps.

Cost: one comparison of all rows per possible position.

Axes: n rows, T positions of a context, G of a guide. Codes are indices into the alphabet, `PAD` after the end.
"""

from pathlib import Path

import numpy as np

from subquad.bio.data.dataset import PAD, PartnerAlignment, reverse_complement
from subquad.errors import raise_errors

__all__ = ["align_partners"]

SAMPLE_ROWS = 2000
COMMON_FRACTION = 0.9
"""If this fraction of the rows fits best at one position, all guides are placed there."""
REVERSE_MISMATCHES = 0.35
"""Fraction of mismatches above which the reverse complements are tried."""


def align_partners(
    path: Path | str, contexts: np.ndarray, guides: np.ndarray, *, known: PartnerAlignment | None = None
) -> tuple[np.ndarray, PartnerAlignment, list[str]]:
    """Return the guides aligned with their contexts `(n, T)`, the alignment, and remarks.

    A guide lies, without gaps, where it has the fewest mismatches; ties go to the most common position in the table. If
    nearly all rows share one position, it is used for all. Guides that fit badly are tried as reverse complements.

    Args:
        path: The table, for messages.
        contexts: Codes `(n, T)` in the alphabet ACGT or ACGU.
        guides: Codes `(n, G)`.
        known: Alignment of the training table, to be applied again.

    Raises:
        SubquadError: Guides are longer than their contexts.
    """
    long, short = (contexts != PAD).sum(1), (guides != PAD).sum(1)
    wrong = np.flatnonzero(short > long)
    raise_errors(
        f"{path}: {len(wrong):,} guides are longer than their contexts; correct them, or swap --sequence and --partner",
        [f"row {row + 1}: a guide of {short[row]} letters, a context of {long[row]}" for row in wrong],
    )
    remarks = []
    if known is None:
        known, remarks = _infer_alignment(contexts, guides)
    if known.is_reversed:
        guides = reverse_complement(guides)
    if known.offset is not None and (known.offset + short <= long).all():
        offset = np.full(len(guides), known.offset)
    else:
        offset = _best_offsets(contexts, guides, known.most_common)[0]
    partner = np.full_like(contexts, PAD)
    row, place = np.nonzero(guides != PAD)
    partner[row, place + offset[row]] = guides[row, place]
    return partner, known, remarks


def _infer_alignment(contexts: np.ndarray, guides: np.ndarray) -> tuple[PartnerAlignment, list[str]]:
    sample = np.unique(np.linspace(0, len(guides) - 1, SAMPLE_ROWS).astype(int))
    contexts, guides, is_reversed = contexts[sample], guides[sample], False
    letters = (guides != PAD).sum()
    offset, mismatches = _best_offsets(contexts, guides, None)
    if mismatches.sum() > REVERSE_MISMATCHES * letters:
        other = reverse_complement(guides)
        other_offset, fewer = _best_offsets(contexts, other, None)
        if fewer.sum() < mismatches.sum():
            guides, is_reversed, offset, mismatches = other, True, other_offset, fewer
    common = int(np.bincount(offset).argmax())
    fraction = float((_mismatches(contexts, guides, common) <= mismatches).mean())
    has_one = fraction >= COMMON_FRACTION
    strand = "as reverse complements, " if is_reversed else ""
    place = f"at position {common + 1} of the context" if has_one else "each where it fits best"
    wrong = mismatches.sum() / max(letters, 1)
    remark = f"guides are aligned {strand}{place} ({fraction:.0%} of rows fit best there; {wrong:.0%} mismatches)"
    return PartnerAlignment(offset=common if has_one else None, most_common=common, is_reversed=is_reversed), [remark]


def _mismatches(contexts: np.ndarray, guides: np.ndarray, offset: int) -> np.ndarray:
    """Return the mismatches of each row at one offset; the largest int32 where the guide extends beyond the context."""
    window = contexts[:, offset : offset + guides.shape[1]]
    beyond = guides[:, window.shape[1] :] != PAD
    guides = guides[:, : window.shape[1]]
    is_letter = guides != PAD
    count = (is_letter & (guides != window)).sum(1)
    is_outside = beyond.any(1) | (is_letter & (window == PAD)).any(1)
    return np.where(is_outside, np.iinfo(np.int32).max, count)


def _best_offsets(contexts: np.ndarray, guides: np.ndarray, common: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the offset of each row with the fewest mismatches, and their number."""
    shortest = int((guides != PAD).sum(1).min())
    offsets = list(range(contexts.shape[1] - shortest + 1))
    if common in offsets:
        # the first of equally good offsets wins
        offsets.insert(0, offsets.pop(offsets.index(common)))
    best, least = np.zeros(len(guides), dtype=np.int64), np.full(len(guides), np.iinfo(np.int64).max)
    for offset in offsets:
        count = _mismatches(contexts, guides, offset)
        is_better = count < least
        best[is_better], least[is_better] = offset, count[is_better]
    return best, least
