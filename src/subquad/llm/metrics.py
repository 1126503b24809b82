"""The models that a run or an evaluation measures, their perplexities, and by how much two of them differ."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from subquad.errors import SubquadError
from subquad.reporting.metrics import Metric
from subquad.reporting.statistics import (
    CLEARLY_BETTER,
    THRESHOLDS,
    Difference,
    bootstrap_means,
    mean_interval,
    paired_difference,
)

TEACHER, WINDOW, STUDENT, WITHOUT_LINEAR = "teacher", "window", "fine_tuned", "fine_tuned_without_linear"
CONTROLS = ("teacher_fine_tuned", "window_fine_tuned", "wide_window_fine_tuned", "cache_fine_tuned")
"""Models without a linear branch that are fine-tuned on the same texts, with the tokens of both stages."""
FINE_TUNED = {TEACHER: "teacher_fine_tuned", WINDOW: "wide_window_fine_tuned"}
"""Controls that take the place of the untrained models at the ends of the gap, if they were trained."""
LABELS = {
    TEACHER: "teacher",
    "teacher_fine_tuned": "teacher, fine-tuned",
    WINDOW: "window only, untrained",
    "cache": "window and cache, untrained",
    "window_fine_tuned": "window, fine-tuned",
    "wide_window_fine_tuned": "wide window, fine-tuned",
    "cache_fine_tuned": "window and larger cache, fine-tuned",
    "untrained": "student, untrained",
    "transferred": "student, after attention transfer",
    "restored": "student, with softmax attention in chosen layers",
    "earlier": "student, after the earlier run",
    WITHOUT_LINEAR: "student without its linear branch",
    STUDENT: "student",
}
"""Models by their key in `metrics.json`, and their names; the student always stands below its controls."""
PERPLEXITY = Metric(title="Perplexity", threshold=THRESHOLDS["perplexity"], better="lower", digits=1, unit=" %")
"""Differences are changes in per cent."""
ALWAYS_FINITE = (TEACHER, STUDENT)
"""Models without whose losses a run has no result; others are compared with them."""
LARGEST_LOSS = 700.0
"""A larger one has no perplexity that a float can hold."""
RESAMPLES = 2000
"""Bootstrap samples of an interval."""
MAX_LOG = 50.0
"""Logarithm of the largest ratio that is computed."""


def percent(gap: Difference) -> Difference:
    """Return a difference of mean losses as the change of the perplexity in per cent."""
    return Difference(*(100 * math.expm1(min(end, MAX_LOG)) for end in (gap.value, gap.low, gap.high)))


def perplexity_change(losses: Sequence[float], other: Sequence[float]) -> Difference | None:
    """Return by how many per cent a perplexity is above another, with its 95 % interval, paired by sequence.

    Args:
        losses: Loss on each sequence.
        other: Loss of the other model on the same sequences.

    Returns:
        The change; None if there are too few sequences for an interval, or a loss is not finite (null in files).
    """
    values, theirs = (np.array(column, dtype=float) for column in (losses, other))
    gap = paired_difference(values, theirs) if np.isfinite(values).all() and np.isfinite(theirs).all() else None
    return None if gap is None else percent(gap)


def perplexity_of(loss: float) -> float:
    """Return the perplexity of a mean loss.

    Raises:
        SubquadError: It is not finite.
    """
    if not loss < LARGEST_LOSS:
        raise SubquadError(f"the loss on held-out text is {loss:g}: training has diverged; lower the learning rates")
    return math.exp(loss)


def compare_losses(losses: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the perplexities of models, as in `metrics.json`.

    Args:
        losses: Loss on each of the same held-out sequences, by model.

    Returns:
        `test.<model>.perplexity`, None if it is not finite; `intervals.test.<model>.perplexity`, 95 % intervals over
        sequences, unless there are too few; and `wins`, the model that is clearly better than all others but the
        teacher, with and without fine-tuning, else None.

    Raises:
        SubquadError: The perplexity of the teacher or of the student is not finite.
    """
    known = {name: column for name, column in losses.items() if name in ALWAYS_FINITE or fmean(column) < LARGEST_LOSS}
    intervals = {}
    for name, column in known.items():
        values = np.array(column)
        limits = mean_interval(values, bootstrap_means(values, resamples=RESAMPLES))
        if limits is not None:
            # no perplexity is below 1
            intervals[name] = {"perplexity": [math.exp(min(max(limit, 0.0), LARGEST_LOSS)) for limit in limits]}
    students = [name for name in known if not name.startswith(TEACHER)]
    best = min(students, key=lambda name: fmean(known[name]))
    gaps = [perplexity_change(known[best], known[name]) for name in students if name != best]
    is_clear = all(PERPLEXITY.verdict(gap) == CLEARLY_BETTER for gap in gaps)
    return {
        "test": {
            name: {"perplexity": perplexity_of(fmean(losses[name])) if name in known else None} for name in losses
        },
        **({"intervals": {"test": intervals}} if intervals else {}),
        "wins": best if is_clear else None,
    }
