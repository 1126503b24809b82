"""Hybrid attention inside a Hugging Face decoder, between the model's own projections and rotary embedding.

Decoding keeps a state of constant size per layer, so time and memory per token do not depend on the length of the text.

Axes: B sequences, T positions, Hq query heads, Hkv key and value heads, K head width, D model width.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, sdpa_mask

from subquad.llm.models.cache import hybrid_layer
from subquad.llm.models.documents import Spans, concatenated, each_document, packed_documents
from subquad.llm.models.windows import each_window
from subquad.llm.settings import AttentionSettings
from subquad.nn.attention import HybridAttention
from subquad.ops.linattn import HybridState, StepPlace, step_place

Mode = Literal["hybrid", "without_linear", "window", "softmax", "transfer"]
"""What the attention layers compute: all terms (with features, Eq. (7) of arXiv:2410.10254), the softmax terms alone,
those without cached tokens, the teacher's softmax attention, or hybrid and softmax attention for attention transfer."""

TransferCallback = Callable[[int, Tensor, Tensor], None]
"""Called in attention transfer with a layer's index, and the hybrid and the softmax output, each [B, Hq, T, K]."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
FUSED = "qkv_proj"
"""Queries, keys and values in one projection, as in some models; it is split."""
NORMS = ("q_norm", "k_norm")
ROTARY = "apply_rotary_pos_emb"
IMPLEMENTATION = "subquad"
PACKED = "packed sequences have no common state for decoding; pass use_cache=False"


class Padding(NamedTuple):
    """Which tokens are not padding."""

    new: Bool[Tensor, "B T"] | None
    """Of the new tokens; None: none is padding."""
    all: Bool[Tensor, "B S"]
    """Of the new tokens and all before them."""


class _SharedPlace(NamedTuple):
    """The place of one decoded token, computed by the first layer for all layers and kept in the cache."""

    layer: int
    """The last layer that used it."""
    length: int
    """Number of tokens before it."""
    place: StepPlace


class HybridSelfAttention(nn.Module):
    """Replaces `self_attn`: the same projections under the same names, with hybrid attention between them."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear
    mode: Mode

    def __init__(self, original: Any, settings: AttentionSettings):
        """Reuse the projections of the original attention.

        Args:
            original: The `self_attn` of the decoder layer.
            settings: Settings of the hybrid attention.
        """
        super().__init__()
        self.layer_idx: int = original.layer_idx
        self.head_dim: int = original.head_dim
        self.scaling: float = original.scaling
        if hasattr(original, FUSED):
            self.q_proj, self.k_proj, self.v_proj = _split_fused(original)
        for name in (*PROJECTIONS, *NORMS):
            if getattr(original, name, None) is not None:
                setattr(self, name, getattr(original, name))
        self.hybrid = new_hybrid(self, settings)
        self._original_module = type(original).__module__
        self.mode = "hybrid"
        self.on_transfer: TransferCallback | None = None
        self.documents: Spans | None = None
        self.windows: Sequence[int] | None = None

    def _rotate(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Call the model's rotary function, which can be a module itself and must not become a child of this one."""
        return getattr(sys.modules[self._original_module], ROTARY)(*tensors)

    @torch.compiler.disable
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Float[Tensor, "B T D"],
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Padding | None = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "B T D"], None]:
        """Return the layer's output, and None where transformers may return attention weights.

        Args:
            hidden_states: Normalised input of the layer.
            position_embeddings: Cosines and sines of the positions.
            attention_mask: Which tokens are not padding; None: all.
            **kwargs: Includes the cache, under one of the two names that it has in transformers 5, and the positions of
                the tokens. Where these start again at 0, another sequence begins (packed sequences).

        Raises:
            ValueError: There are no tokens, or packed positions jump or come with a cache.
        """
        if not hidden_states.shape[1]:
            raise ValueError(f"no tokens: the input has the shape {tuple(hidden_states.shape[:2])}")
        qkv, inputs = self._project(hidden_states, position_embeddings)
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        documents = self.documents
        if isinstance(attention_mask, Tensor):
            # transformers saw packed positions, or could not look at them while it was compiled
            packed, attention_mask = packed_documents(kwargs.get("position_ids"), attention_mask), None
            if packed is not None and cache is not None:
                raise ValueError(PACKED)
            documents = documents if packed is None else packed
        elif cache is not None and attention_mask is None and hidden_states.shape[1] > 1:
            _check_order(kwargs.get("position_ids"))
        mask = None if attention_mask is None else attention_mask.new
        match self.mode:
            case "softmax":
                y = each_document(
                    documents, lambda *qkv: self._softmax(*qkv, padding=attention_mask, cache=cache), *qkv
                )
            case "transfer":
                y = self._transfer(qkv, inputs, attention_mask, documents)
            case _:
                y = each_window(
                    self.hybrid,
                    self.windows,
                    documents,
                    lambda *given: self._hybrid(*given, mask=mask, cache=cache),
                    *qkv,
                    *inputs,
                )
        return self.o_proj(y.to(qkv[2].dtype).transpose(1, 2).flatten(2)), None

    def _project(
        self, x: Tensor, position_embeddings: tuple[Tensor, Tensor]
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
        """Return queries, keys and values, and queries and keys without rotation if the feature maps read these."""
        q, k, v = self._normed("q_proj", "q_norm", x), self._normed("k_proj", "k_norm", x), self._heads(self.v_proj(x))
        rotated_q, rotated_k = self._rotate(q, k, *position_embeddings)
        return (rotated_q, rotated_k, v), (q, k) if self.hybrid.has_inputs else ()

    def _normed(self, projection: str, norm: str, x: Tensor) -> Tensor:
        y, normalise = getattr(self, projection)(x), getattr(self, norm, None)
        if normalise is None:
            return self._heads(y)
        # some models normalise each head, some all heads together; the size of the weight tells which
        if normalise.weight.shape[-1] == self.head_dim:
            return normalise(y.unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        return self._heads(normalise(y))

    def _heads(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _hybrid(
        self, q: Tensor, k: Tensor, v: Tensor, *inputs: Any, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        use_cached, use_linear = self.mode != "window", self.mode not in ("window", "without_linear")
        how: dict[str, Any] = {
            "mask": mask, "use_linear": use_linear, "use_cached": use_cached, "inputs": inputs or None,
        }  # fmt: skip
        if cache is None:
            return self.hybrid(q, k, v, **how)
        layer = hybrid_layer(cache, self.layer_idx)
        place = None
        if layer.state is not None and q.shape[2] == 1:
            place = self._place(cache, layer.state, layer.length, mask)
        y, layer.state = self.hybrid(q, k, v, **how, state=layer.state, return_state=True, place=place)
        layer.length += q.shape[2]
        return y

    def _place(self, cache: Cache, state: HybridState, length: int, mask: Tensor | None) -> StepPlace:
        """Return the place of the next token; the first layer computes it for all layers."""
        shared: _SharedPlace | None = getattr(cache, _SharedPlace.__name__, None)
        # layers run in order, so one that does not come after the last layer has another token
        is_same = shared is not None and self.layer_idx > shared.layer and shared.length == length
        if shared is not None and is_same and shared.place.slot.device == state.length.device:
            place = shared.place
        else:
            hybrid = self.hybrid
            place = step_place(
                state.length, window=hybrid.window, window_shape=hybrid.window_shape, sinks=hybrid.sinks,
                cache=state.cached, mask=mask,
            )  # fmt: skip
        setattr(cache, _SharedPlace.__name__, _SharedPlace(self.layer_idx, length, place))
        return place

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor, *, padding: Padding | None, cache: Cache | None) -> Tensor:
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        allowed = _allowed(padding, q.shape[2], k)
        is_causal = allowed is None and q.shape[2] > 1
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=is_causal, scale=self.scaling, enable_gqa=grouped
        )

    def _transfer(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        inputs: tuple[Tensor, ...],
        padding: Padding | None,
        documents: Spans | None,
    ) -> Tensor:
        if self.on_transfer is None:
            raise ValueError("mode 'transfer' needs a callback for both outputs")
        with torch.no_grad():
            target = each_document(documents, lambda *qkv: self._softmax(*qkv, padding=padding, cache=None), *qkv)
        with torch.enable_grad():
            mask = None if padding is None else padding.new
            q, k, v = (x.detach() for x in qkv)
            of_maps: Any = tuple(x.detach() for x in inputs)
            y = each_document(documents, lambda *given: self._hybrid(*given, mask=mask, cache=None), q, k, v, *of_maps)
            self.on_transfer(self.layer_idx, y, target)
        return target


def new_hybrid(layer: HybridSelfAttention, settings: AttentionSettings) -> HybridAttention:
    """Return hybrid attention between a layer's projections, before any training."""
    return HybridAttention(
        heads=layer.q_proj.out_features // layer.head_dim,
        kv_heads=layer.k_proj.out_features // layer.head_dim,
        head_width=layer.head_dim,
        feature_map=settings.feature_map or "hedgehog",
        window=settings.window,
        window_shape=settings.window_shape,
        sinks=settings.sinks or 0,
        cache=settings.cache or 0,
        scale=layer.scaling,
        horizon=settings.horizon or None,
        has_inputs=settings.has_inputs,
    ).to(layer.q_proj.weight.device)


def _split_fused(attention: Any) -> list[nn.Linear]:
    """Return the projections of queries, keys and values as three layers."""
    fused, queries = attention.qkv_proj, attention.o_proj.in_features
    keys = (fused.out_features - queries) // 2
    sizes, has_bias, layers = (queries, keys, keys), fused.bias is not None, []
    biases = fused.bias.split(sizes) if has_bias else [None] * 3
    for weight, bias in zip(fused.weight.split(sizes), biases, strict=True):
        linear = nn.Linear(fused.in_features, len(weight), bias=has_bias, device="meta")
        linear.weight = nn.Parameter(weight.detach().clone())
        if bias is not None:
            linear.bias = nn.Parameter(bias.detach().clone())
        layers.append(linear)
    return layers


def _check_order(positions: Tensor | None) -> None:
    """Check that the tokens of one sequence follow each other; transformers looks for packed ones without a cache only.

    Raises:
        ValueError: They do not.
    """
    if positions is not None and bool((positions.diff(dim=-1) < 1).any()):
        raise ValueError(PACKED)


def _allowed(padding: Padding | None, queries: int, k: Tensor) -> Bool[Tensor, "#B 1 T S"] | None:
    """Return which keys, the last of which belong to the queries, each query attends to; None: causal."""
    keys = k.shape[2]
    if padding is None and (queries in (1, keys)):
        return None
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=k.device).tril(keys - queries)[None, None]
    if padding is None:
        return allowed
    # a padded query attends to itself, since a softmax over nothing is NaN
    own = torch.eye(queries, dtype=torch.bool, device=k.device)
    return allowed & padding.all[:, None, None] | F.pad(own, (keys - queries, 0))


def attention_layers(model: nn.Module) -> list[HybridSelfAttention]:
    """Return the model's hybrid attention layers, first to last."""
    return [module for module in model.modules() if isinstance(module, HybridSelfAttention)]


@contextmanager
def attention_mode(model: nn.Module, mode: Mode, on_transfer: TransferCallback | None = None) -> Iterator[None]:
    """Set what all hybrid attention layers compute, within a `with` block.

    Args:
        model: A converted model or a part of one.
        mode: `hybrid`, `without_linear`, `window`, `softmax` or `transfer`.
        on_transfer: Called by each layer in mode `transfer`.
    """
    layers = attention_layers(model)
    before: list[tuple[Mode, TransferCallback | None]] = [(layer.mode, layer.on_transfer) for layer in layers]
    for layer in layers:
        layer.mode, layer.on_transfer = mode, on_transfer
    try:
        yield
    finally:
        for layer, (old_mode, old_callback) in zip(layers, before, strict=True):
            layer.mode, layer.on_transfer = old_mode, old_callback


def _padding(  # noqa: PLR0917 (transformers' signature)
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable = causal_mask_function,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Padding | Tensor | None:
    """Return the padding, None if there is none; for layers with a sliding window, the mask of transformers."""
    if mask_function is not causal_mask_function:
        kwargs["allow_is_causal_skip"] = False
        return sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, **kwargs)
    if attention_mask is None:
        return None
    mask = attention_mask.bool()
    if mask.all():
        return None
    new = mask[:, mask.shape[1] - q_length :]
    return Padding(None if new.all() else new, mask)


def _softmax_layer(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, attention_mask: Padding | Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Compute the attention of a layer that keeps softmax attention."""
    documents = getattr(module, "documents", None)
    if documents is not None:
        # a layer with a sliding window has a mask
        visible = attention_mask.expand(len(q), -1, -1, -1) if isinstance(attention_mask, Tensor) else None

        def alone(row: slice, part: slice) -> Tensor:
            mask = None if visible is None else visible[row, :, part, part]
            own_q, own_k, own_v = (x[row, :, part] for x in (q, k, v))
            return sdpa_attention_forward(module, own_q, own_k, own_v, mask, **kwargs)[0]

        return concatenated(documents, alone, 1), None
    mask = attention_mask if isinstance(attention_mask, Tensor) else _allowed(attention_mask, q.shape[2], k)
    return sdpa_attention_forward(module, q, k, v, mask, **kwargs)


# transformers finds masks, and the attention of layers that were not converted, under this name
AttentionMaskInterface.register(IMPLEMENTATION, _padding)
AttentionInterface.register(IMPLEMENTATION, _softmax_layer)
