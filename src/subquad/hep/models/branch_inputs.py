"""Branches of files as padded tensors: the inputs of an exported tagger.

A branch of particles is [J, P], and the mask says which of its places are real. Each further collection of inputs of a
data card, such as secondary vertices, has places and a mask of its own.

Axes: J jets, P places of a padded batch.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subquad.errors import SubquadError, require
from subquad.hep.data.card import Card
from subquad.hep.data.card_reader import CardColumns

__all__ = ["MASK", "BranchesOfCard", "branches_read", "mask_names", "masks_of_branches", "padded_branches"]

MASK = "particle_mask"
"""Name of the input that is 1 for particles and 0 for padding."""


class BranchesOfCard(Mapping[str, Any]):
    """Branches by the names of a card's columns."""

    def __init__(self, card: Card, branches: Mapping[str, Any]) -> None:
        self._card, self._branches = card, branches

    def __getitem__(self, name: str) -> Any:
        if name in self._card.file_magic:
            raise SubquadError(
                f"{self._card.name}: file_magic: {name} depends on the name of the file, which is no input of the "
                "exported network; export with --inputs weaver"
            )
        return self._branches[self._card.branch(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._branches)

    def __len__(self) -> int:
        return len(self._branches)


def mask_names(card: Card | None) -> tuple[str, ...]:
    """Return the name of the mask of the particles, and of that of each further collection of a card."""
    others = () if card is None else card.inputs[1:]
    return (MASK, *(f"{one.prefix}_entry_mask" for one in others))


def masks_of_branches(columns: Mapping[str, Any], card: Card | None) -> dict[str, str]:
    """Return for each branch with several numbers per jet the name of the mask that belongs to it.

    Args:
        columns: Awkward arrays of some jets, by the names of the branches.
        card: The data card; None for JetClass's branches.

    Raises:
        SubquadError: A branch has other numbers of entries than all collections of the card, or the same as several.
    """
    ak = require("awkward", extra="hep")
    lists = {name: column for name, column in columns.items() if column.ndim == 2}
    if card is None:
        return dict.fromkeys(lists, MASK)
    jets = len(next(iter(columns.values())))
    of_card = CardColumns(card, BranchesOfCard(card, columns), jets)
    lengths = [ak.num(of_card[one.columns[0]]) for one in card.inputs]
    found = {}
    for name, column in lists.items():
        alike = [i for i, length in enumerate(lengths) if np.array_equal(length, ak.num(column))]
        if not alike:
            raise SubquadError(
                f"{card.name}: branch {name} has other numbers of entries per jet than the inputs and is not "
                "translated to ONNX; fit with a card that does without it"
            )
        if len(alike) > 1:
            prefixes = " and ".join(card.inputs[i].prefix for i in alike)
            raise SubquadError(
                f"{card.name}: {prefixes} have the same numbers of entries in the first {jets} jets, so that branch "
                f"{name} may belong to either; give a file with other jets with --files"
            )
        found[name] = mask_names(card)[alike[0]]
    return found


def padded_branches(
    columns: Mapping[str, Any], masks: Mapping[str, str] | None = None, *, places: int = 0
) -> dict[str, Tensor]:
    """Return [J, P] float32 for each branch of particles, [J] for each of jets, and the masks [J, P].

    Args:
        columns: Awkward arrays of some jets.
        masks: Name of the mask of each branch with several numbers per jet; None for particles only.
        places: Smallest P; it is at least the largest number of entries in a jet.
    """
    ak = require("awkward", extra="hep")
    found: dict[str, Tensor] = {}
    for name, column in columns.items():
        if column.ndim == 1:
            found[name] = torch.from_numpy(ak.to_numpy(column).astype(np.float32))
            continue
        lengths = ak.to_numpy(ak.num(column)).astype(np.int64)
        is_real = np.arange(max(places, int(lengths.max(initial=1)))) < lengths[:, None]
        values = np.zeros(is_real.shape, np.float32)
        values[is_real] = ak.to_numpy(ak.flatten(column))
        found[name] = torch.from_numpy(values)
        found[MASK if masks is None else masks[name]] = torch.from_numpy(is_real.astype(np.float32))
    return found


class _Recorded(Mapping[str, Tensor]):
    """Notes which of its entries are read."""

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        self._given, self.read = given, dict[str, None]()

    def __getitem__(self, name: str) -> Tensor:
        value = self._given[name]
        self.read[name] = None
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def branches_read(
    module: Callable[[Mapping[str, Tensor]], Any], given: Mapping[str, Tensor], masks: tuple[str, ...] = (MASK,)
) -> list[str]:
    """Return the names of the inputs that a tagger reads, branches of particles first and the masks last.

    Args:
        module: The tagger.
        given: Some jets, with all branches of their file.
        masks: Names of the masks.
    """
    recorded = _Recorded(given)
    with torch.no_grad():
        module(recorded)
    read = [name for name in recorded.read if name not in masks]
    return [*sorted(read, key=lambda name: -given[name].ndim), *masks]
