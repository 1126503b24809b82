"""Sizes of a model, counted from its `config.json` alone: the model is built on the meta device, without memory.

Takes seconds even for 405 billion weights; nothing is loaded, and no code from a checkpoint is run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from subquad.errors import reading
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.convert import feature_parameters, replace_attention
from subquad.llm.planning.configs import read_architecture
from subquad.llm.settings import AttentionSettings
from subquad.nn.attention import FeatureMap

NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""Sizes of which transformers has defaults."""
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
    options = {key: value for key, value in architecture.items() if key not in ("model_type", "quantization_config")}
    with reading(config, "a config"), torch.device("meta"):
        for name in NEEDED:
            if not architecture[name]:
                raise ValueError(f"{name} is {architecture[name]}")
        # transformers would make each of them, which takes hours if the number is damaged
        if architecture["num_hidden_layers"] > 1000:
            raise ValueError(f"it has {architecture['num_hidden_layers']:,} layers")
        if any((architecture.get(name) or 1) > 1 for name in EXPERTS):
            raise ValueError("a mixture of experts; costs are estimated for one MLP per layer")
        found = AutoConfig.for_model(architecture["model_type"], **options)
        model = AutoModelForCausalLM.from_config(found, attn_implementation="sdpa", trust_remote_code=False)
        parameters, places = _count(model), [module for module in model.modules() if hasattr(module, "self_attn")]
        in_layers = [_count(place) for place in places]
        replace_attention(model, attention, check=False)
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


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
