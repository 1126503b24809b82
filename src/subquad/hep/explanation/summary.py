"""Attributions and permutation importance of a sample, summarised by feature, by group of features and by class.

Axes: J jets, H particle features, G = 4 pair variables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from subquad.hep.data.batches import Batch
from subquad.hep.explanation.permutation import (
    Importance,
    feature_groups,
    jet_feature_importance,
    particle_importance,
)
from subquad.hep.models.networks import Network
from subquad.ops.kinematics import VARIABLES
from subquad.progress import track

JET_LEVEL = "jet-level features"
"""Name of the group of all jet-level features."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Names of a network's inputs."""

    particle: Sequence[str]
    jet: Sequence[str]
    owners: Sequence[int] = ()
    """With several collections of inputs, for each particle feature the index of the one that is 1 for the entries of
    its collection."""
    collections: Sequence[str] = ()
    """Names of several collections, in the order of these features."""

    @property
    def names(self) -> list[str]:
        """Particle features, then jet-level features with a prefix."""
        return [*self.particle, *(f"jet: {name}" for name in self.jet)]

    @property
    def singles(self) -> dict[str, list[int]]:
        """Index of each feature in `names`, without those that say which collection an entry belongs to."""
        return {name: [i] for i, name in enumerate(self.names) if i not in self.owners}

    @property
    def groups(self) -> dict[str, list[int]]:
        """Indices of the features of each group in `names`; several collections are groups."""
        of_jet = list(range(len(self.particle), len(self.particle) + len(self.jet)))
        return self.particle_groups | ({JET_LEVEL: of_jet} if of_jet else {})

    @property
    def particle_groups(self) -> dict[str, list[int]]:
        """Indices of the particle features of each group."""
        if not self.collections:
            return feature_groups(self.particle)
        members = sorted({*self.owners})
        return {
            name: [i for i, owner in enumerate(self.owners) if owner == member and i != member]
            for name, member in zip(self.collections, members, strict=True)
        }


def permute_all(
    net: Network,
    batches: Sequence[Batch],
    features: Features,
    *,
    repeats: int,
    seed: int,
    only: int | None,
    quiet: bool,
) -> tuple[dict[str, Importance], dict[str, Importance]]:
    """Return the permutation importance of each feature, and of each group of features."""
    options: dict[str, Any] = {"repeats": repeats, "seed": seed, "only": only}
    singles = {name: places for name, places in features.singles.items() if places[0] < len(features.particle)}
    groups = features.particle_groups
    with track("permutations", len(singles) + len(groups), quiet=quiet) as advance:
        of_particles: dict[str, Any] = {**options, "owners": features.owners, "advance": advance}
        importance = particle_importance(net, batches, singles, **of_particles)
        grouped = particle_importance(net, batches, groups, **of_particles)
    if features.jet:
        of_jet = {f"jet: {name}": [i] for i, name in enumerate(features.jet)}
        importance |= jet_feature_importance(net, batches, of_jet, **options)
        grouped |= jet_feature_importance(net, batches, {JET_LEVEL: range(len(features.jet))}, **options)
    return importance, grouped


def by_columns(
    attributions: Mapping[str, np.ndarray],
    weights: np.ndarray,
    columns: Mapping[str, Sequence[int]],
    importance: Mapping[str, Importance],
) -> dict[str, Any]:
    """Return the attribution (a fraction of all) and the permutation importance of features or groups of features.

    Args:
        attributions: Attributions of all jets.
        weights: [J], event weights of the jets to include, 0 for the others.
        columns: Indices of the features by name.
        importance: Permutation importance by the same names; features without one are omitted.
    """
    fractions = _fractions(attributions, weights)
    return {
        name: {"attribution": fractions[list(places)].sum(), "permutation": asdict(importance[name])}
        for name, places in columns.items()
        if name in importance
    }


def by_class(
    attributions: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], features: Features
) -> dict[str, dict[str, float]]:
    """Return the attribution of each feature (a fraction of all) for the jets of each class.

    Args:
        attributions: Attributions of all jets.
        weights: [J] by class: event weights of its jets, 0 for the others.
        features: Names of the features.
    """
    return {
        label: {name: float(fractions[place]) for name, (place,) in features.singles.items()}
        for label, fractions in ((label, _fractions(attributions, of)) for label, of in weights.items())
    }


def _fractions(attributions: Mapping[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Return [H + jet-level features]: weighted mean attributions, scaled to a sum of 1."""
    given = [attributions[name] for name in ("features", "jet_features") if name in attributions]
    means = [np.average(table, axis=0, weights=weights) for table in given]
    found = np.concatenate(means)
    return found / max(found.sum(), 1e-300)


def fractions_by_class(values: np.ndarray | None, weights: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Return the mean fraction of each pair variable by class and over all jets, with the number of jets.

    Args:
        values: [J, G], each row with a sum of 1, or NaN for jets that are skipped; None if the network has none.
        weights: [J] by class: event weights of its jets, 0 for the others.
    """
    if values is None:
        return None
    is_known = ~np.isnan(values).any(1)
    found = {}
    for label, of in {**weights, "all": np.sum(list(weights.values()), axis=0)}.items():
        known = is_known & (of != 0)
        # negative weights may add up to nothing among these jets
        is_some = of[known].sum() > 0
        means = np.average(values[known], axis=0, weights=of[known]).tolist() if is_some else [None] * len(VARIABLES)
        found[label] = {**dict(zip(VARIABLES, means, strict=True)), "jets": int(known.sum())}
    return found
