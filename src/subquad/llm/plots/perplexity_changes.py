"""Perplexities with their intervals, and by how much two differ on the same sequences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from subquad.llm.plots.evaluation_tables import perplexity_text
from subquad.reporting.page import difference_text
from subquad.reporting.statistics import Difference, paired_difference

__all__ = ["change_text", "perplexity_cell", "perplexity_change", "perplexity_interval"]

MAX_LOG = 50.0
"""Logarithm of the largest ratio that is computed."""


def perplexity_change(one: Sequence[float], other: Sequence[float]) -> Difference | None:
    """Return by how many percent the perplexity `one` is above the `other`, with its 95 % interval, paired by sequence.

    Args:
        one: Loss on each sequence.
        other: Loss of the other model on the same sequences.

    Returns:
        The change; None of fewer than two sequences, which have no interval, or of losses that are not finite.
    """
    # which are null in files
    own, its = (np.array(losses, dtype=float) for losses in (one, other))
    if not (np.isfinite(own).all() and np.isfinite(its).all()) or (found := paired_difference(own, its)) is None:
        return None
    ends = (found.value, found.low, found.high)
    return Difference(*(100 * math.expm1(min(end, MAX_LOG)) for end in ends))


def change_text(change: Difference) -> str:
    """Return a change with its interval, as `+3.1 % [+1.0, +5.2]`."""
    digits = 0 if abs(change.value) >= 1000 else 1
    return difference_text(change.value, change.low, change.high, digits=digits, unit=" %")


def perplexity_interval(metrics: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a model's perplexity in `metrics.json`; None if it was measured on one sequence."""
    limits = metrics.get("intervals", {}).get("test", {}).get(name, {}).get("perplexity")
    return None if limits is None else (limits[0], limits[1])


def perplexity_cell(metrics: Mapping[str, Any], name: str) -> str | None:
    """Return a model's perplexity with its interval, for a table; None if it was not measured."""
    if name not in metrics["test"]:
        return None
    text, limits = perplexity_text(metrics["test"][name]["perplexity"]), perplexity_interval(metrics, name)
    return text if limits is None else f"{text} [{', '.join(map(perplexity_text, limits))}]"
