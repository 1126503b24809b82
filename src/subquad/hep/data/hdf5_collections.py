"""HDF5 files whose datasets have compound types or are in groups, as the flavour tagging files of ATLAS.

A field of a dataset [jets] is a column with one number per jet, named `<dataset>_<field>`; a field of a dataset [jets,
places] is a column of particles, of which those are real whose field `valid` is true. Groups are part of the name.

Axes: J jets, n jets of a chunk.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require
from subquad.hep.data.padded_arrays import jets_per_read, native

VALID = ("valid", "mask")
"""Names of the field that is true for real particles."""


class CollectionTable:
    """Columns of the datasets of one file.

    Args:
        path: The file, for messages.
        datasets: All datasets by their paths.
        elsewhere: Paths of further ones that are not read, and the reasons.

    Raises:
        SubquadError: No dataset can be read; the reasons are listed.
    """

    layout = ""

    def __init__(self, path: Path, datasets: Mapping[str, Any], elsewhere: Mapping[str, str]) -> None:
        self.refused = {_column(name): reason for name, reason in elsewhere.items()}
        # column → its dataset, its field, and the field that tells real particles
        self._origins: dict[str, tuple[Any, str | None, str | None]] = {}
        usable = {name: dataset for name, dataset in datasets.items() if not self._is_refused(name, dataset)}
        collections = [dataset for dataset in usable.values() if dataset.ndim == 2]
        # without collections of particles, what occurs most often is the number of jets
        sizes = Counter(len(dataset) for dataset in collections or usable.values())
        self.entries = sizes.most_common(1)[0][0] if sizes else 0
        for name, dataset in usable.items():
            if len(dataset) != self.entries:
                self.refused[_column(name)] = f"it has {len(dataset):,} rows, and there are {self.entries:,} jets"
            else:
                self._add(name, dataset)
        self.columns = tuple(self._origins)
        if not self.columns:
            reasons = [f"{name}: {reason}" for name, reason in self.refused.items()]
            raise SubquadError(f"{path}: no dataset has columns of jets ({'; '.join(reasons[:3])})")

    def _is_refused(self, name: str, dataset: Any) -> bool:
        reason = _refusal(name, dataset)
        if reason:
            self.refused[_column(name)] = reason
        return bool(reason)

    def _add(self, name: str, dataset: Any) -> None:
        fields = dataset.dtype.names or (None,)
        valid = next((field for field in VALID if field in fields), None) if dataset.ndim == 2 else None
        for field in fields:
            kind = dataset.dtype if field is None else dataset.dtype.fields[field][0]
            column = _column(name) if field is None else f"{_column(name)}_{field}"
            if kind.kind not in "biuf":
                self.refused[column] = f"it is of type {kind}, which is not a number"
            elif column in self._origins:
                self.refused[column] = "several datasets have this name"
            else:
                self._origins[column] = (dataset, field, valid)

    def chunks(self, names: Sequence[str], entries: int) -> Iterator[Mapping[str, Any]]:
        """Yield these columns, at most `entries` jets at a time."""
        needed: dict[Any, set[str]] = {}
        for name in names:
            dataset, *fields = self._origins[name]
            needed.setdefault(dataset, set()).update(field for field in fields if field)
        size = sum(math.prod((*dataset.shape[1:], len(fields), 8)) for dataset, fields in needed.items())
        entries = jets_per_read(size, entries)
        for begin in range(0, self.entries, entries):
            rows = slice(begin, min(begin + entries, self.entries))
            taken = {
                dataset: dataset.fields(sorted(fields))[rows] if fields else dataset[rows]
                for dataset, fields in needed.items()
            }
            yield {name: _values(taken[self._origins[name][0]], *self._origins[name][1:]) for name in names}


def _column(name: str) -> str:
    return name.replace("/", "_")


def _refusal(name: str, dataset: Any) -> str:
    """Return why a dataset cannot be columns of jets; empty if it can."""
    shape, names = list(dataset.shape or ()), dataset.dtype.names
    if name.rsplit("/", 1)[-1].startswith("block") and name.endswith("_values"):
        return "it is a data frame in pandas' fixed format; save it with to_hdf(…, format='table')"
    if not 1 <= len(shape) <= (2 if names else 1) or (not names and dataset.dtype.kind not in "biuf"):
        return f"its shape is {shape} and its type {dataset.dtype}; give [jets] or a compound type [jets, particles]"
    if len(shape) == 2 and not {*VALID} & {*names}:
        return "it has no field `valid` that is true for real particles"
    return ""


def _values(rows: np.ndarray, field: str | None, valid: str | None) -> Any:
    """Return a column: an array [n], or a list of the real particles of each jet."""
    values = native(rows if field is None else rows[field])
    # awkward has no numbers of 16 bits
    values = values.astype(np.float32) if values.dtype == np.float16 else values
    if valid is None:
        return values
    is_real = rows[valid].astype(bool)
    return require("awkward", extra="hep").unflatten(values[is_real], is_real.sum(axis=1))
