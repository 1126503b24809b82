"""Exponential moving average (EMA) of the trained weights, which is validated and kept in place of the last weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage:
    r"""$\bar w \leftarrow d\,\bar w + (1 - d)\,w$ after every step, with $d$ rising from 0 to `decay`.

    The rise, $d = \min(\text{decay}, (1 + s) / (10 + s))$ at step $s$, keeps the initial weights out of short runs.
    `weights` are the tensors that training changes, by name; counters and other integers are copied.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay, self.weights = decay, {name: tensor.detach().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Average in the weights after step `step`, counted from 1."""
        floats = [name for name, average in self.weights.items() if average.is_floating_point()]
        averages, current = ([tensors[name].detach() for name in floats] for tensors in (self.weights, weights))
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(averages, current, step)
        for name in self.weights.keys() - set(floats):
            self.weights[name].copy_(weights[name])

    @contextmanager
    @torch.no_grad()
    def applied_to(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Replace the model's weights by the averages inside the `with` block."""
        before = {name: tensor.detach().clone() for name, tensor in weights.items()}
        for name, average in self.weights.items():
            weights[name].copy_(average)
        try:
            yield
        finally:
            for name, tensor in before.items():
                weights[name].copy_(tensor)
