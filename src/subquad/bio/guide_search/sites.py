"""Where guides can be in a sequence: all sites of a nuclease on both strands, by array operations, in bounded memory.

Axes: S sites, W letters of a window. Letters are codes A 0, C 1, G 2, T and U 3, all others 4. A protospacer is the
place that a guide pairs with, written as its own strand reads; for DNA it has the guide's letters.
"""

from dataclasses import dataclass

import numpy as np

from subquad.bio.guide_search.settings import NUCLEASES, GuideSettings, Window

__all__ = ["AMBIGUITY", "Sites", "as_codes", "complement", "find_sites", "letters", "longest_stem", "windows_of"]

AMBIGUITY = {"A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC"}
AMBIGUITY |= {"B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"}
"""Letters that stand for several, and for which."""

CHUNK = 1 << 21
"""Positions looked at in one go."""

_COMPLEMENT = np.array([3, 2, 1, 0, 4], dtype=np.uint8)
_LETTERS = np.frombuffer(b"ACGTN-", dtype=np.uint8)


def _table() -> np.ndarray:
    table = np.full(256, 4, dtype=np.uint8)
    for code, both in enumerate(("Aa", "Cc", "Gg", "TtUu")):
        table[[ord(letter) for letter in both]] = code
    return table


_CODES = _table()


@dataclass(frozen=True)
class Sites:
    """Sites of one sequence, by position; those of the forward strand first where two start together."""

    start: np.ndarray
    """`(S,)` int64: first letter of the protospacer in the sequence given, from 0."""
    is_reverse: np.ndarray
    """`(S,)` bool: the protospacer is on the reverse strand."""
    spacer: int
    """Letters of a guide."""

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: slice) -> "Sites":
        """Return some of them."""
        return Sites(self.start[rows], self.is_reverse[rows], self.spacer)


def as_codes(sequence: str) -> np.ndarray:
    """Return the letters as codes, `(L,)` uint8; what is not A, C, G, T or U is 4."""
    return _CODES[np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)]


def complement(codes: np.ndarray) -> np.ndarray:
    """Return the reverse complement, along the last axis."""
    return _COMPLEMENT[codes[..., ::-1]]


def letters(codes: np.ndarray) -> np.ndarray:
    """Return `(S, W)` codes as S texts; 4 reads N, 5 reads -."""
    if not codes.shape[1]:
        return np.full(len(codes), "", dtype="U1")
    text = np.ascontiguousarray(_LETTERS[codes])
    return text.view(f"S{codes.shape[1]}")[:, 0].astype("U")


def find_sites(codes: np.ndarray, settings: GuideSettings, spacer: int) -> Sites:
    """Return all sites whose protospacer and PAM hold no ambiguous letter."""
    nuclease = NUCLEASES[settings.nuclease]
    pam = settings.site_pam
    lead = len(pam) if nuclease.pam_first else 0
    at = 0 if nuclease.pam_first else spacer
    forward = _matches(codes, pam, at=at, size=spacer + len(pam)) + lead
    if nuclease.is_rna:
        return Sites(forward, np.zeros(len(forward), dtype=bool), spacer)
    reverse = len(codes) - spacer - lead - _matches(complement(codes), pam, at=at, size=spacer + len(pam))
    start = np.concatenate([forward, reverse])
    is_reverse = np.repeat([False, True], [len(forward), len(reverse)])
    order = np.lexsort((is_reverse, start))
    return Sites(start[order], is_reverse[order], spacer)


def _matches(codes: np.ndarray, pam: str, *, at: int, size: int) -> np.ndarray:
    """Return where `size` clear letters begin that have the PAM from their letter `at` on."""
    allowed = np.zeros((len(pam), 5), dtype=bool)
    for row, letter in enumerate(pam):
        allowed[row, ["ACGT".index(one) for one in AMBIGUITY[letter]]] = True
    found = []
    for begin in range(0, len(codes) - size + 1, CHUNK):
        piece = codes[begin : begin + CHUNK + size - 1]
        count = len(piece) - size + 1
        unclear = np.concatenate([[0], np.cumsum(piece == 4, dtype=np.int32)])
        is_site = unclear[size:] == unclear[:-size]
        for k in range(len(pam)):
            is_site &= allowed[k][piece[at + k : at + k + count]]
        found.append(np.flatnonzero(is_site) + begin)
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def windows_of(codes: np.ndarray, sites: Sites, window: Window, *, is_turned: bool = False) -> np.ndarray:
    """Return the codes around each site as `(S, W)`; 5 stands for places outside the sequence.

    Args:
        codes: of the sequence given.
        sites: of it.
        window: letters before and after the protospacer, in the direction that is read.
        is_turned: read against the strand of the protospacer, as guides of RNA are.
    """
    padded = np.append(codes, 5)
    reads_back = sites.is_reverse ^ is_turned
    left = np.where(reads_back, window.after, window.before)
    place = (sites.start - left)[:, None] + np.arange(window.before + sites.spacer + window.after)
    place[(place < 0) | (place >= len(codes))] = len(codes)
    forward = padded[place]
    turned = np.append(_COMPLEMENT, 5).astype(np.uint8)[forward[:, ::-1]]
    return np.where(reads_back[:, None], turned, forward)


def longest_stem(codes: np.ndarray) -> np.ndarray:
    """Return the letters of the longest stem that each guide of `(S, W)` can fold into, around a loop of 3 or more."""
    width = codes.shape[1]
    longest = np.zeros(len(codes), dtype=np.int8)
    runs: dict[tuple[int, int], np.ndarray] = {}
    # a stem that begins at (i, j) is one longer than the one inside it, from (i + 1, j - 1) on
    for span in range(4, width):
        for i in range(width - span):
            j = i + span
            is_pair = codes[:, i] + codes[:, j] == 3
            inner = runs.get((i + 1, j - 1))
            run = is_pair.astype(np.int8) if inner is None else np.where(is_pair, inner + 1, 0).astype(np.int8)
            runs[i, j] = run
            np.maximum(longest, run, out=longest)
        for i in range(width - span + 2):
            runs.pop((i, i + span - 2), None)
    return longest
