"""Displays of single jets: which jets are shown, and the attributions of their particles and edges.

Axes: J jets, P particles of a jet, C classes, V columns of the particles' table.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from subquad.hep.data.batches import collate
from subquad.hep.data.layout import Layout
from subquad.hep.data.momentum_checks import angles_from_momenta
from subquad.hep.data.store import JetDataset
from subquad.hep.explanation.attributions import Attribution, InputMeans, attribute
from subquad.hep.plots.event_displays import PARTICLE_TYPES, JetDisplay

DISPLACED = 3.0
"""Significance |d0| / σ(d0) above which a track counts as displaced."""


def select_jets(probabilities: np.ndarray, labels: np.ndarray, label: int, count: int) -> np.ndarray:
    """Return the rows of the jets of a class with the highest score, then of those misclassified with most confidence.

    Args:
        probabilities: [J, C].
        labels: [J].
        label: Index of the class.
        count: Number of jets of each kind.
    """
    of_class, predicted = np.flatnonzero(labels == label), probabilities.argmax(1)
    right, wrong = of_class[predicted[of_class] == label], of_class[predicted[of_class] != label]
    best = right[np.argsort(-probabilities[right, label], kind="stable")][:count]
    return np.concatenate([best, wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:count]])


def displays_of(
    net: nn.Module,
    inputs: JetDataset,
    rows: np.ndarray,
    probabilities: np.ndarray,
    *,
    classes: Sequence[str],
    means: InputMeans,
) -> list[JetDisplay]:
    """Return the displays of these rows of the inputs."""
    found = []
    for row in rows.tolist():
        batch = collate(inputs, torch.tensor([row]))
        predicted = int(probabilities[row].argmax())
        attribution = attribute(net, batch, torch.tensor([predicted]), means)
        first, length = int(inputs.first[row]), int(inputs.lengths[row])
        found.append(
            display_of(
                inputs.particles[first : first + length].numpy(),
                inputs.layout,
                attribution,
                label=classes[int(inputs.labels[row])],
                predicted=classes[predicted],
                probability=float(probabilities[row, predicted]),
            )
        )
    return found


def display_of(
    table: np.ndarray, layout: Layout, attribution: Attribution, *, label: str, predicted: str, probability: float
) -> JetDisplay:
    """Return the display of one jet.

    Args:
        table: [P, V], its rows of the particles' table.
        layout: Meaning of the columns.
        attribution: Attributions of a batch that holds only this jet.
        label: True class.
        predicted: Predicted class.
        probability: Probability of the predicted class.
    """
    P = len(table)
    columns = {name: table[:, i] for i, name in enumerate(layout.particles)}
    vectors = None if layout.vectors is None else table[:, list(layout.vectors.columns)]
    pt = np.ones(P) if vectors is None else np.hypot(vectors[:, 0], vectors[:, 1])
    weights, importance = attribution.weights[0, :P, :P].numpy(), attribution.edges[0, :P, :P].numpy()
    begin, end = np.nonzero(np.triu(weights > 0, 1))
    particles = attribution.particles[0, :P].numpy()
    return JetDisplay(
        label=label,
        predicted=predicted,
        probability=probability,
        points=_points(table, columns, layout, vectors),
        pt=pt / pt.sum().clip(1e-12),
        types=_types(columns),
        is_displaced=_is_displaced(columns, P),
        particles=particles / max(float(particles.max(initial=0)), 1e-12),
        edges=np.stack([begin, end], 1),
        weights=weights[begin, end],
        importance=importance[begin, end] / max(float(importance.max(initial=0)), 1e-12),
    )


def _points(
    table: np.ndarray, columns: Mapping[str, np.ndarray], layout: Layout, vectors: np.ndarray | None
) -> np.ndarray:
    """Return [P, 2]: Δη and Δφ, from the points, from columns of these names, or from the momenta."""
    if len(layout.points.names) == 2:
        return table[:, list(layout.points.columns)]
    named = [next((name for name in columns if name.endswith(end)), None) for end in ("deta", "dphi")]
    if all(named):
        return np.stack([columns[str(name)] for name in named], 1)
    return np.zeros((len(table), 2)) if vectors is None else angles_from_momenta(vectors, np.array([len(table)]))


def _types(columns: Mapping[str, np.ndarray]) -> list[str]:
    found = {
        name: next((columns[column] for column in columns if column.endswith(end)), None)
        for end, name in PARTICLE_TYPES.items()
    }
    known = {name: column for name, column in found.items() if column is not None}
    if not known:
        return []
    names, table = list(known), np.stack(list(known.values()), 1)
    return [names[i] if table[p, i] > 0 else "" for p, i in enumerate(table.argmax(1))]


def _is_displaced(columns: Mapping[str, np.ndarray], P: int) -> np.ndarray:
    for name, column in columns.items():
        if re.search(r"d0 ?[sS]ignificance", name):
            # the standard feature is compressed by a logarithm
            return np.abs(column) > (np.log1p(DISPLACED) if name == "d0 significance" else DISPLACED)
        error = columns.get(name.removesuffix("val") + "err")
        if name.endswith("d0val") and error is not None:
            return (error > 0) & (np.abs(column) > DISPLACED * error)
    return np.zeros(P, bool)
