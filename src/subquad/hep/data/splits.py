"""From a store to the training, validation and test jets of a fit: classes, stratified split, weights, standardization.

Axes: J jets.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subquad.errors import SubquadError
from subquad.hep.data.card import WEIGHT_COLUMN
from subquad.hep.data.layout import fit_standardization
from subquad.hep.data.reweighting import balance_classes, kinematic_weights, unit_mean
from subquad.hep.data.store import JetDataset
from subquad.hep.settings import FitSettings, NetSettings, Reweighting

MIN_JETS = 5
"""Smallest number of jets of a class: fewer cannot be split into three parts."""

JETS_FOR_MEAN = 500_000
JETS_FOR_QUANTILES = 50_000
"""Largest number of training jets from which standardization is computed."""


def with_present_classes(dataset: JetDataset, where: str) -> JetDataset:
    """Return the dataset with the classes that its training jets have; those of all other jets must be among them.

    Args:
        dataset: All jets.
        where: The files, for messages.

    Raises:
        SubquadError: There are fewer than two classes, too few jets of a class, or new classes among the test jets.
    """
    labels, names = dataset.labels.numpy(), dataset.classes
    counts = np.bincount(labels[dataset.part("train")], minlength=len(names))
    check_counts(names, counts, where)
    present = [one for one, count in zip(names, counts, strict=True) if count]
    for part in ("test", "validation"):
        new = sorted({names[i] for i in np.unique(labels[dataset.part(part)])} - set(present))
        if new:
            raise SubquadError(f"the {part} files have jets of {', '.join(new)}, and the training jets have none")
    # classes that are numbers keep their order
    present = sorted(present, key=int) if all(one.isdigit() for one in present) else present
    index = np.array([present.index(one) if one in present else -1 for one in names])
    return replace(dataset, classes=tuple(present), labels=torch.from_numpy(index[labels]))


def check_counts(classes: Iterable[Any], counts: np.ndarray, where: str) -> None:
    """Check that there are two classes or more, and enough jets of each that has any.

    Raises:
        SubquadError: There are too few.
    """
    present = [name for name, count in zip(classes, counts, strict=True) if count]
    if len(present) < 2 or (counts[counts > 0] < MIN_JETS).any():
        listed = ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True) if count)
        raise SubquadError(f"{where}: a tagger needs two classes of {MIN_JETS} jets or more ({listed or 'no jets'})")


def part_indices(dataset: JetDataset, settings: FitSettings, seed: int) -> dict[str, Tensor]:
    """Return the indices of `train`, `validation` and `test` jets: those parts that are not given are drawn at random.

    Args:
        dataset: All jets.
        settings: Fractions of the parts to draw.
        seed: Seed of the random split.
    """
    train, given = dataset.part("train"), {name: dataset.part(name) for name in ("validation", "test")}
    drawn = stratified_split(
        dataset.labels[train].numpy(),
        validation_fraction=0.0 if len(given["validation"]) else settings.validation_fraction,
        test_fraction=0.0 if len(given["test"]) else settings.test_fraction,
        seed=seed,
    )
    return {name: train[rows] for name, rows in drawn.items()} | {
        name: rows for name, rows in given.items() if len(rows)
    }


def stratified_split(
    labels: np.ndarray, *, validation_fraction: float, test_fraction: float, seed: int
) -> dict[str, Tensor]:
    """Return the ascending indices of `train`, `validation` and `test` jets, the same fractions of each class.

    Args:
        labels: [J], indices of the classes.
        validation_fraction: Fraction of the jets of each class; at least one jet is taken, unless it is 0.
        test_fraction: Likewise.
        seed: Seed of the random split.
    """
    generator = np.random.default_rng(seed)
    part = np.zeros(len(labels), np.int8)
    for label in range(int(labels.max()) + 1):
        rows = generator.permutation(np.flatnonzero(labels == label))
        test, validation = (
            max(1, round(fraction * len(rows))) if fraction else 0 for fraction in (test_fraction, validation_fraction)
        )
        # two halves of few jets would leave none to train on
        validation = min(validation, max(len(rows) - test - 1, 0))
        part[rows[:test]] = 2
        part[rows[test : test + validation]] = 1
    return {name: torch.from_numpy(np.flatnonzero(part == i)) for i, name in enumerate(("train", "validation", "test"))}


def split_dataset(
    dataset: JetDataset, indices: dict[str, Tensor], weights: np.ndarray, settings: NetSettings
) -> dict[str, JetDataset]:
    """Return the parts of a dataset, weighted, and standardized by the training jets.

    Args:
        dataset: All jets.
        indices: Indices of the jets of each part: `train`, `validation`, and others.
        weights: [J], weights of the training jets, followed by those of the validation jets.
        settings: Settings of the network.

    Raises:
        SubquadError: The weights of the training jets or of the validation jets do not add up to more than 0.
    """
    train = dataset.subset(indices["train"])
    few, many = thinned(train, JETS_FOR_QUANTILES), thinned(train, JETS_FOR_MEAN)
    card = dataset.layout.card
    particles = few.particles[few.particle_rows()] if card is not None and card.has_automatic else few.particles[:0]
    layout = fit_standardization(dataset.layout, settings, particles, many.jet_features[many.rows])
    dataset = replace(dataset, layout=layout)
    parts = {name: dataset.subset(rows) for name, rows in indices.items()}
    scaled = torch.from_numpy(unit_mean(weights, len(train)))
    if not scaled[len(train) :].sum() > 0:
        raise SubquadError("the weights of the validation jets do not add up to more than 0; check the weights")
    parts["train"] = replace(parts["train"], weights=scaled[: len(train)])
    parts["validation"] = replace(parts["validation"], weights=scaled[len(train) :])
    return parts


def thinned(dataset: JetDataset, most: int) -> JetDataset:
    """Return at most so many of the jets, always the same ones, in their order."""
    if len(dataset) <= most:
        return dataset
    # evenly spaced jets could be all of one class
    rows = np.random.default_rng(0).choice(len(dataset), most, replace=False, shuffle=False)
    return dataset.subset(torch.from_numpy(np.sort(rows)))


def reweighted(dataset: JetDataset, settings: FitSettings, reweighting: Reweighting | None) -> np.ndarray:
    """Return the weights [J] in the loss: event weights, reweighted by the card, `--reweight-vars` or `--reweight`.

    Raises:
        SubquadError: The weights of a class do not add up to more than 0, or no jet of it is inside the bins.
    """
    labels, classes = dataset.labels.numpy(), dataset.classes

    def column(name: str) -> np.ndarray:
        values = dataset.observer(name)
        assert values is not None, name
        return values.astype(np.float64)

    weights = column(WEIGHT_COLUMN) if dataset.layout.event_weights else np.ones(len(dataset))
    if reweighting is not None:
        columns = {name: column(name) for name in (*reweighting.bins, *reweighting.classes)}
        weights = kinematic_weights(reweighting, columns, labels, classes, base=weights)
    if settings.reweight != "class":
        return weights
    for name, total in zip(classes, np.bincount(labels, weights, minlength=len(classes)), strict=True):
        if not total > 0:
            raise SubquadError(f"the weights of {name} add up to {total:g}, and cannot be scaled to other classes")
    return balance_classes(weights, labels, len(classes))
