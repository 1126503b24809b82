"""Sequence and residue features as dense tensors, for the additive paths of the network.

Axes: B rows, T positions, A letters, E covariates, F features.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.bio.data.dataset import ANY, PAD
from subquad.bio.features.residues import END_DISTANCE, ResidueFeatures
from subquad.bio.features.sequences import HELIX, NUCLEOTIDES, SequenceFeatures, properties

__all__ = ["soft_one_hot", "torch_features"]


def soft_one_hot(codes: Int[Tensor, "B T"], letters: int) -> Float[Tensor, "B T A"]:
    """Return one-hot letters: zeros for `PAD`, equal parts of all letters for `ANY`."""
    rows = torch.cat([torch.eye(letters), torch.full((1, letters), 1 / letters), torch.zeros(1, letters)])
    return nn.functional.embedding(torch.where(codes < 0, letters - ANY + codes, codes).long(), rows.to(codes.device))


def torch_features(
    features: SequenceFeatures | ResidueFeatures,
    codes: Int[Tensor, "B T"],
    partner: Int[Tensor, "B T"] | None,
    covariates: Float[Tensor, "B E"],
) -> Tensor:
    """Return the features as a float32 tensor on the device of `codes`.

    Args:
        features: Set of features.
        codes: `(B, T)`; if lengths vary, padding at the end may be cut off.
        partner: Codes of the partner sequences, or None.
        covariates: `(B, E)`, not standardised.

    Returns:
        `(B, F)`, equal to `SequenceFeatures.matrix`; or `(B, T, F)` for all residues, equal to `ResidueFeatures.matrix`
        outside the padding.
    """
    if isinstance(features, ResidueFeatures):
        return _residue_features(features, codes, partner, covariates)
    x = soft_one_hot(codes, features.letters)
    # without partner sequences no block reads y
    y = x if partner is None else soft_one_hot(partner, features.letters)
    lengths = (codes != PAD).sum(1)
    blocks = [
        _block(features, kind, x, y=y, codes=codes, lengths=lengths, covariates=covariates)
        for kind, width, _ in features.layout
        if width
    ]
    everything = torch.cat(blocks, dim=1)
    if features.kept is None:
        return everything
    return everything.index_select(1, torch.from_numpy(features.columns).to(codes.device))


def _block(
    features: SequenceFeatures,
    kind: str,
    x: Tensor,
    *,
    y: Tensor,
    codes: Tensor,
    lengths: Tensor,
    covariates: Tensor,
) -> Tensor:
    match kind:
        case "letters":
            return x.flatten(1)
        case "partner":
            return y.flatten(1)
        case "pairs":
            return (x[:, :-1, :, None] * x[:, 1:, None, :]).flatten(1)
        case "mismatch":
            return _types(x, y).sum((2, 3))
        case "type":
            return _types(x, y).flatten(1)
        case "mismatches":
            return _types(x, y).sum((1, 2, 3))[:, None]
        case "global":
            return _global(features, x, codes, lengths)
        case "first" | "last" if x.shape[1] == 0:
            return x.new_zeros(len(x), features.ends * features.letters)
        case "first" | "last":
            places = torch.arange(features.ends, device=codes.device).expand(len(codes), -1)
            places = places if kind == "first" else lengths[:, None] - 1 - places
            is_there = (places >= 0) & (places < lengths[:, None])
            found = x.gather(1, places.clamp(0, x.shape[1] - 1)[..., None].expand(-1, -1, x.shape[2]))
            return (found * is_there[..., None]).flatten(1)
        case "covariates":
            return _standardise(features, covariates)
    length = int(kind.removeprefix("kmer "))
    T = x.shape[1]
    if length > T:
        return x.new_zeros(len(x), x.shape[2] ** length)
    shifted = [x[:, k : T - length + 1 + k] for k in range(length)]
    counts = shifted[0].sum(1)
    if length > 1:
        counts = torch.einsum("bta,btc->bac" if length == 2 else "bta,btc,btd->bacd", *shifted)
    return counts.flatten(1) / (lengths - length + 1).clamp(min=1)[:, None]


def _types(x: Tensor, y: Tensor) -> Tensor:
    """Return the pairs of different letters of a sequence and its partner, one-hot: `(B, T, A, A)`."""
    different = 1 - torch.eye(x.shape[2], device=x.device)
    return x[..., :, None] * y[..., None, :] * different


def _global(features: SequenceFeatures, x: Tensor, codes: Tensor, lengths: Tensor) -> Tensor:
    some = lengths.clamp(min=1)
    columns = [lengths / 100, some.log()]
    if features.letters < NUCLEOTIDES:
        return torch.stack([*columns, x[..., 1:3].sum((1, 2)) / some], dim=1)
    table = torch.from_numpy(properties(features.letters)).to(x)
    hydropathy, charge, aromatic = (x @ table[:, k] for k in (0, 1, 3))
    turn = torch.from_numpy(HELIX * np.arange(codes.shape[1])).to(x)
    moment = torch.hypot(hydropathy @ turn.cos(), hydropathy @ turn.sin())
    columns += [charge.sum(1), hydropathy.sum(1) / some, aromatic.sum(1) / some, moment / some]
    return torch.stack(columns, dim=1)


def _residue_features(
    features: ResidueFeatures, codes: Tensor, partner: Tensor | None, covariates: Tensor
) -> Float[Tensor, "B T F"]:
    B, T = codes.shape
    channels = [soft_one_hot(own, features.letters) for own in (codes, partner) if own is not None]
    w = features.window
    blocks = [nn.functional.pad(x, (0, 0, w, w)).unfold(1, 2 * w + 1, 1).mT.flatten(2) for x in channels]
    is_there = (codes != PAD)[..., None]
    # float32 sums of ones are exact
    sums = nn.functional.pad(torch.cat([channels[0], is_there.float()], dim=2).cumsum(1), (0, 0, 1, 0))
    t = torch.arange(T, device=codes.device)
    for reach in (T, *features.reaches):
        own = sums[:, (t + reach + 1).clamp(max=T)] - sums[:, (t - reach).clamp(min=0)]
        blocks.append(own[..., :-1] / own[..., -1:].clamp(min=1))
    lengths = is_there.sum(1)
    ends = [
        t.expand(B, T).clamp(max=END_DISTANCE) / END_DISTANCE,
        (lengths - 1 - t).clamp(max=END_DISTANCE) / END_DISTANCE,
    ]
    place = t / (lengths - 1).clamp(min=1)
    blocks.append(torch.stack([place, *ends, lengths.clamp(min=1).log().expand(B, T)], dim=2))
    blocks.append(_standardise(features, covariates)[:, None].expand(B, T, -1))
    return torch.cat(blocks, dim=2)


def _standardise(features: SequenceFeatures | ResidueFeatures, covariates: Tensor) -> Tensor:
    # in float64, so that columns far from 0 keep their digits
    statistics = (features.covariate_mean, features.covariate_scale)
    mean, scale = (covariates.new_tensor(values, dtype=torch.float64) for values in statistics)
    return ((covariates.double() - mean) * scale).float()
