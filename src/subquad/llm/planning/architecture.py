"""Sizes of a model, counted from its `config.json` alone: the model is built on the meta device, without memory.

Takes seconds even for 405 billion weights; nothing is loaded, and no code from a checkpoint is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from subquad.errors import SubquadError, raise_errors, unknown
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.convert import feature_parameters, replace_attention
from subquad.llm.planning.configs import read_architecture
from subquad.llm.settings import AttentionSettings
from subquad.nn.attention import FeatureMap

__all__ = ["ModelSizes", "sizes_of"]

NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
OPTIONAL = ("num_key_value_heads", "head_dim")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Sizes that determine the costs of linearizing a model."""

    parameters: int
    """Parameters of the softmax model; tied weights count once."""
    layer_parameters: int
    """Parameters of its largest layer."""
    outer_parameters: int
    """Parameters outside the layers: embeddings, last norm, output head."""
    trained_in_transfer: int
    """Parameters of the feature maps and mixing terms of all layers."""
    trained_in_lora: int
    """Parameters of the LoRA updates of all linear layers of the decoder, and of the feature maps."""
    layers: int
    """Number of layers that are linearized."""
    width: int
    """D, width of the hidden states."""
    inner: int
    """I, width of the MLP's hidden layer."""
    vocabulary: int
    """Size of the vocabulary."""
    heads: int
    """Hq, query heads per layer."""
    kv_heads: int
    """Hkv, key-value heads per layer."""
    head_width: int
    """K, width of queries, keys and values."""
    feature_heads: int
    """H, heads of the keys' feature map."""
    features: int
    """F, features per head."""
    feature_map: FeatureMap | Literal["moments"]
    """The feature map, moments, or none."""
    longest: int | None
    """Maximum number of tokens of a text."""


def sizes_of(
    config: str | Path, attention: AttentionSettings = AttentionSettings(), *, lora_rank: int = 16
) -> ModelSizes:
    """Return the sizes of a model and of the parameters that linearizing it trains.

    Args:
        config: A `config.json`, its folder, or a name in `KNOWN`.
        attention: The hybrid attention.
        lora_rank: Rank of the LoRA updates.

    Raises:
        SubquadError: The config cannot be read, or its model cannot be linearized.
    """
    architecture = read_architecture(config)
    _check(config, architecture)
    options = {key: value for key, value in architecture.items() if key not in ("model_type", "quantization_config")}
    try:
        found = AutoConfig.for_model(architecture["model_type"], **options)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(found, attn_implementation="sdpa", trust_remote_code=False)
    except (StrictDataclassError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SubquadError(f"{config}: transformers cannot build a model from this config: {reason}") from error
    parameters = _count(model)
    places = [module for module in model.modules() if hasattr(module, "self_attn")]
    in_layers = [_count(place) for place in places]
    try:
        with torch.device("meta"):
            replace_attention(model, attention, check=False)
    except SubquadError as error:
        raise SubquadError(f"{config}: {error}") from error
    layers = attention_layers(model)
    first = layers[0].hybrid
    linear = [module for place in places for module in place.modules() if isinstance(module, nn.Linear)]
    maps = sum(parameter.numel() for parameter in feature_parameters(model))
    return ModelSizes(
        parameters=parameters,
        layer_parameters=max(in_layers),
        outer_parameters=parameters - sum(in_layers),
        trained_in_transfer=maps,
        trained_in_lora=maps + sum(lora_rank * (one.in_features + one.out_features) for one in linear),
        layers=len(layers),
        width=found.hidden_size,
        inner=found.intermediate_size,
        vocabulary=found.vocab_size,
        heads=first.heads,
        kv_heads=first.kv_heads,
        head_width=first.head_width,
        # moments are sums of [k, 1] [v, 1]ᵀ per key head
        feature_heads=first.kv_heads if first.map_k is None else first.map_k.heads,
        features=first.head_width + 1 if first.map_k is None else first.map_k.width,
        feature_map=attention.feature_map or "hedgehog",
        longest=getattr(found, "max_position_embeddings", None),
    )


def _check(place: str | Path, config: Mapping[str, Any]) -> None:
    model_type = config["model_type"]
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise SubquadError(
            f"{place}: {unknown('causal language model of type', model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}"
        )
    given = [name for name in OPTIONAL if config.get(name) is not None]
    errors = [
        f"{name}: missing" if name not in config else f"{name}: {config[name]!r} is not a positive integer"
        for name in (*NEEDED, *given)
        if not _is_count(config.get(name))
    ]
    raise_errors(f"{place}: sizes of the model are missing or invalid:", errors)
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads") or 1
    if heads % kv_heads:
        raise SubquadError(f"{place}: {heads} query heads are not a multiple of {kv_heads} key heads")
    for name in EXPERTS:
        if _is_count(config.get(name)) and config[name] > 1:
            raise SubquadError(
                f"{place}: a mixture of experts ({name} = {config[name]}); costs are estimated only for models with "
                "one MLP per layer"
            )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
