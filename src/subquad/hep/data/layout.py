"""Which numbers a net and a booster take of a jet: those of JetClass's branches, or those that a data card names."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subquad.hep.data.card import WEIGHT_COLUMN, Card, Variable
from subquad.hep.data.expressions import Expression
from subquad.hep.data.features import JET_FEATURES, RAW_FEATURES, STANDARD_FEATURES, SUMS
from subquad.hep.data.jets import OBSERVERS, PARTICLES
from subquad.hep.settings import NetSettings

__all__ = ["Layout", "View", "layout_of", "layout_of_card"]

VECTORS = ("px", "py", "pz", "energy")
ANGLES = ("deta", "dphi")
ANGLES_FOUND = ("Δη of the particle", "Δφ of the particle")
"""Columns that are computed from the momenta where a card has no points."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Some columns of the particles' table, moved, scaled and clipped."""

    names: tuple[str, ...]
    columns: tuple[int, ...]
    """Where they are."""
    center: np.ndarray | None = None
    """With the three others: ((x - center) * scale) within low and high; None: taken as they are."""
    scale: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is kept of a jet, and which part of it is what."""

    particles: tuple[str, ...]
    """Columns of the particles' table."""
    features: View
    points: View
    vectors: View | None
    """px, py, pz, E in GeV."""
    jet_features: tuple[str, ...]
    """Numbers of the jet as a whole, for the head and for boosting."""
    observers: tuple[str, ...]
    """Numbers of the jet that are handed on, or that weights come from."""
    card: Card | None = None
    """The data card, where it comes from one."""

    @property
    def has_jetclass_features(self) -> bool:
        """Whether the jet-level numbers are those of JetClass's branches."""
        return self.jet_features == JET_FEATURES


def _view(names: Sequence[str], particles: Sequence[str]) -> View:
    return View(names=tuple(names), columns=tuple(particles.index(name) for name in names))


def layout_of(settings: NetSettings) -> Layout:
    """Return the layout that these settings take of JetClass's branches."""
    features = RAW_FEATURES if settings.features == "raw" else STANDARD_FEATURES
    particles = (*features, *(name for name in VECTORS if name not in features))
    return Layout(
        particles=particles,
        features=_view(features, particles),
        points=_view(features if settings.graph == "features" else ANGLES, particles),
        vectors=_view(VECTORS, particles),
        jet_features=JET_FEATURES,
        observers=OBSERVERS,
    )


def layout_of_card(card: Card, settings: NetSettings) -> Layout:
    """Return the layout that these settings take of a card's columns.

    The jet-level numbers are JetClass's where the card itself asks for all of JetClass's branches; a card of fewer,
    such as one of kinematics alone, gets sums of the momenta, so that nothing else comes in by the head or by boosting.
    """
    particles = card.per_particle()
    asked = card.branches(is_training=False, has_labels=False)
    if {*PARTICLES, *OBSERVERS} <= asked.keys():
        jet_features = JET_FEATURES
    elif card.vectors:
        jet_features = SUMS
    else:
        jet_features = ("particles", *(f"mean {variable.name}" for variable in card.features))
    found = () if card.points else ANGLES_FOUND
    particles = (*particles, *found)
    features = _moved(card.features, particles)
    points = _moved(card.points, particles) if card.points else _view(ANGLES_FOUND, particles)
    weight = (WEIGHT_COLUMN,) if isinstance(card.weights, Expression) else ()
    return Layout(
        particles=particles,
        features=features,
        points=features if settings.graph == "features" else points,
        vectors=_moved(card.vectors, particles) if card.vectors else None,
        jet_features=jet_features,
        observers=(*card.per_jet(is_training=True), *weight),
        card=card,
    )


def _moved(variables: Sequence[Variable], particles: Sequence[str]) -> View:
    view = _view([variable.name for variable in variables], particles)
    if all(variable.center is None for variable in variables):
        return view
    rows = [
        (v.center, v.scale, v.low, v.high) if v.center is not None else (0.0, 1.0, -np.inf, np.inf) for v in variables
    ]
    center, scale, low, high = np.array(rows, np.float32).T
    return View(names=view.names, columns=view.columns, center=center, scale=scale, low=low, high=high)
