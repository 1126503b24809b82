"""Files of jets as columns, some thousand entries at a time: ROOT and Parquet here, padded arrays in `arrays.py`.

A column has one number per jet, or a list of numbers per jet, one for each particle.
"""

import glob
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, raise_errors, require
from subquad.hep.data.array_files import hdf5, npz

__all__ = ["ENTRIES_AT_A_TIME", "SUFFIXES", "Source", "chunks", "expand", "look"]

ENTRIES_AT_A_TIME = 10_000

SUFFIXES = {".root": "ROOT", ".parquet": "Parquet", ".pq": "Parquet", ".h5": "HDF5", ".hdf5": "HDF5", ".npz": "NPZ"}
_BEGINNINGS = {b"root": "ROOT", b"PAR1": "Parquet", b"\x89HDF": "HDF5", b"PK\x03\x04": "NPZ"}

_SAMPLE = re.compile(r"[A-Za-z_]\w+:(.+)", re.DOTALL)

# what the readers raise for a file that is cut short, overwritten or of another kind
_DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError),
    *(struct.error, zlib.error, zipfile.BadZipFile, RuntimeError, OverflowError, MemoryError, AssertionError),
)


def _damage() -> tuple[type[Exception], ...]:
    uproot = sys.modules.get("uproot")
    return (*_DAMAGE, uproot.deserialization.DeserializationError) if uproot else _DAMAGE


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file that was looked into."""

    path: Path
    kind: str
    """ROOT, Parquet, HDF5 or NPZ."""
    tree: str
    """The tree of a ROOT file."""
    entries: int
    columns: tuple[str, ...]
    """Names of all columns."""

    @property
    def words(self) -> str:
        """What holds the columns, for what is told."""
        return f"tree {self.tree!r}" if self.kind == "ROOT" else "it"


def expand(patterns: Iterable[Path | str]) -> list[Path]:
    """Return the files that the names and glob patterns stand for, each once, in the given order.

    A word and a colon before the pattern, weaver's name of a sample, is left out.

    Raises:
        SubquadError: a name or pattern stands for no file; all are listed.
    """
    files: list[Path] = []
    mistakes = []
    for pattern in map(str, patterns):
        found = _found(pattern)
        if not found and (sample := _SAMPLE.fullmatch(pattern)):
            found = _found(sample[1])
        if not found:
            has_wildcard = any(letter in pattern for letter in "*?[")
            what = "no file has such a name" if has_wildcard else "no such file"
            mistakes.append(f"{pattern}: {what}; looked in {Path(pattern).absolute().parent}")
        files += [Path(name) for name in found]
    raise_errors("Some files are not there:", mistakes)
    if not files:
        raise SubquadError("no files were given; name ROOT files, or a pattern such as 'jets/*.root'")
    return list(dict.fromkeys(files))


def _found(pattern: str) -> list[str]:
    if Path(pattern).is_file():
        return [pattern]
    return [name for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]


def look(path: Path, tree: str | None, *, otherwise: str = "tree") -> Source:
    """Return what is in a file; of a ROOT file in `tree`; where that is None, in its only one, or in `otherwise`.

    Raises:
        SubquadError: a file of no known kind, damaged, cut short, or without the tree.
    """
    kind = _kind(path)
    with _damage_told(path, kind):
        match kind:
            case "ROOT":
                return _look_into_root(path, tree, otherwise)
            case "Parquet":
                with require("pyarrow.parquet", extra="hep").ParquetFile(path) as file:
                    columns, entries = tuple(file.schema_arrow.names), file.metadata.num_rows
            case _:
                with (hdf5 if kind == "HDF5" else npz)(path) as table:
                    columns, entries = table.columns, table.entries
    return Source(path=path, kind=kind, tree="", entries=entries, columns=columns)


def chunks(source: Source, names: Sequence[str], entries: int) -> Iterator[Mapping[str, Any]]:
    """Yield these columns as awkward arrays, at most so many entries at a time.

    Raises:
        SubquadError: the file is damaged or cut short; says how far it could be read.
    """
    ak, names, begin = require("awkward", extra="hep"), list(names), 0
    try:
        with _opened(source, names, entries) as pieces:
            for arrays in pieces:
                begin += len(arrays[names[0]])
                yield {name: _plain(ak.Array(arrays[name])) for name in names}
    except _damage() as error:
        raise SubquadError(
            f"{_damaged(source.path, source.kind, error)}; the entries before {begin} could be read"
        ) from error


def _plain(array: Any) -> Any:
    """Return lists as lists, of whatever length, and what may be missing and is not as what is there."""
    ak = require("awkward", extra="hep")
    array = ak.from_regular(array, axis=1) if array.ndim == 2 else array
    for axis in range(min(array.ndim, 2)):
        if "?" in str(array.type) or "option" in str(array.type):
            array = array if ak.any(ak.is_none(array, axis=axis), axis=None) else ak.drop_none(array, axis=axis)
    return array


@contextmanager
def _opened(source: Source, names: list[str], entries: int) -> Iterator[Iterator[Mapping[str, Any]]]:
    ak = require("awkward", extra="hep")
    match source.kind:
        case "ROOT":
            with require("uproot", extra="hep").open(source.path) as root:
                yield root[source.tree].iterate(names, step_size=entries, library="ak")
        case "Parquet":
            with require("pyarrow.parquet", extra="hep").ParquetFile(source.path) as file:
                yield (ak.from_arrow(part) for part in file.iter_batches(batch_size=entries, columns=names))
        case _:
            with (hdf5 if source.kind == "HDF5" else npz)(source.path) as table:
                yield table.chunks(names, entries)


def _kind(path: Path) -> str:
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    with path.open("rb") as file:
        beginning = file.read(4)
    if beginning not in _BEGINNINGS:
        raise SubquadError(f"{path}: is neither ROOT, Parquet, HDF5 nor NPZ; give files of one of these kinds")
    return _BEGINNINGS[beginning]


def _look_into_root(path: Path, tree: str | None, otherwise: str) -> Source:
    with require("uproot", extra="hep").open(path) as root:
        names = {name.split(";")[0]: kind for name, kind in root.classnames().items()}
        trees = [name for name, kind in names.items() if kind in ("TTree", "ROOT::RNTuple")]
        if tree is None:
            tree = trees[0] if len(trees) == 1 else otherwise
        if tree not in trees:
            there = f"its trees are {', '.join(trees)}; name one with --tree" if trees else "it has no tree"
            raise SubquadError(f"{path}: no tree {tree!r} in it; {there}")
        table = root[tree]
        columns = tuple(table.keys(recursive=False))
        return Source(path=path, kind="ROOT", tree=tree, entries=table.num_entries, columns=columns)


@contextmanager
def _damage_told(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except _damage() as error:
        raise SubquadError(_damaged(path, kind, error)) from error


def _damaged(path: Path, kind: str, error: Exception) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{path}: is no {kind} file, or is damaged or cut short ({reason[:160]}); copy it anew"
