r"""The nets of this field: Lyra as published, or on an additive path that starts at ridge, beside MLPs on others.

$$ \hat y = r(x) + \alpha \big(g_1(w_1 \cdot f(x) + \mathrm{MLP}(f(x))) - r(x)\big)
   + \beta \big(g_2(w_2 \cdot f(x) + \mathrm{Lyra}(x)) - r(x)\big) $$

$r$ is linear in the features $f$: ridge, or between it and a model of few features. Of the MLP's term there are
several, whose mean counts. $w_1$ and $w_2$ start at $r$; the last layers of Lyra and of the MLP start at 0 and the
monotone curves $g$ at the identity, so that training begins exactly at $r$. A curve is the usual global epistasis:
mutations add up on a hidden scale that the assay bends. The MLP sees far-apart letters together, whatever their order,
Lyra motifs wherever they stand. Each is trained alone: on what one leaves over that has fitted the training rows
closely, the other would learn nothing. $\alpha$ and $\beta$ are chosen on the validation rows. Residues start at the
ridge of their windows, pairs of bases at a thermodynamic model's probabilities.

Axes: B sequences, T positions, A letters, F features, E further numbers, H channels, O outputs.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from subquad.bio.data.dataset import PAD
from subquad.bio.features.tensors import soft_one_hot
from subquad.bio.models.additive import AdditiveBranch
from subquad.nn.sequence import Lyra, masked_mean

__all__ = ["BioNet", "NetSpec"]


@dataclass(frozen=True, kw_only=True)
class NetSpec:
    """All that a net is built from."""

    task_type: str
    letters: int
    outputs: int
    preset: str = "auto"
    positions: int = 0
    """Length of all sequences where they are aligned, else 0."""
    has_sequence: bool = True
    has_partner: bool = False
    features: int = 0
    """Of the additive paths; 0: there is none."""
    paths: int = 1
    """With an MLP; their mean counts."""
    stepped: int = 0
    """Features that the MLP also sees as steps."""
    has_prior: bool = False
    """Residues and pairs start at another model's logits."""
    hidden: int = 128
    """Width of the MLP of the features."""
    dropout: float = 0.2

    def as_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self)


class _Readout(nn.Module):
    """Sequence to vector: the mean, and beside it what each position says (aligned) or what attention picks out."""

    def __init__(self, width: int, positions: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(positions, width)) if positions else None
        self.attention = None if positions else nn.Linear(width, 4)

    def forward(self, u: Float[Tensor, "B T H"], mask: Tensor) -> Float[Tensor, "B D"]:
        mean = masked_mean(u, mask)
        if self.place is not None:
            return torch.cat([mean, torch.einsum("bth,th->bh", u, self.place[: u.shape[1]])], dim=1)
        weights = self.attention(u).masked_fill(~mask[:, :, None], -torch.inf).softmax(1)
        return torch.cat([mean, torch.einsum("bth,btk->bkh", u, weights).flatten(1)], dim=1)

    def size(self, width: int) -> int:
        """Return the length of the vector."""
        return 2 * width if self.place is not None else 5 * width


class _Pairs(nn.Module):
    """Every two positions: what they know of each other, as a logit; the pair of letters counts for itself."""

    def __init__(self, width: int, letters: int, *, has_prior: bool, rank: int = 32) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(width, rank), nn.Linear(width, rank)
        self.letters = nn.Parameter(torch.zeros(letters, letters))
        # a stem is a run of pairs along the anti-diagonal: a small convolution sees it
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 5, padding=2), nn.GELU(), nn.Conv2d(8, 8, 5, padding=2), nn.GELU(), nn.Conv2d(8, 1, 1)
        )
        _start_at_zero(self.stem[-1])
        # few of all pairs of positions are paired
        self.bias = nn.Parameter(torch.tensor(0.0 if has_prior else -4.0))
        self.trust = nn.Parameter(torch.tensor(1.0))
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
        # canonical pairs, for the convolution: where letters could pair at all
        could = torch.einsum("bia,ac,bjc->bij", x, _canonical(x), x)
        inside, seen = (mask[:, :, None] & mask[:, None])[:, None], torch.stack([z, prior / 5, could], dim=1)
        for layer in self.stem:
            # no convolution looks into the padding, which is another in each batch
            seen = layer(seen * inside)
        seen = seen[:, 0]
        return z + self.trust * prior + (seen + seen.transpose(1, 2)) / 2


def _canonical(x: Tensor) -> Tensor:
    """Return 1 where two of A, C, G, U pair: AU, CG, GU."""
    table = torch.zeros(x.shape[-1], x.shape[-1], device=x.device)
    for i, j in ((0, 3), (1, 2), (2, 3)):
        table[i, j] = table[j, i] = 1.0
    return table


class BioNet(nn.Module):
    """Inputs to outputs on the scale of learning: standardised measurements or logits.

    Args:
        spec: what it is built from.
        features: makes the additive path's features of a batch, where `spec.features` says there are any.
    """

    def __init__(self, spec: NetSpec, features: Any = None) -> None:
        super().__init__()
        self.spec, self.features = spec, features
        is_auto, is_row = spec.preset == "auto", not spec.task_type.startswith("residue") and spec.task_type != "pairs"
        self.lyra, self.readout, self.mlp_paths, self.lyra_path = None, None, None, None
        channels = spec.letters * (2 if spec.has_partner else 1)
        width = 64
        if spec.has_sequence:
            self.lyra = (
                Lyra(
                    channels,
                    spec.outputs,
                    positions=spec.positions,
                    dropout=spec.dropout,
                    is_bidirectional=not spec.positions,
                )
                if is_auto
                else Lyra.paper(channels, spec.outputs)
            )
        if is_row and is_auto and spec.has_sequence:
            self.readout = _Readout(width, spec.positions)
            self.lyra.head = nn.Linear(self.readout.size(width), spec.outputs)
            _start_at_zero(self.lyra.head)
        elif spec.task_type.startswith("residue") and is_auto:
            self.lyra.head = nn.Linear(2 * width, spec.outputs)
            _start_at_zero(self.lyra.head)
        elif spec.task_type == "pairs":
            self.lyra.head = nn.Identity()
            self.pairs = _Pairs(width, channels, has_prior=spec.has_prior)
        self.trust = nn.Parameter(torch.ones(())) if spec.has_prior and spec.task_type != "pairs" else None
        if spec.features:
            shape = {"inputs": spec.features, "outputs": spec.outputs, "is_curved": spec.task_type == "regression"}
            self.mlp_paths = nn.ModuleList(
                AdditiveBranch(**shape, hidden=spec.hidden, stepped=spec.stepped) for _ in range(spec.paths)
            )
            self.lyra_path = AdditiveBranch(**shape, hidden=0) if spec.has_sequence else None
            self.register_buffer("blend", torch.tensor([0.0, 1.0] if spec.has_sequence else [1.0, 0.0]))

    def embed(self, codes: Int[Tensor, "B T"], partner: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the net knows about each position, the letters as vectors, and the mask."""
        x, mask = soft_one_hot(codes, self.spec.letters), codes != PAD
        if self.spec.has_partner:
            x = torch.cat([x, soft_one_hot(partner, self.spec.letters)], dim=2)
        return self.lyra.embed(x, None if self.spec.positions else mask), x, mask

    def forward(
        self,
        codes: Int[Tensor, "B T"],
        partner: Int[Tensor, "B T"] | None = None,
        covariates: Float[Tensor, "B E"] | None = None,
        prior: Tensor | None = None,
    ) -> Tensor:
        """Return the outputs: `(B, O)`, `(B, T, O)` for residues, `(B, T, T)` for pairs.

        In training they are those of Lyra's path alone.
        """
        spec = self.spec
        z = 0.0
        if spec.has_sequence:
            u, x, mask = self.embed(codes, partner)
            if spec.task_type == "pairs":
                return self.pairs(u, x, prior, mask)
            z = self.lyra.head(self._read(u, mask))
            if self.trust is not None:
                return z + self.trust * prior
        if self.mlp_paths is None:
            return z
        f = self.features.torch_matrix(codes, partner, covariates)
        if self.training and self.lyra_path is not None:
            return self.lyra_path(f, z)
        start = self.mlp_paths[0].at_start(f)
        found = start + self.blend[0] * (sum(path(f) for path in self.mlp_paths) / len(self.mlp_paths) - start)
        return found if self.lyra_path is None else found + self.blend[1] * (self.lyra_path(f, z) - start)

    def _read(self, u: Tensor, mask: Tensor) -> Tensor:
        if self.spec.task_type.startswith("residue"):
            if self.spec.preset == "paper":
                return u
            return torch.cat([u, masked_mean(u, mask)[:, None].expand_as(u)], dim=2)
        return masked_mean(u, mask) if self.readout is None else self.readout(u, mask)


def _start_at_zero(layer: nn.Module) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
