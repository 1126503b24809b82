"""Decoding with a cache: a prompt in one or several forward passes, then one forward pass per token.

Works in every mode of the attention layers: linear layers keep a state of constant size, softmax layers a cache.

Axes: B sequences, S tokens, T of them new, K of these with logits, V vocabulary.
"""

import inspect
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.models.attention import attention_layers


def new_cache(model: PreTrainedModel) -> Cache:
    """Return an empty cache; hybrid attention puts its states into it at the first token."""
    return DynamicCache(config=model.config)


def has_softmax_layers(model: PreTrainedModel) -> bool:
    """Return whether some layers kept softmax attention, so that the cache grows with the text."""
    return len(attention_layers(model)) < model.config.num_hidden_layers


def trained_length(model: PreTrainedModel) -> int | None:
    """Return the tokens of the sequences that a linearized model was trained and measured on; None if unknown."""
    return getattr(model.config, "trained_length", None)


def beyond_training(model: PreTrainedModel, tokens: int) -> str | None:
    """Return a warning if a text of so many tokens is longer than the sequences of the training, otherwise None."""
    trained = trained_length(model)
    if trained is None or tokens <= trained:
        return None
    return (
        f"{tokens:,} tokens are more than the {trained:,} of the training sequences, up to which this model was "
        "measured; what it writes beyond may be much worse (subquad llm evaluate --sequence-length shows how much)"
    )


def forward(
    model: PreTrainedModel,
    ids: Int[Tensor, "B T"],
    positions: Int[Tensor, "B T"],
    state: Cache,
    mask: Bool[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B V"]:
    """Return the logits after the last of the new tokens, in float32.

    Args:
        model: A language model.
        ids: New tokens of each sequence.
        positions: Their positions in the sequence, from 0.
        state: Cache of the tokens before; it is updated in place.
        mask: True at the tokens of each sequence, of all S that its row of the cache and `ids` hold; None: all.
    """
    return forward_all(model, ids, positions, state, mask, kept=1)[:, -1]


@torch.no_grad()
def forward_all(
    model: PreTrainedModel,
    ids: Int[Tensor, "B T"],
    positions: Int[Tensor, "B T"],
    state: Cache,
    mask: Bool[Tensor, "B S"] | None = None,
    *,
    kept: int = 0,
) -> Float[Tensor, "B K V"]:
    """Return the logits after each of the last `kept` new tokens, of all if it is 0; otherwise as `forward`."""
    inputs: dict[str, Any] = {cache_argument(type(model)): state, "attention_mask": mask}
    output: Any = model(input_ids=ids, position_ids=positions, use_cache=True, logits_to_keep=kept, **inputs)
    return output.logits.float()


@cache
def cache_argument(model_class: type[PreTrainedModel]) -> str:
    """Return the name of a model's argument and output with the state; transformers renamed it within version 5."""
    return "cache" if "cache" in inspect.signature(model_class.forward).parameters else "past_key_values"


def eos_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end a text, by the model's generation config and by its tokenizer."""
    configured: Any = model.generation_config.eos_token_id if model.generation_config else None
    tokens = [*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id]
    return frozenset(token for token in tokens if isinstance(token, int))


def cache_bytes(state: Cache) -> int:
    """Return the size of a cache in bytes: keys and values, or the states of hybrid attention."""
    tensors: list[Tensor] = []
    for layer in state.layers:
        hybrid = getattr(layer, "state", None)
        tensors += hybrid if hybrid is not None else [getattr(layer, name) for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in tensors)
