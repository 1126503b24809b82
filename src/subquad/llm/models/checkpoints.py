"""Softmax checkpoints: their files, and how the model in one is opened."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from subquad.errors import SubquadError, shortened, unknown
from subquad.llm.models.location import weight_files
from subquad.llm.models.stored_shapes import check_layers, check_shapes, on_meta
from subquad.runs.damage import OF_TRANSFORMERS, panics_as_errors
from subquad.runs.storage import fingerprint, read_json

__all__ = [
    "check_known",
    "check_tokenizer",
    "embedding_weight",
    "gguf_config",
    "has_tokenizer",
    "make_plain",
    "model_fingerprint",
    "name_outputs",
    "open_checkpoint",
    "open_tokenizer",
    "saved_config",
    "saved_tensors",
    "without_progress_bars",
]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Entries of a generation config with the tokens that begin, end and fill texts."""
LARGEST_TOKEN = 2**31
OUTPUTS = {"return_dict": True, "output_hidden_states": False, "output_attentions": False, "is_encoder_decoder": False}
"""Entries of any config that decide what a call of the model returns."""
MOST_GROWTH = 256
"""Factor by which all replacements of a tokenizer's normalizer together may lengthen a text."""
SAMPLES, SAMPLE_BYTES = 64, 1024
"""Places of a weights file that enter its fingerprint, and bytes read at each."""


def model_fingerprint(path: Path) -> str:
    """Return hex digits that identify a checkpoint: from its config, and the sizes and samples of its weights.

    64 kB of each weights file are read, spread over the file, so a fine-tuned model has another fingerprint.
    """
    if path.is_file():
        return fingerprint(*_samples(path))
    files = weight_files(path)
    return fingerprint(path / "config.json", *(sample for file in files for sample in (file.name, *_samples(file))))


def _samples(path: Path) -> Iterator[str | bytes]:
    size = path.stat().st_size
    yield str(size)
    with path.open("rb") as file:
        for place in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * place // (SAMPLES - 1))
            yield file.read(SAMPLE_BYTES)


def open_checkpoint(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Open a softmax model; no code from the checkpoint is run.

    Args:
        path: Folder or `.gguf` file, from `locate`.
        dtype: Type of the weights.

    Raises:
        SubquadError: The architecture is unknown to transformers, or weights are missing.
    """
    is_file = path.is_file()
    folder, extra = (path.parent, {"gguf_file": path.name}) if is_file else (path, {})
    if not is_file:
        content = read_json(path / "config.json")
        check_known(path, content)
        check_layers(path, content)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **extra)
        check_layers(path, config)
        check_shapes(path, on_meta(config))
        with without_progress_bars():
            # with `output_loading_info` it returns a pair
            opened: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation="sdpa",
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=None if is_file else True,
                output_loading_info=True,
                **extra,
            )
    except SubquadError:
        raise
    except OF_TRANSFORMERS as error:
        raise SubquadError(f"{path}: transformers cannot open this checkpoint: {error}") from error
    model, found = opened
    if missing := sorted(found["missing_keys"]):
        raise SubquadError(
            f"{path}: missing weights of the model in its config: {len(missing)}, such as {missing[0]}; a file is "
            "missing or damaged, or config.json is that of another model"
        )
    # it describes the stored file; the weights are plain now, and saving would fail with it
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    elif hasattr(model.config, "quantization_config"):
        delattr(model.config, "quantization_config")
    make_plain(model, path)
    return model.eval()


def gguf_config(file: Path) -> dict[str, Any]:
    """Return the config of the model in a GGUF file, without its weights.

    Raises:
        SubquadError: transformers cannot read it.
    """
    try:
        found = AutoConfig.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
        )
    except OF_TRANSFORMERS as error:
        raise SubquadError(f"{file}: transformers cannot open this checkpoint: {error}") from error
    return found.to_dict()


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has the files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def open_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a checkpoint, a folder or a `.gguf` file.

    Raises:
        SubquadError: It is missing.
    """
    folder, extra = (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})
    if not path.is_file() and not has_tokenizer(path):
        raise SubquadError(f"{path}: no tokenizer in it, such as tokenizer.json; copy its files beside config.json")
    try:
        with panics_as_errors(f"{path}: transformers cannot open its tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **extra)
        check_tokenizer(path, tokenizer)
        return tokenizer
    except SubquadError:
        raise
    except OF_TRANSFORMERS as error:
        raise SubquadError(f"{path}: transformers cannot open its tokenizer: {error}") from error


def check_tokenizer(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the replacements of a tokenizer's normalizer cannot make an enormous text of a short one.

    Raises:
        SubquadError: They can, or its greatest length is no number.
    """
    if not isinstance(tokenizer.model_max_length, int | float):
        given = shortened(str(tokenizer.model_max_length))
        raise SubquadError(f"{path}: model_max_length in tokenizer_config.json must be a number, got {given!r}")
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normalizer is None:
        return
    # written by the library, from what it has read
    growth, waiting = 1.0, [json.loads(normalizer.__getstate__())]
    while waiting and growth <= MOST_GROWTH:
        step = waiting.pop()
        waiting += step.get("normalizers", [])
        if step["type"] == "Replace":
            # a regular expression can match one character
            replaced = len(step["pattern"].get("String", " ")) or 1
            growth *= max(1.0, len(step["content"]) / replaced)
    if growth > MOST_GROWTH:
        raise SubquadError(
            f"{path}: the replacements of its tokenizer (normalizer in tokenizer.json) lengthen a text more than "
            f"{MOST_GROWTH} times; the file is damaged"
        )


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the progress bars of transformers."""
    is_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # the bar over the tensors of a GGUF file ignores the setting
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        if is_shown:
            logging.enable_progress_bar()


def make_plain(model: PreTrainedModel, path: Path) -> None:
    """Take out the checkpoint's sampling parameters, which conflict with the user's.

    Raises:
        SubquadError: As `name_outputs`.
    """
    name_outputs(model, path)
    config = model.generation_config
    model.generation_config = type(config)(**{name: getattr(config, name) for name in TOKENS})


def name_outputs(model: PreTrainedModel, path: Path) -> None:
    """Let a model return logits with names, whatever its config says, and check the tokens that begin and end a text.

    Raises:
        SubquadError: They are no tokens.
    """
    for name, value in OUTPUTS.items():
        setattr(model.config, name, value)
    for name in TOKENS:
        value = getattr(model.generation_config, name)
        for token in value if isinstance(value, list) else [value]:
            if token is not None and (type(token) is not int or abs(token) > LARGEST_TOKEN):
                raise SubquadError(
                    f"{path}: {name} in its generation_config.json or config.json must be a token or a list of tokens, "
                    f"got {shortened(str(value))}; the file is damaged"
                )


def check_known(path: Path, config: Mapping[str, Any]) -> None:
    """Check that transformers has a causal language model of the config's type, and that its weights are plain numbers.

    Raises:
        SubquadError: It has none, the weights are quantized, or attention scores have a soft cap.
    """
    model_type = config.get("model_type") if isinstance(config, Mapping) else None
    if not isinstance(model_type, str):
        raise SubquadError(f"{path / 'config.json'}: no model_type in it; not the config of a transformers model")
    if "auto_map" in config and model_type not in CONFIG_MAPPING:
        raise SubquadError(f"{path}: its model is defined by code in the folder, which subquad does not run")
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        raise SubquadError(f"{path / 'config.json'}: {unknown('causal language model of type', model_type, names)}")
    # transformers refuses such a model later, with the advice to use an attention that cannot be linearized either
    if cap := config.get("attn_logit_softcapping"):
        raise SubquadError(
            f"{path}: a soft cap on attention scores (attn_logit_softcapping = {cap}, as in Gemma 2) is not supported"
        )
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
        raise SubquadError(
            f"{path}: its weights are quantized ({method or 'quantization_config in config.json'}), and LoRA updates "
            "are merged into plain weights; give the original checkpoint, or a .gguf file, which is dequantized"
        )


def embedding_weight(model: PreTrainedModel) -> Tensor:
    """Return the weight of the token embedding, whose shape is vocabulary by model width."""
    return cast(Tensor, model.get_input_embeddings().weight)


def saved_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return the `config.json` of a linearized model."""
    config = model.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    return config


def saved_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights to save under Hugging Face's names; tied weights are included once."""
    tied = getattr(model, "_tied_weights_keys", None) or {} if model.config.tie_word_embeddings else {}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
