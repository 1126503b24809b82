r"""Hybrid attention over whole blocks of positions, with a backward pass written by hand.

The queries of a block attend to their own block and the one before by softmax (or, outside a `sliding` window, by
features), and to the sum over all earlier blocks. O(T · (C + window)) operations. Saved for the backward pass: the
inputs, the output and its normaliser; the weights are recomputed, so that the memory between the passes is O(T).

Axes: B rows, L positions of queries, Hq query heads, Hkv key heads, H heads of the keys' features (Hq or Hkv), K key
width, V value width, V1 = V + 1, F features, E sinks, C cached tokens, X their sources. Inside: N blocks of queries, w
positions of a block, J = 2w positions of a block and the one before it, ECJ = E + C + J, M rows of a product: the w
positions of all query heads that share what they look at.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from subquad.ops.linattn_cache import pick
from subquad.ops.precision import autocast_disabled

__all__ = ["fold", "hybrid_blocks", "in_pairs", "unfold", "with_ones"]


def hybrid_blocks(
    q: Float[Tensor, "B Hq L K"],
    k: Float[Tensor, "B Hkv S K"],
    v: Float[Tensor, "B Hkv S V"],
    *,
    phi_q: Float[Tensor, "B Hq L F"],
    phi_k: Float[Tensor, "B H S F"],
    mix: Float[Tensor, " Hq"],
    window: int,
    softmax: Bool[Tensor, "#B N w ECJ"] | None,
    linear: Bool[Tensor, "w J"] | None,
    scale: float,
    use_linear: bool,
    first: Sequence[Float[Tensor, "B Hkv E _"]] | None = None,
    cached: tuple[Float[Tensor, "B Hkv X K"], Float[Tensor, "B Hkv X V"], Int[Tensor, "B Hkv N C"]] | None = None,
    counted: Bool[Tensor, "#B S"] | None = None,
    total: Float[Tensor, "B H F V1"] | None = None,
) -> Float[Tensor, "B Hq L V"]:
    """Return the attention of blocks of queries.

    All tensors have the dtype of the accumulators; the backward pass is not differentiable.

    Args:
        q: Queries, whole blocks.
        k: Keys of the same positions, S = L; or with the block before them in front, S = w + L.
        v: Values of the keys' tokens.
        phi_q: Feature map of the queries.
        phi_k: Feature map of the keys.
        mix: ln γ of each query head.
        window: Positions of a block.
        softmax: Which keys each query sees by softmax, at least one; None for none. First those of `first`, then those
            that are cached, then those of the block before and its own.
        linear: Which of the same keys each query sees by features; None for none.
        scale: Factor on the scores.
        use_linear: False leaves all linear terms out.
        first: Keys and values that all blocks can see by softmax besides; None for none.
        cached: Keys and values, and which of them each block can see by softmax besides; None for none.
        counted: Keys that have linear terms; None for all.
        total: Sum of φ(k) [v, 1] over the tokens before the first key; None for none.
    """
    *sources, index = cached or (None, None, None)
    chosen = (softmax, linear, counted, index)
    besides = (*(first or (None, None)), *sources)
    y = _HybridBlocks.apply(q, k, v, phi_q, phi_k, mix, *besides, total, window, chosen, scale, use_linear)
    return cast(Tensor, y)


class _HybridBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k, v, phi_q, phi_k, mix, first_k, first_v, source_k, source_v, total, *rest = inputs
        window, chosen, scale, use_linear = rest
        softmax, linear, counted, index = chosen
        heads, length = q.shape[1], q.shape[2]
        y, bottom = v.new_zeros(*q.shape[:3], v.shape[3]), v.new_zeros(*q.shape[:3], 1)
        if softmax is not None:
            # without linear terms γ cancels
            gamma = mix if use_linear else torch.zeros_like(mix)
            pairs = in_pairs(k, length, window, first=first_k, source=source_k, index=index)
            weights = _weights(fold(q, k.shape[1], window), pairs, gamma, softmax, scale=scale)
            y = unfold(weights @ in_pairs(v, length, window, first=first_v, source=source_v, index=index), heads)
            bottom = unfold(weights.sum(-1, keepdim=True), heads)
        if use_linear:
            past = unfold(_linear(*_maps(phi_q, phi_k, v, window, counted), total=total, linear=linear), heads)
            y += past[..., :-1]
            bottom += past[..., -1:]
        if softmax is None:
            # all features can be 0, and the weighted values are then 0 too
            bottom.masked_fill_(bottom == 0, 1.0)
        y /= bottom
        ctx.save_for_backward(*inputs[:11], *chosen, y, bottom)
        ctx.window, ctx.scale, ctx.use_linear = window, scale, use_linear
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        dy = gradients[0]
        q, k, v, phi_q, phi_k, mix, first_k, first_v, source_k, source_v, total, *rest = ctx.saved_tensors
        softmax, linear, counted, index, y, bottom = rest
        window, heads = ctx.window, q.shape[1]
        with autocast_disabled(q.device.type):
            # of the numerator, and behind it of the normaliser: as if it were one value more
            dsum = torch.cat((dy, -(dy * y).sum(-1, keepdim=True)), -1).div_(bottom)
            # attention transfer trains only the feature maps, which needs half of this
            needs_q, needs_k, needs_v = ctx.needs_input_grad[:3]
            dq, dk, dv, dmix = None, None, torch.zeros_like(v) if needs_v else None, torch.zeros_like(mix)
            dbesides = (None,) * 4
            if softmax is not None:
                gamma = mix if ctx.use_linear else torch.zeros_like(mix)
                (dq, dk, dv, dmix), dbesides = _softmax_backward(
                    q,
                    k,
                    v,
                    gamma,
                    dsum,
                    first=(first_k, first_v),
                    source=(source_k, source_v),
                    index=index,
                    softmax=softmax,
                    scale=ctx.scale,
                    needs_values=needs_v,
                    needs_keys=needs_q or needs_k,
                )
            dphi_q, dphi_k, dtotal = None, None, None
            if ctx.use_linear:
                folded = fold(dsum, phi_k.shape[1], window)
                maps = _maps(phi_q, phi_k, v, window, counted)
                dphi_q, dphi_k, dones, dtotal = _linear_backward(
                    *maps, folded, total=total, linear=linear, needs_values=needs_v
                )
                dphi_q, dphi_k = unfold(dphi_q, heads), dphi_k.flatten(2, 3)
                if dv is not None and dones is not None:
                    dvalues = dones[..., :-1].flatten(2, 3).unflatten(1, (k.shape[1], -1)).sum(2)
                    dv += dvalues if counted is None else dvalues.mul_(counted[:, None, :, None])
        return dq, dk, dv, dphi_q, dphi_k, dmix if ctx.use_linear else None, *dbesides, dtotal, *(None,) * 4


def _weights(
    q: Float[Tensor, "B Hkv N M K"], k: Float[Tensor, "B Hkv N J K"], mix: Tensor, softmax: Tensor, *, scale: float
) -> Float[Tensor, "B Hkv N M J"]:
    """Return γ exp(score - largest score of the row), 0 where a query does not see a key."""
    scores = (q @ (k * scale).mT).unflatten(3, (-1, softmax.shape[2]))
    scores.masked_fill_(~softmax[:, None, :, None], -torch.inf)
    largest = scores.amax(-1, keepdim=True) - mix.view(q.shape[1], 1, -1, 1, 1)
    return scores.sub_(largest).exp_().flatten(3, 4)


def _softmax_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix: Tensor,
    dsum: Tensor,
    *,
    first: tuple[Tensor | None, Tensor | None],
    source: tuple[Tensor | None, Tensor | None],
    index: Tensor | None,
    softmax: Tensor,
    scale: float,
    needs_values: bool,
    needs_keys: bool,
) -> tuple[tuple[Tensor | None, Tensor | None, Tensor | None, Tensor], tuple[Tensor | None, ...]]:
    """Return the gradients of queries, keys, values and ln γ through softmax, and of keys and values besides."""
    window, heads, length = softmax.shape[2], k.shape[1], q.shape[2]
    folded = fold(q, heads, window)
    pairs, values = (
        in_pairs(x, length, window, first=first[part], source=source[part], index=index)
        for part, x in enumerate((k, v))
    )
    weights = _weights(folded, pairs, mix, softmax, scale=scale)
    dtop, dbottom = fold(dsum[..., :-1], heads, window), fold(dsum[..., -1:], heads, window)
    dv, dfirst_v, dsource_v = None, None, None
    if needs_values:
        dv, dfirst_v, dsource_v = _unpair(weights.mT @ dtop, v, first=first[1], source=source[1], index=index)
    dscores = (dtop @ values.mT).add_(dbottom).mul_(weights)
    rows = dscores.sum(-1, keepdim=True)
    dmix = unfold(rows, q.shape[1]).sum((0, 2, 3))
    if not needs_keys:
        return (None, None, dv, dmix), (None, dfirst_v, None, dsource_v)
    # the largest score, which was subtracted, has a gradient too: it belongs to the key of that score
    dscores.scatter_add_(-1, weights.argmax(-1, keepdim=True), -rows)
    dq = unfold(dscores @ pairs, q.shape[1]).mul_(scale)
    dpairs = (dscores.mT @ folded).mul_(scale)
    dk, dfirst_k, dsource_k = _unpair(dpairs, k, first=first[0], source=source[0], index=index)
    return (dq, dk, dv, dmix), (dfirst_k, dfirst_v, dsource_k, dsource_v)


def _linear(
    phi_q: Float[Tensor, "B H N M F"], phi_k: Float[Tensor, "B H NS w F"], ones: Float[Tensor, "B H NS w V1"],
    *, total: Tensor | None, linear: Tensor | None,
) -> Float[Tensor, "B H N M V1"]:  # fmt: skip
    """Return numerator and normaliser of the linear terms; NS is N, or N + 1 with a block in front."""
    past = phi_q @ _before(phi_k, ones, blocks=phi_q.shape[2], total=total)
    for side, visible in _feature_blocks(linear):
        past += _near(phi_q, side(phi_k, phi_q.shape[2]), visible) @ side(ones, phi_q.shape[2])
    return past


def _linear_backward(
    phi_q: Tensor, phi_k: Tensor, ones: Tensor, dpast: Tensor, *, total: Tensor | None, linear: Tensor | None,
    needs_values: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Return the gradients of `_linear`: both feature maps, the values with their ones, the total."""
    blocks = phi_q.shape[2]
    dphi_q = dpast @ _before(phi_k, ones, blocks=blocks, total=total).mT
    dbefore = phi_q.mT @ dpast  # [B, H, N, F, V1]
    _add_up(dbefore, is_reversed=True)
    lag = 2 - (phi_k.shape[2] - blocks)
    dsums = functional.pad(dbefore[:, :, lag:], (0, 0, 0, 0, 0, phi_k.shape[2] - max(blocks - lag, 0)))
    dphi_k = ones @ dsums.mT
    dones = phi_k @ dsums if needs_values else None
    for side, visible in _feature_blocks(linear):
        add = _add_last if side is _last else _add_own
        keys, values = side(phi_k, blocks), side(ones, blocks)
        dnear = _near(dpast, values, visible)
        dphi_q += dnear @ keys
        add(dphi_k, dnear.mT @ phi_q)
        if dones is not None:
            add(dones, _near(phi_q, keys, visible).mT @ dpast)
    return dphi_q, dphi_k, dones, None if total is None else dbefore[:, :, 0]


def _feature_blocks(linear: Tensor | None) -> list[tuple[Callable[[Tensor, int], Tensor], Tensor]]:
    """Return accessors and masks of the blocks, previous and own, that have keys weighted by features."""
    if linear is None:
        return []
    return [(side, visible) for side, visible in zip((_last, _own), linear.chunk(2, 1), strict=True) if visible.any()]


def _near(x: Float[Tensor, "B H N M C"], y: Float[Tensor, "B H N w C"], linear: Tensor) -> Float[Tensor, "B H N M w"]:
    """Return x @ yᵀ where a query sees a block by features, else 0."""
    return (x @ y.mT).unflatten(3, (-1, linear.shape[0])).mul_(linear).flatten(3, 4)


def _last(x: Float[Tensor, "B H NS w C"], blocks: int) -> Float[Tensor, "B H N w C"]:
    """Return, for each block of queries, the block of keys or values before it."""
    return functional.pad(x[:, :, :-1], (0, 0, 0, 0, 1, 0)) if x.shape[2] == blocks else x[:, :, :-1]


def _own(x: Float[Tensor, "B H NS w C"], blocks: int) -> Float[Tensor, "B H N w C"]:
    """Return, for each block of queries, its own block of keys or values."""
    return x[:, :, -blocks:]


def _add_own(dx: Tensor, down: Tensor) -> None:
    """Add the gradient of `_own`."""
    dx[:, :, -down.shape[2] :] += down


def _add_last(dx: Tensor, dlast: Tensor) -> None:
    """Add the gradient of `_last`."""
    dx[:, :, :-1] += dlast[:, :, dlast.shape[2] - dx.shape[2] + 1 :]


def _before(phi_k: Tensor, ones: Tensor, *, blocks: int, total: Tensor | None) -> Float[Tensor, "B H N F V1"]:
    """Return, for each block of queries, the sum of φ(k) [v, 1] over all before the block before it."""
    # the last two blocks are not used, but leaving them out would copy all others
    sums = phi_k.mT @ ones
    lag = 2 - (phi_k.shape[2] - blocks)
    before = functional.pad(sums[:, :, : max(blocks - lag, 0)], (0, 0, 0, 0, min(lag, blocks), 0))
    if total is not None:
        before[:, :, 0] += total
    _add_up(before)
    return before


def _add_up(x: Tensor, *, is_reversed: bool = False) -> None:
    # in place and over whole blocks: several times as fast as cumsum along an outer axis
    blocks = x.unbind(2)[:: -1 if is_reversed else 1]
    for one, following in itertools.pairwise(blocks):
        following.add_(one)


def _maps(
    phi_q: Tensor, phi_k: Tensor, v: Tensor, window: int, counted: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both feature maps and the values, with their ones, cut into blocks."""
    heads = phi_k.shape[1]
    ones = with_ones(v)
    if counted is not None:
        ones.mul_(counted[:, None, :, None])
    if heads != v.shape[1]:
        ones = ones.repeat_interleave(heads // v.shape[1], 1)
    return fold(phi_q, heads, window), phi_k.unflatten(2, (-1, window)), ones.unflatten(2, (-1, window))


def fold(x: Tensor, heads: int, window: int) -> Tensor:
    """Return [B, Hq, L, C] as [B, heads, N, M, C]."""
    blocks = x.unflatten(2, (-1, window))
    return blocks if x.shape[1] == heads else blocks.unflatten(1, (heads, -1)).transpose(2, 3).flatten(3, 4)


def unfold(x: Tensor, heads: int) -> Tensor:
    """Return [B, H, N, M, C] as [B, heads, L, C]."""
    if x.shape[1] == heads:
        return x.flatten(2, 3)
    return x.unflatten(3, (heads // x.shape[1], -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _led(x: Tensor, length: int, window: int) -> Tensor:
    return functional.pad(x, (0, 0, window, 0)) if x.shape[2] == length else x


def in_pairs(
    x: Tensor, length: int, window: int, *, first: Tensor | None, source: Tensor | None, index: Tensor | None
) -> Float[Tensor, "B Hkv N ECJ C"]:
    """Return keys or values [B, Hkv, S, C] by block: the sinks, the cached ones, the block before, and the block."""
    blocks = _led(x, length, window).unflatten(2, (-1, window))
    parts = [blocks[:, :, :-1], blocks[:, :, 1:]]
    if source is not None and index is not None:
        parts.insert(0, pick(source, index.flatten(2)).unflatten(2, index.shape[2:]))
    if first is not None:
        parts.insert(0, first[:, :, None].expand(-1, -1, parts[-1].shape[2], -1, -1))
    return torch.cat(parts, 3)


def _unpair(
    dpairs: Tensor, like: Tensor, *, first: Tensor | None, source: Tensor | None, index: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of `in_pairs`: of x, of the sinks, and of the sources of cached ones."""
    sinks = 0 if first is None else first.shape[2]
    front = sinks + (0 if index is None else index.shape[3])
    dfirst = None if first is None else dpairs[..., :sinks, :].sum(2)
    dsource = None
    if source is not None and index is not None:
        dchosen = dpairs[..., sinks:front, :].flatten(2, 3)
        places = index.flatten(2)[..., None].expand_as(dchosen)
        dsource = torch.zeros_like(source).scatter_add_(2, places, dchosen)
    window = (dpairs.shape[3] - front) // 2
    dx = functional.pad(dpairs[..., front : front + window, :], (0, 0, 0, 0, 0, 1))
    dx[:, :, 1:] += dpairs[..., front + window :, :]
    return dx.flatten(2, 3)[:, :, -like.shape[2] :], dfirst, dsource


def with_ones(v: Tensor) -> Tensor:
    """Return [v, 1]: the normaliser is the attention to a value that is 1 everywhere."""
    return functional.pad(v, (0, 1), value=1.0)
