"""Columns of some jets checked and put together to flat tables; what is wrong is told by file, entry and column.

Axes: J jets, C particles of all jets, V columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subquad.errors import require

__all__ = ["Place", "check_finite", "jet_table", "label_numbers", "particle_table"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the jets at hand stand, and what was found wrong with them."""

    file: str
    entries: np.ndarray
    """[J]: number of each jet in its file."""
    mistakes: list[str] = field(repr=False)

    def tell(self, jet: int, what: str, count: int = 1, *, then: str = "drop such jets") -> None:
        """Note a mistake of one jet, and how many jets have it."""
        more = f" (and {count - 1} more jets like it)" if count > 1 else ""
        self.mistakes.append(f"{self.file}: entry {self.entries[jet]}: {what}{more}; {then}")

    def tell_type(self, name: str, given: str, wanted: str) -> None:
        """Note a column of the wrong type."""
        self.mistakes.append(f"{self.file}: {name} is of type {given}; {wanted}")


def _numbers(column: Any, name: str, depth: int, place: Place) -> Any | None:
    """Return the column, or None where it does not hold numbers in so many levels, or one is missing."""
    ak = require("awkward", extra="hep")
    missing = np.asarray(ak.is_none(column, axis=0))
    if column.ndim == 2:
        missing = missing | np.asarray(ak.fill_none(ak.any(ak.is_none(column, axis=1), axis=1), True))
    if missing.any():
        place.tell(int(np.argmax(missing)), f"{name} has no value", int(missing.sum()))
        return None
    kind = str(ak.type(column).content)
    inner = kind.removeprefix("var * ")
    if column.ndim != depth or not inner.startswith(("bool", "int", "uint", "float")):
        wanted = "one number per jet" if depth == 1 else "a list of numbers per jet, one for each particle"
        place.tell_type(name, kind, f"it must be {wanted}")
        return None
    return column


def check_finite(columns: Mapping[str, Any], names: Sequence[str], place: Place) -> None:
    """Note columns that are no numbers, and jets where a number is NaN or infinite."""
    for name in names:
        depth = 2 if columns[name].ndim > 1 else 1
        column = _numbers(columns[name], name, depth, place)
        if column is not None and depth == 2:
            _check_particles(*_flat(column), name, place)
        elif column is not None:
            _check_jets(np.asarray(column), name, place)


def _flat(column: Any) -> tuple[np.ndarray, np.ndarray]:
    ak = require("awkward", extra="hep")
    lengths = ak.to_numpy(ak.num(column, axis=1)).astype(np.int64)
    return ak.to_numpy(ak.flatten(column, axis=1)), lengths


def _check_particles(values: np.ndarray, lengths: np.ndarray, name: str, place: Place) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        jet = np.repeat(np.arange(len(lengths)), lengths)
        i = int(np.argmax(bad))
        particle = i - (np.cumsum(lengths) - lengths)[jet[i]]
        place.tell(int(jet[i]), f"{name} of particle {particle} is {values[i]}", len(np.unique(jet[bad])))


def _check_jets(values: np.ndarray, name: str, place: Place) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        j = int(np.argmax(bad))
        place.tell(j, f"{name} is {values[j]}", int(bad.sum()))


def particle_table(
    columns: Mapping[str, Any], names: Sequence[str], place: Place, *, is_finite: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return [C, V] float32 and the lengths [J]; columns that cannot be used are noted and left 0.

    Args:
        columns: of these jets.
        names: the columns to take; all must have as many particles.
        place: where mistakes are noted.
        is_finite: NaN and infinity are mistakes.
    """
    found = {name: _numbers(columns[name], name, 2, place) for name in names}
    usable = {name: column for name, column in found.items() if column is not None}
    lengths = _flat(next(iter(usable.values())))[1] if usable else np.zeros(len(place.entries), np.int64)
    table = np.zeros((int(lengths.sum()), len(names)), np.float32)
    first = next(iter(usable), "")
    for i, name in enumerate(names):
        if name not in usable:
            continue
        values, sizes = _flat(usable[name])
        if (sizes != lengths).any():
            j = int(np.argmax(sizes != lengths))
            what = f"{name} has {sizes[j]} particles and {first} has {lengths[j]}"
            place.tell(j, what, int((sizes != lengths).sum()), then="they must be of one length")
            continue
        table[:, i] = values
        if is_finite:
            _check_particles(table[:, i], lengths, name, place)
    if (lengths == 0).any():
        place.tell(int(np.argmax(lengths == 0)), "the jet has no particles", int((lengths == 0).sum()))
    return table, lengths


def jet_table(columns: Mapping[str, Any], names: Sequence[str], place: Place) -> np.ndarray:
    """Return [J, V] float32; what is not finite or no number is noted."""
    table = np.zeros((len(place.entries), len(names)), np.float32)
    for i, name in enumerate(names):
        column = _numbers(columns[name], name, 1, place)
        if column is not None:
            table[:, i] = np.asarray(column)
            _check_jets(table[:, i], name, place)
    return table


def label_numbers(columns: Mapping[str, Any], names: Sequence[str], place: Place) -> np.ndarray:
    """Return [J]: which one of the columns is 1; jets of which not exactly one is are noted."""
    table = jet_table(columns, names, place)
    bad = ((table == 1).sum(1) != 1) | ((table != 0).sum(1) != 1)
    if bad.any():
        j = int(np.argmax(bad))
        given = [f"{names[i]} = {table[j, i]:g}" for i in np.flatnonzero(table[j])]
        then = "exactly one label of a jet must be 1"
        place.tell(j, ", ".join(given) or "no label is 1", int(bad.sum()), then=then)
    return table.argmax(1)
