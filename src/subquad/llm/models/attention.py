"""Hybrid attention inside a Hugging Face decoder: projections and rotary embedding stay the model's own.

Decoding keeps a state of constant size per layer, so a token costs the same after ten tokens and after a million.

Axes: B sequences, T positions, Hq query heads, Hkv key and value heads, K head width, D model width.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, sdpa_mask
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.models.cache import hybrid_layer
from subquad.llm.settings import AttentionSettings
from subquad.nn.attention import HybridAttention
from subquad.ops.linattn import HybridState, StepPlace, step_place

__all__ = [
    "FUSED",
    "IMPLEMENTATION",
    "PROJECTIONS",
    "HybridSelfAttention",
    "Mode",
    "Padding",
    "Transfer",
    "Weights",
    "apart",
    "attention_layers",
    "using",
]

Mode = Literal["hybrid", "window", "softmax", "transfer"]
"""What the attention layers compute: Eq. (7), its window alone, the teacher's softmax, or stage 1."""

Weights = Callable[[], tuple[Tensor, Tensor]]
"""Computes the weights of the hybrid attention and of the softmax attention, each [B, Hq, T, T]; padding's are 0."""

Transfer = Callable[[int, Tensor, Tensor, Weights], None]
"""Called in stage 1 with a layer's index, the hybrid output and the softmax output, each [B, Hq, T, K], and with what
computes both attentions' weights, for those who need them."""

Pieces = Sequence[Sequence[tuple[int, int]]]
"""Of each sequence the first position of its documents and the one behind the last."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
FUSED = "qkv_proj"
"""The three projections in one, as some models have them; they are taken apart."""
NORMS = ("q_norm", "k_norm")
ROTARY = "apply_rotary_pos_emb"
IMPLEMENTATION = "subquad"


class Padding(NamedTuple):
    """Which tokens are real."""

    new: Bool[Tensor, "B T"] | None
    """The tokens that come in now; None: all are real."""
    all: Bool[Tensor, "B S"]
    """They and all before them."""


class _Shared(NamedTuple):
    """What the layers of a model find out together when they read one token; the cache keeps it."""

    layer: int
    """The last layer that read it."""
    seen: int
    """Tokens before it."""
    place: StepPlace


class HybridSelfAttention(nn.Module):
    """Takes the place of `self_attn`: the same projections under the same names, hybrid attention between them."""

    def __init__(self, original: nn.Module, settings: AttentionSettings):
        """Take over the projections of the original attention.

        Args:
            original: The decoder's own `self_attn`.
            settings: The hybrid attention.
        """
        super().__init__()
        self.layer_idx: int = original.layer_idx
        self.head_dim: int = original.head_dim
        self.scaling: float = original.scaling
        if hasattr(original, FUSED):
            self.q_proj, self.k_proj, self.v_proj = _taken_apart(original)
        for name in (*PROJECTIONS, *NORMS):
            if getattr(original, name, None) is not None:
                setattr(self, name, getattr(original, name))
        self.hybrid = HybridAttention(
            heads=self.q_proj.out_features // self.head_dim,
            kv_heads=self.k_proj.out_features // self.head_dim,
            head_width=self.head_dim,
            feature_map=settings.feature_map,
            window=settings.window,
            window_shape=settings.window_shape,
            feature_heads=settings.feature_heads,
            scale=self.scaling,
            kernel=settings.kernel,
        ).to(self.q_proj.weight.device)
        # the model's own rotary function, from the file that defines its attention
        self._rotate = getattr(sys.modules[type(original).__module__], ROTARY)
        self.mode: Mode = "hybrid"
        self.on_transfer: Transfer | None = None
        self.documents: Pieces | None = None

    def forward(
        self,
        hidden_states: Float[Tensor, "B T D"],
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Padding | None = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "B T D"], None]:
        """Return the layer's output, and None where transformers may return attention weights.

        Args:
            hidden_states: The normed input of the block.
            position_embeddings: Cosines and sines of the positions.
            attention_mask: Which tokens are real; None: all.
            **kwargs: The cache stands here, under one of the two names that transformers 5 gave it.
        """
        q, k, v = self._project(hidden_states, position_embeddings)
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if isinstance(attention_mask, Tensor):
            raise ValueError(
                "hybrid attention takes a padding mask alone; give sequences one a row, without positions that start "
                "over"
            )
        mask = None if attention_mask is None else attention_mask.new
        match self.mode:
            case "softmax":
                y = self._each_document(lambda *qkv: self._softmax(*qkv, attention_mask, cache), q, k, v)
            case "transfer":
                y = self._transfer(q, k, v, attention_mask)
            case _:
                y = self._each_document(lambda *qkv: self._hybrid(*qkv, mask, cache), q, k, v)
        return self.o_proj(y.to(v.dtype).transpose(1, 2).flatten(2)), None

    def _each_document(self, attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.documents is None:
            return attend(q, k, v)
        return _each(self.documents, lambda row, part: attend(q[row, :, part], k[row, :, part], v[row, :, part]), 2)

    def _project(self, x: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._normed("q_proj", "q_norm", x), self._normed("k_proj", "k_norm", x), self._heads(self.v_proj(x))
        return *self._rotate(q, k, *position_embeddings), v

    def _normed(self, projection: str, norm: str, x: Tensor) -> Tensor:
        y, normalise = getattr(self, projection)(x), getattr(self, norm, None)
        if normalise is None:
            return self._heads(y)
        # some models norm each head, some all heads at once; the weight's size tells which
        if normalise.weight.shape[-1] == self.head_dim:
            return normalise(y.unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        return self._heads(normalise(y))

    def _heads(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _hybrid(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        use_linear = self.mode == "hybrid"
        if cache is None:
            return self.hybrid(q, k, v, mask=mask, use_linear=use_linear)
        layer = hybrid_layer(cache, self.layer_idx)
        is_step = layer.state is not None and q.shape[2] == 1
        place = self._place(cache, layer.state, layer.seen, mask) if is_step else None
        y, layer.state = self.hybrid(
            q, k, v, mask=mask, state=layer.state, return_state=True, use_linear=use_linear, place=place
        )
        layer.seen += q.shape[2]
        return y

    def _place(self, cache: Cache, state: HybridState, seen: int, mask: Tensor | None) -> StepPlace:
        """Return where the next token lies: of the layers that read it the first finds it out for all."""
        shared: _Shared | None = getattr(cache, _Shared.__name__, None)
        # layers read a token in their order; one that does not come behind the last reads another
        is_new = shared is None or self.layer_idx <= shared.layer or shared.seen != seen
        if is_new or shared.place.slot.device != state.seen.device:
            hybrid = self.hybrid
            place = step_place(state.seen, window=hybrid.window, window_shape=hybrid.window_shape, mask=mask)
        else:
            place = shared.place
        setattr(cache, _Shared.__name__, _Shared(self.layer_idx, seen, place))
        return place

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor, padding: Padding | None, cache: Cache | None) -> Tensor:
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        allowed = _allowed(padding, q.shape[2], k)
        is_causal = allowed is None and q.shape[2] > 1
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=is_causal, scale=self.scaling, enable_gqa=grouped
        )

    def _transfer(self, q: Tensor, k: Tensor, v: Tensor, padding: Padding | None) -> Tensor:
        if self.on_transfer is None:
            raise ValueError("mode 'transfer' needs a function to call with both outputs")
        with torch.no_grad():
            target = self._each_document(lambda *qkv: self._softmax(*qkv, padding, None), q, k, v)
        with torch.enable_grad():
            mask, q, k, v = None if padding is None else padding.new, q.detach(), k.detach(), v.detach()
            y = self._each_document(lambda *qkv: self.hybrid(*qkv, mask=mask), q, k, v)
            self.on_transfer(self.layer_idx, y, target, lambda: self.hybrid.weights(q, k, mask=mask))
        return target


def _each(documents: Pieces, attend: Callable[[slice, slice], Tensor], axis: int) -> Tensor:
    """Return the outputs of documents that stand end to end, each computed for itself, along the axis of positions."""
    rows = [
        torch.cat([attend(slice(row, row + 1), slice(*ends)) for ends in pieces], axis)
        for row, pieces in enumerate(documents)
    ]
    return torch.cat(rows)


def _taken_apart(attention: nn.Module) -> list[nn.Linear]:
    """Return the projections of queries, keys and values that stand one below the other in a fused one."""
    fused, queries = attention.qkv_proj, attention.o_proj.in_features
    keys = (fused.out_features - queries) // 2
    sizes, has_bias, made = (queries, keys, keys), fused.bias is not None, []
    biases = fused.bias.split(sizes) if has_bias else [None] * 3
    for weight, bias in zip(fused.weight.split(sizes), biases, strict=True):
        linear = nn.Linear(fused.in_features, len(weight), bias=has_bias, device="meta")
        linear.weight = nn.Parameter(weight.detach().clone())
        if bias is not None:
            linear.bias = nn.Parameter(bias.detach().clone())
        made.append(linear)
    return made


def _allowed(padding: Padding | None, queries: int, k: Tensor) -> Bool[Tensor, "#B 1 T S"] | None:
    """Return which keys, the queries' own last, each query sees; None: all not later than itself."""
    keys = k.shape[2]
    if padding is None and (queries in (1, keys)):
        return None
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=k.device).tril(keys - queries)[None, None]
    if padding is None:
        return allowed
    # a padded query sees itself, since a softmax over nothing is not a number
    own = torch.eye(queries, dtype=torch.bool, device=k.device)
    return allowed & padding.all[:, None, None] | F.pad(own, (keys - queries, 0))


def attention_layers(model: nn.Module) -> list[HybridSelfAttention]:
    """Return the model's hybrid attention layers, first to last."""
    return [module for module in model.modules() if isinstance(module, HybridSelfAttention)]


@contextmanager
def using(model: PreTrainedModel | nn.Module, mode: Mode, on_transfer: Transfer | None = None) -> Iterator[None]:
    """Let all attention layers compute `mode` for a while."""
    layers = attention_layers(model)
    before = [(layer.mode, layer.on_transfer) for layer in layers]
    for layer in layers:
        layer.mode, layer.on_transfer = mode, on_transfer
    try:
        yield
    finally:
        for layer, (old_mode, old_function) in zip(layers, before, strict=True):
            layer.mode, layer.on_transfer = old_mode, old_function


@contextmanager
def apart(model: nn.Module, documents: Int[Tensor, "B T"] | None) -> Iterator[None]:
    """Let no token see another document for a while; with gradients, until they are computed.

    Args:
        model: A converted model, without padding or cache.
        documents: The number of each token's document, which does not fall; None leaves all as it is.
    """
    pieces = None if documents is None else [_pieces(row) for row in documents]
    # layers that stay softmax look here too
    layers = [module for module in model.modules() if hasattr(module, "o_proj") and hasattr(module, "layer_idx")]
    for layer in layers:
        layer.documents = pieces
    try:
        yield
    finally:
        for layer in layers:
            layer.documents = None


def _pieces(documents: Int[Tensor, " T"]) -> list[tuple[int, int]]:
    ends = documents.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
    return list(zip([0, *ends], ends, strict=False))


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
    """Return which tokens are real, None where all are; for layers that are more than causal what they need."""
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
    """Compute a layer that stays as it was."""
    documents = getattr(module, "documents", None)
    if documents is not None:
        # a layer that slides brings a mask
        seen = attention_mask.expand(len(q), -1, -1, -1) if isinstance(attention_mask, Tensor) else None

        def alone(row: slice, part: slice) -> Tensor:
            mask = None if seen is None else seen[row, :, part, part]
            taken = (x[row, :, part] for x in (q, k, v))
            return sdpa_attention_forward(module, *taken, mask, **kwargs)[0]

        return _each(documents, alone, 1), None
    is_padding = attention_mask is None or isinstance(attention_mask, Padding)
    mask = _allowed(attention_mask, q.shape[2], k) if is_padding else attention_mask
    return sdpa_attention_forward(module, q, k, v, mask, **kwargs)


# transformers asks by this name for masks, and for the attention of layers that were not converted
AttentionMaskInterface.register(IMPLEMENTATION, _padding)
AttentionInterface.register(IMPLEMENTATION, _softmax_layer)
