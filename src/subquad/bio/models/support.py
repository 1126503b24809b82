"""What the training data of a model support: letters observed at each position, range of the measurements; and which
direction of the target is better.

Axes: n rows, L positions, A letters.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subquad.bio.compared_models import label_of
from subquad.bio.metrics.scores import title
from subquad.bio.settings import Direction
from subquad.reporting.page import show
from subquad.runs.folder import METRICS
from subquad.runs.storage import read_json

if TYPE_CHECKING:
    from subquad.bio.models.scorer import Scorer

__all__ = [
    "beyond_measured",
    "count_of",
    "describe_direction",
    "describe_prediction",
    "describe_quality",
    "double_mutants_of_fit",
    "interval_text",
    "measured_range",
    "observed_letters",
    "prediction_interval",
    "range_warning",
    "sign_of",
    "yes_no",
]

NAMED = 5
"""Rows that a warning names."""


def sign_of(direction: Direction | None) -> int:
    """Return 1 if the target is maximized, which is assumed if nothing is stated, and -1 if it is minimized."""
    return -1 if direction == "minimize" else 1


def describe_direction(direction: Direction | None, title: str) -> str:
    """Return which direction is better, as a sentence for pages and the terminal; an assumption is called one.

    Args:
        direction: What the user stated; None if nothing.
        title: Label of the score.
    """
    if direction is None:
        return (
            f"Direction: assumed that a higher {title} is better, because --direction was not given; if a lower one "
            "is, repeat with --direction minimize --force."
        )
    return f"Direction: a {'higher' if direction == 'maximize' else 'lower'} {title} is better, as stated."


def describe_quality(scorer: "Scorer") -> str:
    """Return how good the model is on the test rows of its fit, as a sentence for pages."""
    metrics = _metrics(scorer)
    found = metrics.get("test", {}).get(scorer.default, {})
    name = metrics.get("main_metric", "")
    own = f"{name}:{scorer.name}"
    name = own if own in found else name
    if name not in found or name in metrics.get("undefined", {}):
        return "How good the model is on rows that it was not trained on is unknown."
    ends = metrics.get("intervals", {}).get("test", {}).get(scorer.default, {}).get(name)
    interval = f" (95 % interval {ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
    return (
        f"On the {metrics['rows']['test']:,} test rows of its fit the model ({label_of(scorer.default)}) reached "
        f"{title(name)} {found[name]:.3f}{interval}."
    )


def _metrics(scorer: "Scorer") -> dict[str, Any]:
    path = scorer.model.directory / METRICS
    return read_json(path) if path.is_file() else {}


def double_mutants_of_fit(scorer: "Scorer", wild_type: str) -> int | None:
    """Return how many rows of the table of the fit are double mutants of a wild type; None if that is unknown."""
    counts = (_metrics(scorer).get("audit") or {}).get("mutations")
    if counts is None or wild_type != scorer.schema.wild_type:
        return None
    return int(counts.get("2", 0))


def describe_prediction(scorer: "Scorer", sequence: str) -> str:
    """Return the prediction of a sequence, with its 90 % interval where the fit calibrated one."""
    mean, std = scorer.scores([sequence])
    low, high = prediction_interval(scorer, mean, std)
    interval = interval_text(low[0], high[0])
    return show(float(mean[0])) + ("" if interval is None else f" (90 % interval {interval})")


def observed_letters(scorer: "Scorer", length: int) -> list[str] | None:
    """Return the letters that the training rows have at each of the `length` positions; None if they are unknown."""
    recorded = scorer.config.get("observed_letters")
    if scorer.schema.length is None or recorded is None or len(recorded) != length:
        return None
    # negative codes are ambiguous letters
    return ["".join(scorer.model.alphabet[code] for code in codes if code >= 0) for codes in recorded]


def measured_range(scorer: "Scorer") -> tuple[float, float] | None:
    """Return the lowest and highest measurement of the table of the fit; None for probabilities or if unknown."""
    recorded = None if scorer.is_probability else scorer.config.get("measured_range")
    return None if recorded is None else (float(recorded[scorer.column][0]), float(recorded[scorer.column][1]))


def beyond_measured(
    prediction: np.ndarray, limits: tuple[float, float] | None, direction: Direction | None
) -> np.ndarray | None:
    """Return which predictions are better than the best measurement, `(n,)` bool; None if the range is unknown."""
    if limits is None:
        return None
    return prediction < limits[0] if sign_of(direction) < 0 else prediction > limits[1]


def range_warning(
    names: Sequence[str],
    is_beyond: np.ndarray | None,
    limits: tuple[float, float] | None,
    direction: Direction | None,
    *,
    what: str,
) -> str | None:
    """Return a warning about predictions better than any measurement; None if there are none.

    Args:
        names: Names of the rows, best first.
        is_beyond: `(n,)`, from `beyond_measured`.
        limits: From `measured_range`.
        direction: Which direction is better.
        what: What the rows are, such as designs.
    """
    if is_beyond is None or limits is None or not is_beyond.any():
        return None
    own = [name for name, beyond in zip(names, is_beyond, strict=True) if beyond]
    more = f" and {len(own) - NAMED:,} more" if len(own) > NAMED else ""
    side = (
        f"below the lowest measurement, {limits[0]:.4g}"
        if sign_of(direction) < 0
        else (f"above the highest measurement, {limits[1]:.4g}")
    )
    return (
        f"Warning: {len(own):,} of {len(is_beyond):,} {what} are predicted {side} ({', '.join(own[:NAMED])}{more}); no "
        "measurement supports such values, so that they are extrapolations."
    )


def prediction_interval(
    scorer: "Scorer", prediction: np.ndarray, spread: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of the 90 % interval of predictions, `(n,)` each; NaN if the fit calibrated none.

    Args:
        scorer: Model and output.
        prediction: `(n,)`.
        spread: `(n,)` standard deviation over the members; None or NaN for a single one.
    """
    nothing = np.full(len(prediction), np.nan)
    if scorer.is_probability:
        return nothing, nothing
    own = None if spread is None or np.isnan(spread).all() else spread
    low, high = scorer.model.interval(prediction, own, name=scorer.default, column=scorer.column) or (nothing, nothing)
    return np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan)


def interval_text(low: float, high: float) -> str | None:
    """Return an interval as the cell of a table; None without one."""
    return None if np.isnan(low) or np.isnan(high) else f"{show(float(low))} to {show(float(high))}"


def count_of(column: Any, value: str) -> int:
    """Return how many cells of a column equal a text."""
    return int((np.asarray(column, dtype=object) == value).sum())


def yes_no(values: Any) -> Any:
    """Return booleans as the column of a table, `yes` or `no`; None, for unknown, leaves the column empty."""
    return np.nan if values is None else np.where(np.asarray(values, dtype=bool), "yes", "no").astype(object)
