"""Sums over jets that count with event weights, some of which may be negative.

Axes: J jets.
"""

from typing import Any

import numpy as np

__all__ = ["effective_number", "weight_note", "weighted_fraction", "weighted_mean"]


def effective_number(weights: np.ndarray) -> float:
    r"""Return $(\sum w)^2 / \sum w^2$: the number of jets of weight 1 with the same relative uncertainty."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def weighted_mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    """Return the mean of values [J] with weights [J]; None counts all the same. NaN if the weights add up to 0."""
    if weights is None:
        return float(values.mean())
    total = weights.sum()
    return float((values * weights).sum() / total) if total else float("nan")


def weighted_fraction(passes: np.ndarray, weights: np.ndarray | None) -> tuple[Any, Any]:
    """Return how many jets pass, and of how many: numbers of jets, or effective numbers.

    Args:
        passes: [J] bool.
        weights: [J]; None counts all the same.
    """
    if weights is None:
        return int(passes.sum()), len(passes)
    total = weights.sum()
    if not total > 0:
        return 0.0, 0.0
    number = effective_number(weights)
    # the fraction of a sample with negative weights may be below 0 or above 1
    return number * float(np.clip(weights[passes].sum() / total, 0.0, 1.0)), number


def weight_note(weights: np.ndarray, what: str) -> str:
    """Return a sentence about event weights: the fraction of negative ones, and the effective number of jets.

    Args:
        weights: [J].
        what: Name of the jets, such as `test jets`.
    """
    negative = float((weights < 0).mean())
    text = f"; {100 * negative:.1f} % of the weights are negative" if negative else ""
    # events of opposite signs cancel in sums, and their fluctuations do not
    advice = (
        "Negative weights are kept and increase the variance of the training and of all metrics. " if negative else ""
    )
    return (
        f"{what} count with their event weights{text}. {advice}The effective number of jets, (Σw)²/Σw², is "
        f"{effective_number(weights):,.0f} of {len(weights):,}."
    )
