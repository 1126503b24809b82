"""Target sites of a nuclease in a sequence, and counts of similar sites. Vectorized, in bounded memory.

Axes: S sites, W letters of a window. Codes are A 0, C 1, G 2, T and U 3, all others 4. A protospacer is the site that a
guide binds, in the direction of its own strand; in DNA it has the sequence of the guide.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from subquad.bio.guide_search.settings import NUCLEASES, GuideSettings, Window
from subquad.bio.settings import AMBIGUITY
from subquad.progress import track

__all__ = [
    "Sites",
    "as_codes",
    "complement",
    "count_similar",
    "find_sites",
    "letters",
    "longest_stem",
    "pack",
    "windows_of",
]

CHUNK = 1 << 21
"""Positions searched per step."""
BLOCK = 1 << 16
"""Comparisons per step, so that they fit the cache."""

_COMPLEMENT = np.array([3, 2, 1, 0, 4], dtype=np.uint8)
_LETTERS = np.frombuffer(b"ACGTN-", dtype=np.uint8)
_LOW_BITS = np.uint64(0x5555555555555555)


def _table() -> np.ndarray:
    table = np.full(256, 4, dtype=np.uint8)
    for code, both in enumerate(("Aa", "Cc", "Gg", "TtUu")):
        table[[ord(letter) for letter in both]] = code
    return table


_CODES = _table()


@dataclass(frozen=True)
class Sites:
    """Sites of one sequence by position, the forward strand first."""

    start: np.ndarray
    """`(S,)` int64: first position of the protospacer in the given sequence, from 0."""
    is_reverse: np.ndarray
    """`(S,)` bool: the protospacer is on the reverse strand."""
    spacer: int
    """Length of a guide."""

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: slice) -> "Sites":
        """Return a slice of the sites."""
        return Sites(self.start[rows], self.is_reverse[rows], self.spacer)


def as_codes(sequence: str) -> np.ndarray:
    """Return a sequence as codes, `(L,)` uint8; letters other than A, C, G, T and U are 4."""
    return _CODES[np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)]


def complement(codes: np.ndarray) -> np.ndarray:
    """Return the reverse complement along the last axis."""
    return _COMPLEMENT[codes[..., ::-1]]


def letters(codes: np.ndarray) -> np.ndarray:
    """Return `(S, W)` codes as S strings; 4 is written N, and 5 is written -."""
    if not codes.shape[1]:
        return np.full(len(codes), "", dtype="U1")
    text = np.ascontiguousarray(_LETTERS[codes])
    return text.view(f"S{codes.shape[1]}")[:, 0].astype("U")


def find_sites(codes: np.ndarray, settings: GuideSettings, spacer: int) -> Sites:
    """Return all sites without ambiguous letters in protospacer and PAM."""
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
    """Return the starts of all stretches of `size` unambiguous letters with the PAM at index `at`."""
    allowed = np.zeros((len(pam), 5), dtype=bool)
    for row, letter in enumerate(pam):
        allowed[row, ["ACGT".index(one) for one in AMBIGUITY[letter]]] = True
    found = []
    for begin in range(0, len(codes) - size + 1, CHUNK):
        chunk = codes[begin : begin + CHUNK + size - 1]
        count = len(chunk) - size + 1
        ambiguous = np.concatenate([[0], np.cumsum(chunk == 4, dtype=np.int32)])
        is_site = ambiguous[size:] == ambiguous[:-size]
        for k in range(len(pam)):
            is_site &= allowed[k][chunk[at + k : at + k + count]]
        found.append(np.flatnonzero(is_site) + begin)
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def windows_of(codes: np.ndarray, sites: Sites, window: Window, *, is_reversed: bool = False) -> np.ndarray:
    """Return the codes around each site, `(S, W)`; 5 marks positions outside the sequence.

    Args:
        codes: Codes of the sequence.
        sites: Its sites.
        window: Letters before and after the protospacer, in reading direction.
        is_reversed: Read the opposite strand of the protospacer, as guides of RNA do.
    """
    padded = np.append(codes, 5)
    reads_back = sites.is_reverse ^ is_reversed
    left = np.where(reads_back, window.after, window.before)
    position = (sites.start - left)[:, None] + np.arange(window.before + sites.spacer + window.after)
    position[(position < 0) | (position >= len(codes))] = len(codes)
    forward = padded[position]
    reverse_strand = np.append(_COMPLEMENT, 5).astype(np.uint8)[forward[:, ::-1]]
    return np.where(reads_back[:, None], reverse_strand, forward)


def longest_stem(codes: np.ndarray) -> np.ndarray:
    """Return the length of the longest stem that each guide of `(S, W)` can form, with a loop of at least 3 letters."""
    width = codes.shape[1]
    longest = np.zeros(len(codes), dtype=np.int8)
    runs: dict[tuple[int, int], np.ndarray] = {}
    # a stem closed by (i, j) is one pair longer than the one closed by (i + 1, j - 1)
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


def pack(codes: np.ndarray) -> np.ndarray:
    """Return `(S, W)` codes, W up to 32, as `(S,)` uint64 with two bits per letter, the last letter in the lowest."""
    packed = np.zeros(len(codes), dtype=np.uint64)
    for column in codes.T:
        packed = (packed << np.uint64(2)) | column.astype(np.uint64)
    return packed


def count_similar(
    guides: np.ndarray, width: int, mismatches: int, *, quiet: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each guide the number of identical other guides, and of others within `mismatches`, identical
    included.

    Two guides of W letters with at most k mismatches share one of k + 1 segments exactly, so that only guides with an
    equal segment are compared: about $n^2 (k + 1) / 4^{W / (k + 1)}$ comparisons instead of $n^2$. The counts are
    exact.

    Args:
        guides: `(S,)` uint64 from `pack`.
        width: Length of a guide.
        mismatches: Largest number of mismatches, below `width`.
        quiet: Show no progress.
    """
    unique, inverse, times = np.unique(guides, return_inverse=True, return_counts=True)
    similar = times.astype(np.int64) - 1
    edges = np.linspace(0, width, mismatches + 2).astype(int)
    segments = [(np.uint64(2 * low), np.uint64((1 << 2 * (high - low)) - 1)) for low, high in pairwise(edges)]
    total = len(unique) * len(segments)
    with track("off-targets", total, quiet=quiet) as advance:
        for number, (shift, mask) in enumerate(segments if mismatches else []):
            keys = (unique >> shift) & mask
            order = np.argsort(keys, kind="stable")
            for rows in _buckets(keys[order], order):
                _count(unique, rows, times, similar, mismatches=mismatches, earlier=segments[:number])
            advance(len(unique))
    equal = times - 1
    return equal[inverse], similar[inverse]


def _buckets(keys: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of each key that has at least two."""
    cuts = np.flatnonzero(np.diff(keys)) + 1
    begin = np.concatenate([[0], cuts])
    end = np.append(cuts, len(keys))
    for low, high in zip(begin[end - begin > 1], end[end - begin > 1], strict=True):
        yield order[low:high]


def _count(
    unique: np.ndarray,
    rows: np.ndarray,
    times: np.ndarray,
    similar: np.ndarray,
    *,
    mismatches: int,
    earlier: list[tuple[np.uint64, np.uint64]],
) -> None:
    """Add to `similar` the pairs of one bucket that no earlier segment has in common."""
    ours = unique[rows]
    step = max(1, BLOCK // len(rows))
    for begin in range(0, len(rows), step):
        differ = ours[begin : begin + step, None] ^ ours
        left = (differ | (differ >> np.uint64(1))) & _LOW_BITS
        # each step clears the lowest remaining mismatch, so that k steps leave 0 for pairs with at most k
        for _ in range(mismatches):
            left &= left - np.uint64(1)
        first, second = np.nonzero(left == 0)
        found = differ[first, second]
        is_new = found != 0
        for shift, mask in earlier:
            is_new &= (found >> shift) & mask != 0
        first, second = first[is_new] + begin, second[is_new]
        similar[rows] += np.bincount(first, weights=times[rows[second]], minlength=len(rows)).astype(np.int64)
