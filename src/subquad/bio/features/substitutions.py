"""Features of the substitutions in aligned proteins: what changes, and where; also for residues never seen in training.

A substitution is a letter that differs from the reference, the most common letter of its position in training. Its
features are averaged over the substitutions of a row; if rows have several, sums, minima and maxima are added.

A mean effect of the mutated position, computed out of fold, is not among them: it adds nothing where rows are split at
random (one-hot letters hold it already) and misleads where positions are unseen. On three assays with splits by
position, Spearman's correlation of boosting fell by 0.0 to 0.3 with it.

Axes: n rows, T positions, m substitutions, F features.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from subquad.bio.settings import ALPHABETS

__all__ = ["PROPERTIES", "Substitutions", "channels_of", "properties", "reference_of"]

REACH = 4
"""Letters on either side of a position that describe it: one turn of a helix."""

PROPERTIES = ("hydropathy", "charge", "volume", "aromatic", "helix cost", "sheet propensity")
"""Columns of `properties`."""
PROPERTY_TABLE = {
    # Kyte and Doolittle 1982; at pH 7; Å³, Zamyatnin 1972; ring; kcal/mol, Pace and Scholtz 1998; Chou and Fasman 1978
    "A": (1.8, 0.0, 88.6, 0, 0.00, 0.83),
    "C": (2.5, 0.0, 108.5, 0, 0.68, 1.19),
    "D": (-3.5, -1.0, 111.1, 0, 0.69, 0.54),
    "E": (-3.5, -1.0, 138.4, 0, 0.40, 0.37),
    "F": (2.8, 0.0, 189.9, 1, 0.54, 1.38),
    "G": (-0.4, 0.0, 60.1, 0, 1.00, 0.75),
    "H": (-3.2, 0.1, 153.2, 1, 0.61, 0.87),
    "I": (4.5, 0.0, 166.7, 0, 0.41, 1.60),
    "K": (-3.9, 1.0, 168.6, 0, 0.26, 0.74),
    "L": (3.8, 0.0, 166.7, 0, 0.21, 1.30),
    "M": (1.9, 0.0, 162.9, 0, 0.24, 1.05),
    "N": (-3.5, 0.0, 114.1, 0, 0.65, 0.89),
    "P": (-1.6, 0.0, 112.7, 0, 3.16, 0.55),
    "Q": (-3.5, 0.0, 143.8, 0, 0.39, 1.10),
    "R": (-4.5, 1.0, 173.4, 0, 0.21, 0.93),
    "S": (-0.8, 0.0, 89.0, 0, 0.50, 0.75),
    "T": (-0.7, 0.0, 116.1, 0, 0.66, 1.19),
    "V": (4.2, 0.0, 140.0, 0, 0.61, 1.70),
    "W": (-0.9, 0.0, 227.8, 1, 0.49, 1.37),
    "Y": (-1.3, 0.0, 193.6, 1, 0.53, 1.47),
    "*": (0.0, 0.0, 0.0, 0, 0.00, 0.00),
    "-": (0.0, 0.0, 0.0, 0, 0.00, 0.00),
}
GAP = 21
"""Code of the gap in the alphabet of protein alignments."""
SIZES = ("hydropathy", "volume")
"""Properties whose change also counts without its sign."""
AROUND = ("hydropathy", "charge", "volume")
"""Properties of each single letter around the position."""
CHANGE = (*(f"Δ {name}" for name in PROPERTIES), *(f"|Δ {name}|" for name in SIZES), "BLOSUM62")
"""Features of the change, which are also summed over the substitutions of a row."""
STEPS = (*range(-REACH, 0), *range(1, REACH + 1))
PLACE = (
    *(f"reference {name}" for name in PROPERTIES),
    *(f"new {name}" for name in PROPERTIES),
    *(f"{name} around" for name in PROPERTIES),
    *(f"{name} at {step:+d}" for step in STEPS for name in AROUND),
    "to proline",
    "from proline",
    "from glycine",
    "position",
)
"""Features of the reference letter, of the new one and of the surroundings."""
GAPS = ("to gap", "from gap")
"""Features beside these in alignments."""


@cache
def properties(letters: int) -> np.ndarray:
    """Return the properties of the letters of a protein alphabet, `(letters, 6)`: amino acids, stop and gap."""
    return np.array([PROPERTY_TABLE[letter] for letter in ALPHABETS["protein_gap"][:letters]])


@cache
def standard_properties(letters: int) -> np.ndarray:
    """Return the properties with mean 0 and standard deviation 1 over the amino acids, `(letters, 6)`.

    A gap has none: its properties are 0.
    """
    table = properties(letters)
    table = (table - table[:20].mean(0)) / table[:20].std(0)
    table[GAP:] = 0.0
    return table


@cache
def blosum62(letters: int) -> np.ndarray:
    """Return the BLOSUM62 scores of the letters of a protein alphabet, `(letters, letters)`; 0 for gaps."""
    from Bio.Align import substitution_matrices

    scores: Any = substitution_matrices.load("BLOSUM62")
    known = ALPHABETS["protein_stop"][:letters]
    table = np.zeros((letters, letters))
    table[: len(known), : len(known)] = [[scores[a][b] for b in known] for a in known]
    return table


def reference_of(codes: np.ndarray, letters: int) -> np.ndarray:
    """Return the most common letter of each position of aligned training sequences `(n, T)`, `(T,)`."""
    return np.array([np.bincount(column[column >= 0], minlength=letters).argmax() for column in codes.T])


def channels_of(reference: np.ndarray, letters: int) -> np.ndarray:
    """Return what a letter at a position means beside its reference letter, `(T, letters + 2, 20)`.

    Change of the properties, whether there is a change, its BLOSUM62 score, properties of the letter and of the
    reference. The last two rows of the letters are equal parts of all letters (`ANY`) and zeros (`PAD`).
    """
    table = standard_properties(letters)
    shape = len(reference), letters, len(PROPERTIES)
    new, old = np.broadcast_to(table, shape), np.broadcast_to(table[reference][:, None], shape)
    is_new = (np.arange(letters) != reference[:, None])[..., None]
    similarity = blosum62(letters)[reference][..., None] / 4
    # to or from a gap no property changes
    is_gap = (np.arange(letters) == GAP) | (reference == GAP)[:, None]
    change = np.where(is_gap[..., None], 0.0, is_new * (new - old))
    known = np.concatenate([change, is_new, is_new * similarity, new, old], axis=2)
    return np.concatenate([known, known.mean(1, keepdims=True), 0 * known[:, :1]], axis=1)


@dataclass(frozen=True, kw_only=True)
class Substitutions:
    """The substitution features of sequences with one reference."""

    reference: np.ndarray
    """`(T,)` codes."""
    letters: int
    has_several: bool
    """Rows may have several substitutions."""

    @property
    def names(self) -> list[str]:
        """Names of the features, in the order of the columns of `matrix`."""
        single = ["substitutions", *CHANGE, *(GAPS if self.letters > GAP else ()), *PLACE]
        if not self.has_several:
            return single
        more = [f"{how} {name}" for how in ("sum of", "lowest", "highest") for name in CHANGE]
        return [*single, *more, "first position", "last position"]

    def matrix(self, codes: np.ndarray) -> np.ndarray:
        """Return the features of aligned sequences `(n, T)`, `(n, F)`; zeros for the reference itself."""
        rows, positions = np.nonzero((codes != self.reference) & (codes >= 0))
        values = self._substitutions(self.reference[positions], codes[rows, positions].astype(np.int64), positions)
        found = np.zeros((len(codes), len(self.names)))
        there, starts, counts = np.unique(rows, return_index=True, return_counts=True)
        if not len(there):
            return found
        sums = np.add.reduceat(values, starts)
        parts = [counts[:, None], sums / counts[:, None]]
        if self.has_several:
            change, place = values[:, : len(CHANGE)], values[:, -1:]
            parts.append(sums[:, : len(CHANGE)])
            parts += [how.reduceat(change, starts) for how in (np.minimum, np.maximum)]
            parts += [how.reduceat(place, starts) for how in (np.minimum, np.maximum)]
        found[there] = np.hstack(parts)
        return found

    def _substitutions(self, old: np.ndarray, new: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the features of single substitutions, `(m, …)`, in the order of `CHANGE`, `GAPS` and `PLACE`."""
        table, alphabet = standard_properties(self.letters), ALPHABETS["protein_stop"]
        gaps = np.stack([new == GAP, old == GAP], axis=1)
        change = np.where(gaps.any(axis=1, keepdims=True), 0.0, table[new] - table[old])
        sizes = np.abs(change[:, [PROPERTIES.index(name) for name in SIZES]])
        # beyond the ends properties are the mean ones
        padded = np.pad(table[self.reference], ((REACH, REACH), (0, 0)))
        around = np.stack([padded[positions + REACH + step] for step in STEPS], axis=1)
        single = around[:, :, [PROPERTIES.index(name) for name in AROUND]]
        proline, glycine = alphabet.index("P"), alphabet.index("G")
        return np.column_stack(
            [
                change,
                sizes,
                blosum62(self.letters)[old, new],
                gaps[:, : len(GAPS) if self.letters > GAP else 0],
                table[old],
                table[new],
                around.mean(1),
                single.reshape(len(new), len(STEPS) * len(AROUND)),
                new == proline,
                old == proline,
                old == glycine,
                positions / len(self.reference),
            ]
        )
