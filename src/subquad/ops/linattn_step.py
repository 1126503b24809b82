"""What one token per row changes in the state of hybrid attention: its slot, and the tokens that leave the window.

Axes: B rows, Hq query heads, Hkv key and value heads, K key width, V value width, U width of the map's inputs, R
slots, of which E are sinks, M rows in which w tokens leave the window.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subquad.ops.attention_sizes import WindowShape
from subquad.ops.linattn_cache import DECAY, Marks, evict, is_cached, pick
from subquad.ops.linattn_state import HybridState, MapOfKeys, divide, hide, moments_of, sum_of, widen
from subquad.ops.linattn_windows import positions, ring_slots, summed
from subquad.ops.moments import far_terms
from subquad.ops.precision import autocast_disabled

__all__ = ["StepPlace", "attend_once", "leave", "push", "step_place"]


class Leaving(NamedTuple):
    """Tokens that leave the window before another token is written: one (`sliding`), or a block (`terrace`)."""

    rows: Int[Tensor, " M"]
    """Rows in which tokens leave."""
    slots: Int[Tensor, "M w"]
    """Slots of the ring that they leave."""
    counted: Bool[Tensor, "M w"]
    """Which of them exist and are no sinks."""


class StepPlace(NamedTuple):
    """Slot of one more token of each row, and the keys that it attends to; all layers of a model can share it."""

    rows: Int[Tensor, " B"]
    """0, 1, 2 and so on."""
    slot: Int[Tensor, " B"]
    """Slot of the ring to which the token is written."""
    leaving: Leaving | None
    """Tokens that move from the window to the sum, or to the cache; None in most steps of a terrace."""
    hidden: Bool[Tensor, "B 1 1 R"]
    """Slots that the token does not attend to, after it was written."""
    sink: Bool[Tensor, "B 1 E 1"] | None
    """Slots of sinks to which the token is written as well; None for no slot."""
    earlier: Int[Tensor, "B 1"]
    """Number of tokens that it attends to by features."""


def step_place(
    length: Int[Tensor, " B"],
    *,
    window: int,
    window_shape: WindowShape,
    sinks: int = 0,
    cache: int = 0,
    mask: Bool[Tensor, "B 1"] | None = None,
) -> StepPlace:
    """Return the slot of the next token of rows that have processed `length` tokens; none where the mask is False."""
    slots = ring_slots(window, window_shape)
    rows = torch.arange(len(length), device=length.device)
    is_real = None if mask is None else mask[:, 0]
    count = length + 1 if is_real is None else length + is_real
    behind = summed(count, window=window, window_shape=window_shape)[:, None]
    earlier = (behind - sinks).clamp(min=0)
    # a sink is seen in its own slot once it has left the window
    first = torch.arange(sinks, device=length.device)
    cached = is_cached(behind[:, 0], sinks=sinks, cache=cache)
    hidden = torch.cat((first >= behind, ~cached, positions(count, slots) < behind), 1)[:, None, None]
    sink = first == length[:, None]
    if is_real is not None:
        sink &= is_real[:, None]
    sink = sink[:, None, :, None] if sinks and sink.any() else None
    if not slots:
        return StepPlace(rows, rows, None, hidden, sink, earlier)
    # a whole block of a terrace leaves when another begins, and its slots are those of the new one; with a cache the
    # beginning of the second block counts too, when none leaves yet
    leaves = length >= (slots if window_shape == "sliding" or not cache else window)
    if window_shape == "terrace":
        leaves &= length % window == 0
    leavers = (leaves if is_real is None else leaves & is_real).nonzero()[:, 0]
    leaving = None
    if len(leavers):
        place = torch.arange(1 if window_shape == "sliding" else window, device=length.device)
        begin = length[leavers, None] - slots + place
        leaving = Leaving(leavers, length[leavers, None] % slots + place, begin >= sinks)
    return StepPlace(rows, length % slots, leaving, hidden, sink, earlier)


def leave(
    state: HybridState, *, has_inputs: bool, map_k: MapOfKeys | None, place: StepPlace, sinks: int
) -> None:  # fmt: skip
    """Choose the cached tokens again, and add the tokens that leave to the sum; changes the state."""
    if place.leaving is None:
        return
    front = sinks + state.cached
    rows, slots, counted = place.leaving
    left_k, left_v = (x[rows[:, None], :, front + slots].transpose(1, 2) for x in state[:2])
    read = state.inputs[rows[:, None], :, slots].transpose(1, 2) if has_inputs else left_k
    gone = None if front == sinks else _choose_again(state, read, (left_k, left_v), place.leaving, sinks=sinks)
    if map_k is None and gone is not None:
        left_k, left_v, counted = gone
    if map_k is None:
        total, squares = moments_of(left_k, left_v, counted)
        state.squares.index_add_(0, rows, squares.to(state.squares.dtype))
    else:
        total = sum_of(map_k(read), left_v, counted)
    state.total.index_add_(0, rows, total.to(state.total.dtype))


def push(
    state: HybridState,
    k: Float[Tensor, "B Hkv 1 K"],
    v: Float[Tensor, "B Hkv 1 V"],
    *,
    inputs: Float[Tensor, "B Hkv 1 U"] | None,
    map_k: MapOfKeys | None,
    place: StepPlace,
    sinks: int,
    mask: Bool[Tensor, "B 1"] | None,
) -> None:
    """Write one token per row into the ring, from which `leave` has moved what leaves the window."""
    front = sinks + state.cached
    if not state.keys.shape[2] and map_k is not None:
        mask = torch.ones(k.shape[0], 1, dtype=torch.bool, device=k.device) if mask is None else mask
        state.total.add_(sum_of(map_k(hide(k if inputs is None else inputs, mask)), v, mask))
        state.length.add_(mask[:, 0])
        return
    for kept, token in zip(state[:2], (k, v), strict=True):
        _write(kept, token.to(kept.dtype), place, front + place.slot, mask)
        if place.sink is not None:
            kept[:, :, :sinks] = torch.where(place.sink, token.to(kept.dtype), kept[:, :, :sinks])
    if inputs is not None:
        _write(state.inputs, inputs.to(state.inputs.dtype), place, place.slot, mask)
    if front > sinks:
        nothing = state.mass.new_zeros(*k.shape[:3], 1)
        _write(state.mass[..., None], nothing, place, front - sinks + place.slot, mask)
    state.length.add_(1 if mask is None else mask[:, 0])


def attend_once(
    q: Tensor, state: HybridState, place: StepPlace, *, phi_q: Tensor | None, spread: Tensor | None, mix: Tensor,
    scale: float, use_linear: bool, sinks: int, mask: Tensor | None,
) -> Tensor:  # fmt: skip
    """Return the output [B, Hq, 1, V] of one token per row, which `push` has written; adds to the mass in the state."""
    rows, heads = state.keys.shape[:2]
    groups = q.shape[1] // heads
    with autocast_disabled(q.device.type):
        wide, keys, values, mix = widen(q, state.keys, state.values, mix)
        # query heads that share a key head take the axis of positions, rows are merged with heads: [B * Hkv, G, ...]
        queries = wide.reshape(rows * heads, groups, q.shape[3]) * scale
        if keys.shape[2]:
            # finite, since a padded row can have no keys; its output is masked
            scores = torch.bmm(queries, keys.flatten(0, 1).mT).unflatten(0, (rows, heads))
            scores = scores.masked_fill_(place.hidden, torch.finfo(scores.dtype).min).flatten(0, 1)
            largest = scores.amax(-1, keepdim=True)
            weights = (scores - largest).exp()
            top, bottom = torch.bmm(weights, values.flatten(0, 1)), weights.sum(-1, keepdim=True)
            if state.cached:
                received = (weights.detach() / bottom.detach()).sum(1).view(rows, heads, -1)[:, :, sinks:]
                state.mass.add_(received if mask is None else received * mask[:, :, None])
        else:
            largest, top, bottom = (queries.new_zeros(*queries.shape[:2], width) for width in (1, values.shape[-1], 1))
        if use_linear and spread is not None:
            far = far_terms(
                queries.view(rows, heads, 1, groups, -1), state.total[:, :, None], state.squares[:, :, None],
                spread=spread.view(heads, 1, groups).to(queries.dtype),
            )  # fmt: skip
            # relative to the largest score, as the softmax terms are; -inf without tokens
            level = (far.level[:, :, 0] - mix.view(heads, groups)).flatten(0, 1)[..., None] - largest
            shift = level.clamp(min=0.0)
            share = (level - shift).exp()
            top = (-shift).exp() * top + share * far.value.flatten(0, 2)
            bottom = (-shift).exp() * bottom + share
        elif use_linear:
            maps = cast(Tensor, phi_q).to(wide.dtype)
            gamma = mix.exp().view(heads, groups, 1).expand(rows, -1, -1, -1).reshape(rows * heads, groups, 1)
            total = state.total.flatten(0, 1)
            shared = maps.reshape(len(total), q.shape[1] // state.total.shape[1], maps.shape[3])  # [B * H, Hq / H, F]
            past = torch.bmm(shared, total).view(rows * heads, groups, total.shape[2])
            top, bottom = past[..., :-1].addcmul(gamma, top), past[..., -1:].addcmul(gamma, bottom)
        return divide(top, bottom).view(rows, q.shape[1], 1, values.shape[3])


def _choose_again(
    state: HybridState,
    read: Float[Tensor, "M Hkv w U"],
    left: Sequence[Float[Tensor, "M Hkv w _"]],
    leaving: Leaving,
    *,
    sinks: int,
) -> tuple[Float[Tensor, "M Hkv w K"], Float[Tensor, "M Hkv w V"], Bool[Tensor, "M w"]]:
    """Choose the cached tokens of rows in which a block leaves the window.

    Args:
        state: The state, which is changed.
        read: What the feature map reads of the block.
        left: Keys and values of the block.
        leaving: The rows and slots.
        sinks: Number of sinks.

    Returns:
        Keys and values of the tokens that are not exact any more, and which of them exist.
    """
    rows, slots, _ = leaving
    cache = slice(sinks, sinks + state.cached)
    marks = Marks(*(x[rows] for x in state.marks))
    mass = state.mass[rows[:, None], :, state.cached + slots].transpose(1, 2)
    stay, gone, is_gone, chosen = evict(marks, read, mass=mass, behind=state.length[rows] - read.shape[2], sinks=sinks)
    leavers = []
    for kept, new in zip(state[:2], left, strict=True):
        candidates = torch.cat((kept[rows, :, cache], new), 2)
        kept[rows, :, cache] = pick(candidates, stay)
        leavers.append(pick(candidates, gone))
    state.mass[rows] = DECAY * torch.cat((chosen.mass, marks.mass[:, :, chosen.mass.shape[2] :]), 2)
    state.novelty[rows], state.direction[rows] = chosen.novelty, chosen.direction
    return leavers[0], leavers[1], is_gone


def _write(ring: Tensor, token: Tensor, place: StepPlace, slot: Tensor, mask: Tensor | None) -> None:
    if mask is not None:
        token = torch.where(mask[:, None, :, None], token, ring[place.rows, :, slot][:, :, None])
    if len(ring) == 1:
        # the same result in a third of the time
        ring.index_copy_(2, slot, token)
    else:
        ring[place.rows, :, slot] = token[:, :, 0]
