"""Alphabets of DNA, RNA and proteins, and the encoding of sequences. Cost: one vectorised pass over the letters.

Axes: n rows, T positions. If a table has both DNA and RNA letters, U and T are the same letter.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from subquad.bio.data.dataset import ANY, PAD
from subquad.bio.settings import ALPHABETS, AMBIGUITY
from subquad.errors import raise_errors

__all__ = [
    "AMBIGUOUS",
    "GAP",
    "TITLES",
    "alphabet_of",
    "encode",
    "flatten",
    "has_gap",
    "infer_alphabet",
    "is_invalid",
    "is_nucleotide",
    "letter_mask",
    "normalize",
]

TITLES = {
    "dna": "DNA alphabet",
    "rna": "RNA alphabet",
    "protein": "protein alphabet",
    "protein_stop": "protein alphabet with stop",
    "dna_gap": "DNA alphabet with gap",
    "rna_gap": "RNA alphabet with gap",
    "protein_gap": "protein alphabet with stop and gap",
}
_AMBIGUOUS_NUCLEOTIDES = "".join(letter for letter, nucleotides in AMBIGUITY.items() if len(nucleotides) > 1)
AMBIGUOUS = {name: "BZXJ" if name.startswith("protein") else _AMBIGUOUS_NUCLEOTIDES for name in ALPHABETS}
"""Ambiguous letters."""
GAP, OTHER_GAP = "-", "."
"""The gap of an alignment, and its other sign."""
NEAREST = {"U": "C", "O": "K"}
"""Selenocysteine and pyrrolysine, encoded as the most similar standard amino acids."""
LETTERS_AT_ONCE = 1_000_000
"""Letters counted at a time, since that needs eight bytes or more per letter."""
INVALID = -3


def flatten(sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the letters of all sequences as one array of bytes (`?` if not ASCII), and the length of each."""
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    return np.frombuffer("".join(sequences).encode("ascii", "replace"), dtype=np.uint8), lengths


def is_nucleotide(alphabet: str) -> bool:
    """Return whether an alphabet is that of DNA or RNA."""
    return alphabet.startswith(("dna", "rna"))


def alphabet_of(letters: int) -> str:
    """Return the name of the first alphabet with this number of letters: DNA or proteins, with or without a gap."""
    return next(name for name, own in ALPHABETS.items() if len(own) == letters)


def has_gap(alphabet: str) -> bool:
    """Return whether the gap of an alignment is a letter of the alphabet."""
    return GAP in ALPHABETS[alphabet]


def infer_alphabet(sequences: Sequence[str], alphabet: str) -> tuple[str, bool]:
    """Return the name of the smallest alphabet that contains (nearly) all letters, and whether it was inferred.

    Args:
        sequences: One per row, in upper case.
        alphabet: Name of the alphabet, or `auto`.
    """
    if alphabet != "auto":
        return alphabet, False
    counts = _counts(flatten(sequences)[0])
    gaps = int(counts[[ord(GAP), ord(OTHER_GAP)]].sum())
    counts[[ord(GAP), ord(OTHER_GAP)]] = 0
    nucleotides = letter_mask("ACGTUN")
    # a few invalid letters in DNA are errors to report, no reason to take it for a protein
    if counts[~nucleotides].sum() <= 0.02 * max(counts.sum(), 1):
        name = "rna" if counts[ord("U")] > counts[ord("T")] else "dna"
    else:
        name = "protein_stop" if counts[ord("*")] and not gaps else "protein"
    return f"{name}_gap" if gaps else name, True


def _counts(flat: np.ndarray) -> np.ndarray:
    """Return how often each byte occurs, `(256,)`."""
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, len(flat), LETTERS_AT_ONCE):
        counts += np.bincount(flat[start : start + LETTERS_AT_ONCE], minlength=256)
    return counts


def letter_mask(letters: str) -> np.ndarray:
    """Return which bytes are among the letters, `(256,)` bool."""
    mask = np.zeros(256, dtype=bool)
    mask[[ord(letter) for letter in letters]] = True
    return mask


def normalize(sequences: Sequence[str], alphabet: str) -> tuple[list[str], list[str]]:
    """Return the sequences with U replaced by T in DNA, T by U in RNA and `.` by `-` in alignments, and remarks."""
    sequences = list(sequences)
    if has_gap(alphabet):
        sequences = [sequence.replace(OTHER_GAP, GAP) for sequence in sequences]
    if not is_nucleotide(alphabet):
        return sequences, []
    old, new = ("U", "T") if alphabet.startswith("dna") else ("T", "U")
    rows = sum(old in sequence for sequence in sequences)
    if not rows:
        return sequences, []
    remark = f"{old} is read as {new} in {rows:,} of {len(sequences):,} sequences ({alphabet[:3].upper()})"
    return [sequence.replace(old, new) for sequence in sequences], [remark]


def encode(
    path: Path | str,
    sequences: Sequence[str],
    alphabet: str,
    *,
    ambiguity: str = "any",
    length: int | None = None,
    what: str = "sequence",
) -> tuple[np.ndarray, list[str]]:
    """Return the codes of the sequences as `(n, T)` int8, and remarks on letters that are replaced.

    Codes are indices into the alphabet, `PAD` after the end of a sequence, and `ANY` for ambiguous letters.

    Args:
        path: The table, for messages.
        sequences: One per row, in upper case.
        alphabet: Name of the alphabet.
        ambiguity: Whether ambiguous letters are encoded (`any`) or errors (`refuse`).
        length: Required length, in letters.
        what: Name of the sequences, for messages.

    Raises:
        SubquadError: Letters outside the alphabet, empty sequences or wrong lengths, with their rows.
    """
    flat, lengths = flatten(sequences)
    flat_codes = _table(alphabet, ambiguity)[flat]
    errors = _errors(sequences, lengths, flat_codes == INVALID, alphabet=alphabet, length=length, what=what)
    raise_errors(f"{path}: {len(errors):,} of {len(sequences):,} rows cannot be read; correct or remove them", errors)
    return _padded(flat_codes, lengths), _remarks(_counts(flat), alphabet)


def _table(alphabet: str, ambiguity: str) -> np.ndarray:
    """Return the code of each byte, `(256,)`."""
    table = np.full(256, INVALID, dtype=np.int8)
    letters = ALPHABETS[alphabet]
    table[[ord(letter) for letter in letters]] = np.arange(len(letters))
    if ambiguity == "any":
        table[[ord(letter) for letter in AMBIGUOUS[alphabet]]] = ANY
    if alphabet.startswith("protein"):
        table[[ord(letter) for letter in NEAREST]] = [letters.index(letter) for letter in NEAREST.values()]
    return table


def is_invalid(letters: np.ndarray, alphabet: str, ambiguity: str) -> np.ndarray:
    """Return which letters (bytes, any shape) `encode` reports as errors."""
    return _table(alphabet, ambiguity)[letters] == INVALID


def _errors(
    sequences: Sequence[str], lengths: np.ndarray, is_bad: np.ndarray, *, alphabet: str, length: int | None, what: str
) -> list[str]:
    ends = np.cumsum(lengths)
    places = np.flatnonzero(is_bad)
    rows = np.searchsorted(ends, places, side="right")
    first = dict(zip(rows[::-1].tolist(), places[::-1].tolist(), strict=True))
    counts = dict(zip(*np.unique(rows, return_counts=True), strict=True))
    bad = set(first) | set(np.flatnonzero(lengths == 0).tolist())
    if length is not None:
        bad |= set(np.flatnonzero(lengths != length).tolist())
    errors = []
    for row in sorted(bad):
        if not lengths[row]:
            errors.append(f"row {row + 1}: the {what} is empty")
        elif row in first:
            place = first[row] - int(ends[row] - lengths[row])
            more = f" (and {counts[row] - 1} more in this row)" if counts[row] > 1 else ""
            errors.append(
                f"row {row + 1}: {sequences[row][place]!r} at position {place + 1} is not in the "
                f"{TITLES[alphabet]} ({ALPHABETS[alphabet]}){more}"
            )
        else:
            errors.append(f"row {row + 1}: {lengths[row]} letters, but the model was trained on {what}s of {length}")
    return errors


def _padded(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    longest = int(lengths.max(initial=0))
    if (lengths == longest).all():
        return flat.reshape(len(lengths), longest)
    codes = np.full((len(lengths), longest), PAD, dtype=np.int8)
    end = 0
    for row, length in enumerate(lengths.tolist()):
        codes[row, :length] = flat[end : end + length]
        end += length
    return codes


def _remarks(counts: np.ndarray, alphabet: str) -> list[str]:
    remarks = []
    ambiguous = {letter: int(counts[ord(letter)]) for letter in AMBIGUOUS[alphabet] if counts[ord(letter)]}
    if ambiguous:
        shown = ", ".join(f"{letter} {count:,}" for letter, count in ambiguous.items())
        remarks.append(
            f"{sum(ambiguous.values()):,} of {int(counts.sum()):,} letters are ambiguous ({shown}), and are encoded as "
            "equal parts of all letters"
        )
    if has_gap(alphabet) and counts[ord(GAP)]:
        remarks.append(f"{counts[ord(GAP)]:,} of {counts.sum():,} letters are gaps ({GAP}), each read as a letter")
    for letter, similar in NEAREST.items():
        if alphabet.startswith("protein") and counts[ord(letter)]:
            count = int(counts[ord(letter)])
            remarks.append(f"{letter} is read as {similar}, the most similar standard amino acid ({count:,} letters)")
    return remarks
