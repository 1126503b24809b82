r"""Networks of this field: Lyra as published, or blended with MLPs around a linear model.

$$ \hat y = r(x) + \alpha \big(g_1(w_1 \cdot f(x) + \mathrm{MLP}(f(x))) - r(x)\big)
   + \beta \big(g_2(w_2 \cdot f(x) + \mathrm{Lyra}(x)) - r(x)\big) $$

$r$ is linear in the features $f$: ridge regression, or between it and a sparse model. The first term is the mean of
several MLP branches. $w_1$ and $w_2$ start at $r$, the last layers of Lyra and of the MLP at 0 and the monotone curves
$g$ at the identity, so that training starts exactly at $r$. The curve models global epistasis: mutations are additive
on a latent scale that the assay distorts. The MLP combines distant letters in any order, Lyra finds motifs at any
position. Each branch is trained alone, because the residuals of a branch that fits the training rows closely carry no
signal for another one. The blending weights $\alpha$ and $\beta$ are selected on the validation rows. Residues start at
the ridge regression of their windows, base pairs at the probabilities of a thermodynamic model.

Axes: B sequences, T positions, A letters, F features, H channels, O outputs.
"""

from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from subquad.bio.data.dataset import ANY, PAD
from subquad.bio.models.additive import AdditiveBranch
from subquad.nn.sequence import Lyra, masked_mean

__all__ = ["BioNet", "NetSpec", "soft_one_hot"]

WIDTH = 64
"""Channels of Lyra."""


@dataclass(frozen=True, kw_only=True)
class NetSpec:
    """Architecture of a network."""

    task_type: str
    letters: int
    outputs: int
    preset: str = "auto"
    positions: int = 0
    """Length of all sequences if they are aligned, otherwise 0."""
    has_sequence: bool = True
    has_partner: bool = False
    features: int = 0
    """Number of features of the additive branches; 0 for a network without them."""
    mlp_branches: int = 1
    """Number of branches with an MLP, which are averaged."""
    binned: int = 0
    """Number of features that the MLP also encodes in bins."""
    has_prior: bool = False
    """Residues and pairs start at the logits of another model."""
    hidden: int = 128
    """Width of the MLP."""
    dropout: float = 0.2

    @property
    def is_residue(self) -> bool:
        """One output per residue."""
        return self.task_type.startswith("residue")


def soft_one_hot(codes: Int[Tensor, "B T"], letters: int) -> Float[Tensor, "B T A"]:
    """Return one-hot letters: zeros for `PAD`, equal parts of all letters for `ANY`."""
    rows = torch.cat([torch.eye(letters), torch.full((1, letters), 1 / letters), torch.zeros(1, letters)])
    return nn.functional.embedding(torch.where(codes < 0, letters - ANY + codes, codes).long(), rows.to(codes.device))


class _Readout(nn.Module):
    """Sequence to vector: the mean, and position-dependent weights (aligned sequences) or attention pooling."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(positions, WIDTH)) if positions else None
        self.attention = None if positions else nn.Linear(WIDTH, 4)
        self.size = (2 if positions else 5) * WIDTH

    def forward(self, u: Float[Tensor, "B T H"], mask: Tensor) -> Float[Tensor, "B D"]:
        mean = masked_mean(u, mask)
        if self.attention is None:
            assert self.place is not None
            return torch.cat([mean, torch.einsum("bth,th->bh", u, self.place[: u.shape[1]])], dim=1)
        weights = self.attention(u).masked_fill(~mask[:, :, None], -torch.inf).softmax(1)
        return torch.cat([mean, torch.einsum("bth,btk->bkh", u, weights).flatten(1)], dim=1)


class _Pairs(nn.Module):
    """Logit of each pair of positions from their embeddings, their two letters and a convolution along stems."""

    def __init__(self, letters: int, *, has_prior: bool, rank: int = 32) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(WIDTH, rank), nn.Linear(WIDTH, rank)
        self.letters = nn.Parameter(torch.zeros(letters, letters))
        # a stem is a run of pairs along the anti-diagonal, which a small convolution detects
        last = nn.Conv2d(8, 1, 1)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 5, padding=2), nn.GELU(), nn.Conv2d(8, 8, 5, padding=2), nn.GELU(), last
        )
        _start_at_zero(last)
        # few of all pairs of positions are paired
        self.bias = nn.Parameter(torch.tensor(0.0 if has_prior else -4.0))
        self.prior_weight = nn.Parameter(torch.tensor(1.0))
        _start_at_zero(self.left)

    def forward(
        self,
        u: Float[Tensor, "B T H"],
        x: Float[Tensor, "B T A"],
        prior: Float[Tensor, "B T T"],
        mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T T"]:
        known = torch.einsum("bik,bjk->bij", self.left(u), self.right(u)) / self.left.out_features**0.5
        bases = torch.einsum("bia,ac,bjc->bij", x, self.letters, x)
        z = known + bases + self.bias
        z = (z + z.transpose(1, 2)) / 2
        canonical = torch.einsum("bia,ac,bjc->bij", x, _canonical(x), x)
        inside, channels = (mask[:, :, None] & mask[:, None])[:, None], torch.stack([z, prior / 5, canonical], dim=1)
        for layer in self.stem:
            # the convolution must not read the padding, which differs from batch to batch
            channels = layer(channels * inside)
        stem = channels[:, 0]
        return z + self.prior_weight * prior + (stem + stem.transpose(1, 2)) / 2


def _canonical(x: Tensor) -> Tensor:
    """Return `(A, A)`: 1 for the canonical pairs AU, CG and GU of A, C, G, U."""
    table = torch.zeros(x.shape[-1], x.shape[-1], device=x.device)
    for i, j in ((0, 3), (1, 2), (2, 3)):
        table[i, j] = table[j, i] = 1.0
    return table


class BioNet(nn.Module):
    """Inputs to outputs on the training scale: standardised measurements or logits."""

    blending: Tensor
    """`(2,)` blending weights of the MLP branches and of Lyra; registered only with additive branches."""

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        is_auto, is_pairs = spec.preset == "auto", spec.task_type == "pairs"
        self.lyra = self.readout = self.mlp_branches = self.lyra_branch = None
        channels = spec.letters * (2 if spec.has_partner else 1)
        if spec.has_sequence:
            self.lyra = _lyra(spec, channels) if is_auto else Lyra.paper(channels, spec.outputs)
            if is_pairs:
                self.lyra.add_module("head", nn.Identity())
                self.pairs = _Pairs(channels, has_prior=spec.has_prior)
            elif is_auto:
                self.readout = None if spec.is_residue else _Readout(spec.positions)
                head = nn.Linear(2 * WIDTH if self.readout is None else self.readout.size, spec.outputs)
                _start_at_zero(head)
                self.lyra.head = head
        self.prior_weight = nn.Parameter(torch.ones(())) if spec.has_prior and not is_pairs else None
        if spec.features:
            branch = partial(AdditiveBranch, spec.features, spec.outputs, is_curved=spec.task_type == "regression")
            self.mlp_branches = nn.ModuleList(
                branch(hidden=spec.hidden, binned=spec.binned) for _ in range(spec.mlp_branches)
            )
            self.lyra_branch = branch(hidden=0) if spec.has_sequence else None
            self.register_buffer("blending", torch.tensor([0.0, 1.0] if spec.has_sequence else [1.0, 0.0]))

    def embed(self, codes: Int[Tensor, "B T"], partner: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embedding of each position, the letters as vectors, and the mask."""
        assert self.lyra is not None
        x, mask = soft_one_hot(codes, self.spec.letters), codes != PAD
        if self.spec.has_partner and partner is not None:
            x = torch.cat([x, soft_one_hot(partner, self.spec.letters)], dim=2)
        return self.lyra.embed(x, None if self.spec.positions else mask), x, mask

    def forward(
        self,
        codes: Int[Tensor, "B T"],
        partner: Int[Tensor, "B T"] | None = None,
        f: Float[Tensor, "B F"] | None = None,
        prior: Tensor | None = None,
    ) -> Tensor:
        """Return the outputs: `(B, O)`, `(B, T, O)` for residues, `(B, T, T)` for pairs.

        In training mode these are the outputs of Lyra's branch alone. `f` are the features of the additive branches.
        """
        z: Tensor | float = 0.0
        if self.lyra is not None:
            u, x, mask = self.embed(codes, partner)
            if self.spec.task_type == "pairs":
                return self.pairs(u, x, prior, mask)
            z = self.lyra.head(self._pool(u, mask))
            if self.prior_weight is not None and prior is not None:
                return z + self.prior_weight * prior
        if self.mlp_branches is None:
            assert isinstance(z, Tensor)
            return z
        assert f is not None
        if self.training and self.lyra_branch is not None:
            return self.lyra_branch(f, z)
        branches = cast("list[AdditiveBranch]", list(self.mlp_branches))
        start = branches[0].at_start(f)
        mlp = sum((branch(f) for branch in branches), torch.zeros_like(start)) / len(branches)
        found = start + self.blending[0] * (mlp - start)
        return found if self.lyra_branch is None else found + self.blending[1] * (self.lyra_branch(f, z) - start)

    def _pool(self, u: Tensor, mask: Tensor) -> Tensor:
        if self.spec.is_residue:
            if self.spec.preset == "paper":
                return u
            return torch.cat([u, masked_mean(u, mask)[:, None].expand_as(u)], dim=2)
        return masked_mean(u, mask) if self.readout is None else self.readout(u, mask)


def _lyra(spec: NetSpec, channels: int) -> Lyra:
    return Lyra(
        channels,
        spec.outputs,
        positions=spec.positions,
        dropout=spec.dropout,
        is_bidirectional=not spec.positions,
    )


def _start_at_zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
