"""Figures beside their controls: intervals, paired differences, and how much of the teacher's lead was won back.

Axes: N items, M models, R resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

__all__ = ["ROLES", "STUDENT", "TEACHER", "WINDOW", "compare", "gap_closed"]

TEACHER, WINDOW, STUDENT = "softmax", "window_only", "tuned"
ROLES = (TEACHER, WINDOW, "window_tuned", "tuned_without_linear", STUDENT)
"""The model, always with its controls: what it was made from, and what it would be without linear attention."""

COVERED = (2.5, 97.5)
NO_LEAD = "softmax and window only are within noise of each other: there is no gap to close"
FEWEST = 4
TOO_FEW = f"fewer than {FEWEST} items or sequences tell no gap from noise; measure more"


def compare(values: Mapping[str, Sequence[float]], *, resamples: int, seed: int = 0) -> dict[str, Any]:
    """Return means with 95 % intervals, the student's differences from each control, and the gap it closes.

    All models have the same items, and a resample draws the same of them for all, so what items have in common
    does not widen the differences.

    Args:
        values: One value per item, by role; a role that was not measured is left out.
        resamples: Resamples of the bootstrap.
        seed: Of the resamples.
    """
    roles = [role for role in ROLES if role in values]
    table = np.array([values[role] for role in roles], dtype=np.float64).T  # [N, M]
    means, drawn = table.mean(0), _resample(table, resamples, seed)
    at = {role: place for place, role in enumerate(roles)}
    result: dict[str, Any] = {
        "items": len(table),
        "models": {role: _estimate(means[at[role]], drawn[:, at[role]], len(table)) for role in roles},
        "differences": {
            role: _estimate(
                means[at[STUDENT]] - means[at[role]], drawn[:, at[STUDENT]] - drawn[:, at[role]], len(table)
            )
            for role in roles
            if role != STUDENT
        },
    }
    result["gap_closed"] = gap_closed(
        {role: means[at[role]] for role in roles}, {role: drawn[:, at[role]] for role in roles}, items=len(table)
    )
    return result


def gap_closed(
    means: Mapping[str, float], drawn: Mapping[str, Float[np.ndarray, " R"]], *, items: int
) -> dict[str, Any]:
    """Return (student - window only) / (softmax - window only) with its interval, or why there is no such number.

    Args:
        means: Mean by role.
        drawn: Means of the resamples by role.
        items: How many items stand behind a mean.
    """
    if items < FEWEST:
        return {"value": None, "why": TOO_FEW}
    low, high = np.percentile(drawn[TEACHER] - drawn[WINDOW], COVERED)
    if low <= 0 <= high:
        return {"value": None, "why": NO_LEAD}
    value = (means[STUDENT] - means[WINDOW]) / (means[TEACHER] - means[WINDOW])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (drawn[STUDENT] - drawn[WINDOW]) / (drawn[TEACHER] - drawn[WINDOW])
    return _estimate(value, ratios[np.isfinite(ratios)], items)


def _estimate(value: float, drawn: Float[np.ndarray, " R"], items: int) -> dict[str, float | None]:
    low, high = np.percentile(drawn, COVERED) if items > 1 else (None, None)
    return {"value": float(value), "low": _number(low), "high": _number(high)}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _resample(table: Float[np.ndarray, "N M"], resamples: int, seed: int) -> Float[np.ndarray, "R M"]:
    generator = np.random.default_rng(seed)
    return np.stack([table[generator.integers(len(table), size=len(table))].mean(0) for _ in range(resamples)])
