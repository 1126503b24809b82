"""Optimizer parameter groups and learning-rate schedules."""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

Schedule = Callable[[float], float]
"""Function from progress in [0, 1] to the factor on the learning rate of every group."""

ScheduleName = Literal["constant", "linear", "cosine", "one_cycle"]
STATE_SPACE_RATE = 1e-3
"""Upper limit on the learning rate of state-space parameters."""


def parameter_groups(model: nn.Module, *, learning_rate: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Return optimizer groups: weight decay for matrices only, and a lower learning rate for state-space parameters.

    A module lists its state-space parameters in the class attribute `state_space_parameters`. They set time scales
    and frequencies, on which the output depends exponentially, hence their lower rate (appendix of arXiv:2206.11893).

    Args:
        model: The module; only its parameters that require a gradient are included.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay, applied to parameters with two or more axes only.
    """
    slow = {
        id(getattr(module, name))
        for module in model.modules()
        for name in getattr(module, "state_space_parameters", ())
        if getattr(module, name) is not None
    }
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": learning_rate, "weight_decay": weight_decay},
        {"params": [], "lr": learning_rate, "weight_decay": 0.0},
        {"params": [], "lr": min(learning_rate, STATE_SPACE_RATE), "weight_decay": 0.0},
    ]
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[2 if id(parameter) in slow else 0 if parameter.ndim >= 2 else 1]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def schedule(name: ScheduleName, *, warmup: float = 0.0, steps: int | None = None) -> Schedule:
    """Return the factor on the learning rates as a function of progress.

    Args:
        name: `constant`; `linear` or `cosine` decay to 0; `one_cycle`, a cosine rise from 1/25 over the
            first 30 % of progress and a cosine decay to 0 (arXiv:1708.07120).
        warmup: Fraction of progress, below 1, over which the factor first rises linearly from 0.
        steps: Number of steps, if it is known; a warm-up of at most one step is left out.
    """
    if warmup * (steps or math.inf) <= 1:
        # the first step would have the rate 0, and there is no other to rise to
        warmup = 0.0

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        start, end, rest = 1.0, 0.0, min((progress - warmup) / (1 - warmup), 1.0)
        if name == "constant":
            return 1.0
        if name == "linear":
            return 1.0 - rest
        if name == "one_cycle":
            start, end, rest = (0.04, 1.0, rest / 0.3) if rest < 0.3 else (1.0, 0.0, (rest - 0.3) / 0.7)
        return end + (start - end) * (1 + math.cos(math.pi * rest)) / 2

    return factor
