r"""Attention to many tokens at once by the moments of their keys and values.

The softmax terms of n tokens with keys k and values v for a query q, with x = scale · q, are

$$M = \sum_s e^{x \cdot k_s} = n\, E[e^{x \cdot k}], \qquad
  m = \tfrac{1}{M} \sum_s e^{x \cdot k_s} v_s = E[e^{x \cdot k} v] / E[e^{x \cdot k}].$$

For keys and values with a joint normal distribution $\ln E[e^{x \cdot k}] = x \cdot \mu + \frac12 x \cdot \Sigma x$ and
$m = \bar v + C x$, with the means μ and $\bar v$, the covariance Σ of keys and C of values and keys. Keys of a text are
not normal: their scores are bounded, so that the logarithm grows no faster than linearly with the standard deviation of
the scores, $\sigma = \sqrt{x \cdot \Sigma x}$. Therefore

$$\ln M = \ln n + x \cdot \mu + c\,(r - 1), \quad m = \bar v + C x / r, \quad r = \sqrt{1 + \sigma^2 / c},$$

which is the normal case for $\sigma^2 \ll c$ and linear in σ beyond; c (`spread`) is a parameter of each query head. Σ
is taken as diagonal. So $m$ is the mean value under the weights $(1 + (x \cdot k_s - x \cdot \mu) / r) / n$, of which
some can be negative. Beside a sparse cache the n tokens are those that it does not hold.

The state is $\sum_s [k_s, 1] [v_s, 1]^T$ and $\sum_s k_s^2$, of constant size; cost O(K · V) per query.

Axes: B rows, T positions, Hq query heads, H key heads, K key width, V value width, K1 = K + 1, V1 = V + 1, N blocks, M
queries of a block. In `moment_blocks` as in `linattn_blocks`.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from subquad.ops.linattn_blocks import fold, in_pairs, unfold, with_ones
from subquad.ops.linattn_cache import NearTerms, attend, pick

__all__ = ["FarTerms", "far_terms", "far_weights", "moment_blocks"]


class FarTerms(NamedTuple):
    """What many tokens add to softmax attention."""

    level: Float[Tensor, "B H N M"]
    """ln M, the logarithm of the sum of their weights; -inf without tokens."""
    value: Float[Tensor, "B H N M V"]
    """m, the weighted mean of their values."""


def far_terms(
    x: Float[Tensor, "B H N M K"],
    total: Float[Tensor, "B H N K1 V1"],
    squares: Float[Tensor, "B H N K"],
    *,
    spread: Float[Tensor, "H #N M"],
) -> FarTerms:
    """Return the terms of the tokens that the moments describe.

    Args:
        x: Queries times the scale.
        total: Sum over the tokens of `[k, 1] [v, 1]ᵀ`.
        squares: Sum of the squares of k.
        spread: c for each query.
    """
    count = total[..., -1:, -1]
    number = count.clamp(min=1.0)
    mean_k, mean_v = total[..., :-1, -1] / number, total[..., -1, :-1] / number
    variance = (squares / number - mean_k.square()).clamp(min=0.0)
    covariance = total[..., :-1, :-1] / number[..., None] - mean_k[..., None] * mean_v[..., None, :]
    root = (1 + (x.square() @ variance[..., None])[..., 0] / spread).sqrt()
    level = number.log() + (x @ mean_k[..., None])[..., 0] + spread * (root - 1)
    level = level.masked_fill(count < 0.5, -torch.inf)
    return FarTerms(level, mean_v[..., None, :] + (x @ covariance) / root[..., None])


def far_weights(
    scores: Float[Tensor, "B Hq T T"], q: Float[Tensor, "B Hq T K"], k: Float[Tensor, "B Hq T K"],
    far: Bool[Tensor, "B #Hq T T"], *, spread: Float[Tensor, " Hq"], scale: float,
) -> tuple[Float[Tensor, "B Hq T 1"], Float[Tensor, "B Hq T T"]]:  # fmt: skip
    """Return ln M of each query, and the weights that add up to 1 of the tokens that it sees as moments; O(T²).

    The weights can be negative, since they are linear in the key.
    """
    one = far.to(scores.dtype)
    count = one.sum(-1, keepdim=True)
    number = count.clamp(min=1.0)
    mean = (scores * one).sum(-1, keepdim=True) / number
    variance = (one @ k.square() / number - (one @ k / number).square()).clamp(min=0.0)
    c = spread[:, None, None]
    root = (1 + ((scale * q).square() * variance).sum(-1, keepdim=True) / c).sqrt()
    level = (number.log() + mean + c * (root - 1)).masked_fill(count < 0.5, -torch.inf)
    return level, one / number * (1 + (scores - mean) / root)


def moment_blocks(
    q: Float[Tensor, "B Hq L K"], k: Float[Tensor, "B H S K"], v: Float[Tensor, "B H S V"], *,
    mix: Float[Tensor, " Hq"], spread: Float[Tensor, " Hq"], window: int, softmax: Bool[Tensor, "#B N w ECJ"],
    scale: float, use_linear: bool, first: Sequence[Float[Tensor, "B H E _"]] | None = None,
    cached: tuple[Float[Tensor, "B H X K"], Float[Tensor, "B H X V"], Int[Tensor, "B H N C"]] | None = None,
    gone: tuple[Int[Tensor, "B H N w"], Bool[Tensor, "B N w"]] | None = None,
    counted: Bool[Tensor, "#B S"] | None = None, total: Float[Tensor, "B H K1 V1"] | None = None,
    squares: Float[Tensor, "B H K"] | None = None, near: NearTerms | None = None,
) -> Float[Tensor, "B Hq L V"]:  # fmt: skip
    """Return the attention of blocks of queries, which see all blocks before the one before theirs as moments.

    Arguments as in `hybrid_blocks`; `total` and `squares` are moments of the tokens before the first key. With `cached`
    a block sees as moments the tokens that are `gone` when it or an earlier one begins, and those of `total`.
    `near` is the softmax part where it is known already, without gradients; None computes it here. The backward pass
    computes the blocks again, since their weights would need more memory than the rest of the layer.
    """
    kept = torch.ones(1, k.shape[2], dtype=torch.bool, device=k.device) if counted is None else counted

    def compute(  # noqa: PLR0917 (checkpoint saves positional tensors only)
        q: Tensor, k: Tensor, v: Tensor, mix: Tensor, spread: Tensor, softmax: Tensor, first_k: Tensor | None,
        first_v: Tensor | None, source_k: Tensor | None, source_v: Tensor | None, index: Tensor | None,
        places: Tensor | None, is_gone: Tensor | None, total: Tensor | None, squares: Tensor | None,
    ) -> Tensor:  # fmt: skip
        heads, length = k.shape[1], q.shape[2]
        x = fold(q * scale, heads, window)
        terms = near
        if terms is None:
            keys = in_pairs(k, length, window, first=first_k, source=source_k, index=index)
            values = in_pairs(v, length, window, first=first_v, source=source_v, index=index)
            scores = (x @ keys.mT).unflatten(3, (-1, window))
            scores = scores.masked_fill(~softmax[:, None, :, None], -torch.inf).flatten(3, 4)
            _, _, terms = attend(scores, values)
        if not use_linear:
            return unfold(terms.value, q.shape[1])
        if places is None or source_k is None or source_v is None or is_gone is None:
            far = [*(tensor.unflatten(2, (-1, window)) for tensor in (k, v)), kept.unflatten(1, (-1, window))]
            lag = 2 - (far[0].shape[2] - x.shape[2])
        else:
            far = [*(pick(t, places.flatten(2)).unflatten(2, places.shape[2:]) for t in (source_k, source_v)), is_gone]
            lag = 0
        sums, powers = _before(*far, lag=lag, blocks=x.shape[2], total=total, squares=squares)
        c, gamma = (_per_query(parameter, heads, window) for parameter in (spread, mix))
        level, value = far_terms(x, sums, powers, spread=c)
        share = (level - gamma - terms.level).sigmoid()[..., None]
        return unfold(terms.value.lerp(value, share), q.shape[1])

    given = (
        q, k, v, mix, spread, softmax, *(first or (None, None)), *(cached or (None,) * 3), *(gone or (None, None)),
        total, squares,
    )  # fmt: skip
    if not torch.is_grad_enabled():
        return compute(*given)
    # tensors of a closure would escape hooks that count or offload what is saved
    return cast(Tensor, checkpoint(compute, *given, use_reentrant=False, preserve_rng_state=False))


def _before(
    k: Float[Tensor, "B H NS w K"], v: Float[Tensor, "B H NS w V"], kept: Bool[Tensor, "#B NS w"], *, lag: int,
    blocks: int, total: Tensor | None, squares: Tensor | None,
) -> tuple[Float[Tensor, "B H N K1 V1"], Float[Tensor, "B H N K"]]:  # fmt: skip
    """Return, for each block of queries, the moments of all tokens up to the block `lag` blocks before it."""
    hidden = ~kept[:, None, :, :, None]
    sums = with_ones(k).mT @ with_ones(v).masked_fill(hidden, 0.0)
    powers = k.square().masked_fill(hidden, 0.0).sum(3)

    def before(x: Tensor, start: Tensor | None) -> Tensor:
        moved = functional.pad(x[:, :, : max(blocks - lag, 0)].cumsum(2), (0, 0) * (x.ndim - 3) + (min(lag, blocks), 0))
        return moved if start is None else moved + start[:, :, None]

    return before(sums, total), before(powers, squares)


def _per_query(parameter: Float[Tensor, " Hq"], heads: int, window: int) -> Float[Tensor, "H 1 M"]:
    """Return a parameter of each query head in the order of `fold`."""
    return parameter.view(heads, 1, -1, 1).expand(-1, -1, -1, window).flatten(2)
