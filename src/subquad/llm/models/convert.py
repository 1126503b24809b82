"""Replaces the softmax attention of a decoder by hybrid attention, and gives the model a class that can be saved.

Works on any decoder of transformers whose `self_attn` has q, k, v and o projections and rotary positions, without code
for single models: each converted layer is compared with the layer that it replaces.
"""

import importlib
import inspect
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.attention import (
    FUSED,
    IMPLEMENTATION,
    PROJECTIONS,
    ROTARY,
    HybridSelfAttention,
    attention_layers,
    attention_mode,
)
from subquad.llm.settings import MODEL_TYPE, AttentionSettings, attention_of
from subquad.runs.storage import plain

KEPT = "sliding_attention"
"""Layers of this type have a window already and are kept."""
UNSUPPORTED = ("attn_logit_softcapping", "sinks", "qk_clip")
"""Attributes of configs and layers whose attention scores are more than products."""


def convert(model: PreTrainedModel, settings: AttentionSettings, *, check: bool = True) -> PreTrainedModel:
    """Replace the softmax attention of a decoder by hybrid attention, in place, and return the model.

    The model then has the class as which `AutoModelForCausalLM` opens saved models, so `save_pretrained` can save it.

    Args:
        model: A causal language model of transformers.
        settings: Settings of the hybrid attention.
        check: Compare each layer in softmax mode with the layer that it replaces.

    Raises:
        SubquadError: The model's attention is not supported.
    """
    replace_attention(model, settings, check=check)
    adopt(model, settings)
    return model


def replace_attention(model: PreTrainedModel, settings: AttentionSettings, *, check: bool) -> None:
    """Replace the attention layers only, without changing the class of the model; see `convert`."""
    for layer in layers_to_replace(model, settings):
        replace_in_layer(model, layer, settings, check=check)
    model.config._attn_implementation = IMPLEMENTATION


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the decoder layers in order; works on the meta device.

    Raises:
        SubquadError: A layer has no `self_attn`.
    """
    config = model.config
    layers = [module for module in model.modules() if hasattr(module, "self_attn")]
    if len(layers) != config.num_hidden_layers:
        raise SubquadError(
            f"{type(model).__name__}: {len(layers)} of its {config.num_hidden_layers} layers have a self_attn; "
            "supported are decoders like Llama and Qwen"
        )
    return layers


def layers_to_replace(model: PreTrainedModel, settings: AttentionSettings) -> list[nn.Module]:
    """Return the decoder layers whose attention is to be replaced, in order; works on the meta device.

    Raises:
        SubquadError: The attention is not supported, or no layer is left.
    """
    layers, name = decoder_layers(model), type(model).__name__
    chosen = [layers[number] for number in _chosen_layers(name, model.config, settings)]
    for layer in chosen:
        _check_attention(name, layer.self_attn)
    return chosen


def replace_in_layer(model: PreTrainedModel, layer: Any, settings: AttentionSettings, *, check: bool) -> None:
    """Replace the attention of one layer; see `convert`."""
    replacement = HybridSelfAttention(layer.self_attn, settings)
    if check:
        _compare(type(model).__name__, model, layer.self_attn, replacement)
    layer.self_attn = replacement


def _chosen_layers(name: str, config: PreTrainedConfig, settings: AttentionSettings) -> list[int]:
    """Return the numbers of the layers to be linearized.

    Raises:
        SubquadError: The attention is not supported, or no layer is left.
    """
    count = config.num_hidden_layers
    types = list(getattr(config, "layer_types", None) or ["full_attention"] * count)
    unsupported = sorted(set(types) - {"full_attention", KEPT})
    unsupported += [
        f"{attribute} = {value}" for attribute in UNSUPPORTED if (value := getattr(config, attribute, None))
    ]
    window, longest = getattr(config, "sliding_window", None), getattr(config, "max_position_embeddings", None)
    # their cost is linear already, and hybrid attention would see more than they do
    if (
        KEPT not in types
        and window
        and getattr(config, "use_sliding_window", True)
        and window < (longest or window + 1)
    ):
        unsupported.append(f"sliding_window = {window} in all layers")
    if unsupported:
        raise SubquadError(f"{name}: cannot be linearized: it has {', '.join(unsupported)}")
    wrong = [layer for layer in settings.softmax_layers if layer >= count]
    if wrong:
        raise SubquadError(f"softmax layer {wrong[0]}: {name} has layers 0 to {count - 1}")
    chosen = [i for i, kind in enumerate(types) if kind != KEPT and i not in settings.softmax_layers]
    if not chosen:
        raise SubquadError(f"{name}: no layer is left to be linearized; keep softmax attention in fewer")
    return chosen


def _check_attention(name: str, attention: Any) -> None:
    projections = (FUSED, "o_proj") if hasattr(attention, FUSED) else PROJECTIONS
    needed = (*projections, "head_dim", "scaling", "layer_idx")
    missing = [part for part in needed if not hasattr(attention, part)]
    if not hasattr(importlib.import_module(type(attention).__module__), ROTARY):
        missing.append("rotary positions")
    missing += [f"plain scores, but {part}" for part in UNSUPPORTED if getattr(attention, part, None) is not None]
    if missing:
        raise SubquadError(f"{name}: cannot be linearized: its attention has no {', '.join(missing)}")


@torch.no_grad()
def _compare(name: str, model: PreTrainedModel, original: Any, replacement: HybridSelfAttention) -> None:
    """Compare the replacement in softmax mode with the original on random inputs.

    Raises:
        SubquadError: Their outputs differ.
    """
    T, weight = 13, original.o_proj.weight
    generator = torch.Generator().manual_seed(replacement.layer_idx)
    # large inputs, so that a cap or a norm of the scores becomes visible
    x = 3 * torch.randn(1, T, replacement.q_proj.in_features, generator=generator).to(weight)
    positions = torch.arange(T, device=weight.device)[None]
    rotary: Any = model.base_model.rotary_emb
    # some models have other rotations for layers with a sliding window
    has_types = "layer_type" in inspect.signature(rotary.forward).parameters
    of_type = {"layer_type": model.config.layer_types[replacement.layer_idx]} if has_types else {}
    embeddings = rotary(x, position_ids=positions, **of_type)
    causal = torch.full((T, T), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device).triu(1)[None, None]
    expected = original(hidden_states=x, position_embeddings=embeddings, attention_mask=causal)[0]
    with attention_mode(replacement, "softmax"):
        given = replacement(x, embeddings)[0]
    error = float((given - expected).norm() / expected.norm())
    # in bfloat16 each of several products is rounded; it is NaN of damaged weights
    if not error < (5e-2 if x.dtype.itemsize == 2 else 1e-3):
        raise SubquadError(
            f"{name}: layer {replacement.layer_idx} computes more than projections, norms, rotary positions and "
            f"softmax: its output differs by {error:.1%}"
        )


def feature_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return what attention transfer trains in all layers: feature maps and horizons, or c of moments; and γ."""
    return [parameter for layer in attention_layers(model) for parameter in layer.hybrid.parameters()]


@cache
def linearized_classes(base: type[PreTrainedModel]) -> tuple[type[PreTrainedModel], type[PreTrainedConfig]]:
    """Return the class of linearized models of a family and the class of their configs, registered in transformers."""
    base_config = cast(type[PreTrainedConfig], base.config_class)

    def from_dict(cls: type[PreTrainedConfig], config_dict: dict[str, Any], **kwargs: Any) -> Any:
        # the entry of the run is no part of the model
        own = {key: value for key, value in config_dict.items() if key != "subquad"}
        return super(config_class, cls).from_dict(own, **kwargs)  # pyright: ignore[reportArgumentType]

    config_class = type(
        f"Subquad{base_config.__name__}",
        (base_config,),
        {
            "model_type": MODEL_TYPE,
            "from_dict": classmethod(from_dict),
            "__module__": __name__,
            "__doc__": f"Config of `Subquad{base.__name__}`.",
        },
    )

    def __init__(self: PreTrainedModel, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        base.__init__(self, config, *args, **kwargs)
        folder = config.name_or_path or f"Subquad{base.__name__}"
        attention = attention_of(getattr(config, "hybrid_attention", None), folder)
        replace_attention(self, attention, check=False)

    def set_attn_implementation(self: PreTrainedModel, attn_implementation: Any, **kwargs: Any) -> None:
        if attn_implementation != IMPLEMENTATION:
            raise ValueError(f"{type(self).__name__} computes hybrid attention, which {attn_implementation} cannot")

    def create_masks_for_generate(attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
        # for a static cache transformers would make masks twice
        return attention_mask

    model_class = type(
        f"Subquad{base.__name__}",
        (base,),
        {
            "__init__": __init__,
            "set_attn_implementation": set_attn_implementation,
            "create_masks_for_generate": staticmethod(create_masks_for_generate),
            "__module__": __name__,
            "__doc__": f"`{base.__name__}` with hybrid attention.",
            "config_class": config_class,
            # assisted decoding discards tokens, and the state cannot be rolled back
            "_is_stateful": True,
            # feature maps are small, and are trained and used in float32
            "_keep_in_fp32_modules_strict": [*(base._keep_in_fp32_modules_strict or ()), "hybrid"],
        },
    )
    AutoModelForCausalLM.register(config_class, model_class)
    return model_class, config_class


def adopt(model: PreTrainedModel, settings: AttentionSettings) -> None:
    """Give a converted model the class as which its saved folder is opened.

    With the class of the base model, transformers without subquad would open the folder as a softmax model silently.
    `convert` does this too.
    """
    config, base = model.config, cast(type[PreTrainedConfig], type(model).config_class).model_type
    model.__class__, config.__class__ = linearized_classes(type(model))
    config.base_model_type, config.hybrid_attention = base, plain(settings)
    config.architectures = [type(model).__name__]
