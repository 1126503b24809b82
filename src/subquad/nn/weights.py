"""Saved weights in the modules that they belong to."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["load_weights"]

M = TypeVar("M", bound=nn.Module)


def load_weights(build: Callable[[], M], tensors: Mapping[str, Tensor]) -> M:
    """Return a module with saved weights.

    It is built on the meta device first, where tensors take no memory, so that sizes that are not those of the weights
    are an error before memory is reserved for them.

    Args:
        build: Returns the module with initial weights; its number of modules must have been checked.
        tensors: The saved weights by their names in the module.

    Raises:
        ValueError: Names or shapes of the weights are not those of the module.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    for name, shape in expected.items():
        if name not in tensors:
            raise ValueError(f"the weights lack {name}")
        if shape != (found := tuple(tensors[name].shape)):
            raise ValueError(f"{name} should have the shape {shape}, and has {found} in the weights")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"the weights have {unknown[0]}, which is no part of the network")
    module = build()
    module.load_state_dict(dict(tensors))
    return module
