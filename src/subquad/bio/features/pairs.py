"""Features of pairs of chains: the features of each chain by itself, side by side.

Models of pairs see no features that combine both chains; boosting, Gaussian processes, MLPs and Lyra combine them.
Cost: that of the features of both chains.

Axes: n rows, F features of both chains, T positions of the aligned chains together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from subquad.bio.data.dataset import ANY, Inputs
from subquad.bio.features.sequences import SequenceFeatures

__all__ = ["PairFeatures", "RowFeatures", "features_for", "features_from_dict", "letter_channels"]


@dataclass(frozen=True, kw_only=True)
class PairFeatures:
    """Set of features of a pair; for what the fields and properties mean see `SequenceFeatures`."""

    first: SequenceFeatures
    """Features of the first chain, and the covariates."""
    second: SequenceFeatures
    """Features of the partner chain."""
    has_partner: ClassVar[bool] = False
    """No partner is aligned with its sequence."""

    @property
    def chains(self) -> tuple[SequenceFeatures, SequenceFeatures]:
        """Features of both chains."""
        return self.first, self.second

    @property
    def count(self) -> int:
        """Number of features, F."""
        return self.first.count + self.second.count

    @cached_property
    def is_unit(self) -> np.ndarray:
        """`(F,)` bool: the feature is one-hot."""
        return np.concatenate([own.is_unit for own in self.chains])

    @cached_property
    def blocks(self) -> np.ndarray:
        """`(F,)` name of each feature's block in the layout of its chain."""
        return np.concatenate([own.blocks for own in self.chains])

    @property
    def substitutions(self) -> Any:
        """The features of substitutions of the first chain if both chains have them; otherwise None."""
        return self.first.substitutions if self.second.substitutions is not None else None

    @property
    def has_several(self) -> bool:
        """Rows may have several substitutions: one in each chain."""
        return True

    @property
    def letters(self) -> tuple[int, ...]:
        """Number of letters in the alphabets of the two chains; one number if they are the same."""
        letters = (self.first.letters, self.second.letters)
        return letters[:1] if letters[0] == letters[1] else letters

    @cached_property
    def varying(self) -> np.ndarray:
        """Positions of the aligned chains, one after the other, at which the letters varied in training."""
        return np.concatenate([self.first.varying, self.first.positions + self.second.varying])

    def channels(self, inputs: Inputs) -> list[np.ndarray]:
        """Return the codes of the aligned chains, one after the other, `(n, T)`.

        With two alphabets the codes of the partner chain follow those of the first one, and last is its `ANY`.
        """
        first, second = (
            chain.codes[:, : features.positions].astype(np.int64)
            for features, chain in zip(self.chains, inputs.chains, strict=True)
        )
        if len(self.letters) > 1:
            second = np.where(second >= 0, second + self.letters[0], second)
            second[second == ANY] = sum(self.letters)
        return [np.concatenate([first, second], axis=1)]

    def matrix(self, inputs: Inputs) -> sparse.csr_matrix:
        """Return the features of each row, `(n, F)` float32."""
        parts = [features.matrix(chain) for features, chain in zip(self.chains, inputs.chains, strict=True)]
        return sparse.csr_matrix(sparse.hstack(parts, format="csr"))

    def names(self, alphabets: tuple[str, str] | None = None, covariates: Sequence[str] | None = None) -> list[str]:
        """Return the names of the features; those of the partner chain start with `partner`.

        Args:
            alphabets: The letters of both chains; by default DNA or protein, depending on their number.
            covariates: Names of the covariates.
        """
        first, second = alphabets or (None, None)
        return [*self.first.names(first, covariates), *(f"partner {name}" for name in self.second.names(second))]

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {"first": self.first.as_dict(), "second": self.second.as_dict()}


RowFeatures = SequenceFeatures | PairFeatures
"""Features of rows with one sequence, or with two chains."""


def features_for(inputs: Inputs) -> RowFeatures:
    """Return the features for training rows, without those that are constant."""
    if inputs.partner_chain is None:
        return SequenceFeatures.for_inputs(inputs)
    first, second = (SequenceFeatures.for_inputs(chain) for chain in inputs.chains)
    return PairFeatures(first=first, second=second)


def letter_channels(features: RowFeatures, inputs: Inputs) -> list[np.ndarray]:
    """Return the codes in which `features.varying` are columns, `(n, T)` for each channel."""
    return features.channels(inputs) if isinstance(features, PairFeatures) else inputs.channels


def features_from_dict(values: Mapping[str, Any]) -> RowFeatures:
    """Return the features that `as_dict` wrote."""
    if "second" not in values:
        return SequenceFeatures.from_dict(values)
    return PairFeatures(
        first=SequenceFeatures.from_dict(values["first"]), second=SequenceFeatures.from_dict(values["second"])
    )
