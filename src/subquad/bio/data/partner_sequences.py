"""Partner sequences: guides aligned on their target contexts, or a second chain beside the first.

DNA or RNA that lies within its sequence with few mismatches is aligned with it, without gaps, so that models see the
mismatches. All other partners (light chains, epitopes, antigens) are a second chain with its own positions. Cost: one
comparison of all rows per possible position.

Axes: n rows, T positions of a context, G of a guide. Codes are indices into the alphabet, `PAD` after the end.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from subquad.bio.data.alphabet import is_nucleotide
from subquad.bio.data.dataset import PAD, Inputs, InputSchema, PartnerAlignment, PartnerChain, reverse_complement
from subquad.bio.settings import ALPHABETS
from subquad.errors import SubquadError, raise_errors

__all__ = ["Partners", "align_partners", "joint_alphabet", "pair"]

SAMPLE_ROWS = 2000
COMMON_FRACTION = 0.9
"""If this fraction of the rows fits best at one position, all guides are placed there."""
REVERSE_MISMATCHES = 0.35
"""Fraction of mismatches above which the reverse complements are tried."""
MAX_MISMATCHES = 0.45
"""Fraction of mismatches above which partner sequences do not lie on their sequences. Random ones have about 0.6."""


@dataclass(frozen=True, kw_only=True)
class Partners:
    """Partner sequences of all rows in one of the two forms; the fields of the other one are None."""

    aligned: np.ndarray | None = None
    """`(n, T)`; see `Inputs.partner`."""
    alignment: PartnerAlignment | None = None
    chain: Inputs | None = None
    """See `Inputs.partner_chain`."""
    chain_schema: PartnerChain | None = None
    remarks: list[str] = field(default_factory=list)


def joint_alphabet(first: str, second: str) -> str | None:
    """Return the smallest alphabet of two chains that both are proteins, or both DNA or RNA; otherwise None."""
    if is_nucleotide(first) != is_nucleotide(second):
        return None
    has_gap = "_gap" if first.endswith("_gap") or second.endswith("_gap") else ""
    if is_nucleotide(first):
        return first[:3] + has_gap
    return f"protein{has_gap}" if has_gap or first == second else "protein_stop"


def pair(
    path: Path | str,
    codes: np.ndarray,
    partners: np.ndarray,
    *,
    alphabets: tuple[str, str],
    pairing: str,
    schema: InputSchema | None,
) -> Partners:
    """Return partner sequences aligned with their sequences if they lie on them, otherwise as a second chain.

    Args:
        path: The table, for messages.
        codes: Codes of the sequences, `(n, T)`.
        partners: Codes of the partner sequences, `(n, G)`.
        alphabets: Names of the alphabets of both.
        pairing: The form: `aligned`, `chains`, or `auto`.
        schema: Schema of the training table, whose form is taken; None if this is the training table.

    Raises:
        SubquadError: Some guides are longer than their contexts, or `aligned` sequences are not DNA or RNA.
    """
    can_align = alphabets[0] == alphabets[1] and is_nucleotide(alphabets[0])
    if schema is not None:
        is_aligned = schema.alignment is not None
    elif pairing == "auto":
        is_aligned = can_align and _lie_on(path, codes, partners)
    else:
        is_aligned = pairing == "aligned"
    if is_aligned:
        if not can_align:
            raise SubquadError(f"{path}: aligned pairs are DNA or RNA, but these are {' and '.join(alphabets)}")
        known = None if schema is None else schema.alignment
        aligned, alignment, remarks = align_partners(path, codes, partners, known=known)
        return Partners(aligned=aligned, alignment=alignment, remarks=remarks)
    own = None if schema is None else schema.partner_chain
    fixed = bool((partners[:, -1] != PAD).all())
    known = own or PartnerChain(alphabet=alphabets[1], is_aligned=fixed, length=partners.shape[1] if fixed else None)
    chain = Inputs(
        codes=partners,
        letters=len(ALPHABETS[alphabets[1]]),
        covariates=np.zeros((len(partners), 0)),
        is_aligned=known.is_aligned,
    )
    remarks = [] if own else [_described(codes, partners, alphabets)]
    if own is None and len(partners) > 1 and (partners == partners[0]).all():
        remarks.append("all partner sequences are the same; they tell the models nothing")
    elif own is None and partners.shape == codes.shape and alphabets[0] == alphabets[1] and (partners == codes).all():
        remarks.append("each partner sequence is the sequence of its row; --partner is perhaps the wrong column")
    return Partners(chain=chain, chain_schema=known, remarks=remarks)


def _lie_on(path: Path | str, codes: np.ndarray, partners: np.ndarray) -> bool:
    """Return whether partner sequences lie on their sequences.

    Raises:
        SubquadError: The sequences lie on the partner sequences instead.
    """
    if _fraction_of_mismatches(codes, partners) <= MAX_MISMATCHES:
        return True
    if _fraction_of_mismatches(partners, codes) <= MAX_MISMATCHES:
        raise SubquadError(f"{path}: the sequences lie on their partner sequences; swap both columns")
    return False


def _fraction_of_mismatches(contexts: np.ndarray, guides: np.ndarray) -> float:
    """Return the fraction of mismatches of guides, or of their reverse complements, on a sample of rows; else 1."""
    sample = np.unique(np.linspace(0, len(guides) - 1, SAMPLE_ROWS).astype(int))
    contexts, guides = contexts[sample], guides[sample]
    fits = np.flatnonzero((guides != PAD).sum(1) <= (contexts != PAD).sum(1))
    if len(fits) < len(guides) / 2:
        return 1.0
    contexts, guides = contexts[fits], guides[fits]
    letters = max(int((guides != PAD).sum()), 1)
    strands = (guides, reverse_complement(guides))
    return min(float(_best_offsets(contexts, strand, None)[1].sum()) / letters for strand in strands)


def _described(codes: np.ndarray, partners: np.ndarray, alphabets: tuple[str, str]) -> str:
    spans = []
    for own, name in zip((codes, partners), alphabets, strict=True):
        lengths = (own != PAD).sum(1)
        low, high = int(lengths.min()), int(lengths.max())
        letters = f"{low:,} letters each" if low == high else f"{low:,} to {high:,} letters"
        spans.append(f"{letters}, {name}")
    return f"pairs of two chains, read one after the other: the first with {spans[0]}; the partner with {spans[1]}"


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
    offset = np.full(len(guides), known.offset or 0)
    # each row by itself, whatever the others are
    if known.offset is None or (known.offset + short > long).any():
        best = _best_offsets(contexts, guides, known.most_common)[0]
        offset = best if known.offset is None else np.where(known.offset + short <= long, known.offset, best)
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
