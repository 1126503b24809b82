"""The baseline of every tagger: gradient boosting on jet-level features; some seconds for 10,000 jets."""

import math

import numpy as np

from subquad.errors import require
from subquad.hep.data.splits import thinned
from subquad.hep.data.store import JetDataset

MAX_JETS = 500_000
"""Largest number of training jets: more would take memory and hours, and improve it little."""

JETS_PER_CHUNK = 100_000

HELD_OUT = 0.1
"""Fraction of the training jets for early stopping."""


def fit_boosting(train: JetDataset, test: JetDataset, *, classes: int, seed: int) -> np.ndarray:
    """Fit gradient boosting on the training jets and return its probabilities [J, C] of the test jets.

    Negative weights count by their absolute value.

    Args:
        train: At most `MAX_JETS` of them are used, drawn at random.
        test: The J jets to predict.
        classes: Number of classes C.
        seed: Seed of the selection of jets held out for early stopping.
    """
    some = thinned(train, MAX_JETS)
    return boosting_probabilities(
        some.jet_features[some.rows].numpy(),
        some.labels.numpy(),
        test.jet_features[test.rows].numpy(),
        classes=classes,
        seed=seed,
        # leaves have no value where weights cancel
        weights=np.abs(some.weights.numpy()),
    )


def boosting_probabilities(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    *,
    classes: int,
    seed: int,
    weights: np.ndarray | None = None,
    learning_rate: float = 0.08,
    max_leaf_nodes: int = 15,
    max_iter: int = 300,
) -> np.ndarray:
    """Fit gradient boosting on tables and return its probabilities [J, C].

    The number of trees is chosen by early stopping on a tenth of the jets, if these can have one of each class.

    Args:
        features: [N, F] of the training jets.
        labels: [N], indices of their classes.
        test_features: [J, F].
        classes: Number of classes C.
        seed: Seed of the selection of jets held out for early stopping.
        weights: [N] of the training jets.
        learning_rate: Learning rate.
        max_leaf_nodes: Largest number of leaves of a tree.
        max_iter: Largest number of rounds, each of one tree per class.
    """
    ensemble, counts = require("sklearn.ensemble", extra="hep"), np.unique(labels, return_counts=True)[1]
    probabilities = np.zeros((len(test_features), classes))
    if len(counts) == 1:
        probabilities[:, labels[0]] = 1
        return probabilities
    model = ensemble.HistGradientBoostingClassifier(
        learning_rate=learning_rate,
        max_iter=max_iter,
        max_leaf_nodes=max_leaf_nodes,
        early_stopping=bool(counts.min() > 1 and math.ceil(HELD_OUT * len(labels)) >= len(counts)),
        n_iter_no_change=12,
        validation_fraction=HELD_OUT,
        random_state=seed,
    )
    model.fit(features, labels, sample_weight=weights)
    for begin in range(0, len(test_features), JETS_PER_CHUNK):
        rows = slice(begin, begin + JETS_PER_CHUNK)
        probabilities[rows, model.classes_] = model.predict_proba(test_features[rows])
    return probabilities
