"""Learning-rate range test: a peak learning rate from the loss at rates that grow from step to step.

Smith, "Cyclical learning rates for training neural networks", arXiv:1506.01186. As costly as that many steps.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["RangeTest", "range_test"]

SMOOTHING = 0.9
"""Decay of the moving average of the loss."""
DIVERGED = 2.0
"""The test ends when the average loss rises above its minimum by this multiple of the size of the first loss."""


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """Outcome of a range test."""

    rates: tuple[float, ...]
    """Learning rate of each step."""
    losses: tuple[float, ...]
    """Moving average of the loss at each step."""
    suggested: float
    """A tenth of the rate at which the average loss is smallest."""


def range_test(
    model: nn.Module,
    batches: Sequence[Any],
    step: Callable[[nn.Module, Any, Callable[[Tensor], None]], Mapping[str, Tensor | float]],
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    precision: Literal["float32", "bfloat16"] = "float32",
    seed: int = 0,
) -> RangeTest:
    """Train a copy of a model at rates from `low` to `high`, and return the losses and a peak learning rate.

    Args:
        model: The module; it stays as it is.
        batches: Batches, which are repeated if there are fewer than steps.
        step: As in `subquad.train.loop.train`; its metric `loss` counts.
        optimizer: Returns the optimizer of a module with learning rates relative to 1.
        low: Learning rate of the first step.
        high: Learning rate of the last step.
        steps: Number of steps.
        precision: Data type of matrix products (autocast), as in `subquad.train.loop.train`.
        seed: Seed of dropout.
    """
    model = copy.deepcopy(model).train()
    own = optimizer(model)
    relative = [group["lr"] for group in own.param_groups]
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for i in range(steps):
            rate = low * (high / low) ** (i / max(steps - 1, 1))
            for group, factor in zip(own.param_groups, relative, strict=True):
                group["lr"] = rate * factor
            own.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                metric = step(model, batches[i % len(batches)], torch.Tensor.backward)["loss"]
            loss = float(metric.detach() if isinstance(metric, Tensor) else metric)
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            unbiased = average / (1 - SMOOTHING ** (i + 1))
            # not relative to the minimum, which is negative or close to 0 for some losses
            if not math.isfinite(unbiased) or (losses and unbiased - min(losses) > DIVERGED * abs(losses[0])):
                break
            rates.append(rate)
            losses.append(unbiased)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            own.step()
    best = rates[losses.index(min(losses))] if losses else low
    return RangeTest(rates=tuple(rates), losses=tuple(losses), suggested=best / 10)
