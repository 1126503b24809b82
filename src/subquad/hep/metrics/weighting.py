"""Sums over jets that count with event weights, some of which may be negative.

Axes: J jets.
"""

from typing import Any

import numpy as np

NO_JET = -np.log((1 - 0.6827) / 2)
"""Upper limit of the 68.3 % interval of a number of jets of which none was observed."""
ROUNDING = 1e-12


def effective_number(weights: np.ndarray) -> float:
    r"""Return $(\sum w)^2 / \sum w^2$: the number of jets of weight 1 with the same relative uncertainty."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def sum_of_weights(of: np.ndarray, weights: np.ndarray | None) -> float:
    """Return the sum of the weights of the jets where `of` [J] is true."""
    return float(of.sum() if weights is None else weights[of].sum())


def weighted_mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    """Return the mean of values [J] with weights [J]; None counts all the same. NaN if the weights add up to 0."""
    if weights is None:
        return float(values.mean())
    total = weights.sum()
    return float((values * weights).sum() / total) if total else float("nan")


def passed_and_total(passes: np.ndarray, weights: np.ndarray | None) -> tuple[Any, Any]:
    """Return how many jets pass, and of how many: numbers of jets, or effective numbers.

    Args:
        passes: [J] bool.
        weights: [J]; None counts all the same.
    """
    if weights is None:
        return int(passes.sum()), len(passes)
    own = weights[passes]
    passed, total = equivalent_counts(own.sum(), (own**2).sum(), weights)
    return float(passed), float(total)


def equivalent_counts(passed: Any, squares: Any, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return how many jets pass, and of how many: numbers of jets of weight 1 with the same fraction and uncertainty.

    The fraction is $p = \sum_+ w / \sum w$ over the jets that pass and over all, and its variance
    $((1 - p)^2 \sum_+ w^2 + p^2 \sum_- w^2) / (\sum w)^2$, by the jets that pass and those that do not. That of
    $n$ jets of weight 1 is $p (1 - p) / n$. Where negative weights put the fraction outside of 0 to 1, it is 0 or 1,
    of so many jets that the limit of its interval lies a standard deviation away.

    Args:
        passed: [...], sums of the weights of the jets that pass.
        squares: [...], sums of their squares.
        weights: [J], weights of all jets; no jets are counted unless they add up to more than 0.
    """
    passed, squares = np.asarray(passed, float), np.asarray(squares, float)
    total = float(weights.sum())
    if not total > 0:
        return np.zeros(passed.shape), np.zeros(passed.shape)
    of_all = float((weights**2).sum())
    fraction = (passed / total).clip(0, 1)
    # sums over no jets may differ from 0 by rounding
    squares, others = (np.where(part > ROUNDING * of_all, part, 0.0) for part in (squares, of_all - squares))
    variance = (1 - fraction) ** 2 * squares + fraction**2 * others
    number = np.full(passed.shape, effective_number(weights))
    is_inside = (fraction > ROUNDING) & (fraction < 1 - ROUNDING)
    np.divide(fraction * (1 - fraction) * total**2, variance, out=number, where=is_inside & (variance > 0))
    beyond = np.where(passed < total / 2, squares, others)
    np.divide(NO_JET * total, np.sqrt(beyond), out=number, where=~is_inside & (beyond > 0))
    return fraction * number, number


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
