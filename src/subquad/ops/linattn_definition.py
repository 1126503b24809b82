"""The definition of hybrid attention, from all pairs of tokens: O(T²), for tests and small inputs; see `linattn`.

Axes: those of `linattn`. Inside: M candidates for the cache.
"""

import itertools

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from subquad.ops.attention_sizes import WindowShape
from subquad.ops.linattn_cache import DECAY
from subquad.ops.linattn_state import HybridState, divide, hide, scale_of, widen
from subquad.ops.linattn_windows import is_near, ring_slots
from subquad.ops.moments import far_weights
from subquad.ops.precision import autocast_disabled

__all__ = ["check_arguments", "features_or_none", "hybrid_quadratic", "hybrid_weights"]


def hybrid_weights(
    q: Float[Tensor, "B Hq T K"],
    k: Float[Tensor, "B Hkv T K"],
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
) -> Float[Tensor, "B Hq T T"]:
    """Return the T × T weights of Eq. (7) of arXiv:2410.10254, one row per query; at least float32.

    The weights of a query sum to 1; with `spread` those before the window can be negative. They are all 0 for padding,
    and for a query whose features are orthogonal to those of all keys while its window is empty (`none` with features
    that can be 0).

    Args:
        q: Queries.
        k: Keys.
        phi_q: Feature map of the queries, non-negative; None with `spread`.
        phi_k: Feature map of the keys, one per query head or one per key head; None with `spread`.
        spread: c of each query head, if moments describe the tokens before the window (`subquad.ops.moments`).
        mix: ln γ of each query head; larger means more softmax.
        window: Tokens of the window (`sliding`) or of a block (`terrace`, `none`).
        window_shape: `sliding`, `terrace` or `none`.
        mask: True where a token is real; None if all are.
        scale: Factor on the scores; None for 1/√K.
        use_linear: False leaves the linear terms out: plain softmax over the window.
        sinks: Number of first tokens that are in every window; at most `window`.
        cache: Number of other tokens before the window that are chosen for it; only for `terrace`.
        inputs: What the choice reads of each token, as the feature map of keys does; None for the keys.
    """
    phi_q, phi_k = features_or_none(q, k, phi_q, phi_k, spread=spread, window_shape=window_shape)
    check_arguments(q, k, phi_k, window=window, window_shape=window_shape, sinks=sinks, cache=cache)
    heads = q.shape[1]
    inputs = hide(k if inputs is None else inputs, mask)
    real = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if mask is None else mask
    q, k, phi_q, phi_k = (hide(x, mask) for x in (q, k, phi_q, phi_k))
    with autocast_disabled(q.device.type):
        q, k, phi_q, phi_k, mix, inputs = widen(q, k, phi_q, phi_k, mix, inputs)
        keys = k
        k, phi_k = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, phi_k))
        position = real.cumsum(-1) - 1
        distance = position[:, :, None] - position[:, None, :]
        causal = (distance >= 0) & real[:, :, None] & real[:, None, :]
        near = is_near(position[:, :, None], position[:, None, :], window=window, window_shape=window_shape)
        near |= position[:, None, :] < sinks
        softmax, linear = (causal & near)[:, None], (causal & ~near)[:, None]  # [B, 1, T, T]
        if cache:
            cached = _cached_pairs(
                q, keys, inputs, real=real, window=window, sinks=sinks, cache=cache, scale=scale_of(q, scale)
            )
            cached = cached.repeat_interleave(heads // cached.shape[1], 1)
            softmax = softmax | cached
            if spread is not None:
                linear = linear & ~cached

        products = q @ k.mT * scale_of(q, scale)
        scores = products.masked_fill(~softmax, -torch.inf)
        largest = scores.max(-1, keepdim=True).values
        if use_linear and spread is not None:
            level, shares = far_weights(products, q, k, linear, spread=spread, scale=scale_of(q, scale))
            level = level - mix[:, None, None]
            largest = _finite(torch.maximum(largest, level))
            weights = (scores - largest).exp() + (level - largest).exp() * shares
            return divide(weights, weights.sum(-1, keepdim=True))
        weights = (scores - _finite(largest)).exp()
        if use_linear:
            weights = mix.exp()[:, None, None] * weights
            weights = weights + (phi_q @ phi_k.mT).masked_fill(~linear, 0.0)
        return divide(weights, weights.sum(-1, keepdim=True))


def hybrid_quadratic(
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
    """Return the definition: the values v weighted by `hybrid_weights`."""
    weights = hybrid_weights(
        q, k, phi_q=phi_q, phi_k=phi_k, spread=spread, mix=mix, window=window, window_shape=window_shape, mask=mask,
        scale=scale, use_linear=use_linear, sinks=sinks, cache=cache, inputs=inputs,
    )  # fmt: skip
    with autocast_disabled(q.device.type):
        v = hide(v, mask).to(weights.dtype).repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        return (weights @ v).to(q.dtype)


def features_or_none(
    q: Tensor, k: Tensor, phi_q: Tensor | None, phi_k: Tensor | None, *, spread: Tensor | None, window_shape: str
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the features, or in place of None features of width 0.

    Raises:
        ValueError: There are no features and no spread, both, or moments with another window than `terrace`.
    """
    if (phi_q is None) != (phi_k is None) or (phi_q is None) == (spread is None):
        raise ValueError("give phi_q with phi_k (or map_k), or spread without them")
    if spread is not None and window_shape != "terrace":
        raise ValueError(f"moments need a terrace window, not {window_shape}")
    if phi_q is None or phi_k is None:
        return tuple(x.new_zeros(*x.shape[:3], 0) for x in (q, k))  # pyright: ignore[reportReturnType]
    return phi_q, phi_k


def check_arguments(
    q: Tensor, k: Tensor, phi_k: Tensor, *, window: int, window_shape: str, sinks: int, cache: int,
    state: HybridState | None = None, inputs: Tensor | None = None,
) -> None:  # fmt: skip
    """Check what annotations cannot: the window and its sinks and cache, numbers of heads, and the sizes of a state.

    Raises:
        ValueError: Something does not fit.
    """
    if window_shape not in ("sliding", "terrace", "none"):
        raise ValueError(f"window_shape must be 'sliding', 'terrace' or 'none', not {window_shape!r}")
    if window < 1:
        raise ValueError(f"window must be at least 1, not {window}")
    if not 0 <= sinks <= (0 if window_shape == "none" else window):
        raise ValueError(f"sinks must be from 0 to the window, which is {window} {window_shape}, not {sinks}")
    if cache < 0 or (cache and window_shape != "terrace"):
        raise ValueError(f"a cache, of {cache} tokens, needs a terrace window, not {window_shape}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads are not a multiple of {k.shape[1]} key heads")
    if phi_k.shape[1] not in (q.shape[1], k.shape[1]):
        raise ValueError(
            f"phi_k has {phi_k.shape[1]} heads; it needs one per query head ({q.shape[1]}) or key head ({k.shape[1]})"
        )
    slots = sinks + cache + ring_slots(window, window_shape)
    if state is not None and (state.keys.shape[2] != slots or state.cached != cache):
        raise ValueError(
            f"the state has {state.keys.shape[2]} slots and a cache of {state.cached}, but a {window_shape} "
            f"window of {window} with {sinks} sinks and a cache of {cache} needs {slots} slots: make it with the same "
            "window, window_shape, sinks and cache"
        )
    if state is not None and state.inputs.shape[3] != (0 if inputs is None else inputs.shape[3]):
        raise ValueError(
            f"the state keeps inputs of width {state.inputs.shape[3]} for the keys' map, and "
            f"{0 if inputs is None else inputs.shape[3]} are given: make it with the same input_width"
        )


@torch.no_grad()
def _cached_pairs(
    q: Float[Tensor, "B Hq T K"], k: Float[Tensor, "B Hkv T K"], inputs: Float[Tensor, "B Hkv T U"], *,
    real: Bool[Tensor, "B T"], window: int, sinks: int, cache: int, scale: float,
) -> Bool[Tensor, "B Hkv T T"]:  # fmt: skip
    """Return which keys are cached for each query: the definition, one row, head and block at a time; O(T²)."""
    found = torch.zeros(*k.shape[:3], k.shape[2], dtype=torch.bool, device=k.device)
    grouped = q.unflatten(1, (k.shape[1], -1))
    for row, head in itertools.product(range(len(k)), range(k.shape[1])):
        token = real[row].nonzero()[:, 0]
        queries, keys = grouped[row, head][:, token], k[row, head, token]
        unit = functional.normalize(inputs[row, head, token], dim=-1)
        position = torch.arange(len(token), device=k.device)
        mass, novelty = torch.zeros(2, len(token), dtype=unit.dtype, device=k.device)
        cached = position[:0]
        for begin in range(0, len(token), window):
            end = begin - window
            left = position[max(end - window, 0) : max(end, 0)]
            if len(left):
                novelty[left] = -unit[left] @ functional.normalize(unit[:end].sum(0), dim=0)
                candidates = torch.cat((cached, left[left >= sinks]))
                best = (_ranks(mass[candidates]) + _ranks(novelty[candidates])).argsort(stable=True, descending=True)
                best = best[:cache]
                cached = candidates[best].sort().values
            mass *= DECAY
            block = position[begin : begin + window]
            is_seen = (position < sinks) | (position >= end) | torch.isin(position, cached)
            is_seen = is_seen & (position <= block[:, None])
            scores = (queries[:, block] @ keys.mT * scale).masked_fill(~is_seen, -torch.inf)
            mass += scores.softmax(-1).sum((0, 1))
            found[row, head, token[block, None], token[cached]] = True
    return found


def _ranks(x: Float[Tensor, " M"]) -> Int[Tensor, " M"]:
    """Return how many candidates each one is above; of equal ones, the later one is above."""
    older = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).tril(-1)
    return ((x < x[:, None]) | ((x == x[:, None]) & older)).sum(-1)


def _finite(x: Tensor) -> Tensor:
    return x.masked_fill(x == -torch.inf, 0.0)
