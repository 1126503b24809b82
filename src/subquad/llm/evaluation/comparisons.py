"""The student beside its controls: intervals, paired differences, and how much of the gap to the teacher is closed.

Axes: N items, M models, R bootstrap resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from subquad.llm.metrics import FINE_TUNED, LABELS, STUDENT, TEACHER, WINDOW
from subquad.reporting.statistics import (
    FEW_ITEMS,
    FEWEST_ITEMS,
    bootstrap_means,
    mean_interval,
    percentile_interval,
    ratio_interval,
    wilson,
)

NO_GAP = "teacher and window are not told apart, so that no gap is shown"
FEWEST_RATES = 20
"""Items from which on the gap of rates is computed."""
NO_WINDOW = "no window was measured"
TOO_FEW = f"there are too few sequences to measure a gap in loss (fewer than {FEWEST_ITEMS})"
TOO_FEW_RATES = f"there are too few items to measure a gap in accuracy (fewer than {FEWEST_RATES})"

Interval = tuple[float, float]


def compare(values: Mapping[str, Sequence[float]], *, is_rate: bool, resamples: int, seed: int = 0) -> dict[str, Any]:
    """Return means with 95 % intervals, the student minus each control, and the gap that the student closes.

    All models are measured on the same items and resampled together, so differences are paired. Intervals of rates are
    Wilson's, and those of their differences Newcombe's (method 10, Statistics in Medicine 17 (1998) 2635), which hold
    for few items and for 0 and 100 % too. Those of losses are bootstrapped, or of few sequences by Student's t; fewer
    than `FEWEST_ITEMS` have none.

    Args:
        values: One value per item by model variant; variants that were not measured are absent.
        is_rate: Values are 0 (wrong) or 1 (right), not losses.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.
    """
    roles = [role for role in LABELS if role in values]
    table = np.array([values[role] for role in roles], dtype=np.float64).T  # [N, M]
    column, count = {role: table[:, index] for index, role in enumerate(roles)}, len(table)
    resampled = bootstrap_means(table, resamples=resamples, seed=seed)  # [R, M]
    means = {role: resampled[:, index] for index, role in enumerate(roles)}

    def single(role: str) -> Interval | None:
        if is_rate:
            low, high = wilson(int(column[role].sum()), count)
            return float(low), float(high)
        return mean_interval(column[role], means[role])

    def difference(role: str, other: str) -> Interval | None:
        if is_rate:
            return _newcombe(column[role], column[other])
        return mean_interval(column[role] - column[other], means[role] - means[other])

    # a student has read its training texts, so it is compared with controls that have read them too
    are_tuned = all(role in column for role in FINE_TUNED.values())
    teacher, window = FINE_TUNED.values() if are_tuned else (TEACHER, WINDOW)
    return {
        "items": count,
        "models": {role: _estimate(column[role].mean(), single(role)) for role in roles},
        "differences": {
            role: _estimate((column[STUDENT] - column[role]).mean(), difference(STUDENT, role))
            for role in roles
            if role != STUDENT
        },
        "gap_closed": _gap_closed(column, means, difference(teacher, window), ends=(teacher, window), is_rate=is_rate)
        if window in column
        else {**_estimate(None), "reason": NO_WINDOW},
    }


def _gap_closed(
    column: Mapping[str, Float[np.ndarray, " N"]],
    means: Mapping[str, Float[np.ndarray, " R"]],
    gap: Interval | None,
    *,
    ends: tuple[str, str],
    is_rate: bool,
) -> dict[str, Any]:
    """Return (student - window) / (teacher - window) with its interval, or the reason why there is no such value.

    `ends` are the names of teacher and window.
    """
    fewest, reason = (FEWEST_RATES, TOO_FEW_RATES) if is_rate else (FEWEST_ITEMS, TOO_FEW)
    if gap is None or len(column[STUDENT]) < fewest:
        return {**_estimate(None), "reason": reason}
    if gap[0] <= 0 <= gap[1]:
        return {**_estimate(None), "reason": NO_GAP}
    student, teacher, window = (column[role] for role in (STUDENT, *ends))
    if is_rate or len(student) >= FEW_ITEMS:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = (means[STUDENT] - means[ends[1]]) / (means[ends[0]] - means[ends[1]])
        interval = percentile_interval(ratios[np.isfinite(ratios)])
    else:
        interval = ratio_interval(student - window, teacher - window)
    return _estimate((student - window).mean() / (teacher - window).mean(), interval)


def _estimate(value: float | None, interval: Interval | None = None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"value": None if value is None else float(value), "low": low, "high": high}


def _newcombe(right: Float[np.ndarray, " N"], other: Float[np.ndarray, " N"]) -> Interval:
    """Return the interval of the difference of two rates that are measured on the same items."""
    count, p, q = len(right), right.mean(), other.mean()
    (p_low, p_high), (q_low, q_high) = (wilson(int(values.sum()), count) for values in (right, other))
    # ad - bc in the table of pairs; positive values have a continuity correction, without which the interval is narrow
    excess = count * (right * other).sum() - right.sum() * other.sum()
    if excess > 0:
        excess = max(excess - count / 2, 0.0)
    spread = np.sqrt(p * (1 - p) * q * (1 - q))
    correlation = excess / (count**2 * spread) if spread else 0.0

    def distance(a: float, b: float) -> float:
        return float(np.sqrt(max(0.0, a**2 - 2 * correlation * a * b + b**2)))

    return float(p - q) - distance(p - p_low, q_high - q), float(p - q) + distance(p_high - p, q - q_low)
