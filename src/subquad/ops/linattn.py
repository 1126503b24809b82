r"""Hybrid attention of LoLCATs: softmax over a window and linear attention over earlier tokens, under one normaliser.

Eq. (7) of arXiv:2410.10254. For query $t$ let $W_t$ be the keys in its window, $L_t$ all earlier keys, and
$c_t = \max_{s \in W_t} q_t \cdot k_s \cdot \text{scale}$:

$$y_t = \frac{\gamma \sum_{s \in W_t} e^{q_t \cdot k_s \cdot \text{scale} - c_t} v_s
              + \sum_{s \in L_t} \phi_q(q_t) \cdot \phi_k(k_s)\, v_s}
             {\gamma \sum_{s \in W_t} e^{q_t \cdot k_s \cdot \text{scale} - c_t}
              + \sum_{s \in L_t} \phi_q(q_t) \cdot \phi_k(k_s)}$$

The mixing term $\gamma > 0$ is a parameter, one per query head; `mix` is $\ln \gamma$. Weights $\sigma(g)$ for the
softmax terms and $1 - \sigma(g)$ for the linear terms give the same function with $\ln \gamma = g$, since only their
ratio matters. $c_t$ does not cancel against the linear terms: it is part of the formula and has a gradient.

Window shapes, with $p$ the position of a token in its row:

- `sliding`: $W_t$ is the last `window` tokens, including $t$.
- `terrace`: positions are divided into blocks of `window`; $W_t$ is the block of $t$ up to $t$ and the whole block
  before it, as in the authors' kernels: `window + 1` to `2 window` keys, except at the start of the row.
- `none`: $W_t$ is empty and $L_t$ is $t$ and all earlier tokens: pure linear attention. Without softmax terms
  $\gamma$ has no effect, and `window` is the block size of the computation.

With `sinks` the first so many tokens of a row are in every $W_t$, and not in $L_t$: softmax attention puts much of its
weight on them (attention sinks, arXiv:2309.17453), and neither a window nor a sum of features can stand in for them.

With a `cache` (for `terrace`) so many of the tokens before the window, those that `linattn_cache` chooses, are in every
$W_t$. With features they stay in $L_t$ as well, where their part is small, so that the sum does not depend on the
choice; moments leave them out.

With `spread` (for `terrace`) there are no features: $\sum_{s \in L_t} \phi_q(q_t) \cdot \phi_k(k_s)$ is replaced by the
estimate $M$ of $\sum_{s \in L_t} e^{q_t \cdot k_s \cdot \text{scale} - c_t}$, and the sum with values by $M m$; see
`moments`.

Positions count the real tokens of a row, so that padding on either side does not move block boundaries: each row gives
the result that it would give alone and without padding. A padded key has no effect; a padded query gives 0.

Forms: `hybrid_quadratic`, the definition, O(T²), from its `hybrid_weights`; `hybrid_chunked` for training and
`hybrid_prefill` for prompts, O(T · (C + window)); `hybrid_step`, one token, O(1), on a `HybridState` whose size does
not depend on T. The last two take the feature map of keys as a function and apply it to keys that leave the window. All
accumulate in float32 (float64 for float64 inputs), also under autocast.

Axes: B rows, T positions, Hq query heads, Hkv key and value heads (Hq a multiple of Hkv, keys are never repeated),
H heads of the keys' feature map (Hq or Hkv), K key width, V value width, F features, U width of the inputs of the keys'
map, R slots of the state, E sinks, C cached tokens.
Inside: N blocks, G query heads per key head, w positions of a block.
"""

from collections.abc import Sequence
from ctypes import CDLL

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from subquad.ops.attention_sizes import WindowShape
from subquad.ops.linattn_blocks import hybrid_blocks, unfold, with_ones
from subquad.ops.linattn_cache import Choice, Sources, choose, no_marks, pick, with_cached
from subquad.ops.linattn_definition import check_arguments, features_or_none, hybrid_quadratic, hybrid_weights
from subquad.ops.linattn_native import is_native, native_step
from subquad.ops.linattn_state import (
    HybridState,
    MapOfKeys,
    beside,
    first_tokens,
    hide,
    hybrid_state,
    locate,
    moments_of,
    scale_of,
    store,
    sum_of,
    take,
    widen,
)
from subquad.ops.linattn_step import StepPlace, attend_once, leave, push, step_place
from subquad.ops.linattn_windows import pair_masks, positions, summed
from subquad.ops.moments import moment_blocks
from subquad.ops.precision import autocast_disabled

__all__ = [
    "HybridState",
    "StepPlace",
    "WindowShape",
    "hybrid_chunked",
    "hybrid_prefill",
    "hybrid_quadratic",
    "hybrid_state",
    "hybrid_step",
    "hybrid_weights",
    "step_place",
]


def hybrid_chunked(
    q: Float[Tensor, "B Hq T K"],
    k: Float[Tensor, "B Hkv T K"],
    v: Float[Tensor, "B Hkv T V"],
    *,
    phi_q: Float[Tensor, "B Hq T F"] | None = None,
    phi_k: Float[Tensor, "B H T F"] | None = None,
    spread: Float[Tensor, " Hq"] | None = None,
    mix: Float[Tensor, " Hq"],
    window: int = 64,
    window_shape: WindowShape = "terrace",
    mask: Bool[Tensor, "B T"] | None = None,
    scale: float | None = None,
    use_linear: bool = True,
    sinks: int = 0,
    cache: int = 0,
    inputs: Float[Tensor, "B Hkv T U"] | None = None,
) -> Float[Tensor, "B Hq T V"]:
    """Compute `hybrid_quadratic` in O(T · (C + window)), block by block; for training.

    The choice of cached tokens reads `inputs`.
    """
    phi_q, phi_k = features_or_none(q, k, phi_q, phi_k, spread=spread, window_shape=window_shape)
    check_arguments(q, k, phi_k, window=window, window_shape=window_shape, sinks=sinks, cache=cache)
    if mask is not None:
        none = torch.zeros(q.shape[0], dtype=torch.long, device=q.device)
        place = locate(none, mask, window=window, slots=window)
        nothing = [x.new_zeros(*x.shape[:2], sinks, x.shape[3]) for x in (k, v)]
        first = first_tokens(none, nothing, (k, v), mask=mask, order=place.order) if sinks else None
        keys, values, features = (take(_behind_nothing(x, window), place.keys) for x in (k, v, phi_k))
        queries, maps = (take(beside(None, x), place.queries) for x in (q, phi_q))
    else:
        first = [x[:, :, :sinks] for x in (k, v)] if sinks else None
        behind = -q.shape[2] % window
        whole = [_with_zeros(x, behind=behind) if behind else x for x in (q, k, v, phi_q, phi_k)]
        queries, keys, values, maps, features = whole
        place = None
    sources = None
    if cache:
        of_choice = k if inputs is None else inputs
        if place is not None:
            of_choice = take(_behind_nothing(of_choice, window), place.keys)
        else:
            of_choice = functional.pad(of_choice, (0, 0, 0, keys.shape[2] - k.shape[2]))
        after = k.new_full((len(k),), q.shape[2], dtype=torch.long) if mask is None else mask.sum(1)
        # in front a cache, and blocks before the first, that do not exist
        missing = cache + 2 * window - (keys.shape[2] - queries.shape[2])
        layout = (functional.pad(x, (0, 0, missing, 0)) for x in (keys, values, of_choice))
        marks = no_marks(*k.shape[:2], cache=cache, ring=2 * window, width=of_choice.shape[3], like=k)
        sources = Sources(*layout, marks=marks, before=torch.zeros_like(after), after=after)
    y, _ = _attend(
        queries, keys, values, phi_q=maps, phi_k=features, spread=spread, mix=mix, window=window,
        window_shape=window_shape, scale=scale_of(q, scale), use_linear=use_linear, first=first, sources=sources,
    )  # fmt: skip
    y = y[:, :, : q.shape[2]] if place is None else hide(take(y, place.back), mask)
    return y.to(q.dtype)


def hybrid_prefill(
    q: Float[Tensor, "B Hq T K"],
    k: Float[Tensor, "B Hkv T K"],
    v: Float[Tensor, "B Hkv T V"],
    *,
    phi_q: Float[Tensor, "B Hq T F"] | None = None,
    map_k: MapOfKeys | None = None,
    spread: Float[Tensor, " Hq"] | None = None,
    mix: Float[Tensor, " Hq"],
    state: HybridState,
    inputs: Float[Tensor, "B Hkv T U"] | None = None,
    window: int = 64,
    window_shape: WindowShape = "terrace",
    mask: Bool[Tensor, "B T"] | None = None,
    scale: float | None = None,
    use_linear: bool = True,
    sinks: int = 0,
    cache: int = 0,
) -> tuple[Float[Tensor, "B Hq T V"], HybridState]:
    """Return the output of `hybrid_quadratic` for tokens that follow those in `state`, and the state after them.

    A prompt can be processed in chunks of any length; the given state is not modified. `map_k` reads `inputs`, or the
    keys if there are none.
    """
    k = hide(k, mask)
    if mask is None:
        mask = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
    check_arguments(
        q, k, state.total, window=window, window_shape=window_shape, sinks=sinks, cache=cache, state=state,
        inputs=inputs,
    )  # fmt: skip
    parts = slice(sinks), slice(sinks, sinks + cache), slice(sinks + cache, None)
    kept, cached, ring = (tuple(x[:, :, part] for x in state[:2]) for part in parts)
    slots = ring[0].shape[2]
    stored = positions(state.length, slots)
    inputs = None if inputs is None else hide(inputs, mask)
    if map_k is None:
        phi_k, phi_ring = with_ones(k), with_ones(ring[0].to(k.dtype))
    elif inputs is None:
        phi_k, phi_ring = map_k(k), map_k(ring[0].to(k.dtype))
    else:
        phi_k, phi_ring = map_k(inputs), map_k(state.inputs.to(inputs.dtype))
    phi_q, _ = features_or_none(
        q, k, phi_q, None if map_k is None else phi_k, spread=spread, window_shape=window_shape
    )  # fmt: skip
    if slots:
        place = locate(state.length, mask, window=window, slots=slots)
        of_blocks = (phi_ring, phi_k) if map_k is not None else (phi_ring[..., :0], phi_k[..., :0])
        whole = [beside(*both) for both in (*zip(ring, (k, v), strict=True), of_blocks)]
    else:
        # all earlier tokens are in the sum, so blocks can begin at any position
        place = locate(torch.zeros_like(state.length), mask, window=window, slots=window)
        whole = [_behind_nothing(x, window) for x in (k, v, phi_k)]
    keys, values, features = (take(x, place.keys) for x in whole)
    queries, maps = (take(beside(None, x), place.queries) for x in (q, phi_q))
    first = first_tokens(state.length, kept, (k, v), mask=mask, order=place.order)

    sources = None
    if cache:
        latest, new = (ring[0], k) if inputs is None else (state.inputs, inputs)
        of_choice = new.new_zeros(*new.shape[:2], cache, new.shape[3]), latest, take(beside(latest, new), place.keys)
        sources = _sources(
            state, (*zip(cached, ring, (keys, values), strict=True), of_choice), start=place.start, mask=mask,
            window=window,
        )  # fmt: skip
    begin = summed(state.length, window=window, window_shape=window_shape)
    # at the end of a block the ring of a terrace still holds the block before it, which is linear for the next token
    stale = (stored >= begin[:, None].clamp(min=sinks)) & (stored < place.start[:, None])
    total, squares = state.total, state.squares
    if map_k is not None:
        total = total + sum_of(phi_ring, ring[1], stale)
    elif not cache:
        # with a cache, what moments describe changes with the choice of the cached tokens
        sums, powers = moments_of(ring[0], ring[1], stale)
        total, squares = total + sums, squares + powers
    y, choice = _attend(
        queries, keys, values, phi_q=maps, phi_k=features, spread=spread, mix=mix, window=window,
        window_shape=window_shape, scale=scale_of(q, scale), use_linear=use_linear,
        first=first if sinks else None, total=total, squares=squares, start=place.start, sources=sources,
    )  # fmt: skip
    y = hide(take(y, place.back), mask).to(q.dtype)
    gone, marks = None, state.marks
    if sources is not None and choice is not None:
        cached, marks = tuple(pick(x, choice.last) for x in sources[:2]), choice.marks
        if map_k is None:
            leavers = [pick(x, choice.gone.flatten(2)) for x in sources[:2]]
            gone = leavers[0], leavers[1], choice.is_gone.flatten(1)
    after = store(
        state, k, v, inputs=inputs, phi_k=phi_k, phi_ring=phi_ring, first=first, cached=cached, gone=gone,
        marks=marks, window=window, window_shape=window_shape, mask=mask, order=place.order,
    )  # fmt: skip
    return y, after


def hybrid_step(
    q: Float[Tensor, "B Hq 1 K"],
    k: Float[Tensor, "B Hkv 1 K"],
    v: Float[Tensor, "B Hkv 1 V"],
    *,
    phi_q: Float[Tensor, "B Hq 1 F"] | None = None,
    map_k: MapOfKeys | None = None,
    spread: Float[Tensor, " Hq"] | None = None,
    mix: Float[Tensor, " Hq"],
    state: HybridState,
    inputs: Float[Tensor, "B Hkv 1 U"] | None = None,
    window: int = 64,
    window_shape: WindowShape = "terrace",
    mask: Bool[Tensor, "B 1"] | None = None,
    scale: float | None = None,
    use_linear: bool = True,
    sinks: int = 0,
    cache: int = 0,
    place: StepPlace | None = None,
    library: CDLL | None = None,
) -> tuple[Float[Tensor, "B Hq 1 V"], HybridState]:
    """Return the output for one more token per row, and the state after it; O(1) in the number of tokens before.

    Without gradients the state's tensors are updated in place; with gradients (`torch.is_grad_enabled()`) in a copy.
    `map_k` reads `inputs`, or the keys if there are none.
    `place` is the result of `step_place` for the state's number of tokens, with the same window, shape, sinks and mask;
    layers can share it. None computes it here.
    `library` is the compiled code of `subquad.nn.native`, used where it can compute this step; None for torch.
    """
    check_arguments(
        q, k, state.total, window=window, window_shape=window_shape, sinks=sinks, cache=cache, state=state,
        inputs=inputs,
    )  # fmt: skip
    if torch.is_grad_enabled() or (state.total.is_inference() and not torch.is_inference_mode_enabled()):
        state = HybridState(*(x.clone() for x in state))
    if place is None:
        place = step_place(state.length, window=window, window_shape=window_shape, sinks=sinks, cache=cache, mask=mask)
    leave(state, has_inputs=inputs is not None, map_k=map_k, place=place, sinks=sinks)
    given = {"mix": mix, "state": state, "inputs": inputs, "place": place}
    if library is not None and mask is None and is_native(q, k, v, phi_q=phi_q, spread=spread, **given):
        linear = {"phi_q": phi_q, "spread": spread} if use_linear else {"phi_q": None, "spread": None}
        y = native_step(q, k, v, sinks=sinks, scale=scale_of(q, scale), library=library, **linear, **given)
        state.length.add_(1)
        return y, state
    push(state, k, v, inputs=inputs, map_k=map_k, place=place, sinks=sinks, mask=mask)
    y = attend_once(
        q, state, place, phi_q=phi_q, spread=spread, mix=mix, scale=scale_of(q, scale), use_linear=use_linear,
        sinks=sinks, mask=mask,
    )  # fmt: skip
    return hide(y, mask).to(q.dtype), state


def _attend(
    q: Tensor, k: Tensor, v: Tensor, *, phi_q: Tensor, phi_k: Tensor, spread: Tensor | None, mix: Tensor, window: int,
    window_shape: WindowShape, scale: float, use_linear: bool, first: Sequence[Tensor] | None,
    total: Tensor | None = None, squares: Tensor | None = None, start: Tensor | None = None,
    sources: Sources | None = None,
) -> tuple[Tensor, Choice | None]:  # fmt: skip
    """Call `hybrid_blocks` with the masks of the window shape, in the dtype of the accumulators.

    `first` are keys and values of the sinks, `start` the position of the first key of each row, -window if None.
    Return what is cached too.
    """
    softmax, linear = pair_masks(
        q.shape[2] // window, window=window, window_shape=window_shape, device=q.device,
        sinks=0 if first is None else first[0].shape[2], start=start,
    )  # fmt: skip
    counted = None
    if first is not None or spread is not None:
        # sinks have no linear terms; without `start`, keys begin at 0 or with an empty block
        places = torch.arange(k.shape[2], device=k.device)[None]
        begin = q.shape[2] - k.shape[2] if start is None else start[:, None]
        counted = places + begin >= (0 if first is None else first[0].shape[2])
    with autocast_disabled(q.device.type):
        q, k, v, phi_q, phi_k, mix, *first = widen(q, k, v, phi_q, phi_k, mix, *(first or ()))
        choice, cached, gone = None, None, None
        if sources is not None and softmax is not None:
            sources = sources._replace(**dict(zip(("keys", "values", "inputs"), widen(*sources[:3]), strict=True)))
            begin = torch.full_like(sources.before, -window) if start is None else start
            of_sinks = (first[0], first[1]) if first else (k[:, :, :0], v[:, :, :0])
            choice = choose(
                q, sources, first=of_sinks, softmax=softmax, start=begin + window, scale=scale,
                needs_terms=(spread is not None or not use_linear) and not torch.is_grad_enabled(),
            )  # fmt: skip
            if choice.near is not None and not use_linear:
                return unfold(choice.near.value, q.shape[1]), choice
            cached, gone = (sources.keys, sources.values, choice.places), (choice.gone, choice.is_gone)
            softmax = with_cached(softmax, choice.visible, sinks=of_sinks[0].shape[2])
        if spread is not None and softmax is not None:
            y = moment_blocks(
                q, k, v, mix=mix, spread=spread.to(q.dtype), window=window, softmax=softmax, scale=scale,
                use_linear=use_linear, first=first or None, cached=cached, gone=gone, counted=counted, total=total,
                squares=squares, near=None if choice is None else choice.near,
            )  # fmt: skip
            return y, choice
        y = hybrid_blocks(
            q, k, v, phi_q=phi_q, phi_k=phi_k, mix=mix, window=window, softmax=softmax, linear=linear, scale=scale,
            use_linear=use_linear, first=first or None, cached=cached, counted=counted, total=total,
        )  # fmt: skip
        return y, choice


def _sources(
    state: HybridState, parts: Sequence[tuple[Tensor, Tensor, Tensor]], *, start: Tensor, mask: Tensor, window: int
) -> Sources:
    """Return what the tokens that are cached during a prompt are chosen from.

    Args:
        state: The state before the prompt.
        parts: Of keys, of values and of what the choice reads: those of the cache, of the ring, and of the blocks.
        start: Position of the first key of the blocks.
        mask: Which tokens of the prompt are real.
        window: Tokens of a block.
    """
    # when a block begins, the one that leaves the window is still in the ring
    leaves = (start[:, None] - window + torch.arange(window, device=mask.device)) % (2 * window)
    layout = (torch.cat((old.to(x.dtype), take(last.to(x.dtype), leaves), x), 2) for old, last, x in parts)
    return Sources(*layout, marks=state.marks, before=state.length, after=state.length + mask.sum(-1))


def _behind_nothing(x: Float[Tensor, "B H T C"], window: int) -> Float[Tensor, "B H S C"]:
    """Return the layout that `locate` expects, with an empty ring in front."""
    return beside(None, _with_zeros(x, front=window))


def _with_zeros(x: Float[Tensor, "B H T C"], *, front: int = 0, behind: int = 0) -> Float[Tensor, "B H S C"]:
    """Return the tokens between others of zeros."""
    # `functional.pad` of PyTorch 2.7 refuses tensors without features
    zeros = x.new_zeros(()).expand(*x.shape[:2], front + behind, x.shape[3])
    return torch.cat((zeros[:, :, :front], x, zeros[:, :, front:]), 2)
