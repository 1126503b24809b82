"""State of decoding with hybrid attention: a ring buffer of the latest tokens and one sum over all earlier ones.

The size does not depend on the number of tokens. Positions count the real tokens of a row. In front of the ring there
can be slots for the first tokens, as attention sinks, which are never part of the sum, and for a sparse cache. Feature
maps are not stored: they are computed when keys leave the window, one token at a time (`sliding`) or one block at a
time (`terrace`, when the next block but one begins), from the keys or from inputs of their own, which the ring then
keeps too.

Axes: B rows, T new tokens, Hkv key and value heads, H heads of the keys' feature map, K key width, V value width,
K1 = K + 1, V1 = V + 1, F features, U width of the map's inputs, R slots, of which E are sinks, C cached tokens and S
the ring, L places of the queries once cut into blocks.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subquad.ops.attention_sizes import WindowShape
from subquad.ops.linattn_blocks import with_ones
from subquad.ops.linattn_cache import Marks, no_marks, pick
from subquad.ops.linattn_windows import positions, ring_slots, summed
from subquad.ops.precision import autocast_disabled

__all__ = ["HybridState", "hybrid_state"]

MapOfKeys = Callable[[Float[Tensor, "B Hkv T U"]], Float[Tensor, "B H T F"]]
"""The feature map of keys, position by position."""


class HybridState(NamedTuple):
    """State of decoding, of constant size: a ring buffer of the latest tokens, and one sum over all earlier tokens."""

    keys: Float[Tensor, "B Hkv R K"]
    """Keys of the first E tokens, of C cached tokens in the order of their positions, and of the latest tokens, where
    position p is in slot p mod S of the ring. Empty slots are 0."""
    values: Float[Tensor, "B Hkv R V"]
    """Values of the same tokens."""
    total: Float[Tensor, "B H F V1"]
    r"""Tokens that left the window: $\sum_s \phi_k(k_s) [v_s, 1]$, so V1 = V + 1; float32 at least. Moments leave out
    those that are cached."""
    length: Int[Tensor, " B"]
    """Number of real tokens that each row has processed."""
    inputs: Float[Tensor, "B Hkv S U"]
    """What the feature map reads of the tokens in the ring; U is 0 if it reads the keys."""
    mass: Float[Tensor, "B Hkv CS"]
    """Softmax attention to the tokens in the cache and in the ring; empty without a cache, as are the next two."""
    novelty: Float[Tensor, "B Hkv C"]
    """How much the tokens in the cache differ from others."""
    direction: Float[Tensor, "B Hkv D"]
    """Sum of the normalised inputs of all tokens that have left the window."""
    squares: Float[Tensor, "B Hkv Q"]
    """Sum of the squares of the same keys, if moments describe them; else Q is 0. `total` then is the sum of
    `[k, 1] [v, 1]ᵀ`."""

    @property
    def has_moments(self) -> bool:
        """Whether moments describe the tokens that left the window, in place of feature maps."""
        return self.squares.shape[2] > 0

    @property
    def cached(self) -> int:
        """Number of slots of the cache."""
        return self.novelty.shape[2]

    @property
    def marks(self) -> Marks:
        """What decides which tokens are cached."""
        return Marks(self.mass, self.novelty, self.direction)


def hybrid_state(
    batch: int,
    *,
    kv_heads: int,
    key_width: int,
    value_width: int,
    feature_heads: int,
    features: int | None,
    window: int = 64,
    window_shape: WindowShape = "terrace",
    sinks: int = 0,
    cache: int = 0,
    input_width: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> HybridState:
    """Return the state before the first token.

    It has a slot for each sink and each cached token, and `window` slots for `sliding`, twice as many for `terrace`,
    else none. `input_width` is the width of what the keys' feature map reads; 0 if it reads the keys. With None
    for `features` the state has moments, which have the key heads whatever `feature_heads` is.
    """
    has_moments = features is None
    if features is None:
        feature_heads, features = kv_heads, key_width + 1
    ring = ring_slots(window, window_shape)
    slots = sinks + cache + ring
    like = torch.zeros(0, dtype=dtype, device=device)
    width = input_width or key_width
    return HybridState(
        keys=like.new_zeros(batch, kv_heads, slots, key_width),
        values=like.new_zeros(batch, kv_heads, slots, value_width),
        total=like.new_zeros(batch, feature_heads, features, value_width + 1, dtype=accumulator(dtype)),
        length=like.new_zeros(batch, dtype=torch.long),
        inputs=like.new_zeros(batch, kv_heads, ring, input_width),
        **no_marks(batch, kv_heads, cache=cache, ring=ring, width=width, like=like)._asdict(),
        squares=like.new_zeros(batch, kv_heads, key_width if has_moments else 0, dtype=accumulator(dtype)),
    )


class Place(NamedTuple):
    """Indices of the tokens of ring and input after each row is divided into blocks at its own positions."""

    start: Int[Tensor, " B"]
    """Position of the first key, a multiple of the window; negative if no token precedes the first block."""
    order: Int[Tensor, "B T"]
    """Real tokens of the input first, in their order."""
    keys: Int[Tensor, "B WL"]
    """Index of each key into (ring, input, one zero)."""
    queries: Int[Tensor, "B L"]
    """Index of each query into (input, one zero)."""
    back: Int[Tensor, "B T"]
    """Index of each token of the input into the queries."""


def locate(count: Int[Tensor, " B"], mask: Bool[Tensor, "B T"], *, window: int, slots: int) -> Place:
    """Return the indices of tokens if rows that have processed `count` tokens get the real ones of `mask`."""
    length = mask.shape[1]
    order = torch.argsort(~mask, dim=1, stable=True)
    start = count // window * window - window
    total = -(-(2 * window - 1 + length) // window) * window
    position = start[:, None] + torch.arange(total, device=mask.device)
    rank = position - count[:, None]
    new = order.gather(1, rank.clamp(0, length - 1))
    is_new = (rank >= 0) & (rank < mask.sum(-1, keepdim=True))
    is_stored = (rank < 0) & (rank >= -slots) & (position >= 0)
    keys = torch.where(is_new, slots + new, torch.where(is_stored, position % slots, slots + length))
    queries = torch.where(is_new, new, length)[:, window:]
    back = (count - start)[:, None] + mask.cumsum(-1) - 1 - window
    return Place(start=start, order=order, keys=keys, queries=queries, back=back.clamp(min=0))


def first_tokens(
    length: Int[Tensor, " B"],
    kept: Sequence[Float[Tensor, "B Hkv E _"]],
    new: Sequence[Float[Tensor, "B Hkv T _"]],
    *,
    mask: Bool[Tensor, "B T"],
    order: Int[Tensor, "B T"],
) -> list[Float[Tensor, "B Hkv E _"]]:
    """Return keys and values of the first E tokens, 0 where there are fewer.

    Args:
        length: Tokens that each row has processed.
        kept: Keys and values of the first of those.
        new: Keys and values of the tokens that follow.
        mask: Which of them are real.
        order: Indices of the real ones first.
    """
    sinks = kept[0].shape[2]
    if not sinks:
        return list(kept)
    place = torch.arange(sinks, device=length.device)
    rank = place - length[:, None]
    later = torch.where(rank < mask.sum(1, keepdim=True), order.gather(1, rank.clamp(0, order.shape[1] - 1)), -1)
    index = torch.where(rank < 0, place, sinks + later % (order.shape[1] + 1))
    return [take(beside(*both), index) for both in zip(kept, new, strict=True)]


def store(
    state: HybridState,
    k: Float[Tensor, "B Hkv T K"],
    v: Float[Tensor, "B Hkv T V"],
    *,
    inputs: Float[Tensor, "B Hkv T U"] | None,
    phi_k: Float[Tensor, "B H T F"],
    phi_ring: Float[Tensor, "B H S F"],
    first: Sequence[Float[Tensor, "B Hkv E _"]],
    cached: Sequence[Float[Tensor, "B Hkv C _"]],
    gone: tuple[Float[Tensor, "B Hkv M K"], Float[Tensor, "B Hkv M V"], Bool[Tensor, "B M"]] | None,
    marks: Marks,
    window: int,
    window_shape: WindowShape,
    mask: Bool[Tensor, "B T"],
    order: Int[Tensor, "B T"],
) -> HybridState:
    """Return the state after many tokens.

    Args:
        state: The state before.
        k: Keys.
        v: Values.
        inputs: What the feature map of keys reads, if not the keys.
        phi_k: Feature map of the keys.
        phi_ring: Feature map of the keys in the ring of the state before.
        first: Keys and values of the sinks after them.
        cached: Keys and values of the cached tokens after them.
        gone: Keys and values that moments describe from now on, and which of them exist; None for the tokens that leave
            the window.
        marks: Marks after them.
        window: Tokens of the window or block.
        window_shape: `sliding`, `terrace` or `none`.
        mask: Which tokens are real.
        order: Indices of the real ones of each row first.
    """
    sinks, front, before = first[0].shape[2], first[0].shape[2] + cached[0].shape[2], state.length[:, None]
    slots = state.keys.shape[2] - front
    count = state.length + mask.sum(-1)
    begin, behind = (
        summed(tokens, window=window, window_shape=window_shape)[:, None] for tokens in (state.length, count)
    )
    was, now = positions(state.length, slots), positions(count, slots)
    # sinks are never added
    old_leave = (was >= begin.clamp(min=sinks)) & (was < behind)
    position = before + mask.cumsum(-1) - 1
    new_leave = mask & (position >= sinks) & (position < behind)
    ring = state.keys[:, :, front:], state.values[:, :, front:]
    total, squares = state.total, state.squares
    if not state.has_moments:
        total = total + sum_of(phi_ring, ring[1], old_leave) + sum_of(phi_k, v, new_leave)
    else:
        leavers = [gone] if gone is not None else [(*ring, old_leave), (k, v, new_leave)]
        for part in leavers:
            sums, powers = moments_of(*part)
            total, squares = total + sums, squares + powers
    new = slots + order.gather(1, (now - before).clamp(0, mask.shape[1] - 1))
    index = torch.where(now >= before, new, torch.arange(slots, device=mask.device))
    keys, values = (
        torch.cat((*kept, take(beside(old[:, :, front:], x), index)), 2).to(old.dtype)
        for old, x, *kept in zip(state[:2], (k, v), first, cached, strict=True)
    )
    kept = state.inputs
    if inputs is not None:
        kept = take(beside(kept, inputs), index).to(kept.dtype)
    return HybridState(
        keys=keys, values=values, total=total, length=count, inputs=kept, squares=squares, **marks._asdict()
    )


def sum_of(
    phi_k: Float[Tensor, "B H S F"], v: Float[Tensor, "B Hkv S V"], chosen: Bool[Tensor, "B S"]
) -> Float[Tensor, "B H F V1"]:
    """Return the sum of φ(k) [v, 1] over the chosen tokens."""
    with autocast_disabled(v.device.type):
        phi_k, v = widen(hide(phi_k, chosen), hide(v, chosen))
        grouped = phi_k.unflatten(1, (v.shape[1], -1)).mT.flatten(2, 3)  # [B, Hkv, G * F, S]
        return (grouped @ with_ones(v)).reshape(*phi_k.shape[:2], phi_k.shape[3], v.shape[3] + 1)


def moments_of(
    k: Float[Tensor, "B Hkv S K"], v: Float[Tensor, "B Hkv S V"], chosen: Bool[Tensor, "B S"]
) -> tuple[Float[Tensor, "B Hkv K1 V1"], Float[Tensor, "B Hkv K"]]:
    """Return the sum of `[k, 1] [v, 1]ᵀ` over the chosen tokens, and that of the squares of k."""
    return sum_of(with_ones(k), v, chosen), widen(hide(k, chosen))[0].square().sum(2)


def take(x: Float[Tensor, "B H S C"], index: Int[Tensor, "B L"]) -> Float[Tensor, "B H L C"]:
    """Return the elements at the positions of `index`, which each row has its own."""
    return pick(x, index[:, None].expand(-1, x.shape[1], -1))


def beside(ring: Tensor | None, new: Tensor) -> Tensor:
    """Return the ring, the new tokens and one zero, concatenated."""
    zero = new.new_zeros(*new.shape[:2], 1, new.shape[3])
    return torch.cat((new, zero) if ring is None else (ring.to(new.dtype), new, zero), 2)


def hide(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return x [B, H, T, C] with 0 where the mask [B, T] is False, also in place of NaN."""
    return x if mask is None else x.masked_fill(~mask[:, None, :, None], 0.0)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of accumulators: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(*tensors: Tensor) -> list[Tensor]:
    """Return all tensors in the dtype of the first one's accumulator."""
    return [x.to(accumulator(tensors[0].dtype)) for x in tensors]


def divide(top: Tensor, bottom: Tensor) -> Tensor:
    """Return the quotient; 0 where nothing was summed."""
    return top / bottom.masked_fill(bottom == 0, 1.0)


def scale_of(q: Float[Tensor, "B Hq T K"], scale: float | None) -> float:
    """Return the factor on the scores."""
    return q.shape[-1] ** -0.5 if scale is None else scale
