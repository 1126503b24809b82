"""Lyra (arXiv:2503.16351): projected gated convolutions, then a diagonal state space; O(T log T) in sequence length.

Written from the paper's formulas; details that the paper does not give follow S4D (arXiv:2206.11893).

Axes: B sequences, T positions, H channels, N modes of the state, A letters. The shape of a layer's input and output is
`B T H`. `mask` is True where a position is real; padded positions have no effect in any layer or in the mean.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.ops.mix import mix
from subquad.ops.pgc import PGCWeights, pgc
from subquad.ops.precision import wide
from subquad.ops.s4d import s4d, s4d_lin

__all__ = ["PGC", "S4D", "Lyra", "masked_mean"]

Mask = Bool[Tensor, "B T"] | None


def masked_mean(x: Float[Tensor, "B T H"], mask: Mask = None) -> Float[Tensor, "B H"]:
    """Return the mean over the real positions; 0 for an empty sequence."""
    if mask is None:
        return x.mean(1)
    return _masked(x, mask).sum(1) / mask.sum(1, keepdim=True).clamp(min=1).to(x.dtype)


class S4D(nn.Module):
    r"""One state space per channel with a skip connection, $\mathrm{SSM}(u) + Du$, GELU, dropout, linear layer, GLU.

    Initialized as S4D-Lin: $A_n = -\tfrac12 + i\pi n$, $\log \Delta \sim U(\log 10^{-3}, \log 10^{-1})$, C normal.
    """

    state_space_parameters = ("log_dt", "log_A_real", "A_imag")
    """Names of parameters that need a learning rate of at most 1e-3 and no weight decay."""

    def __init__(
        self,
        width: int,
        modes: int = 32,
        dropout: float = 0.0,
        *,
        is_bidirectional: bool = False,
        dt: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        low, high = math.log(dt[0]), math.log(dt[1])
        A = s4d_lin(modes)
        self.log_dt = nn.Parameter(low + (high - low) * torch.rand(width))
        self.log_A_real = nn.Parameter((-A.real).log().repeat(width, 1))
        self.A_imag = nn.Parameter(A.imag.repeat(width, 1))
        # complex numbers as pairs of real ones, which optimizers, safetensors and ONNX support
        self.C = nn.Parameter(torch.randn(width, modes, 2) * 0.5**0.5)
        self.C_reverse = nn.Parameter(torch.randn(width, modes, 2) * 0.5**0.5) if is_bidirectional else None
        self.D = nn.Parameter(torch.randn(width))
        self.mix = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, u: Float[Tensor, "B T H"], mask: Mask = None) -> Float[Tensor, "B T H"]:
        """Return the layer's output, without the residual connection."""
        # there are no complex numbers in bfloat16, and a kernel in half precision would be wrong
        A = torch.complex(-wide(self.log_A_real).exp(), wide(self.A_imag))
        C_reverse = None if self.C_reverse is None else torch.view_as_complex(wide(self.C_reverse))
        y = s4d(
            u.transpose(1, 2),
            A,
            torch.view_as_complex(wide(self.C)),
            dt=wide(self.log_dt).exp(),
            C_reverse=C_reverse,
            D=self.D,
            mask=mask,
        ).transpose(1, 2)
        kept, scale = _draw(y, self.dropout)
        return _masked(mix(y, self.mix.weight, self.mix.bias, kept=kept, scale=scale), mask)


class PGC(nn.Module):
    r"""Projected gated convolution, $\mathrm{norm}(W_2 (v \odot \mathrm{conv}_3(x)))$.

    $x$ and $v$ are the halves of $\mathrm{norm}(W_1 u)$; the convolution is depthwise, over three neighbours.
    The gate has no activation and no residual connection: the product of the halves models interactions of positions.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 2 * inner)
        self.inner_norm = nn.RMSNorm(2 * inner)
        self.conv = nn.Conv1d(inner, inner, 3, padding=1, groups=inner)
        self.back = nn.Linear(inner, width)
        self.norm = nn.RMSNorm(width)

    def forward(self, u: Float[Tensor, "B T H"], mask: Mask = None) -> Float[Tensor, "B T H"]:
        """Return the gated, convolved sequence."""
        weights = PGCWeights(
            self.project.weight,
            self.project.bias,
            self.inner_norm.weight,
            self.conv.weight,
            cast("Tensor", self.conv.bias),
            self.back.weight,
            self.back.bias,
            self.norm.weight,
        )
        return pgc(u, weights, mask)


class Lyra(nn.Module):
    r"""Lyra: linear encoder, PGCs, one residual S4D block, mean over positions, linear head.

    With `positions`, a trained embedding of each position is added after the encoder; fixed-length libraries need it.
    With `kernel`, which the paper does not have, a convolution over that many letters is added to the linear encoder:
    $u = W x + \mathrm{GELU}(\mathrm{conv}(x))$ reads motifs that otherwise only several gates would. It starts at 0.
    """

    def __init__(
        self,
        letters: int,
        outputs: int,
        *,
        width: int = 64,
        gates: Sequence[int] = (16, 128),
        modes: int = 32,
        dropout: float = 0.2,
        positions: int = 0,
        kernel: int = 0,
        is_bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.encode = nn.Linear(letters, width)
        self.motifs = None
        if kernel:
            self.motifs = nn.Conv1d(letters, width, kernel, padding=kernel // 2)
            nn.init.zeros_(self.motifs.weight)
            nn.init.zeros_(cast("Tensor", self.motifs.bias))
        self.position = nn.Parameter(0.02 * torch.randn(positions, width)) if positions else None
        self.gates = nn.ModuleList(PGC(width, inner) for inner in gates)
        self.norm = nn.RMSNorm(width)
        self.state_space = S4D(width, modes, dropout, is_bidirectional=is_bidirectional)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)

    @classmethod
    def paper(cls, letters: int, outputs: int) -> "Lyra":
        """Return the published network: 47,169 parameters for 20 letters and one output."""
        return cls(letters, outputs)

    def embed(self, x: Float[Tensor, "B T A"], mask: Mask = None) -> Float[Tensor, "B T H"]:
        """Return the representation of each position, before the mean.

        Raises:
            ValueError: The sequences are longer than the positional embedding.
        """
        u = self.encode(x)
        if self.motifs is not None:
            u = u + nn.functional.gelu(self.motifs(_masked(x, mask).transpose(1, 2))).transpose(1, 2)
        if self.position is not None:
            T, known = x.shape[1], self.position.shape[0]
            if known < T:
                raise ValueError(f"sequences of {T} positions, but the positional embedding has {known}")
            u = u + self.position[:T]
        u = _masked(u, mask)
        for gate in self.gates:
            u = gate(u, mask)
        return u + _drop(self.state_space(self.norm(u), mask), self.dropout)

    def forward(self, x: Float[Tensor, "B T A"], mask: Mask = None) -> Float[Tensor, "B O"]:
        """Return the outputs of each sequence."""
        return self.head(masked_mean(self.embed(x, mask), mask))


def _draw(x: Float[Tensor, "B T H"], dropout: nn.Dropout) -> tuple[Bool[Tensor, "B T H"] | None, float]:
    """Return the mask and the factor of `dropout`; its probability is rounded to 1/256."""
    bar = round(256 * dropout.p)
    if not dropout.training or bar == 0:
        return None, 1.0
    # eight bytes from one random number: the generator would take longer than the rest of dropout
    draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    # not `>= bar`: 256 is not a byte and would wrap to 0
    return draws.view(torch.uint8)[: x.numel()].view(x.shape) > bar - 1, 256 / max(256 - bar, 1)


def _drop(x: Float[Tensor, "B T H"], dropout: nn.Dropout) -> Float[Tensor, "B T H"]:
    kept, scale = _draw(x, dropout)
    return x if kept is None else x * kept.to(x.dtype).mul_(scale)


def _masked(x: Float[Tensor, "B T H"], mask: Mask) -> Float[Tensor, "B T H"]:
    # `where` and not a product, so that a NaN in a padded position is removed
    return x if mask is None else torch.where(mask[:, :, None], x, 0.0)
