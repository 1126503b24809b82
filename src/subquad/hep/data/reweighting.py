r"""Weights of jets, by which classes count alike or look alike in some variables: $w = \min(1, r_c / n_{cb})$ in bin b.

So class c is flat over the bins that hold at least $r_c$ of its jets, the rest keep what they are. Weaver draws jets
with these probabilities; here they enter the loss, which has the same mean and uses every jet.
"""

from collections.abc import Mapping

import numpy as np

from subquad.errors import SubquadError
from subquad.hep.data.card_weights import Reweighting

__all__ = ["class_weights", "kinematic_weights", "normalised"]


def class_weights(weights: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return [J]: the weights scaled so that those of each class have the same sum."""
    sums = np.bincount(labels, weights, minlength=classes)
    return weights * np.divide(1, sums, out=np.zeros(classes), where=sums > 0)[labels]


def kinematic_weights(
    reweighting: Reweighting, columns: Mapping[str, np.ndarray], labels: np.ndarray, classes: int
) -> np.ndarray:
    """Return [J]: the weights of jets by their bin and class; 0 for jets of no class, or outside of the bins.

    Args:
        reweighting: variables, bins and classes.
        columns: [J] each: the variables, the classes' columns, and the weights that the jets have already.
        labels: [J], the classes where the reweighting names none.
        classes: how many.

    Raises:
        SubquadError: no jet of a class lies inside of the bins.
    """
    bins = list(reweighting.bins.values())
    values = np.stack([columns[name] for name in reweighting.bins], axis=1)
    low, high = np.array([(edges[0], edges[-1]) for edges in bins]).T
    is_inside = ((values >= low) & (values <= high)).all(1) if reweighting.drops_outside else np.ones(len(values), bool)
    place = np.ravel_multi_index(
        tuple((np.digitize(values[:, i], edges) - 1).clip(0, len(edges) - 2) for i, edges in enumerate(bins)),
        tuple(len(edges) - 1 for edges in bins),
    )
    cells = int(np.prod([len(edges) - 1 for edges in bins]))
    base = columns[reweighting.base] if reweighting.base else np.ones(len(values))
    names = reweighting.classes or tuple(map(str, range(classes)))
    members = [columns[name] == 1 for name in reweighting.classes] or [labels == i for i in range(classes)]
    counts = np.stack([np.bincount(place[m & is_inside], base[m & is_inside], minlength=cells) for m in members])
    for name, count in zip(names, counts, strict=True):
        if not (count > 0).any():
            raise SubquadError(
                f"reweighting: no jet of {name} lies inside of the bins of {', '.join(reweighting.bins)}; "
                "give wider ones"
            )
    shapes = (
        _flat(counts, reweighting.threshold)
        if reweighting.method == "flat"
        else _like_first(counts, reweighting.threshold)
    )
    shares = np.array(reweighting.class_weights or [1.0] * len(members))
    # every class has the same sum, times its share
    shapes *= (shares / (counts * shapes).sum(1).clip(1e-12))[:, None]
    weights = np.zeros(len(values))
    for member, shape in zip(members, shapes, strict=True):
        rows = member & is_inside
        weights[rows] = shape[place[rows]]
    return weights * base


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


def normalised(weights: np.ndarray, learnt: int) -> np.ndarray:
    """Return [J] float32 weights, those of the first `learnt` jets with a mean of 1.

    Raises:
        SubquadError: all of these weigh 0.
    """
    if not weights[:learnt].sum() > 0:
        raise SubquadError("all jets to learn from have the weight 0; look at how they are weighted")
    return (weights / weights[:learnt].mean()).astype(np.float32)
