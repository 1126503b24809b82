"""Settings of `bench`."""

from dataclasses import dataclass
from typing import Annotated

from subquad.errors import SubquadError
from subquad.runs.options import (
    Count,
    Distinct,
    Ge,
    Input,
    MinLen,
    Model,
    MoreTraining,
    Positive,
    Seed,
    Settings,
    Training,
)

__all__ = ["BenchSettings"]


@dataclass(frozen=True, kw_only=True)
class BenchSettings(Settings):
    """Which tasks to run, with what training budget, and how many at a time."""

    only: Input[tuple[str, ...]] = ()
    """Tasks to run, by id; * matches any characters, such as dms/* pep/amp. Default: all."""
    task_types: Input[tuple[str, ...]] = ()
    """Types of tasks to run, such as regression binary. Default: all."""
    train_on: Input[tuple[str, ...]] = ()
    """Training rows for tasks that have none, as TASK=TASK; * on the left matches any characters, such as
    idr/caid2_disorder_*=idr/disorder."""
    models: Model[Annotated[tuple[str, ...], Distinct()]] = ()
    """Models to fit to each task that they suit, such as ridge lyra lyra-paper. Default: as for `fit`."""
    train_rows: Training[Annotated[int, Ge(10)]] = 20_000
    """Maximum number of training rows per task, drawn at random."""
    tokens: Training[Count] = 2_000_000
    """Training budget of each network, in tokens (letters of the sequences)."""
    boosting_iterations: MoreTraining[Count | None] = None
    """Maximum number of trees in gradient boosting. Default: as many as fit in 40 seconds or in the time of Lyra."""
    seeds: Training[Annotated[tuple[Seed, ...], MinLen(1), Distinct()]] = (0,)
    """Seeds; each task is run once per seed."""
    jobs: Training[Count] = 2
    """Number of tasks at a time, one thread each, largest first."""
    ray: Training[bool] = False
    """Distribute the tasks with Ray: on the cluster of the variable RAY_ADDRESS, or on --jobs local cores."""
    timeout: MoreTraining[Positive | None] = None
    """Maximum time of one task in seconds; a task that exceeds it is stopped and counts as failed. The next start
    resumes it. Default: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # parsed here to report errors before any file is read
        _ = self.train_pairs

    @property
    def train_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pattern of the tasks without training rows, and id of the task whose rows they take.

        Raises:
            SubquadError: An entry of `train_on` is not TASK=TASK.
        """
        pairs = []
        for text in self.train_on:
            pattern, _, donor = (part.strip() for part in text.partition("="))
            if not pattern or not donor or "=" in donor:
                raise SubquadError(f"--train-on must be TASK=TASK, got {text!r}")
            pairs.append((pattern, donor))
        return tuple(pairs)
