"""Branches of files as padded tensors: the inputs of an exported tagger.

A branch of particles is [J, P], and the mask says which of its places are real. The branches of another collection of
inputs of a data card, such as secondary vertices, have places and a mask of their own.

Axes: J jets, P places of a padded batch.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subquad.errors import SubquadError, require
from subquad.hep.data.card import Card
from subquad.hep.data.jets import PARTICLES
from subquad.hep.data.layout import Layout
from subquad.hep.data.tensor_expressions import Padded, TensorColumns

MASK = "particle_mask"
"""Name of the input that is 1 for particles and 0 for padding."""


def columns_of_branches(card: Card, branches: Mapping[str, Tensor], masks: Mapping[str, str]) -> TensorColumns:
    """Return the columns of a card from padded branches, which also hold the masks.

    Args:
        card: The card.
        branches: [J, P] and [J].
        masks: Name of the mask of each branch with several numbers per jet.
    """

    def column(name: str) -> Padded:
        if name in card.file_magic:
            raise SubquadError(f"{card.name}: file_magic: {name} depends on the file, and cannot be exported")
        branch = card.branch(name)
        values = branches[branch]
        if values.ndim == 1:
            return Padded(values)
        return Padded(values, branches[masks[branch]] != 0, frozenset([branch]))

    return TensorColumns(card.new_variables, column)


def masks_of_branches(columns: Mapping[str, Any], layout: Layout) -> dict[str, str]:
    """Return the branches with several numbers per jet that a tagger may read, each with the name of its mask.

    The particles of the first collection of inputs have the mask `MASK`, the entries of a further one such as `sv`
    have `sv_entry_mask`, unless a branch has this name. Collections that are computed from the same branches share a
    mask.

    Args:
        columns: Awkward arrays of some jets, by the names of the branches.
        layout: Columns that the tagger takes.

    Raises:
        SubquadError: Of a branch that is only summed over, or reduced in another way, it is unknown to which collection
            it belongs.
    """
    ak, card = require("awkward", extra="hep"), layout.card
    lists = {name: ak.num(column) for name, column in columns.items() if column.ndim == 2}
    if card is None:
        return dict.fromkeys(lists, MASK)
    # each with a mask of its own
    each = {name: f"mask of {name}" for name in lists}
    padded, found = columns_of_branches(card, padded_branches(columns, each), each), dict[str, str]()
    for collection in card.inputs:
        names = (*collection.columns, *([collection.mask] if collection.mask else []))
        asked = sorted({branch for name in names for branch in padded[name].origins})
        known = next((found[name] for name in asked if name in found), None)
        mask = known or (f"{collection.prefix}_entry_mask" if found else MASK)
        while mask in columns:
            # a branch of this name is an input too
            mask += "_"
        found |= dict.fromkeys(asked, mask)
    wanted = {card.branch(name) for name in card.input_branches() - card.file_magic.keys()}
    wanted |= {*PARTICLES} if layout.has_jetclass_features else set()
    for name in sorted(wanted & lists.keys() - found.keys()):
        alike = {mask for other, mask in found.items() if np.array_equal(lists[name], lists[other])}
        if len(alike) != 1:
            raise SubquadError(f"{card.name}: it is unknown to which collection of inputs the branch {name} belongs")
        found[name] = alike.pop()
    return found


def padded_branches(columns: Mapping[str, Any], masks: Mapping[str, str], *, places: int = 0) -> dict[str, Tensor]:
    """Return [J, P] float32 for each branch that has a mask, [J] for each of jets, and the masks [J, P].

    Args:
        columns: Awkward arrays of some jets.
        masks: Name of the mask of each branch with several numbers per jet.
        places: Smallest P; it is at least the largest number of entries in a jet.
    """
    ak = require("awkward", extra="hep")
    found = {
        name: torch.from_numpy(ak.to_numpy(column).astype(np.float32))
        for name, column in columns.items()
        if column.ndim == 1
    }
    for name, mask in masks.items():
        lengths = ak.to_numpy(ak.num(columns[name])).astype(np.int64)
        is_real = np.arange(max(places, int(lengths.max(initial=1)))) < lengths[:, None]
        values = np.zeros(is_real.shape, np.float32)
        values[is_real] = ak.to_numpy(ak.flatten(columns[name]))
        found[name] = torch.from_numpy(values)
        found[mask] = torch.from_numpy(is_real.astype(np.float32))
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
    module: Callable[[Mapping[str, Tensor]], Any], given: Mapping[str, Tensor], masks: Mapping[str, str]
) -> list[str]:
    """Return the names of the inputs that a tagger reads: branches of particles, branches of jets, and the masks.

    Args:
        module: The tagger.
        given: Some jets, with all branches of their file.
        masks: Name of the mask of each branch with several numbers per jet.
    """
    recorded = _Recorded(given)
    with torch.no_grad():
        module(recorded)
    read = [name for name in recorded.read if name not in masks.values()]
    used = {masks[name] for name in read if name in masks}
    return [*sorted(read, key=lambda name: name not in masks), *(m for m in dict.fromkeys(masks.values()) if m in used)]
