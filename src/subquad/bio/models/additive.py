"""Additive path of a network: a linear model, an MLP or a sequence network added to it, and a monotone curve.

Axes: B sequences, F features, O outputs, S binned features.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.bio.features.pairs import RowFeatures

__all__ = ["COMPOUND", "AdditivePath", "binned_features"]

MANY_FEATURES = 50
BINS = 8
COMPOUND = ("kmer 2", "kmer 3", "codons", "pairs", "type")
"""Blocks of features that combine several letters."""


class _Linear(nn.Module):
    """A linear map that starts at a fitted one; weight decay pulls it back there."""

    scale: Tensor
    start: Tensor
    start_bias: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("start", torch.zeros(outputs, inputs))
        self.register_buffer("start_bias", torch.zeros(outputs))
        self.change = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, f: Float[Tensor, "B F"], start: Float[Tensor, "B O"] | None = None) -> Float[Tensor, "B O"]:
        if start is None:
            return nn.functional.linear(f * self.scale, self.start + self.change, self.start_bias + self.bias)
        return start + nn.functional.linear(f * self.scale, self.change, self.bias)


class MLP(nn.Module):
    """A small MLP on centred features, so that the most common sequence is near zero; its output starts at 0.

    Features that are not 0 or 1 are also encoded in bins: how far a value has gone through each eighth of the training
    values. With these an MLP bends where trees split (piecewise linear encoding of arXiv:2203.05556).
    """

    binned: Tensor
    edges: Tensor
    center: Tensor
    spread: Tensor

    def __init__(self, inputs: int, outputs: int, *, hidden: int, binned: int) -> None:
        super().__init__()
        self.register_buffer("binned", torch.zeros(binned, dtype=torch.int64))
        self.register_buffer("edges", torch.arange(BINS + 1.0).repeat(binned, 1))
        self.register_buffer("center", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        # many features are redundant: a third of them is dropped at each step
        self.input_dropout = nn.Dropout(0.3 if inputs > MANY_FEATURES else 0.0)
        self.layers = nn.Sequential(
            self.input_dropout,
            nn.Linear(inputs + BINS * binned, hidden),
            nn.GELU(),
            nn.Dropout(0.5 if inputs > MANY_FEATURES else 0.2),
            nn.Linear(hidden, hidden),
            nn.GELU(),
        )
        self.last = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def standardize(self, center: Float[Tensor, " F"], spread: Float[Tensor, " F"]) -> None:
        """Set the mean of the features and the factor on their deviations from it."""
        self.center.copy_(center)
        self.spread.copy_(spread)

    def set_bins(self, binned: Int[Tensor, " S"], values: Float[Tensor, "n S"]) -> None:
        """Set which features are binned; the bins are the eighths of their training values."""
        edges = torch.quantile(values, torch.linspace(0, 1, BINS + 1, dtype=values.dtype), dim=0).T
        # bins that many equal values have emptied keep a small width
        least = 1e-6 * (edges[:, -1:] - edges[:, :1]).clamp(min=1e-9)
        self.binned.copy_(binned)
        self.edges.copy_(edges + least * torch.arange(BINS + 1))

    def forward(self, f: Float[Tensor, "B F"]) -> Float[Tensor, "B O"]:
        x = (f - self.center) * self.spread
        if len(self.binned):
            low, high = self.edges[:, :-1], self.edges[:, 1:]
            # in float32 the edges of large, nearly equal values may coincide
            width = (high - low).clamp(min=torch.finfo(f.dtype).tiny)
            bins = ((f[:, self.binned, None] - low) / width).clamp(0, 1)
            x = torch.cat([x, bins.flatten(1) - 0.5], dim=1)
        return self.last(self.layers(x))


class _Curve(nn.Module):
    r"""$g(z) = e^a (z + \frac{\rho}{K} \sum_k \tanh(c_k) \tanh(s_k (z - m_k)) / s_k) + b$; its slope is positive."""

    def __init__(self, outputs: int, bends: int = 8, most: float = 0.98) -> None:
        super().__init__()
        self.most = most
        self.height = nn.Parameter(torch.zeros(outputs, bends))
        self.log_steepness = nn.Parameter(torch.zeros(outputs, bends))
        # copied, since once transformers has opened a model, `linspace` no longer follows the device of a context
        self.place = nn.Parameter(torch.empty(outputs, bends).copy_(torch.linspace(-3, 3, bends)))
        self.log_slope = nn.Parameter(torch.zeros(outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))

    def forward(self, z: Float[Tensor, "B O"]) -> Float[Tensor, "B O"]:
        steepness = self.log_steepness.exp()
        bends = self.height.tanh() * torch.tanh(steepness * (z[:, :, None] - self.place)) / steepness
        return self.log_slope.exp() * (z + self.most * bends.mean(2)) + self.shift


class AdditivePath(nn.Module):
    """A linear model of features plus an MLP or a sequence network, through a monotone curve.

    It starts exactly at a fitted linear model; the curve learns global epistasis.

    Args:
        inputs: Number of features F.
        outputs: Number of outputs O.
        hidden: Width of the MLP; 0 for a path without one.
        is_curved: The output passes through the curve.
        binned: Number of features that the MLP also encodes in bins.
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: int, is_curved: bool, binned: int = 0) -> None:
        super().__init__()
        self.linear = _Linear(inputs, outputs)
        self.mlp = MLP(inputs, outputs, hidden=hidden, binned=binned) if hidden else None
        self.curve = _Curve(outputs) if is_curved else None

    def start_at(self, weight: Float[Tensor, "O F"], bias: Float[Tensor, " O"], scale: Float[Tensor, " F"]) -> None:
        """Set the linear model, on features times `scale`, at which the path starts."""
        self.linear.start.copy_(weight)
        self.linear.start_bias.copy_(bias)
        self.linear.scale.copy_(scale)

    def forward(
        self, f: Float[Tensor, "B F"], sequence: Tensor | float = 0.0, start: Float[Tensor, "B O"] | None = None
    ) -> Float[Tensor, "B O"]:
        """Return the outputs.

        Args:
            f: Features.
            sequence: Output of a sequence network, added before the curve.
            start: Outputs of other linear models that replace those of the fitted one; see `LinearStart.out_of_fold`.
        """
        z = self.linear(f, start) + sequence
        if self.mlp is not None:
            z = z + self.mlp(f)
        return z if self.curve is None else self.curve(z)


def binned_features(features: RowFeatures) -> np.ndarray:
    """Return the features that the MLP also encodes in bins: frequencies of letters, lengths, charges, covariates."""
    return np.flatnonzero(~features.is_unit & ~np.isin(features.blocks, (*COMPOUND, "substitutions", "embedding")))
