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
from subquad.llm.settings import MODEL_TYPE, AttentionSettings
from subquad.nn.attention import FeatureMap
from subquad.runs.storage import read_json

__all__ = ["KNOWN", "ModelSizes", "read_architecture", "sizes_of"]

NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
OPTIONAL = ("num_key_value_heads", "head_dim")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def _architecture(
    model_type: str, vocabulary: int, width: int, inner: int, *, layers: int, heads: int, kv_heads: int, length: int,
    is_tied: bool = False,
) -> dict[str, Any]:  # fmt: skip
    return {
        "model_type": model_type,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": length,
        "tie_word_embeddings": is_tied,
        # Mistral's config has a default window
        **({"sliding_window": None} if model_type == "mistral" else {}),
    }


# From the config.json of meta-llama/Llama-3.1-8B, -70B and -405B, meta-llama/Meta-Llama-3-8B,
# mistralai/Mistral-7B-Instruct-v0.2 (v0.1 has the same weights, and a sliding window), Qwen/Qwen2.5-0.5B and -1.5B, and
# HuggingFaceTB/SmolLM2-135M on the Hugging Face Hub; those of Llama also stand in Table 3 of arXiv:2407.21783
KNOWN = {
    "llama-3.1-8b": _architecture("llama", 128256, 4096, 14336, layers=32, heads=32, kv_heads=8, length=131072),
    "llama-3.1-70b": _architecture("llama", 128256, 8192, 28672, layers=80, heads=64, kv_heads=8, length=131072),
    "llama-3.1-405b": _architecture("llama", 128256, 16384, 53248, layers=126, heads=128, kv_heads=8, length=131072),
    "llama-3-8b": _architecture("llama", 128256, 4096, 14336, layers=32, heads=32, kv_heads=8, length=8192),
    "mistral-7b": _architecture("mistral", 32000, 4096, 14336, layers=32, heads=32, kv_heads=8, length=32768),
    "qwen2.5-0.5b": _architecture(
        "qwen2", 151936, 896, 4864, layers=24, heads=14, kv_heads=2, length=32768, is_tied=True
    ),
    "qwen2.5-1.5b": _architecture(
        "qwen2", 151936, 1536, 8960, layers=28, heads=12, kv_heads=2, length=32768, is_tied=True
    ),
    "smollm2-135m": _architecture("llama", 49152, 576, 1536, layers=30, heads=9, kv_heads=3, length=8192, is_tied=True),
}


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


def read_architecture(config: str | Path) -> dict[str, Any]:
    """Return the config of a model: of a `config.json`, of the one in a folder, or of a name in `KNOWN`.

    Raises:
        SubquadError: There is no such file, or it is not the config of a language model.
    """
    path = Path(config)
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise SubquadError(f"{config}: no config.json in it; give a Hugging Face folder or its config.json")
    if not path.is_file():
        if str(config) in KNOWN:
            return KNOWN[str(config)]
        raise unknown("file, folder or known model", str(config), KNOWN)
    if path.suffix.lower() in (".gguf", ".safetensors", ".bin"):
        raise SubquadError(
            f"{path}: contains weights, and sizes are counted from a config; give the config.json of the model, or one "
            f"of the names {', '.join(KNOWN)}"
        )
    found = read_json(path)
    if not isinstance(found, dict):
        raise SubquadError(f"{path}: contains a {type(found).__name__}; the config of a model is a JSON object")
    _check(path, found)
    return found


def _check(path: Path, config: Mapping[str, Any]) -> None:
    model_type = config.get("model_type")
    if "subquad" in config or model_type == MODEL_TYPE:
        raise SubquadError(f"{path}: this model is linearized already; give the config.json of the softmax model")
    if not isinstance(model_type, str):
        raise SubquadError(f"{path}: no model_type in it; this is not the config of a transformers model")
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise SubquadError(
            f"{path}: {unknown('causal language model of type', model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}"
        )
    given = [name for name in OPTIONAL if config.get(name) is not None]
    errors = [
        f"{name}: missing" if name not in config else f"{name}: {config[name]!r} is not a positive integer"
        for name in (*NEEDED, *given)
        if not _is_count(config.get(name))
    ]
    raise_errors(f"{path}: sizes of the model are missing or invalid:", errors)
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads") or 1
    if heads % kv_heads:
        raise SubquadError(f"{path}: {heads} query heads are not a multiple of {kv_heads} key heads")
    for name in EXPERTS:
        if _is_count(config.get(name)) and config[name] > 1:
            raise SubquadError(
                f"{path}: a mixture of experts ({name} = {config[name]}); costs are estimated only for models with one "
                "MLP per layer"
            )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


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


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
