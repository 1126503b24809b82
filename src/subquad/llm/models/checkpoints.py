"""Softmax checkpoints: their files, and how the model in one is opened."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from subquad.errors import SubquadError, reading
from subquad.llm.models.location import tensor_files, weight_files
from subquad.runs.storage import fingerprint

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Entries of a generation config with the tokens that begin, end and fill texts."""
OUTPUTS = {"return_dict": True, "output_hidden_states": False, "output_attentions": False, "is_encoder_decoder": False}
"""Entries of any config that decide what a call of the model returns: logits with names, whatever a checkpoint says."""
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
        SubquadError: transformers cannot open it, or weights are missing.
    """
    model = open_weights(path, dtype, attn_implementation="sdpa")
    # it describes the stored file; the weights are plain now, and saving would fail with it
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    elif hasattr(model.config, "quantization_config"):
        delattr(model.config, "quantization_config")
    make_plain(model)
    return model.eval()


def open_weights(
    path: Path, dtype: torch.dtype = torch.float32, *, may_have_others: bool = True, **options: Any
) -> PreTrainedModel:
    """Open the model in a folder or a `.gguf` file.

    Args:
        path: The folder or file.
        dtype: Type of the weights.
        may_have_others: Weights that the model does not have are left out, and no error.
        **options: Further arguments of transformers.

    Raises:
        SubquadError: transformers cannot open it, or weights are missing.
    """
    config, (folder, extra) = model_config(path), _place(path)
    with reading(path, "a checkpoint"), without_progress_bars():
        # with `output_loading_info` it returns a pair
        opened: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=None if path.is_file() else True,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            **extra,
            **options,
        )
        model, report = opened
        wrong = {*report["missing_keys"], *(() if may_have_others else report["unexpected_keys"])}
        if wrong:
            raise ValueError(f"{len(wrong)} weights are missing or of another model, such as {min(wrong)}")
        for name in TOKENS:
            if torch.tensor(getattr(model.generation_config, name) or 0, dtype=torch.int32).ndim > 1:
                raise ValueError(f"{name} is no token, nor a list of tokens")
    return model


def model_config(path: Path) -> PreTrainedConfig:
    """Return the config of the model in a folder or a `.gguf` file, without its weights.

    Raises:
        SubquadError: transformers cannot read it, or it has more layers than tensors, which transformers would make.
    """
    folder, extra = _place(path)
    with reading(path, "a checkpoint"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **extra)
        if path.is_file():
            with path.open("rb") as file:
                # after the letters GGUF and the version
                stored = int.from_bytes(file.read(16)[8:], "little")
        else:
            stored = len(tensor_files(path))
        if not 0 < config.num_hidden_layers <= stored:
            raise ValueError(f"its config has {config.num_hidden_layers} layers, and {stored} tensors are stored")
        # numbers without their scales would be read block by block
        if not path.is_file() and getattr(config, "quantization_config", None):
            raise ValueError("its weights are quantized; give the original checkpoint, or a .gguf file")
        for name, value in OUTPUTS.items():
            setattr(config, name, value)
        return config


def _place(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a checkpoint, and the argument with which transformers finds a `.gguf` file in it."""
    return (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})


def on_meta(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the model of a folder on the meta device: parameters without memory, and real buffers, which are small."""
    config = model_config(path)
    with reading(path, "a checkpoint"), init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=False, attn_implementation="sdpa"
        )


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has the files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def open_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a checkpoint, a folder or a `.gguf` file.

    Raises:
        SubquadError: It is missing or damaged.
    """
    folder, extra = _place(path)
    # of nothing transformers would make an empty one
    if not path.is_file() and not has_tokenizer(path):
        raise SubquadError(f"{path}: no tokenizer in it, such as tokenizer.json; copy its files beside config.json")
    with reading(path, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **extra)
        # what a damaged length or table would let fail later
        int(tokenizer.model_max_length)
        tokenizer("a", verbose=False)
        return tokenizer


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


def make_plain(model: PreTrainedModel) -> None:
    """Take out the checkpoint's sampling parameters, which conflict with the user's."""
    config = model.generation_config
    model.generation_config = type(config)(**{name: getattr(config, name) for name in TOKENS})


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
