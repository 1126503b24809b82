"""Columns of some jets as flat tables; what cannot be used is an error with file, entry and column.

Axes: J jets, C particles of all jets, V columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the jets of a chunk are."""

    file: str
    entries: np.ndarray
    """[J]: entry number of each jet in the file."""

    def refuse(
        self, is_bad: np.ndarray, what: str, values: Any = None, *, lengths: np.ndarray | None = None, remedy: str = ""
    ) -> None:
        """Raise an error if a jet [J], or with `lengths` [J] a particle [C], is bad.

        Args:
            is_bad: [J] or [C].
            what: What is wrong with it.
            values: [J] or [C], of which the first bad one is shown.
            lengths: Number of particles of each jet.
            remedy: What to do.
        """
        if not is_bad.any():
            return
        first = int(np.argmax(is_bad))
        jet = first if lengths is None else int(np.searchsorted(np.cumsum(lengths), first, side="right"))
        value = "" if values is None else f" {values[first]}"
        end = f"; {remedy}" if remedy else ""
        raise SubquadError(f"{self.file}: entry {self.entries[jet]}: {what}{value}{end}")


def jet_totals(jet: np.ndarray, values: np.ndarray, jets: int) -> np.ndarray:
    """Return [J]: the sums of the values [C] over the particles of each jet, whose indices `jet` [C] holds."""
    return np.bincount(jet, weights=values, minlength=jets)


def normalized(array: Any) -> Any:
    """Return fixed-size lists as variable-length ones, and optional values that are all present as plain ones."""
    ak = require("awkward", extra="hep")
    array = ak.from_regular(array, axis=1) if array.ndim == 2 else array
    # records are no numbers, and are refused where they are used
    if not _is_optional(array) or ak.fields(array) or ak.any(ak.is_none(array, axis=0)):
        return array
    array = ak.drop_none(array, axis=0)
    if array.ndim != 2 or not _is_optional(array):
        return array
    # flat, as lists with offsets of 32 bits, which Parquet files have, cannot drop missing values themselves
    flat = ak.flatten(array, axis=1)
    is_complete = flat.ndim == 1 and not ak.any(ak.is_none(flat, axis=0))
    return ak.unflatten(ak.drop_none(flat, axis=0), ak.num(array, axis=1)) if is_complete else array


def _is_optional(array: Any) -> bool:
    kind = str(require("awkward", extra="hep").type(array))
    return "?" in kind or "option" in kind


def column_of_numbers(column: Any, name: str, depth: int, place: Place) -> Any:
    """Return a column that has numbers in `depth` dimensions, and no missing values."""
    ak = require("awkward", extra="hep")
    if not ak.fields(column):
        # a selection may have removed the jets without a value
        column = normalized(column)
        missing = np.asarray(ak.is_none(column, axis=0))
        if column.ndim == 2:
            missing = missing | np.asarray(ak.fill_none(ak.any(ak.is_none(column, axis=1), axis=1), True))
        place.refuse(missing, f"{name} has no value", remedy="drop such jets by the selection of a card")
    kind = str(ak.type(column).content)
    if column.ndim != depth or not kind.removeprefix("var * ").startswith(("bool", "int", "uint", "float")):
        wanted = "one number per jet" if depth == 1 else "a list of numbers per jet, one for each particle"
        raise SubquadError(f"{place.file}: {name} is of type {kind}; it must be {wanted}")
    return column


def particle_table(
    columns: Mapping[str, Any],
    names: Sequence[str],
    place: Place,
    *,
    is_finite: bool = True,
    may_be_empty: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return columns with one number per particle as one table.

    Args:
        columns: Awkward arrays.
        names: Columns to take; all must have the same number of particles.
        place: Where the jets are, for errors.
        is_finite: NaN and infinity are errors.
        may_be_empty: Jets without particles are no errors.

    Returns:
        The table [C, V] float32, and the number of particles of each jet [J].
    """
    ak = require("awkward", extra="hep")
    lists = [column_of_numbers(columns[name], name, 2, place) for name in names]
    lengths = ak.to_numpy(ak.num(lists[0], axis=1)).astype(np.int64)
    if not may_be_empty:
        place.refuse(lengths == 0, "the jet has no particles", remedy="drop such jets by the selection of a card")
    table = np.zeros((int(lengths.sum()), len(names)), np.float32)
    for i, (name, column) in enumerate(zip(names, lists, strict=True)):
        sizes = ak.to_numpy(ak.num(column, axis=1))
        place.refuse(sizes != lengths, f"{name} and {names[0]} have different numbers of particles")
        table[:, i] = ak.to_numpy(ak.flatten(column, axis=1))
        if is_finite:
            place.refuse(~np.isfinite(table[:, i]), f"{name} is", table[:, i], lengths=lengths)
    return table, lengths


def jet_table(columns: Mapping[str, Any], names: Sequence[str], place: Place) -> np.ndarray:
    """Return columns with one number per jet as a table [J, V] float32; what is not finite is an error."""
    table = np.zeros((len(place.entries), len(names)), np.float32)
    for i, name in enumerate(names):
        table[:, i] = np.asarray(column_of_numbers(columns[name], name, 1, place))
        place.refuse(~np.isfinite(table[:, i]), f"{name} is", table[:, i])
    return table


def observers_of(columns: Mapping[str, Any], names: Sequence[str], place: Place) -> dict[str, np.ndarray]:
    """Return columns with one number per jet in their own types; those that are not finite are errors."""
    jet_table(columns, names, place)
    return {name: np.asarray(normalized(columns[name])) for name in names}


def class_indices(
    columns: Mapping[str, Any], names: Sequence[str], place: Place, *, needs_labels: bool = True
) -> np.ndarray:
    """Return [J]: the index of the label column that is 1; jets without exactly one such column are errors.

    Args:
        columns: Awkward arrays.
        names: Label columns.
        place: Where the jets are, for errors.
        needs_labels: Otherwise the index is -1 where all labels are 0.
    """
    table = jet_table(columns, names, place)
    is_unlabelled = (table == 0).all(1) & (not needs_labels)
    is_bad = (((table == 1).sum(1) != 1) | ((table != 0).sum(1) != 1)) & ~is_unlabelled
    labels = [", ".join(np.array(names)[row != 0]) or "none" for row in table[is_bad][:1]]
    place.refuse(is_bad, f"exactly one label of a jet must be 1, and these are not 0: {', '.join(labels)}")
    return np.where(is_unlabelled, -1, table.argmax(1))
