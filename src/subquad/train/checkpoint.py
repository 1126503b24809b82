"""Checkpoints: the trained tensors of a model and the state of its optimizer in one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subquad.errors import SubquadError, reading
from subquad.runs.storage import read_tensors_and_metadata, write_tensors

COPIES = ("best", "ema")
"""Copies of the trained tensors that a checkpoint has besides the current ones."""


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    copies: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
) -> None:
    """Write what resuming a training needs: tensors, `copies` of them, random numbers and counters (`state`)."""
    numbers, tensors = {}, {"rng": torch.get_rng_state()}
    for copy, weights in {"model": trained_state(model), **copies}.items():
        tensors |= {f"{copy}.{name}": tensor for name, tensor in weights.items()}
    for index, entry in optimizer.state_dict()["state"].items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    if next(model.parameters()).device.type == "cuda":
        tensors["rng_cuda"] = torch.cuda.get_rng_state()
    write_tensors(path, tensors, {"state": json.dumps(state), "optimizer": json.dumps(numbers)})


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Restore model, optimizer and random numbers; return the counters of the training, and the copies by name.

    Raises:
        SubquadError: The file is damaged, or the checkpoint of another model.
    """
    device = next(model.parameters()).device
    tensors, texts = read_tensors_and_metadata(path)
    with reading(path, "a checkpoint"):
        state, numbers = json.loads(texts["state"]), json.loads(texts["optimizer"])
        trained, weights = trained_state(model), _under("model.", tensors)
        if {name: x.shape for name, x in trained.items()} != {name: x.shape for name, x in weights.items()}:
            raise SubquadError(f"{path}: is the checkpoint of another model; start again with --force")
        model.load_state_dict(weights, strict=False)
        entries: dict[int, dict[str, Any]] = {}
        for name, value in {**numbers, **_under("optimizer.", tensors)}.items():
            index, _, key = name.partition(".")
            entries.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["rng"])
        if "rng_cuda" in tensors and device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng_cuda"])
    copies = {copy: {name: x.to(device) for name, x in _under(f"{copy}.", tensors).items()} for copy in COPIES}
    return state, copies


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that training changes: parameters that require a gradient, and persistent buffers."""
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}
