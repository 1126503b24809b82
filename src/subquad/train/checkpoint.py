"""Checkpoint serialization: the trained tensors of a model and the state of its optimizer as named tensors."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from subquad.errors import SubquadError
from subquad.runs.damage import damage_as_error
from subquad.runs.records import check_fields
from subquad.runs.storage import CHECKSUM, read_tensors_and_metadata, write_tensors

__all__ = ["Counters", "load_checkpoint", "load_state", "save_checkpoint", "trained_state"]

COPIES = ("best", "ema")
"""Copies of the trained tensors that a checkpoint has beside the current ones."""


@dataclass
class Counters:
    """What a checkpoint holds of a training besides tensors."""

    step: int = 0
    epoch: int = 0
    index: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    since_halved: int = 0
    rate_factor: float = 1.0
    history_bytes: int = 0
    stopped_early: bool = False
    has_ended: bool = False
    sums: dict[str, Any] = field(default_factory=dict)
    """Sums of the metrics of `count` batches, whose means are not logged yet."""
    count: int = 0

    def tick(self, last: tuple[float, float]) -> tuple[float, float]:
        """Add the time since the last tick, and return that of this one."""
        now = time.monotonic(), time.process_time()
        self.seconds, self.cpu_seconds = self.seconds + now[0] - last[0], self.cpu_seconds + now[1] - last[1]
        return now


def save_checkpoint(
    path: Path,
    *,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
) -> None:
    """Write everything that resuming a training needs as one safetensors file.

    Args:
        path: The file.
        accelerator: Its gradient scaler is saved, and with CUDA the state of the device's random numbers.
        model: Its trained tensors are saved.
        optimizer: Its state is saved.
        weights: Further copies of the trained tensors, by a name of `COPIES`.
        state: Counters of the training as JSON values.
    """
    numbers, tensors = _pack_optimizer(optimizer.state_dict()["state"])
    for copy, own in {"model": trained_state(model), **weights}.items():
        tensors |= {f"{copy}.{name}": tensor for name, tensor in own.items()}
    tensors["rng"] = torch.get_rng_state()
    if accelerator.device.type == "cuda":
        tensors["rng_cuda"] = torch.cuda.get_rng_state()
    scaler = accelerator.scaler.state_dict() if accelerator.scaler else {}
    header = {"state": json.dumps(state), "optimizer": json.dumps(numbers), "scaler": json.dumps(scaler)}
    header["stage"] = path.stem
    write_tensors(path, tensors, header)


def load_checkpoint(
    path: Path, *, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Counters, dict[str, dict[str, Tensor]]]:
    """Restore model, optimizer, gradient scaler and random numbers from the file that `save_checkpoint` wrote.

    Returns:
        The counters of the training, and the copies of the trained tensors.

    Raises:
        SubquadError: The file is no checkpoint, or that of another stage or model.
    """
    tensors, header = read_tensors_and_metadata(path)
    if CHECKSUM not in header:
        raise SubquadError(f"{path}: damaged (it has no checksum); start again with --force")
    if header.get("stage") != path.stem:
        raise SubquadError(f"{path}: is not the checkpoint of this stage; start again with --force")
    own = _strip_prefix("model.", tensors)
    differing = sorted(own.keys() ^ trained_state(model).keys())
    if differing:
        raise SubquadError(
            f"{path}: does not fit this model, whose tensors are others ({', '.join(differing[:3])}); start again with "
            "--force"
        )
    try:
        load_state(model, own)
    except RuntimeError as error:
        raise SubquadError(f"{path}: does not fit this model ({error}); start again with --force") from error
    with damage_as_error(f"{path}: damaged; start again with --force"):
        entries = _unpack_optimizer(json.loads(header["optimizer"]), _strip_prefix("optimizer.", tensors))
        given = check_fields(Counters, json.loads(header["state"]), f"{path}: state", remedy="start again with --force")
        state, random = Counters(**given), tensors["rng"]
        scaler = json.loads(header["scaler"]) if accelerator.scaler else None
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(random)
    device = accelerator.device
    if "rng_cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng_cuda"])
    if accelerator.scaler and scaler:
        accelerator.scaler.load_state_dict(scaler)
    copies = {
        copy: {name: tensor.to(device) for name, tensor in _strip_prefix(f"{copy}.", tensors).items()}
        for copy in COPIES
    }
    return state, copies


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that training changes: parameters that require a gradient, and persistent buffers."""
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


@torch.no_grad()
def load_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy named tensors into a model.

    Raises:
        KeyError: The model has no tensor of that name.
        RuntimeError: The shapes differ.
    """
    into = model.state_dict()
    for name, tensor in tensors.items():
        into[name].copy_(tensor)


def _strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with the prefix, under their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _pack_optimizer(entries: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Split an optimizer's state into its numbers and its tensors, named by parameter index and entry."""
    numbers, tensors = {}, {}
    for index, entry in entries.items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    return numbers, tensors


def _unpack_optimizer(numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Any]]:
    """Return the state that `_pack_optimizer` split."""
    entries: dict[int, dict[str, Any]] = {}
    for name, value in {**numbers, **tensors}.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    return entries
