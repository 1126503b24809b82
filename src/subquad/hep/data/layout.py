"""Which columns of a jet a network takes, and how they are standardized: of JetClass's branches or of a data card.

Axes: J jets, C particles of all jets, B jets of a batch, P particles of a padded batch, H features, V columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subquad.errors import SubquadError
from subquad.hep.data.card import WEIGHT_COLUMN, Card, Variable, card_of, standardized_card
from subquad.hep.data.features import (
    JET_FEATURES,
    JETCLASS_FEATURES,
    MOMENTUM_FEATURES,
    PARTICLE_SUMS,
    RAW_FEATURES,
    STANDARD_FEATURES,
)
from subquad.hep.data.input_collections import membership, table_columns
from subquad.hep.data.jets import OBSERVERS, PARTICLES
from subquad.hep.settings import NetSettings

MOMENTUM = ("px", "py", "pz", "energy")
FEATURES = {"raw": RAW_FEATURES, "jetclass": JETCLASS_FEATURES, "standard": STANDARD_FEATURES}
ANGLES = ("deta", "dphi")
ANGLES_FROM_MOMENTA = ("Δη of the particle", "Δφ of the particle")
"""Columns that are computed from the momenta if a card has no points."""


@dataclass(frozen=True)
class Standardizer:
    """Shift, scale and clip: ((x - center) * scale), limited to [low, high]; each tensor is [H] float32."""

    center: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the standardized features [..., H]."""
        return ((x - self.center) * self.scale).clamp(self.low, self.high)

    @classmethod
    def fit(cls, x: Float[Tensor, "N H"], limit: float = 5.0) -> "Standardizer":
        """Return the standardizer to mean 0 and deviation 1, clipped at `limit`; constants are only shifted."""
        # one after another, since a copy of all in float64 may be large
        columns = (column.double() for column in x.unbind(1))
        found = [torch.stack([one.mean(), one.std(correction=0), one.abs().amax()]) for one in columns]
        center, deviation, largest = torch.stack(found, 1)
        scale = torch.where(deviation > 1e-9 * largest, 1 / deviation, 1)
        return cls.of(center.to(x.dtype), scale.to(x.dtype), limit)

    @classmethod
    def of(cls, center: Tensor, scale: Tensor, limit: float = 5.0) -> "Standardizer":
        """Return the standardizer of these centers and scales, clipped at `limit`."""
        return cls(center, scale, torch.full_like(center, -limit), torch.full_like(center, limit))


@dataclass(frozen=True, kw_only=True)
class InputGroup:
    """A group of particle features, such as weaver's `pf_points`."""

    names: tuple[str, ...]
    columns: tuple[int, ...]
    """Their columns in the table of particles."""
    standardizer: Standardizer | None = None
    """None takes the columns as they are."""
    owners: tuple[int, ...] = ()
    """With several collections: for each feature the column that is not 0 where the feature is defined."""

    def __call__(self, table: Float[Tensor, "B P V"], mask: Bool[Tensor, "B P"]) -> Float[Tensor, "B P H"]:
        """Return the standardized features of padded jets; padding is 0."""
        begin, count = self.columns[0], len(self.columns)
        # a slice is a view, a list of columns a copy
        is_contiguous = self.columns == tuple(range(begin, begin + count))
        x = table[..., begin : begin + count] if is_contiguous else table[..., list(self.columns)]
        x = x if self.standardizer is None else self.standardizer(x)
        if self.owners:
            return torch.where(table[..., list(self.owners)] != 0, x, 0)
        return x if self.standardizer is None else torch.where(mask[..., None], x, 0)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns that are kept of a jet, and their roles."""

    particles: tuple[str, ...]
    """Columns of the table of particles."""
    features: InputGroup
    """Features of the nodes of the graph."""
    points: InputGroup
    """Coordinates in which nearest neighbours are found."""
    vectors: InputGroup | None
    """px, py, pz, E in GeV; None if a card has no vectors."""
    jet_features: tuple[str, ...]
    """Jet-level features, for the head of the network and for gradient boosting."""
    observers: tuple[str, ...]
    """Numbers per jet that are copied to the predictions, or that weights are computed from."""
    max_particles: int
    """Largest number of particles per jet."""
    jet_standardizer: Standardizer | None = None
    """Standardization of the jet-level features; None if the network does not take them."""
    card: Card | None = None
    """The data card that the columns come from; None for JetClass's branches."""
    neighbours: int = 0
    """Number of nearest neighbours in a batch's list of edges; 0 for no list."""
    event_weights: str = ""
    """Branch or expression of the event weights; empty if all jets count the same."""
    targets: tuple[str, ...] = ()
    """Observers that are regression targets."""

    @property
    def has_jetclass_features(self) -> bool:
        """Whether the jet-level features are those computed from JetClass's branches."""
        return {*self.jet_features} <= {*JET_FEATURES}


def layout_of(
    settings: NetSettings,
    card: Card | None = None,
    *,
    features: Sequence[str] = (),
    jet_features: Sequence[str] = (),
) -> Layout:
    """Return the columns that a network takes, without fitted standardization.

    Jet-level features are JetClass's if the card itself reads all of JetClass's branches. A card of fewer branches,
    such as one of kinematics only, gets features of the momenta, so that no other information enters.

    Args:
        settings: Settings of the network.
        card: The data card; None for JetClass's branches.
        features: Particle features of JetClass's branches; empty for those of the settings.
        jet_features: Jet-level features of JetClass's branches; empty for those of the settings.

    Raises:
        ValueError: This version computes no such feature.
    """
    of_jetclass = tuple(jet_features) or (PARTICLE_SUMS if settings.features == "jetclass" else JET_FEATURES)
    # neighbours in all features are found by comparing all particles of a jet
    neighbours = settings.k if settings.graph == "angles" else 0
    if card is None:
        features = tuple(features) or FEATURES[settings.features]
        if features != RAW_FEATURES:
            _check_known(features, FEATURES["standard"], "particle feature")
        _check_known(of_jetclass, JET_FEATURES, "jet-level feature")
        particles = (*features, *(name for name in MOMENTUM if name not in features))
        return Layout(
            particles=particles,
            features=_group(features, particles),
            points=_group(features if settings.graph == "features" else ANGLES, particles),
            vectors=_group(MOMENTUM, particles),
            jet_features=of_jetclass,
            observers=OBSERVERS,
            max_particles=settings.max_particles,
            neighbours=neighbours,
        )
    particles = (*table_columns(card.inputs), *(() if card.points else ANGLES_FROM_MOMENTA))
    inputs = _features_of_card(card, particles)
    if {*PARTICLES, *OBSERVERS} <= card.branches(is_training=False, has_labels=False, has_weights=False).keys():
        _check_known(of_jetclass, JET_FEATURES, "jet-level feature")
        of_jets = of_jetclass
    elif card.vectors:
        of_jets = MOMENTUM_FEATURES
    else:
        of_jets = ("particles", *(f"mean {name}" for name in inputs.names))
    points = _card_group(card.points, particles) if card.points else _group(ANGLES_FROM_MOMENTA, particles)
    weight = () if card.event_weights is None else (WEIGHT_COLUMN,)
    return Layout(
        particles=particles,
        features=inputs,
        points=inputs if settings.graph == "features" else points,
        vectors=_card_group(card.vectors, particles) if card.vectors else None,
        jet_features=of_jets,
        observers=tuple(dict.fromkeys((*card.per_jet(is_training=True), *card.targets, *weight))),
        targets=tuple(card.targets),
        max_particles=card.length,
        card=card,
        neighbours=neighbours,
        event_weights="" if card.event_weights is None else card.event_weights.text,
    )


def _check_known(names: Sequence[str], known: Sequence[str], what: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{unknown[0]} is no {what} that this version of subquad computes")


def with_event_weights(layout: Layout, weights: str) -> Layout:
    """Return the layout with event weights in place of its own.

    Args:
        layout: With or without event weights.
        weights: A branch or, with a card, an expression.
    """
    card = layout.card
    if card is not None:
        given = card.options.get("weights") or {}
        names = ("use_precomputed_weights", "weight_branches", "reweight_basewgt")
        others = {} if card.reweighting is None else {name: given[name] for name in given if name not in names}
        card = card_of({**card.options, "weights": others, "event_weights": weights}, card.name)
    check_names(layout.targets, weights, "regression target")
    observers = (*(name for name in layout.observers if name != WEIGHT_COLUMN), WEIGHT_COLUMN)
    return replace(layout, card=card, observers=observers, event_weights=weights)


def check_names(names: Sequence[str], weights: str, what: str) -> None:
    """Check that no other column has the name of the event weights.

    Args:
        names: Of columns that are kept of jets.
        weights: Branch or expression of the event weights; empty without any.
        what: What the columns are, for the message.

    Raises:
        SubquadError: One of them has.
    """
    if WEIGHT_COLUMN in names and weights not in ("", WEIGHT_COLUMN):
        raise SubquadError(f"{WEIGHT_COLUMN}, a {what}, is the name of the event weights ({weights}); rename it")


def with_targets(layout: Layout, targets: Sequence[str]) -> Layout:
    """Return the layout with further regression targets.

    Args:
        layout: With or without targets.
        targets: Branches or, with a card, expressions.
    """
    if not targets:
        return layout
    check_names(targets, layout.event_weights, "regression target")
    card = layout.card
    if card is None:
        names = tuple(dict.fromkeys((*layout.targets, *targets)))
        return replace(layout, targets=names, observers=tuple(dict.fromkeys((*layout.observers, *names))))
    labels = dict(card.options["labels"])
    labels["value_custom"] = {**(labels.get("value_custom") or {}), **{name: name for name in targets}}
    card = card_of({**card.options, "labels": labels}, card.name)
    observers = tuple(dict.fromkeys((*layout.observers, *card.targets)))
    return replace(layout, card=card, targets=tuple(card.targets), observers=observers)


def _group(names: Sequence[str], particles: Sequence[str]) -> InputGroup:
    return InputGroup(names=tuple(names), columns=tuple(particles.index(name) for name in names))


def _card_group(variables: Sequence[Variable], particles: Sequence[str]) -> InputGroup:
    group = _group([variable.name for variable in variables], particles)
    if all(variable.center is None for variable in variables):
        return group
    rows = [
        (v.center, v.scale, v.low, v.high) if v.center is not None else (0.0, 1.0, -np.inf, np.inf) for v in variables
    ]
    return replace(group, standardizer=Standardizer(*torch.tensor(rows, dtype=torch.float32).T.contiguous()))


def _features_of_card(card: Card, particles: Sequence[str]) -> InputGroup:
    """Return the features of all collections; of several, also those that say which entries belong to each."""
    if len(card.inputs) == 1:
        return _card_group(card.features, particles)
    names = [membership(one) for one in card.inputs]
    group = _card_group((*card.features, *(Variable(name=name, center=None) for name in names)), particles)
    owners = [name for name, one in zip(names, card.inputs, strict=True) for _ in one.features]
    return replace(group, owners=tuple(particles.index(name) for name in (*owners, *names)))


def fit_standardization(
    layout: Layout, settings: NetSettings, particles: Float[Tensor, "C V"], jet_features: Float[Tensor, "J F"]
) -> Layout:
    """Return the layout with the standardization of training jets.

    Variables that a card leaves to automatic standardization are centered at the median and scaled by the larger
    distance to the 16 % and 84 % quantiles, as in weaver; jet-level features are scaled to mean 0 and deviation 1,
    unless the layout has their standardization.

    Args:
        layout: Columns of the jets.
        settings: Settings of the network.
        particles: Particles of training jets; used for a card with automatic standardization.
        jet_features: Jet-level features of training jets.

    Raises:
        SubquadError: A variable to standardize has no finite value.
    """
    card = layout.card
    if card is not None and card.has_automatic:
        found = {}
        for place, variable in enumerate(card.features):
            if variable.is_automatic:
                column = particles[:, layout.particles.index(variable.name)]
                if layout.features.owners:
                    column = column[particles[:, layout.features.owners[place]] != 0]
                finite = column[torch.isfinite(column)].numpy()
                if not len(finite):
                    raise SubquadError(f"{card.name}: inputs: {variable.name} has no finite value in the training jets")
                low, center, high = np.percentile(finite, [16, 50, 84])
                width = max(high - center, center - low)
                found[variable.name] = (float(center), float(1 / width) if width > 0 else 1.0)
        # weights and targets of the command line stand where the tables have them
        layout = replace(layout_of(settings, standardized_card(card, found)), observers=layout.observers)
    if not settings.has_jet_features or layout.jet_standardizer is not None:
        return layout
    return replace(layout, jet_standardizer=Standardizer.fit(jet_features))
