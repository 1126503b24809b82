r"""Trainable feature maps and hybrid linear and window attention, which replace softmax attention in LoLCATs.

Eqs. (5)-(7) of arXiv:2410.10254. In the paper a map is applied to queries and keys after the rotary embedding; it can
read other inputs, such as those before it. Its weights stay in float32. Cost: O(T · (cache + window)) in training, O(1)
per token in decoding; see `subquad.ops.linattn`.

Axes: B rows, T positions, H heads, Hq query heads, Hkv key and value heads, K head width, V value width.
"""

from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.nn.native import library_for
from subquad.ops.linattn import (
    HybridState,
    StepPlace,
    WindowShape,
    hybrid_chunked,
    hybrid_prefill,
    hybrid_state,
    hybrid_step,
)
from subquad.ops.linattn_native import hedgehog_native
from subquad.ops.linattn_windows import earlier_tokens
from subquad.ops.precision import autocast_disabled

__all__ = ["FEATURE_MAPS", "FeatureMap", "Hedgehog", "HybridAttention", "NoFeatures"]

FeatureMap = Literal["hedgehog", "none"]
SPREAD = 2.0
"""Initial c of moments: the variance of the scores up to which they count as normal."""


class Hedgehog(nn.Module):
    r"""$\phi(x) = [\text{softmax}(xW), \text{softmax}(-xW)]$, one W per head; W starts as the identity.

    If the number of features is not the head's width, W starts as the identity, repeated or truncated.
    """

    features_per_column = 2
    """Features of each column of W."""
    kept_per_feature = 2
    """Values that the backward pass keeps of each feature: the softmax, and the features in one tensor."""

    def __init__(self, heads: int, head_width: int, *, features: int | None = None):
        super().__init__()
        self.weight = nn.Parameter(_identity(heads, head_width, head_width if features is None else features))

    @property
    def heads(self) -> int:
        """Number of maps."""
        return len(self.weight)

    @property
    def width(self) -> int:
        """Number of features per head."""
        return self.features_per_column * self.weight.shape[-1]

    def forward(self, x: Float[Tensor, "B Hx T K"]) -> Float[Tensor, "B H T F"]:
        """Return the features, all positive, in the weights' dtype; several heads of W can share a head of x."""
        library = library_for(x) if x.shape[2] == 1 else None
        if library is not None and (features := hedgehog_native(x, self.weight, library=library)) is not None:
            return features
        z = _project(x, self.weight)
        return torch.cat((z.softmax(-1), (-z).softmax(-1)), -1)


class NoFeatures(nn.Module):
    """No features: softmax over the window, the sinks and the cache, without a linear branch."""

    features_per_column = 0
    kept_per_feature = 0
    width = 0

    def __init__(self, heads: int, head_width: int, *, features: int | None = None):
        super().__init__()
        self.heads = heads

    def forward(self, x: Float[Tensor, "B Hx T K"]) -> Float[Tensor, "B H T F"]:
        """Return features of width 0."""
        return x.new_zeros(x.shape[0], self.heads, x.shape[2], 0)


FEATURE_MAPS: dict[FeatureMap, type[Hedgehog | NoFeatures]] = {
    "hedgehog": Hedgehog,
    "none": NoFeatures,
}
"""Feature maps by their name in settings."""


class HybridAttention(nn.Module):
    r"""Softmax over a window and linear attention over all earlier tokens, with the parameters of LoLCATs' stage 1.

    Parameters: the feature maps of queries and keys, and ln γ of each query head. Each of the n earlier tokens adds to
    the normaliser, so that on long texts they outweigh any window. With a `horizon` the features of the query are
    divided by $1 + n / h$, with h trained for each query head: together they weigh at most as much as h of them.

    With `moments` there are no feature maps: the moments of the earlier keys and values estimate what softmax attention
    would give (`subquad.ops.moments`). Parameters: ln γ and ln c of each query head. With `none` there is no linear
    branch, and there are no parameters.
    """

    def __init__(
        self,
        *,
        heads: int,
        kv_heads: int,
        head_width: int,
        feature_map: FeatureMap | Literal["moments"] = "hedgehog",
        features: int | None = None,
        window: int = 64,
        window_shape: WindowShape = "terrace",
        sinks: int = 0,
        cache: int = 0,
        scale: float | None = None,
        gamma: float = 1.0,
        horizon: float | None = None,
        has_inputs: bool = False,
    ):
        """Initialize the maps; see `subquad.ops.linattn` for the window shapes.

        Args:
            heads: Query heads.
            kv_heads: Key and value heads; the number of query heads is a multiple of it.
            head_width: Width of queries and keys.
            feature_map: `hedgehog`, `moments` in place of feature maps, or `none` for no linear branch.
            features: Columns of the map's matrix; None for the head's width. Hedgehog gives twice as many.
            window: Tokens of the window or block.
            window_shape: `sliding`, `terrace` or `none`.
            sinks: Number of first tokens that every window has.
            cache: Number of other tokens before the window that stay exact, chosen for each key head; see
                `subquad.ops.linattn_cache`.
            scale: Factor on the scores; None for 1/√head_width.
            gamma: Initial value of the mixing term γ, the weight of the softmax terms.
            horizon: Initial number of earlier tokens at which their weight is halved; None for no limit. Moments have
                none.
            has_inputs: The maps, and the choice of cached tokens, read inputs of their own, of the heads' width, in
                place of queries and keys.
        """
        super().__init__()
        if heads % kv_heads:
            raise ValueError(f"{heads} query heads are not a multiple of {kv_heads} key heads")
        if feature_map not in (*FEATURE_MAPS, "moments"):
            raise ValueError(f"feature_map must be one of {', '.join(FEATURE_MAPS)}, moments, not {feature_map!r}")
        for name, value in (("gamma", gamma), ("horizon", 1.0 if horizon is None else horizon)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, head_width
        self.window = window
        self.window_shape: WindowShape = window_shape
        self.sinks, self.cache = sinks, cache
        self.scale = scale
        self.map_q = self.map_k = self.log_spread = None
        if feature_map in ("moments", "none"):
            horizon = None
        if feature_map == "moments":
            self.log_spread = nn.Parameter(torch.full((heads,), SPREAD).log())
        else:
            make = FEATURE_MAPS[feature_map]
            self.map_q = make(heads, head_width, features=features)
            self.map_k = make(kv_heads if feature_map == "none" else heads, head_width, features=features)
        self.mix = None if feature_map == "none" else nn.Parameter(torch.full((heads,), gamma).log())
        self.log_horizon = None if horizon is None else nn.Parameter(torch.full((heads,), horizon).log())
        self.has_inputs = has_inputs

    @property
    def has_moments(self) -> bool:
        """Whether moments stand for the tokens before the window, in place of feature maps."""
        return self.log_spread is not None

    @property
    def has_linear(self) -> bool:
        """Whether there is a linear branch: moments or feature maps."""
        return not isinstance(self.map_k, NoFeatures)

    @overload
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, inputs: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None, state: None = None, return_state: Literal[False] = False, use_linear: bool = True,
        use_cached: bool = True,
    ) -> Tensor: ...  # fmt: skip
    @overload
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, inputs: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None, state: HybridState | None = None, return_state: Literal[True],
        use_linear: bool = True, use_cached: bool = True, place: StepPlace | None = None,
    ) -> tuple[Tensor, HybridState]: ...  # fmt: skip

    def forward(
        self,
        q: Float[Tensor, "B Hq T K"],
        k: Float[Tensor, "B Hkv T K"],
        v: Float[Tensor, "B Hkv T V"],
        *,
        inputs: tuple[Float[Tensor, "B Hq T K"], Float[Tensor, "B Hkv T K"]] | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        state: HybridState | None = None,
        return_state: bool = False,
        use_linear: bool = True,
        use_cached: bool = True,
        place: StepPlace | None = None,
    ) -> Float[Tensor, "B Hq T V"] | tuple[Float[Tensor, "B Hq T V"], HybridState]:
        """Return the attention's output and, with `return_state`, the state after the last token.

        Args:
            q: Queries, after the rotary embedding.
            k: Keys, after the rotary embedding.
            v: Values.
            inputs: What the maps of queries and of keys read, with `has_inputs`.
            mask: True where a token is real.
            state: State after the earlier tokens; None if there are none.
            return_state: Return the state as well.
            use_linear: False leaves the linear terms out.
            use_cached: False leaves the cached tokens out; a state is then one without a cache.
            place: Result of `step_place` for one more token of each row: selects the form for a single token, which
                updates the state in place if gradients are off.
        """
        has_state = state is not None or return_state
        if state is None and has_state:
            state = self.empty_state(
                q.shape[0], dtype=k.dtype, device=k.device, value_width=v.shape[-1], use_cached=use_cached
            )
        how, of_keys = self._arguments(q, k, inputs, mask=mask, state=state, place=place)
        how |= {"use_linear": use_linear and self.has_linear, "cache": self.cache if use_cached else 0}
        if state is None:
            phi_k = None if self.map_k is None else self.map_k(of_keys)
            return hybrid_chunked(q, k, v, **how, phi_k=phi_k)
        how |= {"map_k": self.map_k, "state": state}
        if place is None:
            y, state = hybrid_prefill(q, k, v, **how)
        else:
            y, state = hybrid_step(q, k, v, **how, place=place, library=library_for(q))
        return (y, state) if return_state else y

    def empty_state(
        self,
        batch: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        *,
        value_width: int | None = None,
        use_cached: bool = True,
    ) -> HybridState:
        """Return the state before the first token."""
        return hybrid_state(
            batch, kv_heads=self.kv_heads, key_width=self.head_width,
            value_width=self.head_width if value_width is None else value_width,
            feature_heads=self.kv_heads if self.map_k is None else self.map_k.heads,
            features=None if self.map_k is None else self.map_k.width,
            window=self.window, window_shape=self.window_shape, sinks=self.sinks,
            cache=self.cache if use_cached else 0, input_width=self.head_width if self.has_inputs else 0,
            dtype=dtype, device=device,
        )  # fmt: skip

    def _arguments(
        self, q: Tensor, k: Tensor, inputs: tuple[Tensor, Tensor] | None, *, mask: Tensor | None,
        state: HybridState | None = None, place: StepPlace | None = None,
    ) -> tuple[dict[str, Any], Tensor]:  # fmt: skip
        """Return what all forms take, and what the map of keys reads."""
        if self.has_inputs != (inputs is not None):
            raise ValueError(f"the maps {'read inputs of their own' if self.has_inputs else 'read queries and keys'}")
        of_queries, of_keys = inputs or (q, k)
        shape: dict[str, Any] = {"window": self.window, "window_shape": self.window_shape, "sinks": self.sinks}
        phi_q = None if self.map_q is None else self.map_q(of_queries)
        if phi_q is not None and self.log_horizon is not None:
            if place is not None:
                earlier = place.earlier
            else:
                count = torch.arange(1, q.shape[2] + 1, device=q.device)[None] if mask is None else mask.cumsum(1)
                earlier = earlier_tokens(count if state is None else count + state.length[:, None], **shape)
            phi_q = phi_q / (1 + earlier[:, None] / self.log_horizon.exp()[:, None])[..., None]
        own = of_keys if self.has_inputs else None
        spread = None if self.log_spread is None else self.log_spread.exp()
        # without a linear branch γ cancels
        mix = q.new_zeros(self.heads) if self.mix is None else self.mix
        given = {"phi_q": phi_q, "spread": spread, "mix": mix, "mask": mask, "scale": self.scale, "inputs": own}
        return {**given, **shape}, of_keys


def _project(x: Float[Tensor, "B Hx T K"], weight: Float[Tensor, "H K C"]) -> Float[Tensor, "B H T C"]:
    """Return x W for each head of W, in W's dtype under autocast too."""
    with autocast_disabled(x.device.type):
        x = x.to(weight.dtype)
        if x.shape[1] == weight.shape[0]:
            # with one position per row, rows take the axis of positions, so that the weight is not repeated per row
            return (x.transpose(0, 2) @ weight).transpose(0, 2) if x.shape[2] == 1 else x @ weight
        # the matrices that share a head of x are concatenated, so that x is not repeated
        beside = weight.unflatten(0, (x.shape[1], -1)).transpose(1, 2).flatten(2)
        return (x @ beside).unflatten(3, (-1, weight.shape[2])).transpose(2, 3).flatten(1, 2)


def _identity(heads: int, rows: int, columns: int) -> Tensor:
    weight = (torch.arange(columns) % rows == torch.arange(rows)[:, None]).float()
    return weight.repeat(heads, 1, 1)
