"""Class probabilities that a tagger predicts for labelled jets, whichever program wrote them.

Axes: J jets, C classes, N batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from subquad.hep.metrics.weighting import weighted_mean

TEST_SCORES = "test_scores.safetensors"
"""File in the folder of a run: probabilities, labels and observers of its test jets."""

OBSERVERS: Mapping[str, str] = {
    **{"pt": "jet_pt", "sdmass": "jet_sdmass", "multiplicity": "jet_nparticles"},
    "weights": "event_weight",
}
"""Observers of `Predictions` and their branches."""

TARGETS = ("predicted", "true")
"""Fields of `Predictions` with regression targets; in the file of a run, names begin with these words and a dot."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions of one training of a model for labelled jets."""

    model: str
    """Name of the model; trainings of one model share it."""
    source: str
    """Folder or file that the predictions come from."""
    seed: int | None = None
    """Seed of the training, if known."""
    probabilities: np.ndarray
    """[J, C]; each row sums to 1."""
    labels: np.ndarray
    """[J] int64, indices of the true classes."""
    pt: np.ndarray | None = None
    """[J], jet pT in GeV."""
    sdmass: np.ndarray | None = None
    """[J], soft-drop mass in GeV."""
    multiplicity: np.ndarray | None = None
    """[J], number of particles."""
    weights: np.ndarray | None = None
    """[J], event weights; None if all jets count the same."""
    predicted: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[J] each: predicted regression targets."""
    true: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[J] each: their true values."""
    temperature: float | None = None
    """Number by which the logits were divided to calibrate the probabilities; None if unknown."""
    batches: np.ndarray | None = None
    """[N, 3]: mean number of particles, number of jets and seconds in the network of each batch, if timed."""
    latency: float | None = None
    """Milliseconds from one jet alone to its outputs, the median over some jets, if timed."""

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy."""
        return weighted_mean(self.probabilities.argmax(1) == self.labels, self.weights)

    def weights_of(self, rows: np.ndarray) -> tuple[float, np.ndarray | None]:
        """Return the sum of the weights of the jets where `rows` [J] is true, and these weights, if there are any."""
        own = None if self.weights is None else self.weights[rows].astype(np.float64)
        return float(rows.sum() if own is None else own.sum()), own

    def is_on_jets_of(self, other: "Predictions") -> bool:
        """Return whether both are on the same jets: equal labels, and equal observers as far as both have them.

        Numbers of particles are compared only where nothing else is known, and up to the lower of both maxima, since
        they depend on how many particles of a jet a tagger takes.
        """
        if not np.array_equal(self.labels, other.labels):
            return False
        columns = {name: (getattr(self, name), getattr(other, name)) for name in OBSERVERS}
        known = {name: both for name, both in columns.items() if both[0] is not None and both[1] is not None}
        counts = known.pop("multiplicity", None)
        if not known and counts is not None and len(self.labels):
            limit = min(own.max() for own in counts)
            known["multiplicity"] = np.minimum(counts[0], limit), np.minimum(counts[1], limit)
        return all(np.allclose(own, its, rtol=1e-4, equal_nan=True) for own, its in known.values())


@dataclass(frozen=True, kw_only=True)
class ModelPredictions:
    """Predictions of all trainings of one model."""

    name: str
    """Name in tables and legends."""
    trainings: Sequence[Predictions]
    """One or more."""

    @property
    def median_training(self) -> Predictions:
        """Training of median accuracy, which figures of a single training show."""
        order = sorted(self.trainings, key=lambda training: training.accuracy)
        return order[(len(order) - 1) // 2]


def predictions_of_run(
    scores: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    *,
    source: str,
    seed: int | None = None,
    temperature: float | None = None,
) -> list[Predictions]:
    """Return the predictions of the network and, if it was fitted, of the baseline for a run's test jets.

    Args:
        scores: Arrays of `test_scores.safetensors`.
        names: Names of the models `net` and `boosting`.
        source: Folder of the run, or a description.
        seed: Seed of the run.
        temperature: Temperature of the network.
    """
    keys = {"net": "probabilities", "boosting": "probabilities_boosting"}
    return [
        Predictions(
            model=names[model],
            source=source,
            seed=seed,
            probabilities=scores[key],
            labels=scores["labels"],
            pt=scores.get("pt"),
            sdmass=scores.get("sdmass"),
            multiplicity=scores["particles"],
            weights=scores.get("weights"),
            temperature=temperature if model == "net" else None,
            predicted=_with_prefix(scores, TARGETS[0]) if model == "net" else {},
            true=_with_prefix(scores, TARGETS[1]) if model == "net" else {},
        )
        for model, key in keys.items()
        if key in scores
    ]


def _with_prefix(scores: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    start = f"{prefix}."
    return {name.removeprefix(start): column for name, column in scores.items() if name.startswith(start)}


def concatenated(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of one training for several chunks of jets as one; observers that all chunks have."""
    names = ("probabilities", "labels", *OBSERVERS, "batches")
    columns = {name: [getattr(part, name) for part in parts] for name in names}
    targets = {
        prefix: {
            name: np.concatenate([getattr(part, prefix)[name] for part in parts]) for name in getattr(parts[0], prefix)
        }
        for prefix in TARGETS
    }
    return replace(
        parts[0],
        **{
            name: None if any(values is None for values in column) else np.concatenate(column)
            for name, column in columns.items()
        },
        **targets,
    )


def group_by_model(predictions: Sequence[Predictions]) -> list[ModelPredictions]:
    """Return the models in the order of their first training."""
    names = dict.fromkeys(one.model for one in predictions)
    return [ModelPredictions(name=name, trainings=[one for one in predictions if one.model == name]) for name in names]


def with_observers_of(predictions: Predictions, other: Predictions) -> Predictions:
    """Return the predictions with missing observers filled in from `other`, if both are on the same jets."""
    if not predictions.is_on_jets_of(other):
        return predictions
    return replace(
        predictions, **{name: getattr(other, name) for name in OBSERVERS if getattr(predictions, name) is None}
    )
