r"""Networks of this field: Lyra around a linear model, its variants, and an MLP.

$$ \hat y = (1 - m)\, g(w \cdot f(x) + \mathrm{Lyra}(x)) + m\, \mathrm{direct}(x) $$

is the model `lyra`: $w$ is linear in the features $f$ and starts at ridge (or logistic) regression, the last layer of
Lyra starts at 0 and the monotone curve $g$ at the identity, so that training starts exactly at the linear model. The
curve models global epistasis: mutations are additive on a latent scale that the assay distorts. Without Lyra the same
is `lyra-additive`, with an MLP of $f$ instead it is `mlp`, and without $w$ and $g$ it is `lyra-alone`. `lyra-paper` is
the published network. Residues start at the ridge regression of their windows, base pairs at the probabilities of a
thermodynamic model.

A linear model leaves only interactions, which gradient descent learns slowly unless it also learns the effects of the
single letters that interact (the staircase property of arXiv:2202.08658): Lyra then stays at the linear model. So a
direct head predicts the whole target from the same layers. Its loss is added, and the validation rows choose its weight
$m$.

Axes: B sequences, T positions, A letters, F features, D numbers of a vector, H channels, O outputs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from subquad.bio.data.dataset import ANY, PAD
from subquad.bio.features.substitutions import channels_of
from subquad.bio.models.additive import AdditivePath
from subquad.bio.models.cnn import CNN
from subquad.nn.sequence import Lyra, masked_mean

__all__ = ["KERNEL", "BioNet", "NetSpec", "soft_one_hot"]

WIDTH = 64
"""Channels of Lyra."""
KERNEL = 7
"""Letters of the convolution beside its linear encoder."""
CHAINS = 2
"""Channels that tell the two chains of a pair apart."""
HEAD_WIDTH, HEAD_DROPOUT = 128, 0.3
"""Width of the hidden layer of Lyra's head, and its dropout."""


@dataclass(frozen=True, kw_only=True)
class NetSpec:
    """Architecture of a network.

    A change of the architecture is a field whose default is the former architecture, so that saved networks load.
    """

    task_type: str
    letters: int
    outputs: int
    kind: str = "lyra"
    """Name of the model: `mlp`, `cnn`, `lyra`, `lyra-additive`, `lyra-alone` or `lyra-paper`."""
    positions: int = 0
    """Number of positions that Lyra reads if all chains are aligned, otherwise 0."""
    reference: tuple[int, ...] = ()
    """Codes of the letters at these positions that substitutions are counted from; empty for other than proteins."""
    has_partner: bool = False
    """A partner sequence is aligned with the sequence."""
    partner_letters: int = 0
    """Number of letters in the alphabet of the partner chain, which follows the first one; 0 without one."""
    vectors: int = 0
    """Numbers of the vector of each letter by a language model, D; 0 without."""
    features: int = 0
    """Number of features of the additive path; 0 for a network without one."""
    binned: int = 0
    """Number of features that the MLP also encodes in bins."""
    has_prior: bool = False
    """Residues and pairs start at the logits of another model."""
    kernel: int = 0
    """Letters of the convolution beside the linear encoder of Lyra; 0 without one."""
    hidden: int = 128
    """Width of the MLP."""
    dropout: float = 0.2

    @property
    def reads_letters(self) -> bool:
        """The network reads the letters, and not only their features."""
        return self.kind in ("cnn", "lyra", "lyra-alone", "lyra-paper")

    @property
    def is_residue(self) -> bool:
        """One output per residue."""
        return self.task_type.startswith("residue")


def soft_one_hot(codes: Int[Tensor, "B T"], letters: int) -> Float[Tensor, "B T A"]:
    """Return one-hot letters: zeros for `PAD`, equal parts of all letters for `ANY`."""
    rows = torch.cat([torch.eye(letters), torch.full((1, letters), 1 / letters), torch.zeros(1, letters)])
    return nn.functional.embedding(torch.where(codes < 0, letters - ANY + codes, codes).long(), rows.to(codes.device))


class _Readout(nn.Module):
    """Sequence to vector: the mean, and position-dependent weights (aligned sequences) or attention pooling.

    With a reference also the sum and the mean over the substituted positions: in the mean over all positions a single
    substitution would almost vanish.
    """

    def __init__(self, positions: int, *, has_reference: bool) -> None:
        super().__init__()
        self.has_reference = has_reference
        self.place = nn.Parameter(torch.zeros(positions, WIDTH)) if positions else None
        self.attention = None if positions else nn.Linear(WIDTH, 4)
        self.size = ((2 if positions else 5) + (2 if has_reference else 0)) * WIDTH

    def forward(self, u: Float[Tensor, "B T H"], mask: Tensor, changed: Tensor | None = None) -> Float[Tensor, "B D"]:
        parts = [masked_mean(u, mask)]
        if changed is not None:
            total = torch.einsum("bth,bt->bh", u, changed.to(u.dtype))
            parts += [total, total / changed.sum(1, keepdim=True).clamp(min=1)]
        if self.attention is None:
            assert self.place is not None
            return torch.cat([*parts, torch.einsum("bth,th->bh", u, self.place[: u.shape[1]])], dim=1)
        weights = self.attention(u).masked_fill(~mask[:, :, None], -torch.inf).softmax(1)
        return torch.cat([*parts, torch.einsum("bth,btk->bkh", u, weights).flatten(1)], dim=1)


class _Head(nn.Sequential):
    """What was read out to outputs: one hidden layer; the outputs start at 0."""

    def __init__(self, inputs: int, outputs: int) -> None:
        last = nn.Linear(HEAD_WIDTH, outputs)
        _start_at_zero(last)
        hidden = nn.Linear(inputs, HEAD_WIDTH)
        super().__init__(nn.LayerNorm(inputs), hidden, nn.GELU(), nn.Dropout(HEAD_DROPOUT), last)


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

    reference: Tensor | None
    """`(T,)` codes of the reference."""
    channels: Tensor | None
    """`(T, A + 2, C)` channels of each letter at each position; see `channels_of`."""
    mix: Tensor
    """Weight of the direct head in the prediction, from 0 to 1."""
    vector_mean: Tensor
    vector_scale: Tensor

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("reference", None, persistent=False)
        self.register_buffer("channels", None, persistent=False)
        is_paper, is_pairs = spec.kind == "lyra-paper", spec.task_type == "pairs"
        self.lyra = self.readout = self.additive = self.direct = self.cnn = None
        channels = spec.letters * (2 if spec.has_partner else 1)
        if spec.partner_letters:
            channels += CHAINS + (spec.partner_letters if spec.partner_letters != spec.letters else 0)
        if spec.reference:
            found = channels_of(np.array(spec.reference), spec.letters)
            self.reference = torch.tensor(spec.reference)
            self.channels = torch.from_numpy(found).float()
            channels += found.shape[2]
        self.project = None
        if spec.vectors:
            self.register_buffer("vector_mean", torch.zeros(spec.vectors))
            self.register_buffer("vector_scale", torch.ones(spec.vectors))
            self.project = nn.Linear(spec.vectors, WIDTH)
            channels += WIDTH
        if spec.kind == "cnn":
            self.cnn = CNN(channels, spec.outputs, positions=spec.positions, is_residue=spec.is_residue)
        elif spec.reads_letters:
            self.lyra = Lyra.paper(channels, spec.outputs) if is_paper else _lyra(spec, channels)
            if is_pairs:
                self.lyra.add_module("head", nn.Identity())
                self.pairs = _Pairs(channels, has_prior=spec.has_prior)
            elif not is_paper:
                self.readout = None if spec.is_residue else _Readout(spec.positions, has_reference=bool(spec.reference))
                size = 2 * WIDTH if self.readout is None else self.readout.size
                self.lyra.add_module("head", _Head(size, spec.outputs))
                if spec.features or spec.has_prior:
                    self.direct = nn.Linear(size, spec.outputs)
                    self.register_buffer("mix", torch.zeros(()))
        self.prior_weight = nn.Parameter(torch.ones(())) if spec.has_prior and not is_pairs else None
        if spec.features:
            self.additive = AdditivePath(
                spec.features,
                spec.outputs,
                hidden=spec.hidden if spec.kind == "mlp" else 0,
                is_curved=spec.task_type == "regression",
                binned=spec.binned,
            )

    def standardize(self, mean: Float[Tensor, " D"], scale: Float[Tensor, " D"]) -> None:
        """Set the mean of the vectors of letters and the factor on their deviations from it."""
        self.vector_mean.copy_(mean)
        self.vector_scale.copy_(scale)

    def _letters(
        self, codes: Int[Tensor, "B T"], partner: Tensor | None, vectors: Tensor | None
    ) -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]:
        """Return the channels of each letter, and the mask."""
        x, mask = soft_one_hot(codes, self.spec.letters), codes != PAD
        if self.spec.has_partner and partner is not None:
            x = torch.cat([x, soft_one_hot(partner, self.spec.letters)], dim=2)
        if self.spec.partner_letters and partner is not None:
            x, mask = self._chains(codes, partner)
            codes = _joined(codes, partner)
        if self.channels is not None:
            place = torch.where(codes < 0, self.spec.letters - ANY + codes, codes).long()
            x = torch.cat([x, self.channels[torch.arange(x.shape[1], device=x.device), place]], dim=2)
        if self.project is not None:
            assert vectors is not None, "a network with vectors of letters needs them"
            # a letter without a vector, such as a stop codon, has the mean
            x = torch.cat([x, self.project(((vectors - self.vector_mean) * self.vector_scale).nan_to_num())], dim=2)
        return x, mask

    def forward(
        self,
        codes: Int[Tensor, "B T"],
        partner: Int[Tensor, "B T"] | None = None,
        f: Float[Tensor, "B F"] | None = None,
        prior: Tensor | None = None,
        vectors: Float[Tensor, "B T D"] | None = None,
        *,
        start: Float[Tensor, "B O"] | None = None,
        of_heads: bool = False,
    ) -> Tensor:
        """Return the outputs: `(B, O)`, `(B, T, O)` for residues, `(B, T, T)` for pairs.

        A partner is aligned with the sequence, or follows it as a second chain: see `NetSpec`.

        `f` are the features of the additive path, `prior` the logits at which residues and pairs start, `vectors` those
        of a language model, NaN where a letter has none; for `start` see `AdditivePath.forward`. With `of_heads`
        the first axis of the result is over the heads: Lyra around what it starts at and, if there is one, the direct
        one. Otherwise it is their mean, weighted by `mix`.
        """
        z, direct = self._sequence(codes, partner, prior, vectors)
        if self.additive is not None:
            assert f is not None
            z = self.additive(f, z, start)
        if not of_heads:
            return z if direct is None else torch.lerp(z, direct, self.mix)
        return z[None] if direct is None else torch.stack([z, direct])

    def _sequence(
        self,
        codes: Int[Tensor, "B T"],
        partner: Int[Tensor, "B T"] | None,
        prior: Tensor | None,
        vectors: Float[Tensor, "B T D"] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs of Lyra before the additive path, 0 without it, and those of the direct head."""
        if not self.spec.reads_letters:
            return torch.zeros(()), None
        x, mask = self._letters(codes, partner, vectors)
        if self.cnn is not None:
            return self.cnn(x, mask), None
        assert self.lyra is not None
        u = self.lyra.embed(x, None if self.spec.positions else mask)
        if self.spec.task_type == "pairs":
            return self.pairs(u, x, prior, mask), None
        letters = _joined(codes, partner) if self.spec.partner_letters and partner is not None else codes
        changed = None if self.reference is None else (letters != self.reference) & (letters >= 0)
        pooled = self._pool(u, mask, changed)
        z = self.lyra.head(pooled)
        if self.prior_weight is not None and prior is not None:
            z = z + self.prior_weight * prior
        return z, None if self.direct is None else self.direct(pooled)

    def _chains(self, codes: Int[Tensor, "B T"], partner: Int[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
        """Return the letters of two chains, one after the other, with one-hot chains as channels, and the mask."""
        A, other = self.spec.letters, self.spec.partner_letters
        first, second = soft_one_hot(codes, A), soft_one_hot(partner, other)
        is_chain = torch.stack([codes != PAD, partner != PAD], dim=2)
        letters = [first + second] if other == A else [first, second]
        return torch.cat([*letters, is_chain.to(first.dtype)], dim=2), is_chain.any(2)

    def _pool(self, u: Tensor, mask: Tensor, changed: Tensor | None) -> Tensor:
        if self.spec.is_residue:
            if self.spec.kind == "lyra-paper":
                return u
            return torch.cat([u, masked_mean(u, mask)[:, None].expand_as(u)], dim=2)
        return masked_mean(u, mask) if self.readout is None else self.readout(u, mask, changed)


def _joined(codes: Int[Tensor, "B T"], partner: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Return the codes of both chains."""
    return torch.where(codes == PAD, partner, codes)


def _lyra(spec: NetSpec, channels: int) -> Lyra:
    return Lyra(
        channels,
        spec.outputs,
        positions=spec.positions,
        kernel=spec.kernel,
        dropout=spec.dropout,
        is_bidirectional=True,
    )


def _start_at_zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
