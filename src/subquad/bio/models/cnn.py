"""Baseline `cnn`: three convolutions and a hidden layer from scratch, as sequences are usually modelled with one.

It reads what Lyra reads, but has neither gates nor a state space, and no linear model at its start: a lead of Lyra over
it is not one of reading letters in their order.

Axes: B sequences, T positions, C channels, H channels of a convolution, O outputs.
"""

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.nn.sequence import masked_mean

__all__ = ["CNN"]

WIDTHS = (64, 64, 32)
"""Channels of the convolutions."""
KERNEL, RESIDUE_KERNEL = 7, 11
HIDDEN = 64
CONV_DROPOUT, HEAD_DROPOUT = 0.1, 0.3


class CNN(nn.Module):
    """Letters to outputs: of the sequence, or of each residue.

    Aligned sequences keep their positions before the hidden layer; others are pooled to mean and maximum, and residues
    are read with the mean of their sequence.

    Args:
        channels: Number of channels of a letter, C.
        outputs: Number of outputs, O.
        positions: Number of aligned positions, otherwise 0.
        is_residue: One output per residue.
    """

    def __init__(self, channels: int, outputs: int, *, positions: int, is_residue: bool) -> None:
        super().__init__()
        self.positions, self.is_residue = positions, is_residue
        kernel = RESIDUE_KERNEL if is_residue else KERNEL
        self.layers = nn.ModuleList(
            nn.Conv1d(a, b, kernel, padding=kernel // 2) for a, b in pairwise((channels, *WIDTHS))
        )
        self.dropout = nn.Dropout(CONV_DROPOUT)
        size = WIDTHS[-1] * (positions if positions and not is_residue else 2)
        self.head = nn.Sequential(
            nn.Dropout(HEAD_DROPOUT),
            nn.Linear(size, HIDDEN),
            nn.GELU(),
            nn.Dropout(HEAD_DROPOUT),
            nn.Linear(HIDDEN, outputs),
        )

    def forward(self, x: Float[Tensor, "B T C"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B *T O"]:
        """Return the outputs: `(B, O)`, or `(B, T, O)` for residues."""
        # a convolution must not read the padding, which differs from batch to batch
        inside = mask[:, None].to(x.dtype)
        u = x.transpose(1, 2) * inside
        for layer in self.layers:
            u = self.dropout(nn.functional.gelu(layer(u))) * inside
        u = u.transpose(1, 2)
        if self.is_residue:
            mean = masked_mean(u, mask)[:, None].expand_as(u)
            return self.head(torch.cat([u, mean], dim=2))
        if self.positions:
            return self.head(u.flatten(1))
        most = u.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
        # an empty sequence has no maximum
        most = torch.where(mask.any(1, keepdim=True), most, 0.0)
        return self.head(torch.cat([masked_mean(u, mask), most], dim=1))
