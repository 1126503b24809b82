"""Checks of the columns of some jets and their conversion to flat tables; errors name file, entry and column.

Axes: J jets, C particles of all jets, V columns.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subquad.errors import require

__all__ = [
    "ChunkErrors",
    "add_particles",
    "check_energies",
    "check_finite",
    "class_indices",
    "column_of_numbers",
    "flat_column",
    "jet_table",
    "jet_totals",
    "normalized",
    "observers_of",
    "particle_table",
    "truncated",
]


@dataclass(frozen=True, kw_only=True)
class ChunkErrors:
    """The errors found in a chunk of a file, and where its jets are in that file."""

    file: str
    entries: np.ndarray
    """[J]: entry number of each jet."""
    errors: list[str] = field(repr=False)
    """Shared by all chunks of a read."""
    is_selectable: bool = True
    """The selection of a data card can drop jets of such files."""

    def drop(self, selection: str = "") -> str:
        """Return the advice to drop jets, with the selection of a card that keeps the others, if there is one."""
        example = f" (in a card: `selection: {selection}`)" if selection and self.is_selectable else ""
        return f"drop such jets{example}"

    def add(self, is_bad: np.ndarray, what: str, *, advice: str = "drop such jets") -> None:
        """Add an error of the jets where `is_bad` [J] is true, described by `what` at the first of them."""
        count = int(is_bad.sum())
        others = f" (and {count - 1:,} more jet{'s' * (count > 2)})" if count > 1 else ""
        self.errors.append(f"{self.file}: entry {self.entries[np.argmax(is_bad)]}: {what}{others}; {advice}")

    def add_type(self, name: str, given: str, wanted: str) -> None:
        """Add a column of the wrong type."""
        self.errors.append(f"{self.file}: {name} is of type {given}; it must be {wanted}")


def _finite(name: str, depth: int) -> str:
    """Return the selection of jets whose column is finite; empty for what is no name of a column."""
    name = name.removeprefix("the event weight ")
    if not name.isidentifier():
        return ""
    return f"ak.all(np.isfinite({name}), axis=1)" if depth == 2 else f"np.isfinite({name})"


def jet_totals(jet: np.ndarray, values: np.ndarray, jets: int) -> np.ndarray:
    """Return [J]: the sums of the values [C] over the particles of each jet, whose indices `jet` [C] holds."""
    return np.bincount(jet, weights=values, minlength=jets)


def normalized(array: Any) -> Any:
    """Return fixed-size lists as variable-length ones, and optional values that are all present as plain ones."""
    ak = require("awkward", extra="hep")
    array = ak.from_regular(array, axis=1) if array.ndim == 2 else array
    # records are no numbers, and are refused where they are used
    if not _is_optional(array) or ak.fields(array):
        return array
    if ak.any(ak.is_none(array, axis=0)):
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


def column_of_numbers(column: Any, name: str, depth: int, errors: ChunkErrors, *, advice: str = "") -> Any | None:
    """Return the column, or None if it has missing values or does not hold numbers in `depth` dimensions."""
    ak = require("awkward", extra="hep")
    is_record = bool(ak.fields(column))
    # a selection may have removed the jets without a value
    column = column if is_record else normalized(column)
    missing = np.zeros(len(column), bool) if is_record else np.asarray(ak.is_none(column, axis=0))
    if column.ndim == 2 and not is_record:
        missing = missing | np.asarray(ak.fill_none(ak.any(ak.is_none(column, axis=1), axis=1), True))
    if missing.any():
        # a list without missing values is not None in any of its places
        present = f"~ak.is_none({name})" if depth == 1 else f"~ak.any(ak.is_none({name}, axis=1), axis=1)"
        default = errors.drop(present if name.isidentifier() else "")
        errors.add(missing, f"{name} has no value", advice=advice or default)
        return None
    kind = str(ak.type(column).content)
    inner = kind.removeprefix("var * ")
    if column.ndim != depth or is_record or not inner.startswith(("bool", "int", "uint", "float")):
        errors.add_type(
            name, kind, "one number per jet" if depth == 1 else "a list of numbers per jet, one for each particle"
        )
        return None
    return column


def check_finite(
    columns: Mapping[str, Any], names: Sequence[str], errors: ChunkErrors, *, repaired: Collection[str] = ()
) -> None:
    """Add an error for each column that holds no numbers, and, unless it is repaired, for jets with NaN or infinity."""
    for name in names:
        depth = 2 if columns[name].ndim > 1 else 1
        column = column_of_numbers(columns[name], name, depth, errors)
        if name in repaired:
            continue
        if column is not None and depth == 2:
            _check_particles(*_flat(column), name, errors)
        elif column is not None:
            _check_jets(np.asarray(column), name, errors)


def flat_column(column: Any, mask: Any = None) -> np.ndarray:
    """Return the numbers of a column, of all jets or of all their particles, one after another.

    Args:
        column: Numbers of jets or of particles.
        mask: Numbers that are 0 for particles to leave out, of as many particles; None leaves out none.
    """
    ak = require("awkward", extra="hep")
    if mask is not None and column.ndim == 2 and bool(ak.all(ak.num(mask) == ak.num(column))):
        column = column[ak.nan_to_num(mask) != 0]
    return ak.to_numpy(ak.flatten(column, axis=None))


def _flat(column: Any) -> tuple[np.ndarray, np.ndarray]:
    ak = require("awkward", extra="hep")
    lengths = ak.to_numpy(ak.num(column, axis=1)).astype(np.int64)
    return ak.to_numpy(ak.flatten(column, axis=1)), lengths


def _check_particles(values: np.ndarray, lengths: np.ndarray, name: str, errors: ChunkErrors) -> None:
    advice = errors.drop(_finite(name, 2))
    add_particles(~np.isfinite(values), values, lengths, name, errors, advice=advice)


def check_energies(
    energies: np.ndarray,
    lengths: np.ndarray,
    errors: ChunkErrors,
    *,
    advice: str = "drop such jets",
    may_be_zero: bool = False,
    name: str = "the energy",
) -> None:
    """Add an error for jets with a negative energy, or one of 0 unless that is allowed, among their particles [C]."""
    add_particles(energies < 0, energies, lengths, name, errors, advice=advice)
    if may_be_zero:
        return
    advice = "omit padding, and give the energy of each particle"
    add_particles(energies == 0, energies, lengths, name, errors, advice=advice)


def add_particles(
    is_bad: np.ndarray,
    values: np.ndarray,
    lengths: np.ndarray,
    name: str,
    errors: ChunkErrors,
    *,
    advice: str = "drop such jets",
) -> None:
    """Add an error for jets with a particle where `is_bad` [C] is true, with its number and its value [C]."""
    if is_bad.any():
        jet = np.repeat(np.arange(len(lengths)), lengths)
        i = int(np.argmax(is_bad))
        particle = i - (np.cumsum(lengths) - lengths)[jet[i]]
        is_bad_jet = np.zeros(len(lengths), bool)
        is_bad_jet[jet[is_bad]] = True
        errors.add(is_bad_jet, f"{name} of particle {particle} is {values[i]}", advice=advice)


def _check_jets(values: np.ndarray, name: str, errors: ChunkErrors) -> None:
    is_bad = ~np.isfinite(values)
    if is_bad.any():
        advice = errors.drop(_finite(name, 1))
        errors.add(is_bad, f"{name} is {values[np.argmax(is_bad)]}", advice=advice)


def particle_table(
    columns: Mapping[str, Any],
    names: Sequence[str],
    errors: ChunkErrors,
    *,
    is_finite: bool = True,
    may_be_empty: bool = False,
    advice: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Return columns with one number per particle as one table.

    Args:
        columns: Awkward arrays.
        names: Columns to take; all must have the same number of particles.
        errors: Receives the errors; a column with errors is 0.
        is_finite: NaN and infinity are errors.
        may_be_empty: Jets without particles are no errors.
        advice: What to do about jets without particles, other than dropping them.

    Returns:
        The table [C, V] float32, and the number of particles of each jet [J].
    """
    found = {name: column_of_numbers(columns[name], name, 2, errors) for name in names}
    usable = {name: column for name, column in found.items() if column is not None}
    lengths = _flat(next(iter(usable.values())))[1] if usable else np.zeros(len(errors.entries), np.int64)
    table = np.zeros((int(lengths.sum()), len(names)), np.float32)
    first = next(iter(usable), "")
    for i, name in enumerate(names):
        if name not in usable:
            continue
        values, sizes = _flat(usable[name])
        differs = sizes != lengths
        if differs.any():
            j = int(np.argmax(differs))
            what = f"{name} has {sizes[j]} values and {first} has {lengths[j]}"
            errors.add(differs, what, advice="both must have the same number")
            continue
        table[:, i] = values
        if is_finite:
            _check_particles(table[:, i], lengths, name, errors)
    if (lengths == 0).any() and not may_be_empty:
        drop = errors.drop(f"ak.num({first}) > 0" if first else "")
        errors.add(lengths == 0, "the jet has no particles", advice=f"{advice}, or {drop}" if advice else drop)
    return table, lengths


def jet_table(columns: Mapping[str, Any], names: Sequence[str], errors: ChunkErrors) -> np.ndarray:
    """Return columns with one number per jet as a table [J, V] float32; what is not finite is an error."""
    table = np.zeros((len(errors.entries), len(names)), np.float32)
    for i, name in enumerate(names):
        column = column_of_numbers(columns[name], name, 1, errors)
        if column is not None:
            table[:, i] = np.asarray(column)
            _check_jets(table[:, i], name, errors)
    return table


def observers_of(columns: Mapping[str, Any], names: Sequence[str], errors: ChunkErrors) -> dict[str, np.ndarray]:
    """Return columns with one number per jet in their own types; those that are not finite are errors."""
    found = {}
    for name in names:
        before = len(errors.errors)
        jet_table(columns, [name], errors)
        if len(errors.errors) == before:
            found[name] = np.asarray(columns[name])
    return found


def class_indices(
    columns: Mapping[str, Any],
    names: Sequence[str],
    errors: ChunkErrors,
    *,
    needs_labels: bool = True,
    origins: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Return [J]: the index of the label column that is 1; jets without exactly one such column are errors.

    Args:
        columns: Awkward arrays.
        names: Label columns.
        errors: Receives the errors.
        needs_labels: Otherwise the index is -1 where all labels are 0.
        origins: Columns [J] that the labels are computed from, whose values the message shows.
    """
    table = jet_table(columns, names, errors)
    is_unlabelled = (table == 0).all(1) & (not needs_labels)
    is_bad = (((table == 1).sum(1) != 1) | ((table != 0).sum(1) != 1)) & ~is_unlabelled
    if is_bad.any():
        j = int(np.argmax(is_bad))
        given = [f"{names[i]} = {table[j, i]:g}" for i in np.flatnonzero(table[j]).tolist()]
        # of more than a few columns the values would hide the message
        values = ", ".join(f"{name} = {column[j]}" for name, column in list((origins or {}).items())[:3])
        what = (", ".join(given) or "no label is 1") + (f" for {values}" if values else "")
        errors.add(is_bad, what, advice="exactly one label of a jet must be 1")
    return np.where(is_unlabelled, -1, table.argmax(1))


def truncated(
    table: np.ndarray, lengths: np.ndarray, errors: ChunkErrors, *, length: int, has_mask: bool, may_be_empty: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return those of the first `length` particles of each jet whose mask is not 0, and their number per jet.

    The mask, if there is one, is the last column of the table; it is removed from the columns that are returned.
    """
    jet = np.repeat(np.arange(len(lengths)), lengths)
    keep = np.arange(len(table)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < length
    if has_mask:
        # undefined is 0, as for other computed variables
        keep &= np.nan_to_num(table[:, -1]) != 0
        table = table[:, :-1]
    kept = np.bincount(jet[keep], minlength=len(lengths))
    is_empty = (kept == 0) & (lengths > 0)
    if is_empty.any() and not may_be_empty:
        errors.add(is_empty, "the card's mask leaves no particle of the jet")
    return table[keep], kept
