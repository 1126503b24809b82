"""Checkpoint serialization: the trained tensors of a model and the state of its optimizer as named tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["load_state", "pack_optimizer", "strip_prefix", "trained_state", "unpack_optimizer"]


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


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with the prefix, under their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def pack_optimizer(entries: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Split an optimizer's state into its numbers and its tensors, named by parameter index and entry."""
    numbers, tensors = {}, {}
    for index, entry in entries.items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    return numbers, tensors


def unpack_optimizer(numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Any]]:
    """Return the state that `pack_optimizer` split."""
    entries: dict[int, dict[str, Any]] = {}
    for name, value in {**numbers, **tensors}.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    return entries
