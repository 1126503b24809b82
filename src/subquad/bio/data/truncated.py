"""Proteins that end early, as a nonsense mutation makes them, written like the other variants: with a stop."""

from collections.abc import Sequence
from string import ascii_uppercase

import numpy as np

from subquad.bio.data.alphabet import flatten

__all__ = ["with_stops"]

MOST_SHARE = 0.2
"""Of rows that end early; where more do, lengths differ for another reason."""
SOME = 1000
"""Whole sequences that the letters of the wild type are counted in."""
LETTERS = ascii_uppercase + "*"


def with_stops(sequences: Sequence[str], wild_type: str | None = None) -> tuple[list[str], list[str]]:
    """Return the sequences, those that end early with `*` and the rest of the wild type after their end, and remarks.

    Nothing is done unless each shorter sequence is a beginning of the wild type, with or without a stop at its end, and
    so differs by its end alone.

    Args:
        sequences: proteins, in upper case.
        wild_type: what they are variants of; by default the commonest letters of those of the commonest length.
    """
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    full = len(wild_type) if wild_type is not None else int(np.bincount(lengths, minlength=1).argmax())
    early = np.flatnonzero(lengths < full)
    if not len(early) or lengths.max() > full or not lengths.min():
        return list(sequences), []
    if wild_type is None:
        if len(early) > MOST_SHARE * len(sequences):
            return list(sequences), []
        whole = flatten([sequences[row] for row in np.flatnonzero(lengths == full)[:SOME]])[0].reshape(-1, full)
        counts = np.stack([(whole == ord(letter)).sum(0) for letter in LETTERS])
        wild_type = "".join(LETTERS[place] for place in counts.argmax(0))
    begun = {row: sequences[row].removesuffix("*") for row in early}
    if not all(wild_type.startswith(beginning) for beginning in begun.values()):
        return list(sequences), []
    written = list(sequences)
    for row, beginning in begun.items():
        written[row] = beginning + "*" + wild_type[len(beginning) + 1 :]
    remark = f"{len(early):,} sequences are a beginning of the wild type: read as ending early, with a stop (*)"
    return written, [remark]
