"""Files of jets as columns, some thousand entries at a time: ROOT and Parquet here, others in `array_files`.

A column has one number per jet, or a list of numbers per jet, one for each particle.
"""

import glob
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, raise_errors, require, unknown
from subquad.hep.data.array_files import LARGEST_FILE, MOST_EXPANDED, hdf5, npz
from subquad.hep.data.columns import normalized
from subquad.hep.data.examples import EXAMPLES, example_path
from subquad.hep.data.padded_arrays import jets_per_read
from subquad.hep.data.remote import RemotePath, is_remote, readable, remote_files
from subquad.hep.data.top_landscape import SPLIT
from subquad.runs.damage import damage, reason_of
from subquad.runs.unpacking import check_expansion, parquet_bytes

__all__ = ["Files", "Source", "expand_files", "file_of", "inspect_file", "iterate_columns", "list_files", "tree_of"]

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
        SubquadError: A name or pattern matches no file, or a remote file cannot be reached; all of these are listed.
    """
    found: list[Path] = []
    errors = []
    for pattern in map(str, list_files(files)):
        if not pattern.strip():
            errors.append(f"{pattern!r}: an empty name; is a variable of the shell not set?")
        elif pattern in EXAMPLES:
            found.append(example_path(pattern))
        elif pattern.startswith("example:"):
            errors.append(str(unknown("example", pattern, EXAMPLES)))
        elif matches := _matches(pattern, errors):
            found += matches
        elif is_remote(_without_sample(pattern)):
            # the error is listed already
            continue
        elif Path(pattern).is_dir():
            folders = sorted(path.name for path in Path(pattern).iterdir() if path.is_dir())
            remedy = f"name one of its folders ({', '.join(folders[:5])})" if folders else "name the files"
            errors.append(f"{pattern}: the folder has no file that ends in {', '.join(SUFFIXES)}; {remedy}")
        else:
            reason = "no file matches the pattern" if any(letter in pattern for letter in "*?[") else "no such file"
            errors.append(f"{pattern}: {reason}; searched in {Path(pattern).absolute().parent}")
    raise_errors("Some files do not exist:", errors)
    if not found:
        raise SubquadError("no files were given; name ROOT files, or a pattern such as 'jets/*.root'")
    unique: dict[str, Path] = {}
    for path in found:
        # a path can be written in several ways
        unique.setdefault(os.path.abspath(path), path)
    return list(unique.values())


def list_files(files: Files) -> list[Path | str]:
    """Return one or several names as a list."""
    return [files] if isinstance(files, str | Path) else list(files)


def _matches(pattern: str, errors: list[str]) -> list[Path]:
    if is_remote(pattern):
        return _remote_matches(pattern, errors)
    if Path(pattern).is_file():
        return [Path(pattern)]
    if Path(pattern).is_dir():
        return sorted(path for path in Path(pattern).iterdir() if path.suffix.lower() in SUFFIXES)
    if found := [name for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]:
        return [Path(name) for name in found]
    if not is_remote(_without_sample(pattern)) and (tree := _TREE.fullmatch(pattern)):
        return [Path(f"{name}:{tree[2]}") for name in _matches(tree[1], errors)]
    sample = _SAMPLE.fullmatch(pattern)
    return _matches(sample[1], errors) if sample else []


def _without_sample(pattern: str) -> str:
    sample = _SAMPLE.fullmatch(pattern)
    return sample[1] if sample and not is_remote(pattern) else pattern


def _remote_matches(url: str, errors: list[str]) -> list[Path]:
    tree = None if Path(url).suffix.lower() in SUFFIXES else _TREE.fullmatch(url)
    try:
        found = remote_files(tree[1] if tree else url, SUFFIXES)
    except SubquadError as error:
        errors.append(str(error))
        return []
    return [RemotePath(f"{path}:{tree[2]}") if tree else path for path in found]


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


def inspect_file(path: Path, tree: str | None, *, default: str = "tree", card: str = "") -> Source:
    """Return the columns of a file.

    Args:
        path: The file; the tree of `file.root:tree` takes precedence over the other arguments.
        tree: Name of the tree in a ROOT file; the only tree of a file is taken whatever its name.
        default: Name of the tree if there are several and `tree` is None.
        card: Name of the data card whose treename `tree` is, for messages; empty if it is not from a card.

    Raises:
        SubquadError: The file has an unknown format, is damaged or truncated, or has no such tree.
    """
    given, (path, own_tree) = path, _split_tree(path)
    kind = _kind(path)
    with _damage_as_error(path, kind):
        match kind:
            case "ROOT":
                return _inspect_root(given, own_tree, tree or default, card=card if tree else "")
            case "Parquet":
                with readable(path) as given, require("pyarrow.parquet", extra="hep").ParquetFile(given) as file:
                    columns, entries = tuple(file.schema_arrow.names), file.metadata.num_rows
                return Source(path=path, kind=kind, tree="", entries=entries, columns=columns)
            case _:
                with _ARRAYS[kind](path) as table:
                    found = {name: getattr(table, name) for name in ("entries", "columns", "layout", "refused")}
                return Source(path=path, kind=kind, tree="", **found)


def iterate_columns(source: Source, names: Sequence[str], entries: int) -> Generator[Mapping[str, Any]]:
    """Yield these columns as awkward arrays, at most `entries` jets at a time.

    Raises:
        SubquadError: The file is damaged or truncated; the message says how far it could be read.
    """
    ak, names, begin = require("awkward", extra="hep"), list(names), 0
    try:
        with _open(source, names, entries) as chunks:
            for arrays in chunks:
                columns = {name: ak.Array(arrays[name]) for name in names}
                for name, column in columns.items() if source.kind == "ROOT" else ():
                    # uproot does not compare the lengths of lists in a damaged file
                    if reason := ak.validity_error(column):
                        raise ValueError(f"{name}: {reason}")
                if len({len(column) for column in columns.values()}) > 1:
                    raise ValueError("columns have different lengths")
                begin += len(columns[names[0]])
                yield {name: normalized(column) for name, column in columns.items()}
            if begin != source.entries:
                raise ValueError(f"a column ends after {begin:,} of {source.entries:,} entries")
    except damage() as error:
        readable = f"; its first {begin:,} entries could be read" if begin else ""
        raise SubquadError(_damage_message(source.path, source.kind, error) + readable) from error


@contextmanager
def _open(source: Source, names: list[str], entries: int) -> Iterator[Iterator[Mapping[str, Any]]]:
    ak = require("awkward", extra="hep")
    match source.kind:
        case "ROOT":
            with _root(file_of(source.path)) as root:
                yield root[source.tree].iterate(names, step_size=entries, library="ak")
        case "Parquet":
            with readable(source.path) as given, require("pyarrow.parquet", extra="hep").ParquetFile(given) as file:
                size = max(parquet_bytes(file, given, names), default=0)
                entries = _parquet_entries(source, file.metadata, names, entries, size=size)
                parts = file.iter_batches(batch_size=entries, columns=names)
                yield (ak.from_arrow(_without_decimals(part)) for part in parts)
        case _:
            with _ARRAYS[source.kind](source.path) as table:
                yield table.chunks(names, entries)


def _parquet_entries(source: Source, metadata: Any, names: list[str], entries: int, *, size: int) -> int:
    """Return how many jets of a Parquet file to read at once, by the size in memory of its largest group of rows."""
    check_expansion(
        source.path, "a group of rows", size, source.path.stat().st_size, least=LARGEST_FILE, most=MOST_EXPANDED
    )
    rows = max((metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)), default=0)
    sizes = {f"the columns {', '.join(names[:3])}{', …' * (len(names) > 3)}": size // max(rows, 1)}
    return jets_per_read(source.path, sizes, entries)


def _without_decimals(part: Any) -> Any:
    """Return a batch of Arrow with decimal numbers, which awkward does not have, as float64."""
    pa = require("pyarrow", extra="hep")
    schema = pa.schema([own.with_type(_without_decimal(own.type)) for own in part.schema])
    if schema == part.schema:
        return part
    columns = [column.cast(own.type) for column, own in zip(part.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _without_decimal(kind: Any) -> Any:
    """Return an Arrow type with float64 for decimal numbers, also in lists and records."""
    pa = require("pyarrow", extra="hep")
    types = pa.types
    if types.is_decimal(kind):
        return pa.float64()
    if types.is_struct(kind):
        return pa.struct([own.with_type(_without_decimal(own.type)) for own in kind])
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return kind
    entry = kind.value_field.with_type(_without_decimal(kind.value_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(entry, kind.list_size)
    return pa.large_list(entry) if types.is_large_list(kind) else pa.list_(entry)


def _root(path: Path) -> Any:
    # as a key a URL is not divided at its colons
    given = {str(path): None} if isinstance(path, RemotePath) else path
    return require("uproot", extra="hep").open(given)


def _kind(path: Path) -> str:
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    with path.open("rb") as file:
        magic = file.read(4)
    if magic not in _MAGIC:
        raise SubquadError(f"{path}: is neither ROOT, Parquet, HDF5 nor NPZ; give files of one of these formats")
    return _MAGIC[magic]


def _inspect_root(given: Path, own_tree: str | None, tree: str, *, card: str) -> Source:
    path = file_of(given)
    with _root(path) as root:
        recorded, size = root.file.fEND, None if isinstance(path, RemotePath) else path.stat().st_size
        if size is not None and size < recorded:
            raise ValueError(f"it has {size:,} bytes, and {recorded:,} by its header")
        names = {name.split(";")[0]: kind for name, kind in root.classnames().items()}
        trees = [name for name, kind in names.items() if kind in ("TTree", "ROOT::RNTuple")]
        # the only tree of a file is taken whatever its name, unless the file was given as file.root:tree
        chosen = str(own_tree or (trees[0] if len(trees) == 1 else tree))
        if not trees:
            others = f" ({', '.join(list(names)[:5])}{', …' * (len(names) > 5)})" if names else ""
            raise SubquadError(f"{path}: no tree in it{others}; give files with a TTree or an RNTuple of jets")
        if chosen not in trees:
            # a treename takes precedence over --tree, but not over file.root:tree
            by_card = bool(card) and own_tree is None
            asked = f", which {card} asks for by treename" if by_card else ""
            remedy = f"correct it in {card}" if by_card else "name one with --tree"
            raise SubquadError(
                f"{path}: no tree {chosen!r} in it{asked}; its trees are {', '.join(trees)}; {remedy}, or give "
                f"{path}:{trees[0]}"
            )
        table = root[chosen]
        columns = tuple(table.keys(recursive=False))
        return Source(path=given, kind="ROOT", tree=chosen, entries=table.num_entries, columns=columns)


@contextmanager
def _damage_as_error(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except damage() as error:
        raise SubquadError(_damage_message(path, kind, error)) from error


def _damage_message(path: Path, kind: str, error: Exception) -> str:
    reason = reason_of(error)
    if isinstance(path, RemotePath):
        what = "is damaged or truncated, or its server does not send parts of files"
        return f"{path}: is not a {kind} file, or {what} ({reason}); copy it to this machine, and give the copy"
    if path.is_file() and not path.stat().st_size:
        return f"{path}: the file is empty (0 bytes); copy it again"
    if kind == "ROOT" and path.is_file():
        with path.open("rb") as file:
            start = file.read(16)
        if _MAGIC.get(start[:4]) != kind:
            begin = start.decode("latin-1")
            return f"{path}: is not a ROOT file, since it begins with {begin!r}; give one, or copy it again"
    return f"{path}: is not a {kind} file, or is damaged or truncated ({reason}); copy it again"
