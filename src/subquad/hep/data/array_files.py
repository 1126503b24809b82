"""HDF5 and NPZ files opened as tables of jets, without pickle: arrays, collections, and public data sets of arrays."""

import importlib
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from subquad.errors import SubquadError, require
from subquad.hep.data.energyflow import is_energyflow, momenta_and_types
from subquad.hep.data.hdf5_collections import CollectionTable
from subquad.hep.data.padded_arrays import COUNTS, MASKS, PaddedTable, SequentialArray, native, rows_of
from subquad.hep.data.remote import readable
from subquad.hep.data.top_landscape import pandas_table, top_arrays
from subquad.runs.hdf5 import datasets_of


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
    # adds filters of compression, if it is installed
    with suppress(ImportError):
        importlib.import_module("hdf5plugin")
    with readable(path) as given, require("h5py", extra="hep").File(given, "r") as file:
        datasets, elsewhere = datasets_of(file, extra="hep")
        # without a mask or count, the particles would be told by another rule
        for name in elsewhere if not datasets else [name for name in (*MASKS, *COUNTS) if name in elsewhere]:
            raise SubquadError(f"{path}: {name}: {elsewhere[name]}")
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
    return {name: f"its type is {dtype}" for name, dtype in types.items() if dtype.kind not in "biuf"}


@contextmanager
def npz(path: Path) -> Iterator[ArrayTable]:
    """Open the arrays of an NPZ file; each is decompressed while it is read.

    Raises:
        SubquadError: An array is not a column of jets.
    """
    with readable(path) as given, zipfile.ZipFile(given) as file, ExitStack() as stack:
        arrays, types = {}, {}
        for entry in file.infolist():
            name, stream = entry.filename.removesuffix(".npy"), stack.enter_context(file.open(entry))
            is_first = np.lib.format.read_magic(stream) == (1, 0)
            header = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = header(stream)
            if is_fortran and len(shape) > 1:
                raise SubquadError(f"{path}: array {name!r} is in Fortran order; save it with np.ascontiguousarray")
            types[name] = dtype
            if shape and dtype.kind in "biuf":
                arrays[name] = SequentialArray(shape, _reader(stream, shape, dtype))
        if is_energyflow(arrays):
            yield PaddedTable(path, momenta_and_types(path, arrays), layout="quark-gluon")
        else:
            yield PaddedTable(path, arrays, refused=_not_numbers(types))


def _reader(stream: Any, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[int], np.ndarray]:
    def take(rows: int) -> np.ndarray:
        content = stream.read(rows * math.prod(shape[1:]) * dtype.itemsize)
        # an array that ends too early has another shape
        return native(np.frombuffer(content, dtype)).reshape(rows, *shape[1:])

    return take
