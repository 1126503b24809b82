"""Single jets to look at: their particles in Δη and Δφ, the edges between them, and what of both the net looked at.

Axes: J jets, P particles of a jet, E edges of a jet, C classes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from subquad.hep.data.features import angles_of
from subquad.hep.data.layout import Layout
from subquad.hep.explanation.gradients import Attribution, Means, attribute
from subquad.hep.models.tagger import Inputs, collate
from subquad.hep.settings import NetSettings

__all__ = ["TYPES", "Display", "chosen", "display_of", "displays_of"]

TYPES = {
    "isChargedHadron": "charged hadron",
    "isNeutralHadron": "neutral hadron",
    "isPhoton": "photon",
    "isElectron": "electron",
    "isMuon": "muon",
}
"""Ends of the columns that say what a particle is, and what it is called."""

DISPLACED = 3.0
"""|d0| over its error, from where on a track is called displaced."""


@dataclass(frozen=True, kw_only=True)
class Display:
    """One jet as it is drawn."""

    label: str
    """The true class."""
    taken: str
    """The class of the largest probability, whose logit is explained."""
    probability: float
    """Of the class that it is taken for."""
    points: np.ndarray
    """[P, 2]: Δη and Δφ."""
    pt: np.ndarray
    """[P]: part of the sum of all pT."""
    types: Sequence[str]
    """[P], names as in `TYPES`; empty where the columns do not say."""
    displaced: np.ndarray
    """[P] bool."""
    particles: np.ndarray
    """[P]: importance, at most 1."""
    edges: np.ndarray
    """[E, 2]: the two particles, each edge once."""
    weights: np.ndarray
    """[E], at most 1."""
    importance: np.ndarray
    """[E], at most 1."""


def chosen(probabilities: np.ndarray, labels: np.ndarray, label: int, count: int) -> np.ndarray:
    """Return the rows of the best scored jets of a class, then of those most surely taken for another."""
    of_class, taken = np.flatnonzero(labels == label), probabilities.argmax(1)
    right, wrong = of_class[taken[of_class] == label], of_class[taken[of_class] != label]
    best = right[np.argsort(-probabilities[right, label], kind="stable")][:count]
    return np.concatenate([best, wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:count]])


def displays_of(
    net: nn.Module,
    inputs: Inputs,
    rows: np.ndarray,
    probabilities: np.ndarray,
    *,
    settings: NetSettings,
    classes: Sequence[str],
    means: Means,
) -> list[Display]:
    """Return the jets of these rows as they are drawn."""
    found = []
    for row in rows.tolist():
        batch = collate(inputs, torch.tensor([row]), settings)
        taken = int(probabilities[row].argmax())
        attribution = attribute(net, batch, torch.tensor([taken]), means)
        first, length = int(inputs.first[row]), int(inputs.lengths[row])
        found.append(
            display_of(
                inputs.particles[first : first + length].numpy(),
                inputs.layout,
                attribution,
                label=classes[int(inputs.labels[row])],
                taken=classes[taken],
                probability=float(probabilities[row, taken]),
            )
        )
    return found


def display_of(
    table: np.ndarray, layout: Layout, attribution: Attribution, *, label: str, taken: str, probability: float
) -> Display:
    """Return one jet as it is drawn, from its rows of the particles' table."""
    P = len(table)
    at = {name: table[:, i] for i, name in enumerate(layout.particles)}
    vectors = None if layout.vectors is None else table[:, list(layout.vectors.columns)]
    pt = np.ones(P) if vectors is None else np.hypot(vectors[:, 0], vectors[:, 1])
    weights, importance = attribution.weights[0, :P, :P].numpy(), attribution.edges[0, :P, :P].numpy()
    begin, end = np.nonzero(np.triu(weights > 0, 1))
    particles = attribution.particles[0, :P].numpy()
    return Display(
        label=label,
        taken=taken,
        probability=probability,
        points=_points(table, at, layout, vectors),
        pt=pt / pt.sum().clip(1e-12),
        types=_types(at),
        displaced=_displaced(at, P),
        particles=particles / max(float(particles.max(initial=0)), 1e-12),
        edges=np.stack([begin, end], 1),
        weights=weights[begin, end],
        importance=importance[begin, end] / max(float(importance.max(initial=0)), 1e-12),
    )


def _points(table: np.ndarray, at: dict[str, np.ndarray], layout: Layout, vectors: np.ndarray | None) -> np.ndarray:
    if len(layout.points.names) == 2:
        return table[:, list(layout.points.columns)]
    named = [next((name for name in at if name.endswith(end)), None) for end in ("deta", "dphi")]
    if all(named):
        return np.stack([at[str(name)] for name in named], 1)
    return np.zeros((len(table), 2)) if vectors is None else angles_of(vectors, np.array([len(table)]))


def _types(at: dict[str, np.ndarray]) -> list[str]:
    columns = {words: next((at[name] for name in at if name.endswith(end)), None) for end, words in TYPES.items()}
    there = {words: column for words, column in columns.items() if column is not None}
    if not there:
        return []
    names, table = list(there), np.stack(list(there.values()), 1)
    return [names[i] if table[p, i] > 0 else "" for p, i in enumerate(table.argmax(1))]


def _displaced(at: dict[str, np.ndarray], P: int) -> np.ndarray:
    for name, column in at.items():
        if re.search(r"d0 ?[sS]ignificance", name):
            # ours are compressed by a logarithm
            return np.abs(column) > (np.log1p(DISPLACED) if name == "d0 significance" else DISPLACED)
        error = at.get(name.removesuffix("val") + "err")
        if name.endswith("d0val") and error is not None:
            return (error > 0) & (np.abs(column) > DISPLACED * error)
    return np.zeros(P, bool)
