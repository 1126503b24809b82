"""Checks of a checkpoint's config against the tensors that it stores, before memory is allocated for a model."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError, counted
from subquad.llm.models.location import INDEX, WEIGHTS, open_weights, tensor_count
from subquad.runs.damage import damage_as_error
from subquad.runs.storage import read_json

__all__ = ["check_layers", "check_shape", "check_shapes", "on_meta", "tensor_files"]


def check_layers(path: Path, config: PreTrainedConfig | Mapping[str, Any]) -> None:
    """Check that a checkpoint has layers, and stores at least one tensor of each: transformers first makes them all.

    Args:
        path: Folder or `.gguf` file.
        config: Its config, or the content of its `config.json`: some configs have a list with an entry per layer.

    Raises:
        SubquadError: It has none, or stores fewer; the number of layers is damaged.
    """
    if path.is_file():
        with path.open("rb") as file:
            # after the letters GGUF and the version
            stored = int.from_bytes(file.read(16)[8:], "little")
    else:
        stored = tensor_count(path)
    name = "num_hidden_layers"
    layers = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    if isinstance(layers, int) and not 0 < layers <= stored:
        where = path if path.is_file() else path / "config.json"
        raise SubquadError(
            f"{where}: {counted(layers, 'layer')}, and {counted(stored, 'tensor')} in the checkpoint; it is damaged, "
            "or of another model"
        )


def check_shapes(path: Path, model: PreTrainedModel) -> None:
    """Check that the weights of a checkpoint have the shapes that a model needs; none of them is read.

    Args:
        path: Folder of the checkpoint, or `.gguf` file: of its weights only the size of the file is known.
        model: The model of its config, which may be on the meta device.

    Raises:
        SubquadError: They have others.
    """
    if path.is_file():
        weights, bits = sum(own.numel() for own in model.parameters()), 8 * path.stat().st_size
        if weights > bits:
            raise SubquadError(f"{path}: {weights:,} weights in a file of {bits:,} bits; it is damaged")
        return
    files = tensor_files(path)
    with ExitStack() as stack:
        opened = {file: stack.enter_context(open_weights(file)) for file in sorted(set(files.values()))}
        for name, parameter in model.named_parameters():
            if name in files:
                shape = opened[files[name]].get_slice(name).get_shape()
                check_shape(files[name], name, shape, list(parameter.shape))


def check_shape(file: Path, name: str, shape: list[int], expected: list[int]) -> None:
    """Check that a tensor in a file has the shape that the model needs.

    Raises:
        SubquadError: It has another one.
    """
    if shape != expected:
        raise SubquadError(
            f"{file}: {name} has shape {shape}, but the model of config.json needs {expected}; config.json is damaged, "
            "or that of another model"
        )


def on_meta(config: PreTrainedConfig, dtype: torch.dtype = torch.float32, **options: Any) -> PreTrainedModel:
    """Return the model of a config on the meta device."""
    # buffers are small, and computed rather than stored
    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False, **options)


def tensor_files(path: Path) -> dict[str, Path]:
    """Return the file of each tensor that a folder stores.

    Raises:
        SubquadError: A file is missing, or is none of safetensors.
    """
    index = path / INDEX
    if index.is_file():
        with damage_as_error(f"{index}: damaged"):
            # names of files in this folder
            files = {name: path / Path(file).name for name, file in read_json(index)["weight_map"].items()}
        missing = sorted({file.name for file in files.values() if not file.is_file()})
        if missing:
            raise SubquadError(f"{path}: {len(missing)} of its files are missing, such as {missing[0]} (see {INDEX})")
        return files
    with open_weights(path / WEIGHTS) as tensors:
        return dict.fromkeys(tensors.keys(), path / WEIGHTS)
