"""HDF5 and NPZ files opened as tables of jets, without pickle: arrays, collections, and public data sets of arrays."""

import importlib
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from subquad.errors import SubquadError, require
from subquad.hep.data.energyflow import is_energyflow, momenta_and_types
from subquad.hep.data.hdf5_collections import CollectionTable
from subquad.hep.data.padded_arrays import COUNTS, MASKS, PaddedTable, SequentialArray, native, rows_of
from subquad.hep.data.remote import readable
from subquad.hep.data.top_landscape import pandas_table, top_arrays
from subquad.runs.hdf5 import datasets_of, open_hdf5
from subquad.runs.unpacking import array_header, bytes_of_array, check_expansion

__all__ = ["ArrayTable", "hdf5", "npz"]

LARGEST_FILE, MOST_EXPANDED = 2**30, 1000
"""Bytes that arrays may have however small their file is, and bytes of larger ones per byte of it: jets are padded with
zeros, which are packed well, and take memory in parts only."""
LARGEST_CHUNK = 2**29
"""Bytes that a chunk of a dataset may have however small its file is; h5py and PyTables write at most some MB."""
MOST_ARRAYS = 10_000
"""Arrays of an archive, all of which are open at a time."""


class ArrayTable(Protocol):
    """A file as columns of jets."""

    entries: int
    columns: tuple[str, ...]
    layout: str
    """Name of the public layout that was recognized; empty for others."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Names of datasets that cannot be columns, and the reasons."""
        ...

    def chunks(self, names: Sequence[str], entries: int) -> Iterator[Mapping[str, Any]]:
        """Yield these columns, at most `entries` jets at a time."""
        ...


@contextmanager
def hdf5(path: Path) -> Iterator[ArrayTable]:
    """Open an HDF5 file: a public layout, numerical arrays at its root, or compound types and groups.

    Raises:
        SubquadError: An array is not a column of jets, or nothing in the file can be read, such as data in another
            file.
    """
    with readable(path) as given, open_hdf5(path, given, extra="hep") as file:
        datasets, elsewhere = datasets_of(file, extra="hep")
        # without a mask or count, the particles would be told by another rule
        for name in elsewhere if not datasets else [name for name in (*MASKS, *COUNTS) if name in elsewhere]:
            raise SubquadError(f"{path}: {name} is not read, as {elsewhere[name]}")
        _check_filters(path, datasets)
        _check_storage(path, datasets)
        arrays = {
            name: SequentialArray(dataset.shape, rows_of(dataset))
            for name, dataset in datasets.items()
            if "/" not in name and dataset.shape and dataset.dtype.kind in "biuf"
        }
        has_collections = any(dataset.dtype.names and dataset.ndim == 2 for dataset in datasets.values())
        if (table := pandas_table(datasets)) is not None:
            yield PaddedTable(path, top_arrays(path, table), layout="top-landscape")
        elif has_collections or (datasets and not arrays):
            yield CollectionTable(path, datasets, elsewhere)
        else:
            types = {name: dataset.dtype for name, dataset in datasets.items() if name not in arrays and dataset.shape}
            yield PaddedTable(path, arrays, refused={**_not_numbers(types), **elsewhere})


def _not_numbers(types: Mapping[str, np.dtype]) -> dict[str, str]:
    """Return the names of arrays that do not hold real numbers, and the reasons."""
    return {
        name: f"it is of type {dtype}, which is not a real number"
        for name, dtype in types.items()
        if dtype.kind not in "biuf"
    }


def _check_storage(path: Path, datasets: Mapping[str, Any]) -> None:
    """Check what the datasets become in memory, and chunks of them, of which each is unpacked as a whole.

    Raises:
        SubquadError: It is far more than they have in the file, as if they were never written.
    """
    for name, dataset in datasets.items():
        packed, what = dataset.id.get_storage_size(), f"dataset {name} of the shape {list(dataset.shape or ())}"
        size = bytes_of_array(dataset.shape or (), dataset.dtype)
        check_expansion(path, what, size, packed, least=LARGEST_FILE, most=MOST_EXPANDED)
        if dataset.chunks:
            size = bytes_of_array(dataset.chunks, dataset.dtype)
            check_expansion(
                path, f"a chunk {list(dataset.chunks)} of dataset {name}", size, packed, least=LARGEST_CHUNK
            )


def _check_filters(path: Path, datasets: Mapping[str, Any]) -> None:
    """Check that the compression of the datasets is known, which `hdf5plugin` adds to if it is installed.

    Raises:
        SubquadError: A dataset is compressed by an unknown filter.
    """
    filter_avail = require("h5py", extra="hep").h5z.filter_avail
    for name, dataset in datasets.items():
        creation = dataset.id.get_create_plist()
        for code, _, _, title in map(creation.get_filter, range(creation.get_nfilters())):
            if filter_avail(code):
                continue
            try:
                importlib.import_module("hdf5plugin")
            except ModuleNotFoundError:
                raise SubquadError(
                    f"{path}: dataset {name} is compressed with the filter {title.decode() or code}, which h5py does "
                    "not have; install it with: pip install hdf5plugin"
                ) from None


@contextmanager
def npz(path: Path) -> Iterator[ArrayTable]:
    """Open the arrays of an NPZ file; each is decompressed while it is read.

    Raises:
        SubquadError: An array is not a column of jets, or holds Python objects, which could run code when read.
    """
    with readable(path) as given, zipfile.ZipFile(given) as file, ExitStack() as stack:
        arrays, types = {}, {}
        entries = file.infolist()
        if len(entries) > MOST_ARRAYS:
            raise SubquadError(f"{path}: has {len(entries):,} arrays; {MOST_ARRAYS:,} can be read: keep those of jets")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            stream = stack.enter_context(file.open(entry))
            shape, is_fortran, dtype = array_header(stream)
            if dtype.hasobject:
                raise SubquadError(f"{path}: array {name!r} holds Python objects; save numbers only")
            if is_fortran and len(shape) > 1:
                raise SubquadError(f"{path}: array {name!r} is in Fortran order; save it with np.ascontiguousarray")
            what, size = f"array {name!r} of the shape {list(shape)}", bytes_of_array(shape, dtype)
            check_expansion(path, what, size, entry.compress_size, least=LARGEST_FILE, most=MOST_EXPANDED)
            types[name] = dtype
            if shape and dtype.kind in "biuf":
                arrays[name] = SequentialArray(shape, _reader(stream, shape, dtype))
        if is_energyflow(arrays):
            yield PaddedTable(path, momenta_and_types(path, arrays), layout="quark-gluon")
        else:
            yield PaddedTable(path, arrays, refused=_not_numbers(types))


def _reader(stream: Any, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[int], np.ndarray]:
    def take(rows: int) -> np.ndarray:
        count = rows * math.prod(shape[1:])
        content = stream.read(count * dtype.itemsize)
        if len(content) < count * dtype.itemsize:
            raise EOFError("an array ends too early")
        return native(np.frombuffer(content, dtype)).reshape(rows, *shape[1:])

    return take
