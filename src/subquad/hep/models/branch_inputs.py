"""Branches of files as padded tensors: the inputs of an exported tagger.

A branch of particles is [J, P], and the mask says which of its places are real. The branches of another collection of
inputs of a data card, such as secondary vertices, have places and a mask of their own.

Axes: J jets, P places of a padded batch.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subquad.errors import SubquadError, require
from subquad.hep.data.card import Card
from subquad.hep.data.jets import PARTICLES
from subquad.hep.data.layout import Layout
from subquad.hep.data.tensor_expressions import columns_of_entries

__all__ = ["MASK", "BranchesOfCard", "branches_read", "masks_of_branches", "padded_branches"]

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
                "exported network; fit with a card that does without it, or export with --inputs weaver"
            )
        return self._branches[self._card.branch(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._branches)

    def __len__(self) -> int:
        return len(self._branches)


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
    of_card, found = BranchesOfCard(card, columns), dict[str, str]()
    for one in card.inputs:
        trees = [ast.Name(name) for name in (*one.columns, *([one.mask] if one.mask else []))]
        asked = [
            card.branch(name)
            for tree in trees
            for name in columns_of_entries(tree, card.new_variables, lambda name: of_card[name].ndim == 2)
        ]
        known = next((found[name] for name in asked if name in found), None)
        mask = known or (f"{one.prefix}_entry_mask" if found else MASK)
        while mask in columns:
            # a branch of this name is an input too
            mask += "_"
        found |= dict.fromkeys(asked, mask)
    wanted = {card.branch(name) for name in card.input_branches() - card.file_magic.keys()}
    wanted |= {*PARTICLES} if layout.has_jetclass_features else set()
    for name in sorted(wanted & lists.keys() - found.keys()):
        alike = {mask for other, mask in found.items() if np.array_equal(lists[name], lists[other])}
        if len(alike) != 1:
            prefixes = " and ".join(one.prefix for one in card.inputs)
            problem = f"as many entries per jet as several of {prefixes}" if alike else f"other numbers than {prefixes}"
            remedy = "give other jets with --files" if alike else "fit with a card that does without it"
            raise SubquadError(
                f"{card.name}: it is unknown to which collection of inputs the branch {name} belongs, since its first "
                f"{len(lists[name])} jets have {problem}; {remedy}"
            )
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
