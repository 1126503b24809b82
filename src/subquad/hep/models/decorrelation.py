"""Decorrelation of scores from an observer by DisCo: a penalty for their distance correlation on background jets.

Kasieczka and Shih, "DisCo Fever: Robust Networks Through Distance Correlation", arXiv:2001.05310. O(B²) per batch.

Axes: B jets of a batch, C classes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subquad.ops.distance_correlation import distance_correlation
from subquad.ops.precision import autocast_disabled

MIN_JETS = 4
"""Smallest number of background jets in a batch: of fewer the distance correlation is not estimated."""
MAX_JETS = 2048
"""Largest number of jets that are compared, which bounds memory."""


@dataclass(frozen=True, kw_only=True)
class Decorrelation:
    """The penalty of a fit."""

    background: int
    """Index of the class whose scores are decorrelated."""
    weight: float
    """Weight of the penalty in the loss."""

    def penalty(self, logits: Float[Tensor, "B C"], observer: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Return the squared distance correlation of scores and observer on background jets, averaged over the signals.

        The score of a signal is p_S / (p_S + p_B), on which taggers cut; of two classes it is 1 - p_B, as in the paper.
        Of more than `MAX_JETS` background jets, evenly spaced ones are compared, as files may be sorted by pT.

        Args:
            logits: Logits of the jets.
            observer: [B], such as the mass.
            labels: [B], indices of their classes.
            weights: [B]; negative ones count by their absolute value, since the penalty needs a distribution.
        """
        rows = torch.nonzero(labels == self.background)[:, 0]
        if len(rows) > MAX_JETS:
            rows = rows[torch.linspace(0, len(rows) - 1, MAX_JETS, dtype=torch.float64, device=rows.device).long()]
        weights = weights[rows].abs()
        if len(rows) < MIN_JETS or not weights.sum() > 0:
            return logits.new_zeros(())
        with autocast_disabled(logits.device.type):
            own = logits[rows].float()
            scores = (own - own[:, self.background, None]).sigmoid()
            found = [
                distance_correlation(scores[:, signal], observer[rows].float(), weights.float())
                for signal in range(own.shape[1])
                if signal != self.background
            ]
        return torch.stack(found).mean()
