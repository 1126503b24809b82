"""Physico-chemical numbers of the twenty amino acids and of stop, in the order of the alphabets. Costs nothing."""

import numpy as np

from subquad.bio.settings import ALPHABETS

__all__ = ["PROPERTIES", "properties"]

_TABLE = {
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
}

PROPERTIES = ("hydropathy", "charge", "volume", "aromatic", "helix cost", "sheet propensity")
"""What the columns of `properties` are."""


def properties(letters: int) -> np.ndarray:
    """Return `(letters, 6)`: the numbers of each letter of the protein alphabet, with stop where `letters` is 21."""
    return np.array([_TABLE[letter] for letter in ALPHABETS["protein_stop"][:letters]])
