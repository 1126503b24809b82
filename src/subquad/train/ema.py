"""Moving averages of the weights: what a validation measures and the end keeps in place of the last step's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["Average"]


class Average:
    r"""$\bar w \leftarrow d\,\bar w + (1 - d)\,w$ after every step, with $d$ rising from 0 to the decay.

    The tensors are those that training changes; counters and other whole numbers are taken as they are.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay, self.weights = decay, {name: tensor.detach().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Take in the weights after step `step`, counted from 1."""
        part = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, average in self.weights.items():
            if average.is_floating_point():
                average.lerp_(weights[name].detach(), part)
            else:
                average.copy_(weights[name])

    @contextmanager
    def inside(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the model have the averages for a while."""
        with torch.no_grad():
            own = {name: tensor.detach().clone() for name, tensor in weights.items()}
            for name, average in self.weights.items():
                weights[name].copy_(average)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in own.items():
                    weights[name].copy_(tensor)
