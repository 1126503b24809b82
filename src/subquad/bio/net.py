r"""The net that `subquad bio fit` trains: Lyra beside an additive path that starts as ridge, under one output curve.

$$ \hat y = g\Big(w \cdot f(x) + b + \mathrm{Lyra}(x)\Big) $$

$w$ starts at ridge's coefficients, Lyra's head at 0 and the monotone curve $g$ at the identity, so that training begins
exactly at ridge. The curve is the usual global epistasis: mutations add up on a hidden scale that the assay bends.

Axes: B sequences, T positions, A letters, F features, O outputs.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.nn.sequence import Lyra, masked_mean

__all__ = ["BioNet", "feature_count", "features", "one_hot"]


def one_hot(codes: Int[Tensor, "B T"], letters: int) -> tuple[Float[Tensor, "B T A"], Tensor]:
    """Return codes as vectors, zero at padding (-1), and the mask that is True where a letter is."""
    mask = codes >= 0
    # one column more for padding, cut off again
    return nn.functional.one_hot(torch.where(mask, codes, letters).long(), letters + 1)[..., :-1].float(), mask


def feature_count(letters: int, positions: int) -> int:
    """Return the number of features that `features` gives."""
    return letters * positions if positions else letters + letters**2


def features(codes: Int[Tensor, "B T"], letters: int, *, has_positions: bool) -> Float[Tensor, "B F"]:
    """Return what the additive path and the rivals see of a sequence.

    With positions: each letter at each place. Without (lengths differ): the frequency of each letter and of each pair
    of neighbours.
    """
    x, mask = one_hot(codes, letters)
    if has_positions:
        return x.flatten(1)
    pairs = torch.einsum("bta,btc->bac", x[:, :-1], x[:, 1:]).flatten(1)
    return torch.cat([masked_mean(x, mask), pairs / (mask.sum(1, keepdim=True) - 1).clamp(min=1)], dim=1)


class _Additive(nn.Module):
    """A linear map that starts at ridge; weight decay pulls it back there."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("start", torch.zeros(outputs, inputs))
        self.register_buffer("start_bias", torch.zeros(outputs))
        self.change = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, f: Float[Tensor, "B F"]) -> Float[Tensor, "B O"]:
        return nn.functional.linear(f * self.scale, self.start + self.change, self.start_bias + self.bias)


class _Curve(nn.Module):
    r"""$g(z) = e^a (z + \frac{\rho}{K} \sum_k \tanh(c_k) \tanh(s_k (z - m_k)) / s_k) + b$; its slope is positive."""

    def __init__(self, bends: int = 8, most: float = 0.98) -> None:
        super().__init__()
        self.most = most
        self.height = nn.Parameter(torch.zeros(bends))
        self.log_steepness = nn.Parameter(torch.zeros(bends))
        self.place = nn.Parameter(torch.linspace(-3, 3, bends))
        self.log_slope = nn.Parameter(torch.zeros(1))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, z: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        steepness = self.log_steepness.exp()
        bends = self.height.tanh() * torch.tanh(steepness * (z - self.place)) / steepness
        return self.log_slope.exp() * (z + self.most * bends.mean(1, keepdim=True)) + self.shift


class BioNet(nn.Module):
    """Codes to outputs: standardised measurements, the logit of class 1, or one logit a class.

    Args:
        letters: of the alphabet.
        outputs: 1, or the number of classes where there are more than two.
        preset: `auto`, or `paper`: Lyra as published, alone.
        positions: the length of all sequences; 0 where lengths differ.
        is_curved: `auto` ends in the output curve.
    """

    def __init__(self, letters: int, outputs: int, *, preset: str, positions: int, is_curved: bool) -> None:
        super().__init__()
        self.letters, self.has_positions = letters, positions > 0
        self.additive, self.curve = None, None
        if preset == "paper":
            self.lyra = Lyra.paper(letters, outputs)
            return
        self.lyra = Lyra(letters, outputs, positions=positions)
        nn.init.zeros_(self.lyra.head.weight)
        nn.init.zeros_(self.lyra.head.bias)
        self.additive = _Additive(feature_count(letters, positions), outputs)
        self.curve = _Curve() if is_curved else None

    def start_at(self, weight: Float[Tensor, "O F"], bias: Float[Tensor, " O"], scale: Float[Tensor, " F"]) -> None:
        """Put a linear model, on features times `scale`, into the additive path, if there is one."""
        if self.additive is not None:
            self.additive.start.copy_(weight)
            self.additive.start_bias.copy_(bias)
            self.additive.scale.copy_(scale)

    def forward(self, codes: Int[Tensor, "B T"]) -> Float[Tensor, "B O"]:
        """Return the outputs of each sequence; padding is -1."""
        x, mask = one_hot(codes, self.letters)
        z = self.lyra(x, None if self.has_positions else mask)
        if self.additive is not None:
            z = z + self.additive(features(codes, self.letters, has_positions=self.has_positions))
        return z if self.curve is None else self.curve(z)
