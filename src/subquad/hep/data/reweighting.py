r"""Weights of jets that equalize classes, or their spectra in some variables: $w = \min(1, r_c / n_{cb})$ in bin b.

Class c becomes flat over the bins that hold at least $r_c$ of its jets; the other bins keep their content. Weaver draws
jets with these probabilities; here they enter the loss, which has the same expectation and uses every jet.

Axes: J jets.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from subquad.errors import SubquadError
from subquad.hep.settings import Reweighting


def balance_classes(weights: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return [J]: the weights, scaled to the same sum for each class."""
    sums = np.bincount(labels, weights, minlength=classes)
    return weights * np.divide(1, sums, out=np.zeros(classes), where=sums > 0)[labels]


def kinematic_weights(
    reweighting: Reweighting,
    columns: Mapping[str, np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    base: np.ndarray | None = None,
) -> np.ndarray:
    """Return [J]: the weights of jets by bin and class; 0 for jets of no class and for jets outside the bins.

    Args:
        reweighting: Variables, bins and classes.
        columns: [J] each: the variables, and the classes' columns.
        labels: [J], the classes if the reweighting names none.
        classes: Names of the classes.
        base: [J], weights that the jets have already; bins where their sum is not above 0 get weight 0.

    Raises:
        SubquadError: A class has no jet inside the bins.
    """
    bins = list(reweighting.bins.values())
    values = np.stack([columns[name] for name in reweighting.bins], axis=1)
    counted = is_inside(reweighting, columns) if reweighting.drops_outside else np.ones(len(values), bool)
    place = np.ravel_multi_index(
        tuple((np.digitize(values[:, i], edges) - 1).clip(0, len(edges) - 2) for i, edges in enumerate(bins)),
        tuple(len(edges) - 1 for edges in bins),
    )
    cells = int(np.prod([len(edges) - 1 for edges in bins]))
    base = np.ones(len(values)) if base is None else base
    names = reweighting.classes or classes
    members = [columns[name] == 1 for name in reweighting.classes] or [labels == i for i in range(len(classes))]
    counts = np.stack([np.bincount(place[m & counted], base[m & counted], minlength=cells) for m in members])
    for name, count in zip(names, counts, strict=True):
        if not (count > 0).any():
            raise SubquadError(f"reweighting: no jet of {name} is inside the bins of {', '.join(reweighting.bins)}")
    shapes = (_flat if reweighting.method == "flat" else _like_first)(counts, reweighting.threshold)
    totals = np.array(reweighting.class_weights or [1.0] * len(members))
    shapes *= (totals / (counts * shapes).sum(1).clip(1e-12))[:, None]
    weights = np.zeros(len(values))
    for member, shape in zip(members, shapes, strict=True):
        rows = member & counted
        weights[rows] = shape[place[rows]]
    return weights * base


def is_inside(reweighting: Reweighting, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return [J]: whether the jets, of which `columns` has the variables [J], are inside the bins, edges included."""
    inside = [(edges[0] <= columns[name]) & (columns[name] <= edges[-1]) for name, edges in reweighting.bins.items()]
    return np.logical_and.reduce(inside)


def _flat(counts: np.ndarray, threshold: float) -> np.ndarray:
    shapes = np.zeros(counts.shape)
    for count, shape in zip(counts, shapes, strict=True):
        filled = count[count > 0.01 * np.median(count[count > 0])]
        np.divide(np.percentile(filled, threshold), count, out=shape, where=count > 0)
    return shapes.clip(0, 1)


def _like_first(counts: np.ndarray, threshold: float) -> np.ndarray:
    ratios = np.divide(counts[0], counts, out=np.zeros(counts.shape), where=counts > 0)
    largest = [np.percentile(ratio[ratio > 0], 100 - threshold) if (ratio > 0).any() else 1.0 for ratio in ratios]
    return (ratios / np.array(largest)[:, None]).clip(0, 1)


def unit_mean(weights: np.ndarray, train: int) -> np.ndarray:
    """Return [J] float32: the weights, scaled to mean 1 over the first `train` jets.

    Raises:
        SubquadError: These do not add up to more than 0.
    """
    if not weights[:train].sum() > 0:
        raise SubquadError("the weights of the training jets do not add up to more than 0; check the weights")
    return (weights / weights[:train].mean()).astype(np.float32)
