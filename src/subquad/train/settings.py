"""Settings and outcome of a training."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Length of a training, and how its steps are taken."""

    steps: int
    """Number of optimizer steps."""
    accumulation: int = 1
    """Number of batches whose gradients are averaged in one step; weighted by `counts` of `train`, if it is given."""
    clip: float | None = 1.0
    """Maximum norm of the gradient; None disables clipping."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Data type of matrix products (autocast); weights stay in float32."""
    evaluate_every: int | None = None
    """Steps between two validations. The last step is always validated, and the last but one validation is skipped
    where it would come less than half an interval before it."""
    patience: int | None = None
    """Number of successive validations without a new best after which training stops."""
    ema_decay: float | None = None
    """Decay of the exponential moving average of the weights that is validated and kept; None: no average."""
    save_seconds: float = 20.0
    """Minimum time between two checkpoints, in seconds."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Outcome of a training."""

    steps: int
    """Number of steps taken."""
    best_step: int
    """Step whose weights the model now holds."""
    best: dict[str, float]
    """Validation metrics at that step."""
    seconds: float
    """Time spent in training and validation, summed over all starts of the run."""
    cpu_seconds: float
    """Time of the processor in it, over all threads of this process."""
    stopped_early: bool
    """Whether patience ran out before the last step."""
