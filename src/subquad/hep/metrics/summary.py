"""Metrics of several models on labelled jets, with their uncertainties, and whether one of them is better."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from subquad.hep.metrics.classification import METRICS, classification_metrics, interval_around, spread
from subquad.hep.metrics.mass_shape import EFFICIENCIES, inverse_jsd, mass_shapes
from subquad.hep.metrics.paired import model_difference
from subquad.hep.metrics.predictions import ModelPredictions, Predictions
from subquad.hep.metrics.regression import regression_metrics, regression_summary
from subquad.hep.metrics.weighting import effective_number, weight_note
from subquad.reporting.statistics import CLEARLY_BETTER, Difference


def measure(
    models: Sequence[ModelPredictions], classes: Sequence[str], background: str, *, efficiency: float | None = None
) -> list[dict[str, Any]]:
    """Return the metrics of each model: one entry per training, and their spread.

    Args:
        models: Predictions of the models.
        classes: Names of the classes.
        background: Class whose rejection is measured.
        efficiency: Signal efficiency of the rejection; None for those of JetClass's table.
    """
    found = []
    for model in models:
        trainings = [
            {
                "source": one.source,
                "seed": one.seed,
                "jets": dict(zip(classes, np.bincount(one.labels, minlength=len(classes)).tolist(), strict=True)),
                "milliseconds_per_jet": None
                if one.batches is None
                else 1e3 * one.batches[:, 2].sum() / one.batches[:, 1].sum(),
                "latency_milliseconds": one.latency,
                **_effective_jets(one, classes),
                "targets": {
                    name: regression_metrics(one.predicted[name], one.true[name], one.weights) for name in one.predicted
                },
                "mass_shapes": mass_shapes(one, classes, background),
                **classification_metrics(
                    one.probabilities,
                    one.labels,
                    classes,
                    background,
                    weights=one.weights,
                    temperature=one.temperature,
                    efficiency=efficiency,
                ),
            }
            for one in model.trainings
        ]
        of_median = next(i for i, one in enumerate(model.trainings) if one is model.median_training)
        found.append(
            {"name": model.name, "spread": spread(trainings), "median_training": of_median, "trainings": trainings}
        )
    return found


def _effective_jets(one: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Return the fraction of negative weights and the effective number of jets, of all and by class, if weighted."""
    if one.weights is None:
        return {}
    weights = one.weights.astype(np.float64)
    by_class = {name: effective_number(weights[one.labels == i]) for i, name in enumerate(classes)}
    return {
        "negative_weights": float((weights < 0).mean()),
        "effective_jets": {"all": effective_number(weights), **by_class},
    }


def weight_notes(predictions: Sequence[Predictions]) -> list[str]:
    """Return a sentence about the event weights of the jets, and a warning if only some predictions have any."""
    weighted = [one for one in predictions if one.weights is not None]
    if not weighted:
        return []
    assert weighted[0].weights is not None
    notes = [weight_note(weighted[0].weights.astype(np.float64), "Jets")]
    without = list(dict.fromkeys(one.source for one in predictions if one.weights is None))
    if without:
        notes.append(
            f"{', '.join(without)} have no event weights, so that their jets count the same: the metrics cannot be "
            "compared. Add a branch event_weight, or name one with --event-weights."
        )
    return notes


def missing_classes(predictions: Sequence[Predictions], classes: Sequence[str]) -> list[str]:
    """Return a note on classes that no jet has."""
    present = {label for one in predictions for label in np.unique(one.labels).tolist()}
    missing = [name for i, name in enumerate(classes) if i not in present]
    return [f"None of the jets is {', '.join(missing)}: metrics that need such jets are left out."] if missing else []


def errors_over_jets(measured: Mapping[str, Any], metric: str) -> list[float]:
    """Return the uncertainty of a metric by the sampling of test jets, of each training for which it is known.

    It is half of the 68.3 % interval, and all of an interval that ends at the value, such as that of an accuracy of 1.
    """
    found = []
    for one in measured["trainings"]:
        if limits := one.get("intervals", {}).get(metric):
            sides = np.abs(np.array(limits) - one[metric])
            found.append(float(sides.max() if np.isclose(sides.min(), 0) else sides.mean()))
    return found


def uncertainty(measured: Mapping[str, Any], metric: str) -> float | None:
    """Return the uncertainty of a metric's mean, of 68.3 %: over jets and, if there are several, over trainings."""
    widths = errors_over_jets(measured, metric)
    of_trainings = measured["spread"].get(metric, {}).get("interval")
    over_trainings = None if of_trainings is None else (of_trainings[1] - of_trainings[0]) / 2
    if not widths:
        return over_trainings
    return float(np.hypot(np.mean(widths), over_trainings or 0.0))


def summarize(measured: Sequence[Mapping[str, Any]], models: Sequence[ModelPredictions]) -> dict[str, Any]:
    """Return `test` and `intervals`, by model and metric, `differences`, `wins` and `not_compared`.

    `intervals.test` covers jets and trainings; for rejections of several trainings and for 1/JSD it is the range over
    trainings. `intervals.trainings` is that of the mean over trainings alone, of models with several.

    A model wins if its top-1 accuracy is clearly better than each other model's. `not_compared` says why there are no
    differences, such as `different jets`.

    Args:
        measured: Metrics of the models, as `measure` returns them.
        models: Their predictions.
    """
    gaps = differences(models)
    return {
        "test": {model["name"]: _values(model) for model in measured},
        "intervals": {
            "test": {model["name"]: _intervals(model) for model in measured},
            "trainings": {
                model["name"]: {name: model["spread"][name]["interval"] for name in METRICS if name in model["spread"]}
                for model in measured
                if len(model["trainings"]) > 1
            },
        },
        "differences": gaps,
        "wins": _winner(gaps),
        "not_compared": _not_compared(models, gaps),
    }


def _values(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean of each metric over the trainings, and the median of each rejection and of each 1/JSD."""
    rejections = {name: entry["median"] for name, entry in model["spread"]["rejection"].items()}
    return {name: model["spread"][name]["mean"] for name in METRICS if name in model["spread"]} | {
        "rejection": rejections,
        **{key: {name: median(found) for name, found in by.items()} for key, by in _mass_shapes(model).items()},
        **regression_summary(model["trainings"])[0],
    }


def _mass_shapes(model: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return 1/JSD of the trainings by efficiency and signal, such as `inverse_jsd_50`; empty without masses."""
    found = {}
    for efficiency in EFFICIENCIES:
        by = {name: inverse_jsd(model["trainings"], name, efficiency) for name in model["trainings"][0]["rejection"]}
        if known := {name: values for name, values in by.items() if values}:
            found[f"inverse_jsd_{100 * efficiency:.0f}"] = known
    return found


def _intervals(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the intervals over jets of a single training; of several, those over jets and trainings."""
    first, means = model["trainings"][0], _values(model)
    targets = regression_summary(model["trainings"])[1]
    if len(model["trainings"]) == 1:
        rejections = {name: [first["rejection"][name][end] for end in ("low", "high")] for name in means["rejection"]}
        known = {name: interval for name, interval in first["intervals"].items() if interval is not None}
        return {**known, "rejection": rejections, **targets}
    shapes = _mass_shapes(model)
    errors = {name: uncertainty(model, name) for name in means if name in METRICS}
    rejections = {name: [entry["min"], entry["max"]] for name, entry in model["spread"]["rejection"].items()}
    return {name: list(interval_around(means[name], error)) for name, error in errors.items() if error is not None} | {
        "rejection": rejections,
        **{key: {name: [min(one), max(one)] for name, one in by.items()} for key, by in shapes.items()},
        **targets,
    }


def differences(models: Sequence[ModelPredictions]) -> dict[str, dict[str, dict[str, float]]]:
    """Return by how much the highest top-1 accuracy exceeds that of each other model, with 95 % intervals.

    Args:
        models: Predictions of the models.

    Returns:
        `<best>.<other>` with `value`, `low` and `high`, as `model_difference` returns them; empty if the models were
        measured on different jets, or on too few for an interval.
    """
    if len(models) < 2 or not _are_on_same_jets(models):
        return {}
    best = max(models, key=lambda model: float(np.mean([one.accuracy for one in model.trainings])))
    found = {other.name: model_difference(best, other) for other in models if other is not best}
    own = {name: asdict(gap) for name, gap in found.items() if gap is not None}
    return {best.name: own} if len(own) == len(found) else {}


def difference_of(metrics: Mapping[str, Any], first: str, second: str) -> Difference | None:
    """Return the difference of the top-1 accuracies of two models in `differences`; None if they were not compared."""
    gaps = metrics["differences"]
    if second in gaps.get(first, {}):
        return Difference.read(gaps[first][second])
    if first not in gaps.get(second, {}):
        return None
    value, low, high = (-gaps[second][first][end] for end in ("value", "high", "low"))
    return Difference(value, low, high)


def _are_on_same_jets(models: Sequence[ModelPredictions]) -> bool:
    first = models[0].trainings[0]
    return all(one.is_on_jets_of(first) for model in models for one in model.trainings)


def _not_compared(models: Sequence[ModelPredictions], gaps: Mapping[str, Any]) -> str | None:
    """Return why models have no differences with intervals; None if they have, or if there is a single model."""
    if len(models) < 2 or gaps:
        return None
    return "one jet gives no interval" if _are_on_same_jets(models) else "different jets"


def _winner(gaps: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str | None:
    verdict = METRICS["accuracy"].verdict
    is_best = {
        best: all(verdict(Difference.read(gap)) == CLEARLY_BETTER for gap in own.values()) for best, own in gaps.items()
    }
    return next((best for best, is_clear in is_best.items() if is_clear), None)
