"""What a checkpoint holds of a model and its optimizer, as named tensors. Costs one copy of what is learnt."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["learnt", "load", "pack_optimizer", "under", "unpack_optimizer"]


def learnt(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes: parameters with a gradient, and the buffers that are saved."""
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


@torch.no_grad()
def load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors into the model; KeyError where it has none of the name, RuntimeError where the shape is another."""
    into = model.state_dict()
    for name, tensor in tensors.items():
        into[name].copy_(tensor)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def pack_optimizer(entries: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the numbers and the tensors of an optimizer's state, by parameter and name."""
    numbers, tensors = {}, {}
    for index, entry in entries.items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    return numbers, tensors


def unpack_optimizer(numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Any]]:
    """Return the state that `pack_optimizer` took apart."""
    entries: dict[int, dict[str, Any]] = {}
    for name, value in {**numbers, **tensors}.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    return entries
