"""RNA secondary structures by ViennaRNA, the baseline of base pairs. Costs O(L³) per sequence: 0.1 s for 400 letters.

Energies are the Turner 2004 parameters at 37 °C (Lorenz et al., Algorithms Mol Biol 6 (2011) 26).

Axes: n sequences, L letters, p pairs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from subquad.bio.data.dataset import Inputs
from subquad.errors import require

__all__ = ["fold", "pair_probabilities", "predict_pairs", "rna_of"]

LETTERS = "ACGU"


def rna_of(inputs: Inputs) -> list[str]:
    """Return DNA or RNA codes as RNA sequences; ambiguous letters are N."""
    lookup = np.array([*LETTERS, "N", ""])
    # the codes -2 and -1 count from the end
    return ["".join(lookup[row.astype(np.int64)]) for row in inputs.codes]


def fold(sequences: Sequence[str]) -> list[np.ndarray]:
    """Return the pairs of the minimum free energy structure of each sequence, `(p, 2)` positions counted from 0.

    Raises:
        MissingExtra: ViennaRNA is not installed.
    """
    RNA: Any = require("RNA", extra="rna")
    none = np.zeros((0, 2), dtype=np.int64)
    return [_pairs(RNA, RNA.fold_compound(text).mfe()[0]) if text else none for text in sequences]


def pair_probabilities(sequences: Sequence[str]) -> list[np.ndarray]:
    """Return the equilibrium probability of each pair, a symmetric `(L, L)` array for each sequence.

    Raises:
        MissingExtra: ViennaRNA is not installed.
    """
    RNA: Any = require("RNA", extra="rna")
    return [_probabilities(RNA, text) if text else np.zeros((0, 0)) for text in sequences]


def predict_pairs(name: str, inputs: Inputs) -> list[np.ndarray]:
    """Return a symmetric `(L, L)` array for each row: 0 and 1 for `vienna`, probabilities for `vienna_bpp`."""
    sequences = rna_of(inputs)
    if name == "vienna_bpp":
        return pair_probabilities(sequences)
    found = []
    for text, pairs in zip(sequences, fold(sequences), strict=True):
        matrix = np.zeros((len(text), len(text)))
        matrix[pairs[:, 0], pairs[:, 1]] = matrix[pairs[:, 1], pairs[:, 0]] = 1.0
        found.append(matrix)
    return found


def _pairs(RNA: Any, brackets: str) -> np.ndarray:
    # the table counts from 1, and its first entry is the length
    table = np.array(list(RNA.ptable(brackets)))[1:]
    first = np.flatnonzero(table > np.arange(1, len(table) + 1))
    return np.stack([first, table[first] - 1], axis=1).astype(np.int64)


def _probabilities(RNA: Any, text: str) -> np.ndarray:
    compound = RNA.fold_compound(text)
    # rescale the Boltzmann factors by the minimum energy: long sequences would overflow
    compound.exp_params_rescale(compound.mfe()[1])
    compound.pf()
    upper = np.array(compound.bpp())[1:, 1:]
    return upper + upper.T
