"""Systematic variations of an evaluation: which taggers can be varied, and how much the metrics shift."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from subquad.errors import raise_errors
from subquad.hep.metrics.predictions import ModelPredictions
from subquad.hep.metrics.summary import measure, summarize
from subquad.hep.metrics.weighting import weighted_mean
from subquad.hep.models.trained import TrainedTagger

__all__ = ["check_variable", "varied_metrics"]


def check_variable(taggers: Mapping[str, Sequence[TrainedTagger]]) -> None:
    """Check that the inputs of all taggers follow from momenta that can be varied.

    Raises:
        SubquadError: The card of a tagger has no momenta, or has collections of events or several of inputs.
    """
    errors = []
    for tagger in (one for each in taggers.values() for one in each):
        card = tagger.layout.card
        if card is None:
            continue
        lacks = None
        if not card.vectors:
            lacks = "has no pf_vectors"
        elif card.collections is not None:
            lacks = "describes collections of events"
        elif len(card.inputs) > 1:
            lacks = "has several collections of inputs"
        if lacks is not None:
            errors.append(f"{tagger.path}: {card.name} {lacks}, so that momenta cannot be varied")
    raise_errors("--vary: some taggers cannot be evaluated on varied jets:", errors)


def varied_metrics(
    nominal: Sequence[ModelPredictions],
    varied: Sequence[ModelPredictions],
    classes: Sequence[str],
    background: str,
    *,
    efficiency: float | None = None,
) -> dict[str, Any]:
    """Return the metrics on varied jets, and their shifts against those on the same jets without the variation.

    Returns:
        `test`, as in `metrics.json`; and `shifts` by model: differences of the metrics, also of those by signal or
        by regression target; `rejection` by signal as the relative difference; and `accuracy_error`, the standard
        error of the difference of accuracies, paired by jet, or None if the variation selects other jets.
    """
    before, after = (
        summarize(measure(models, classes, background, efficiency=efficiency), models)["test"]
        for models in (nominal, varied)
    )
    shifts = {}
    for old, new in zip(nominal, varied, strict=True):
        first, second = before[old.name], after[new.name]
        shifts[old.name] = {
            **_differences(first, second),
            "rejection": {
                name: second["rejection"][name] / value - 1
                for name, value in first["rejection"].items()
                if value and second["rejection"].get(name)
            },
            "accuracy_error": _paired_error(old, new),
        }
    return {"test": after, "shifts": shifts}


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the differences of the numbers that both have, also of those in nested mappings."""
    found: dict[str, Any] = {}
    for name, value in before.items():
        match value, after.get(name):
            case Mapping() as first, Mapping() as second:
                found[name] = _differences(first, second)
            case float() as first, float() as second:
                found[name] = second - first
    return found


def _paired_error(old: ModelPredictions, new: ModelPredictions) -> float | None:
    one, other = old.median_training, next(t for t in new.trainings if t.source == old.median_training.source)
    if not np.array_equal(one.labels, other.labels):
        return None
    right, later = ((each.probabilities.argmax(1) == each.labels).astype(float) for each in (one, other))
    weights = np.ones(len(right)) if one.weights is None else one.weights.astype(np.float64)
    change = later - right
    spread = (weights**2 * (change - weighted_mean(change, weights)) ** 2).sum() ** 0.5
    return float(spread / weights.sum())
