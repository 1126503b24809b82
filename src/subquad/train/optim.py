"""Which rate each parameter learns at, and how the rates change with progress. Costs nothing."""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

__all__ = ["Schedule", "ScheduleName", "parameter_groups", "schedule"]

Schedule = Callable[[float], float]
"""From progress in [0, 1] to the factor on every group's rate."""

ScheduleName = Literal["constant", "linear", "cosine", "one_cycle"]


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float = 0.0, state_space_rate: float = 1e-3
) -> list[dict[str, Any]]:
    """Return optimizer groups: matrices with decay, vectors without, state-space parameters slow and without.

    A module names its own state-space parameters in the class attribute `state_space_parameters`. They set time scales
    and frequencies, on which the output depends exponentially: hence the rate of at most `state_space_rate`
    (appendix of arXiv:2206.11893).
    """
    slow = {
        id(getattr(module, name))
        for module in model.modules()
        for name in getattr(module, "state_space_parameters", ())
        if getattr(module, name) is not None
    }
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in learnt if id(parameter) not in slow and parameter.ndim >= 2],
            "lr": learning_rate,
            "weight_decay": weight_decay,
        },
        {
            "params": [parameter for parameter in learnt if id(parameter) not in slow and parameter.ndim < 2],
            "lr": learning_rate,
            "weight_decay": 0.0,
        },
        {
            "params": [parameter for parameter in learnt if id(parameter) in slow],
            "lr": min(learning_rate, state_space_rate),
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def schedule(name: ScheduleName, *, warmup: float = 0.0, floor: float = 0.0) -> Schedule:
    """Return the factor on the rates as a function of progress.

    Args:
        name: `constant`; `linear` or `cosine` decay from 1 to `floor`; `one_cycle`, a cosine up from 1/25 over the
            first 30 % and a cosine down to `floor` (arXiv:1708.07120).
        warmup: the part of the progress over which the factor first rises linearly from 0.
        floor: the factor at the end.

    Raises:
        ValueError: `warmup` is not in [0, 1), or the name is none of these.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be in [0, 1), got {warmup}")
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
