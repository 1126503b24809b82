"""Optimizer parameter groups and learning-rate schedules."""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

__all__ = ["Schedule", "ScheduleName", "parameter_groups", "schedule"]

Schedule = Callable[[float], float]
"""Function from progress in [0, 1] to the factor on the learning rate of every group."""

ScheduleName = Literal["constant", "linear", "cosine", "one_cycle"]


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float = 0.0, state_space_rate: float = 1e-3
) -> list[dict[str, Any]]:
    """Return optimizer groups: weight decay for matrices only, and a lower learning rate for state-space parameters.

    A module lists its state-space parameters in the class attribute `state_space_parameters`. They set time scales
    and frequencies, on which the output depends exponentially, hence their lower rate (appendix of arXiv:2206.11893).

    Args:
        model: The module; only its parameters that require a gradient are included.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay, applied to parameters with two or more axes only.
        state_space_rate: Upper limit on the learning rate of state-space parameters.
    """
    slow = {
        id(getattr(module, name))
        for module in model.modules()
        for name in getattr(module, "state_space_parameters", ())
        if getattr(module, name) is not None
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in trained if id(parameter) not in slow and parameter.ndim >= 2],
            "lr": learning_rate,
            "weight_decay": weight_decay,
        },
        {
            "params": [parameter for parameter in trained if id(parameter) not in slow and parameter.ndim < 2],
            "lr": learning_rate,
            "weight_decay": 0.0,
        },
        {
            "params": [parameter for parameter in trained if id(parameter) in slow],
            "lr": min(learning_rate, state_space_rate),
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def schedule(name: ScheduleName, *, warmup: float = 0.0, floor: float = 0.0, steps: int | None = None) -> Schedule:
    """Return the factor on the learning rates as a function of progress.

    Args:
        name: `constant`; `linear` or `cosine` decay from 1 to `floor`; `one_cycle`, a cosine rise from 1/25 over the
            first 30 % of progress and a cosine decay to `floor` (arXiv:1708.07120).
        warmup: Fraction of progress over which the factor first rises linearly from 0.
        floor: Factor at the end.
        steps: Number of steps, if it is known; a warm-up of at most one step is left out.

    Raises:
        ValueError: `warmup` is not in [0, 1), or the name is unknown.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be in [0, 1), got {warmup}")
    if warmup * (steps or math.inf) <= 1:
        # the first step would have the rate 0, and there is no other to rise to
        warmup = 0.0
    if name not in ("constant", "linear", "cosine", "one_cycle"):
        raise ValueError(f"no schedule {name!r}")

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        rest = min((progress - warmup) / (1 - warmup), 1.0)
        match name:
            case "constant":
                return 1.0
            case "linear":
                return 1.0 + (floor - 1.0) * rest
            case "cosine":
                return _cosine(1.0, floor, rest)
            case "one_cycle":
                return _cosine(0.04, 1.0, rest / 0.3) if rest < 0.3 else _cosine(1.0, floor, (rest - 0.3) / 0.7)

    return factor


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
