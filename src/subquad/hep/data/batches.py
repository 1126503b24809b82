"""Padded, standardized batches of jets, prepared by a second thread while the network trains on the previous one.

Axes: B jets of a batch, P particles of a padded batch, H features of a particle, J jets.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subquad.hep.data.nearest_particles import nearest_edges
from subquad.hep.data.store import JetDataset
from subquad.ops.edges import Edges

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Batch:
    """Padded jets; padding is 0."""

    x: Float[Tensor, "B P H"]
    """Standardized features of the particles."""
    points: Float[Tensor, "B P D"]
    """Coordinates in which nearest neighbours are found."""
    mask: Bool[Tensor, "B P"]
    """True for particles, False for padding."""
    jet_features: Float[Tensor, "B F"] | None
    """Standardized jet-level features; None if the network takes none."""
    labels: Tensor
    """[B] int64."""
    vectors: Float[Tensor, "B P 4"] | None
    """px, py, pz, E in GeV; None if a card has no vectors."""
    weights: Float[Tensor, " B"]
    """Weights in the loss."""
    edges: Edges | None = None
    """Edges of the nearest neighbours; None if the network finds them."""
    decorrelated: Float[Tensor, " B"] | None = None
    """The observer that the background's scores are decorrelated from; None without a penalty."""
    targets: Float[Tensor, "B T"] | None = None
    """Standardized regression targets; None if there are none."""

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: x.to(device) for name, x in values.items() if isinstance(x, Tensor)}
        if self.edges is not None:
            moved["edges"] = Edges(*(x.to(device) for x in self.edges))
        return Batch(**{**values, **moved})


def collate(dataset: JetDataset, indices: Tensor, device: torch.device | str = "cpu") -> Batch:
    """Return jets of a dataset, padded to the longest of them.

    Args:
        dataset: Where the jets are.
        indices: Which jets.
        device: Where the batch goes.
    """
    lengths, layout = dataset.lengths[indices], dataset.layout
    places = torch.arange(max(1, int(lengths.max())))
    mask = places < lengths[:, None]
    table = torch.zeros(*mask.shape, dataset.particles.shape[1])
    # in the order of the rows on disk
    table[mask] = dataset.particles[(dataset.first[indices, None] + places)[mask]]
    jet_features = None
    if layout.jet_standardizer is not None:
        jet_features = layout.jet_standardizer(dataset.jet_features[dataset.rows[indices]])
    points = layout.points(table, mask)
    return Batch(
        x=layout.features(table, mask),
        points=points,
        mask=mask,
        jet_features=jet_features,
        labels=dataset.labels[indices],
        vectors=None if layout.vectors is None else layout.vectors(table, mask),
        weights=dataset.weights[indices],
        edges=nearest_edges(points, mask, layout.neighbours) if layout.neighbours else None,
        decorrelated=None if dataset.decorrelated is None else dataset.decorrelated[indices],
        targets=None if dataset.targets is None else dataset.targets[indices],
    ).to(device)


class WaitingTime:
    """Accumulates the seconds in which training waited for batches."""

    def __init__(self) -> None:
        self.seconds = 0.0


class Prefetch(Sequence[Made], Generic[Item, Made]):
    """A sequence whose items are made on access, each of them in a thread while the previous one is in use.

    Args:
        items: What the items are made from.
        make: Makes an item.
        pool: Thread pool with one thread.
        waiting: Accumulates the seconds spent waiting.
    """

    def __init__(
        self, items: Sequence[Item], make: Callable[[Item], Made], pool: ThreadPoolExecutor, waiting: WaitingTime
    ) -> None:
        self._items, self._make, self._pool, self._waiting = items, make, pool, waiting
        self._next: tuple[int, Future[Made]] | None = None

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Made: ...

    @overload
    def __getitem__(self, index: slice) -> "Prefetch[Item, Made]": ...

    def __getitem__(self, index: int | slice) -> "Made | Prefetch[Item, Made]":
        if isinstance(index, slice):
            return Prefetch(self._items[index], self._make, self._pool, self._waiting)
        began = time.perf_counter()
        if self._next is not None and self._next[0] == index:
            made = self._next[1].result()
        else:
            made = self._make(self._items[index])
        self._waiting.seconds += time.perf_counter() - began
        after = index + 1
        self._next = (after, self._pool.submit(self._make, self._items[after])) if after < len(self._items) else None
        return made
