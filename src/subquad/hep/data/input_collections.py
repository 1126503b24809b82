"""Collections in the inputs of a card, such as particles (`pf_…`) and secondary vertices (`sv_…`), and their union.

A network takes one set of points per jet. Of several collections, all entries form this set: they share the columns of
coordinates and momenta, a feature of one collection is 0 for the entries of the others, and one feature more for each
collection says which entries belong to it. A first layer that is linear is then one such layer for each collection.

Axes: J jets, C entries of all jets, V columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A feature of the particles and its standardization: ((x - center) * scale), clipped to [low, high]."""

    name: str
    """A branch or a new variable of the card."""
    center: float | None
    """None takes the feature as it is."""
    scale: float = 1.0
    low: float = -5.0
    high: float = 5.0
    is_automatic: bool = False
    """Center and scale are computed from the training jets."""


@dataclass(frozen=True, kw_only=True)
class InputCollection:
    """One collection: the groups of a card that share a prefix."""

    prefix: str
    """Such as pf or sv."""
    length: int
    """Largest number of entries per jet; the first ones are kept."""
    features: tuple[Variable, ...]
    points: tuple[Variable, ...]
    """Δη and Δφ, or η and φ; may be empty."""
    vectors: tuple[Variable, ...]
    """px, py, pz, E in GeV; may be empty."""
    mask: str | None
    """Column that is 0 for entries to drop."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns with one number per entry, without the mask."""
        return tuple(dict.fromkeys(variable.name for variable in (*self.features, *self.points, *self.vectors)))


def columns_of(table: np.ndarray, collection: InputCollection, variables: Sequence[Variable]) -> np.ndarray:
    """Return some columns of the entries of a collection."""
    return table[:, [collection.columns.index(variable.name) for variable in variables]]


def membership(collection: InputCollection) -> str:
    """Return the name of the feature that is 1 for the entries of a collection, and 0 for others."""
    return f"is {collection.prefix}"


def table_columns(collections: Sequence[InputCollection]) -> tuple[str, ...]:
    """Return the columns of all entries in one table; coordinates and momenta have the first collection's names."""
    first, *others = collections
    if not others:
        return first.columns
    features = dict.fromkeys(variable.name for one in others for variable in one.features)
    return (*first.columns, *features, *map(membership, collections))


def united(
    collections: Sequence[InputCollection], tables: Sequence[np.ndarray], lengths: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the entries of all collections as one table, those of a jet one after another.

    Args:
        collections: One or more.
        tables: [C, V] for each collection, in the order of its `columns`.
        lengths: [J] for each collection: its entries in each jet.

    Returns:
        The table [C, V] with the columns of `table_columns`, and the entries of each jet [J].
    """
    if len(collections) == 1:
        return tables[0], lengths[0]
    columns = {name: i for i, name in enumerate(table_columns(collections))}
    first, parts = collections[0], []
    for one, table in zip(collections, tables, strict=True):
        own = {name: i for i, name in enumerate(one.columns)}
        part = np.zeros((len(table), len(columns)), np.float32)
        for variable in one.features:
            part[:, columns[variable.name]] = table[:, own[variable.name]]
        for shared, variable in zip((*first.points, *first.vectors), (*one.points, *one.vectors), strict=True):
            part[:, columns[shared.name]] = table[:, own[variable.name]]
        part[:, columns[membership(one)]] = 1
        parts.append(part)
    jet = np.concatenate([np.repeat(np.arange(len(counts)), counts) for counts in lengths])
    return np.concatenate(parts)[np.argsort(jet, kind="stable")], np.sum(lengths, axis=0)
