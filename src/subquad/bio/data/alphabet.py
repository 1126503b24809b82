"""Letters of DNA, RNA and proteins, and their codes. Costs one pass over the letters, without a loop over them.

Axes: n rows, T positions. Where a table holds both DNA and RNA letters, U and T are the same letter.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from subquad.bio.data.dataset import ANY, PAD
from subquad.bio.settings import ALPHABETS
from subquad.errors import SubquadError, raise_errors

__all__ = ["AMBIGUOUS", "NAMES_OF", "are_wrong", "encode", "flatten", "letters_of", "normalise", "refuse_mixed"]

NAMES_OF = {
    "dna": "DNA alphabet",
    "rna": "RNA alphabet",
    "protein": "protein alphabet",
    "protein_stop": "protein alphabet with stop",
}
AMBIGUOUS = {"dna": "NRYSWKMBDHV-", "rna": "NRYSWKMBDHV-", "protein": "BZXJ-", "protein_stop": "BZXJ-"}
"""Letters that stand for several, and the gap of an alignment, which stands for any."""
NEAREST = {"U": "C", "O": "K"}
"""Selenocysteine and pyrrolysine, read as the standard amino acids they are closest to."""
MOST_CODES = 500_000_000
"""Of all rows, padded to the longest. Reading takes two bytes for one in the padding and eight for a letter: at most
4 GB, half of what a laptop has."""
SOME, ROWS = 1_000_000, 1000
"""Letters that are counted, and rows that are looked at, at a time: both make eight bytes and more of a letter."""
WRONG = -3
FEW = 0.01


def flatten(sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the letters of all sequences as one array of bytes, and the length of each; `?` for what is not ASCII."""
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    return np.frombuffer("".join(sequences).encode("ascii", "replace"), dtype=np.uint8), lengths


def letters_of(sequences: Sequence[str], alphabet: str) -> tuple[str, bool]:
    """Return the alphabet's name, the smallest that holds all letters or nearly so, and whether it was guessed.

    Args:
        sequences: one of each row, in upper case.
        alphabet: its name, or `auto`.
    """
    if alphabet != "auto":
        return alphabet, False
    counts = _counts(flatten(sequences)[0])
    nucleotides = _mask("ACGTUN")
    # a few wrong letters in DNA are mistakes to be shown, and no reason to take it for a protein
    if counts[~nucleotides].sum() <= 0.02 * max(counts.sum(), 1):
        name = "rna" if counts[ord("U")] > counts[ord("T")] else "dna"
    else:
        name = "protein_stop" if counts[ord("*")] else "protein"
    return name, True


def _counts(flat: np.ndarray) -> np.ndarray:
    """Return how often each byte occurs, `(256,)`; some are counted at a time, since that makes eight bytes of each."""
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, len(flat), SOME):
        counts += np.bincount(flat[start : start + SOME], minlength=256)
    return counts


def _mask(letters: str) -> np.ndarray:
    mask = np.zeros(256, dtype=bool)
    mask[[ord(letter) for letter in letters]] = True
    return mask


def refuse_mixed(path: Path | str, sequences: Sequence[str], alphabet: str, *, flag: str = "--alphabet") -> list[str]:
    """Return remarks on a few rows that are DNA among many proteins.

    Args:
        path: the table, for messages.
        sequences: one of each row, in upper case.
        alphabet: its name.
        flag: that names another alphabet, for messages.

    Raises:
        SubquadError: proteins among DNA, or more than one in a hundred rows DNA among proteins; the fewer are named.
    """
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    share = np.concatenate([_share_of_bases(sequences[row : row + ROWS]) for row in range(0, len(sequences), ROWS)])
    if alphabet in ("dna", "rna"):
        # degenerate DNA has many letters outside ACGT too, but none of these
        rows = [row for row in np.flatnonzero((lengths >= 5) & (share <= 0.7)) if set(sequences[row]) & set("EFILPQ")]
        most, others = "DNA or RNA", "proteins"
    else:
        # a peptide of A, C, G and T alone hardly ever has all four
        full = [row for row in np.flatnonzero((lengths >= 12) & (share == 1)) if set("ACG") < set(sequences[row])]
        rows = [row for row in full if set("TU") & set(sequences[row])]
        most, others = "proteins", "DNA or RNA"
        if len(rows) > len(sequences) / 2:
            rows = sorted(set(range(len(sequences))) - set(rows))
            most, others = others, most
    shown = [f"row {row + 1}: {_shortened(sequences[row])!r}" for row in rows]
    if rows and others != "proteins" and len(rows) < FEW * len(sequences):
        return [
            f"{len(rows):,} sequences look like DNA among proteins and are read as proteins: {', '.join(shown[:3])}"
        ]
    raise_errors(
        f"{path}: most sequences are {most}, but {len(rows):,} of {len(sequences):,} look like {others}; "
        f"keep one kind in a table, or say {flag}",
        shown,
    )
    return []


def _share_of_bases(sequences: Sequence[str]) -> np.ndarray:
    flat, lengths = flatten(sequences)
    ends = np.cumsum(lengths)
    so_far = np.concatenate([[0], np.cumsum(_mask("ACGTUN")[flat])])
    return (so_far[ends] - so_far[ends - lengths]) / np.maximum(lengths, 1)


def _shortened(sequence: str) -> str:
    return sequence if len(sequence) <= 40 else f"{sequence[:37]}…"


def normalise(sequences: Sequence[str], alphabet: str) -> tuple[list[str], list[str]]:
    """Return the sequences with T for U in DNA and U for T in RNA, and remarks."""
    if alphabet not in ("dna", "rna"):
        return list(sequences), []
    old, new = ("U", "T") if alphabet == "dna" else ("T", "U")
    rows = sum(old in sequence for sequence in sequences)
    if not rows:
        return list(sequences), []
    remark = f"{old} is read as {new} in {rows:,} of {len(sequences):,} sequences ({alphabet.upper()})"
    return [sequence.replace(old, new) for sequence in sequences], [remark]


def encode(
    path: Path | str,
    sequences: Sequence[str],
    alphabet: str,
    *,
    ambiguity: str = "any",
    length: int | None = None,
    what: str = "sequence",
    flag: str = "--ambiguity any",
) -> tuple[np.ndarray, list[str]]:
    """Return the codes of the sequences as `(n, T)` int8, and remarks on letters that are not taken as they are.

    Codes are places in the alphabet, `PAD` after the end of a sequence, and `ANY` for letters that stand for several.

    Args:
        path: the table, for messages.
        sequences: one of each row, in upper case.
        alphabet: name of the alphabet.
        ambiguity: `any` or `refuse`: whether letters that stand for several are mistakes.
        length: all must have this length, where it is given.
        what: they are, for messages.
        flag: that takes letters that stand for several, for messages.

    Raises:
        SubquadError: letters outside the alphabet, empty sequences or wrong lengths, each with its row; or a sequence
            so long that the table would not fit into memory when all rows are padded to it.
    """
    flat, lengths = flatten(sequences)
    _refuse_huge(path, lengths)
    flat_codes = _table(alphabet, ambiguity)[flat]
    mistakes = _mistakes(sequences, lengths, flat_codes == WRONG, alphabet=alphabet, length=length, what=what)
    title = f"{path}: {len(mistakes):,} of {len(sequences):,} rows cannot be read; mend or remove them"
    if ambiguity == "refuse" and any(set(AMBIGUOUS[alphabet]) & set(sequence) for sequence in sequences):
        title += f" ({flag} takes letters that stand for several)"
    raise_errors(title, mistakes)
    return _rectangle(flat_codes, lengths), _remarks(_counts(flat), alphabet, lengths)


def _table(alphabet: str, ambiguity: str) -> np.ndarray:
    """Return the code of each byte, `(256,)`."""
    table = np.full(256, WRONG, dtype=np.int8)
    letters = ALPHABETS[alphabet]
    table[[ord(letter) for letter in letters]] = np.arange(len(letters))
    if ambiguity == "any":
        table[[ord(letter) for letter in AMBIGUOUS[alphabet]]] = ANY
    if alphabet.startswith("protein"):
        table[[ord(letter) for letter in NEAREST]] = [letters.index(letter) for letter in NEAREST.values()]
    return table


def are_wrong(letters: np.ndarray, alphabet: str, ambiguity: str) -> np.ndarray:
    """Return which letters (bytes, of any shape) `encode` would refuse."""
    return _table(alphabet, ambiguity)[letters] == WRONG


def _refuse_huge(path: Path | str, lengths: np.ndarray) -> None:
    size = len(lengths) * int(lengths.max(initial=0))
    if size > MOST_CODES:
        row = int(lengths.argmax())
        raise SubquadError(
            f"{path}: row {row + 1} has {lengths[row]:,} letters; padding {len(lengths):,} rows to it makes "
            f"{size / 1e6:,.0f} million, and {MOST_CODES / 1e6:,.0f} million is the most (the median is "
            f"{int(np.median(lengths)):,} letters a row); cut or remove the longest rows"
        )


def _mistakes(
    sequences: Sequence[str], lengths: np.ndarray, is_wrong: np.ndarray, *, alphabet: str, length: int | None, what: str
) -> list[str]:
    ends = np.cumsum(lengths)
    places = np.flatnonzero(is_wrong)
    rows = np.searchsorted(ends, places, side="right")
    first = dict(zip(rows[::-1].tolist(), places[::-1].tolist(), strict=True))
    counts = dict(zip(*np.unique(rows, return_counts=True), strict=True))
    bad = set(first) | set(np.flatnonzero(lengths == 0).tolist())
    if length is not None:
        bad |= set(np.flatnonzero(lengths != length).tolist())
    mistakes = []
    for row in sorted(bad):
        if not lengths[row]:
            mistakes.append(f"row {row + 1}: the {what} is empty")
        elif row in first:
            place = first[row] - int(ends[row] - lengths[row])
            more = f" (and {counts[row] - 1} more in this row)" if counts[row] > 1 else ""
            mistakes.append(
                f"row {row + 1}: {sequences[row][place]!r} at position {place + 1} is no letter of the "
                f"{NAMES_OF[alphabet]} ({ALPHABETS[alphabet]}){more}"
            )
        else:
            mistakes.append(f"row {row + 1}: {lengths[row]} letters, but the model was fitted on {what}s of {length}")
    return mistakes


def _rectangle(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    longest = int(lengths.max(initial=0))
    if (lengths == longest).all():
        return flat.reshape(len(lengths), longest)
    codes = np.full((len(lengths), longest), PAD, dtype=np.int8)
    end = 0
    for row, length in enumerate(lengths.tolist()):
        codes[row, :length] = flat[end : end + length]
        end += length
    return codes


def _remarks(counts: np.ndarray, alphabet: str, lengths: np.ndarray) -> list[str]:
    remarks = []
    several = {letter: int(counts[ord(letter)]) for letter in AMBIGUOUS[alphabet] if counts[ord(letter)]}
    if several:
        shown = ", ".join(f"{letter} {count:,}" for letter, count in several.items())
        remarks.append(
            f"letters that stand for several (- for a gap) count as equal parts of all: {shown} "
            f"of {int(counts.sum()):,} letters (--ambiguity refuse calls them mistakes)"
        )
    for letter, near in NEAREST.items():
        if alphabet.startswith("protein") and counts[ord(letter)]:
            remarks.append(
                f"{letter} is read as {near}, the nearest standard amino acid ({int(counts[ord(letter)]):,} letters)"
            )
    row, median = int(lengths.argmax()), int(np.median(lengths))
    if lengths[row] > max(1000, 20 * median):
        remarks.append(
            f"row {row + 1} has {lengths[row]:,} letters and the median {median:,}: all rows are padded to it, "
            "which takes time and memory; leave it out if it is a mistake"
        )
    return remarks
