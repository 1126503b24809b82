"""Files of jets as columns, some thousand entries at a time: ROOT and Parquet here, others in `array_files`.

A column has one number per jet, or a list of numbers per jet, one for each particle.
"""

import glob
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, reading, require, unknown
from subquad.hep.data.array_files import hdf5, npz
from subquad.hep.data.columns import normalized
from subquad.hep.data.examples import EXAMPLES, example_path
from subquad.hep.data.remote import RemotePath, is_remote, readable, remote_files
from subquad.hep.data.top_landscape import SPLIT

Files = Path | str | Iterable[Path | str]
"""One or several files: names, patterns, folders, or `example:jets`."""

SUFFIXES = {".root": "ROOT", ".parquet": "Parquet", ".pq": "Parquet", ".h5": "HDF5", ".hdf5": "HDF5", ".npz": "NPZ"}
_ARRAYS = {"HDF5": hdf5, "NPZ": npz}
"""Readers of files of arrays."""
_MAGIC = {b"root": "ROOT", b"PAR1": "Parquet", b"\x89HDF": "HDF5", b"PK\x03\x04": "NPZ"}

_TREE = re.compile(r"(.+\.root):(.+)", re.DOTALL)
_SAMPLE = re.compile(r"[A-Za-z_]\w+:(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file and its columns."""

    path: Path
    """As given; `file.root:tree` for a tree of a ROOT file; a `RemotePath` for a URL."""
    kind: str
    """ROOT, Parquet, HDF5 or NPZ."""
    tree: str
    """Name of the tree in a ROOT file."""
    entries: int
    columns: tuple[str, ...]
    """Names of all columns."""
    layout: str = ""
    """Name of the public layout that arrays were recognized as; see `public_layouts`."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Names of datasets that cannot be columns, and the reasons."""

    @property
    def split(self) -> str | None:
        """Name of the column with the part of each jet, if the data set comes with a split."""
        return SPLIT if self.layout == "top-landscape" and SPLIT in self.columns else None

    @property
    def description(self) -> str:
        """What holds the columns, for messages."""
        return f"tree {self.tree!r}" if self.kind == "ROOT" else "the file"


def expand_files(files: Files) -> list[Path]:
    """Return the files that names, patterns and folders stand for, each once, in the given order.

    Args:
        files: Names; patterns such as `jets/*.root`; folders, of which all files of jets are taken; `example:jets`, the
            jets that ship with subquad; `file.root:tree` as in uproot; one of these after weaver's `sample:`; or
            URLs of remote files, folders and patterns, such as `root://host//jets/*.root`.

    Raises:
        SubquadError: A name or pattern matches no file, or a remote file cannot be reached.
    """
    unique: dict[str, Path] = {}
    for pattern in map(str, list_files(files)):
        if pattern.startswith("example:"):
            if pattern not in EXAMPLES:
                raise unknown("example", pattern, EXAMPLES)
            matches = [example_path(pattern)]
        else:
            matches = _matches(pattern) if pattern.strip() else []
        if not matches:
            raise SubquadError(f"{pattern!r}: no such file, pattern that matches one, or folder with files of jets")
        for path in matches:
            # a path can be written in several ways
            unique.setdefault(os.path.abspath(path), path)
    if not unique:
        raise SubquadError("no files of jets were given")
    return list(unique.values())


def list_files(files: Files) -> list[Path | str]:
    """Return one or several names as a list."""
    return [files] if isinstance(files, str | Path) else list(files)


def _matches(pattern: str) -> list[Path]:
    if is_remote(pattern):
        tree = None if Path(pattern).suffix.lower() in SUFFIXES else _TREE.fullmatch(pattern)
        found = remote_files(tree[1] if tree else pattern, SUFFIXES)
        return [RemotePath(f"{path}:{tree[2]}") if tree else path for path in found]
    if Path(pattern).is_file():
        return [Path(pattern)]
    if Path(pattern).is_dir():
        return sorted(path for path in Path(pattern).iterdir() if path.suffix.lower() in SUFFIXES)
    if found := [name for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]:
        return [Path(name) for name in found]
    sample = _SAMPLE.fullmatch(pattern)
    if not (sample and is_remote(sample[1])) and (tree := _TREE.fullmatch(pattern)):
        return [Path(f"{name}:{tree[2]}") for name in _matches(tree[1])]
    return _matches(sample[1]) if sample else []


def file_of(path: Path) -> Path:
    """Return the file of a path that may name a tree too, as `file.root:tree`."""
    return _split_tree(path)[0]


def tree_of(path: Path) -> str | None:
    """Return the tree that a path names, as `file.root:tree`; None if it names none."""
    return _split_tree(path)[1]


def _split_tree(path: Path) -> tuple[Path, str | None]:
    if isinstance(path, RemotePath):
        match = None if path.suffix.lower() in SUFFIXES else _TREE.fullmatch(str(path))
        return (RemotePath(match[1]), match[2]) if match else (path, None)
    match = None if path.is_file() else _TREE.fullmatch(str(path))
    return (Path(match[1]), match[2]) if match else (path, None)


def inspect_file(path: Path, tree: str | None, *, default: str = "tree") -> Source:
    """Return the columns of a file.

    Args:
        path: The file; the tree of `file.root:tree` takes precedence over the other arguments.
        tree: Name of the tree in a ROOT file; the only tree of a file is taken whatever its name.
        default: Name of the tree if there are several and `tree` is None.

    Raises:
        SubquadError: The file has an unknown format, is damaged or truncated, or has no such tree.
    """
    given, (path, own_tree) = path, _split_tree(path)
    with reading(path, "a table of jets"):
        kind = _kind(path)
        with _opened(path, kind) as file:
            match kind:
                case "ROOT":
                    return _inspect_root(given, file, own_tree, tree or default)
                case "Parquet":
                    columns, entries = tuple(file.schema_arrow.names), file.metadata.num_rows
                    return Source(path=path, kind=kind, tree="", entries=entries, columns=columns)
                case _:
                    table = {name: getattr(file, name) for name in ("entries", "columns", "layout", "refused")}
                    return Source(path=path, kind=kind, tree="", **table)


def iterate_columns(source: Source, names: Sequence[str], entries: int) -> Generator[Mapping[str, Any]]:
    """Yield these columns as awkward arrays, at most `entries` jets at a time.

    Raises:
        SubquadError: The file is damaged or truncated.
    """
    ak, names, begin = require("awkward", extra="hep"), list(names), 0
    with ExitStack() as stack:
        # each time, since what is done between two parts is no reading
        with reading(source.path, "a table of jets"):
            file = stack.enter_context(_opened(file_of(source.path), source.kind))
            match source.kind:
                case "ROOT":
                    chunks = file[source.tree].iterate(names, step_size=entries, library="ak")
                case "Parquet":
                    chunks = map(ak.from_arrow, file.iter_batches(batch_size=entries, columns=names))
                case _:
                    chunks = file.chunks(names, entries)
        while True:
            with reading(source.path, "a table of jets"):
                arrays = next(chunks, None)
                columns = {} if arrays is None else {name: ak.Array(arrays[name]) for name in names}
                for name, column in columns.items() if source.kind == "ROOT" else ():
                    # uproot does not compare the lengths of lists in a damaged file
                    if reason := ak.validity_error(column):
                        raise ValueError(f"{name}: {reason}")
                lengths = {len(column) for column in columns.values()}
                begin += max(lengths, default=0)
                if len(lengths) > 1 or (arrays is None and begin != source.entries):
                    raise ValueError(f"a column ends after {begin:,} of {source.entries:,} entries")
                columns = {name: normalized(column) for name, column in columns.items()}
            if arrays is None:
                return
            yield columns


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Any]:
    """Yield uproot's file, pyarrow's, or a table of arrays."""
    if kind == "ROOT":
        uproot = require("uproot", extra="hep")
        uproot.reading.ReadOnlyDirectory.hook_before_keys = _check_keys
        # as a key a URL is not divided at its colons
        with uproot.open({str(path): None} if isinstance(path, RemotePath) else path) as root:
            yield root
    elif kind == "Parquet":
        with readable(path) as given, require("pyarrow.parquet", extra="hep").ParquetFile(given) as file:
            yield file
    else:
        with _ARRAYS[kind](path) as table:
            yield table


def _check_keys(_: Any, *, num_keys: int, keys_chunk: Any, **__: Any) -> None:
    """Refuse a damaged number of keys in a folder; uproot would read that many, beyond the end of the file."""
    size = len(keys_chunk.raw_data)
    # a key has 26 bytes and a name
    if num_keys * 26 > size:
        raise ValueError(f"a folder in it has {num_keys:,} keys in {size:,} bytes")


def _kind(path: Path) -> str:
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    with path.open("rb") as file:
        kind = _MAGIC.get(file.read(4))
    if kind is None:
        raise SubquadError(f"{path}: is neither ROOT, Parquet, HDF5 nor NPZ; give files of one of these formats")
    return kind


def _inspect_root(given: Path, root: Any, own_tree: str | None, tree: str) -> Source:
    kinds = {name.split(";")[0]: kind for name, kind in root.classnames().items()}
    trees = [name for name, kind in kinds.items() if kind in ("TTree", "ROOT::RNTuple")]
    # the only tree of a file is taken whatever its name, unless the file was given as file.root:tree
    chosen = str(own_tree or (trees[0] if len(trees) == 1 else tree))
    if chosen not in trees:
        raise SubquadError(f"{file_of(given)}: {unknown('tree', chosen, trees)}; name one as FILE.root:TREE")
    table = root[chosen]
    columns = tuple(table.keys(recursive=False))
    return Source(path=given, kind="ROOT", tree=chosen, entries=table.num_entries, columns=columns)
