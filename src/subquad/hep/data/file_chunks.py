"""Files of jets read some thousand entries at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from subquad.errors import SubquadError, reading, unknown
from subquad.hep.data.columns import Place
from subquad.hep.data.formats import Source, inspect_file, iterate_columns
from subquad.progress import say, track

Chunk = TypeVar("Chunk")

ENTRIES_PER_CHUNK = 10_000


def inspect_files(
    files: Sequence[Path], tree: str | None, *, default: str = "tree", quiet: bool = True
) -> list[Source]:
    """Return the contents of the files that have entries; the other arguments are those of `inspect_file`.

    Raises:
        SubquadError: A file cannot be opened, or all files are empty, as event selections leave them behind.
    """
    sources = [inspect_file(file, tree, default=default) for file in files]
    empty = [source for source in sources if not source.entries]
    if len(empty) == len(sources):
        raise SubquadError(f"{empty[0].path}: {empty[0].description} is empty; give files with jets")
    if empty:
        names = ", ".join(str(source.path) for source in empty[:3]) + ", …" * (len(empty) > 3)
        say(f"Warning: {len(empty):,} of {len(files):,} files are empty and are not used: {names}", quiet=quiet)
    return [source for source in sources if source.entries]


def check_columns(source: Source, wanted: Mapping[str, str]) -> None:
    """Check that a file has columns.

    Args:
        source: The file.
        wanted: Names of the columns, each with what asks for it, such as a key of a card.

    Raises:
        SubquadError: It lacks one.
    """
    for name, asks in wanted.items():
        if name not in source.columns:
            reason = next((source.refused[other] for other in source.refused if name.startswith(other)), None)
            what = f"{name} is not read, as {reason}" if reason else unknown("branch", name, source.columns)
            raise SubquadError(f"{source.path}: {asks}: {what}")


def iterate_chunks(
    sources: Sequence[Source],
    names: Callable[[Source], Sequence[str]],
    make: Callable[[Mapping[str, Any], Source, Place], Chunk],
    *,
    title: str,
    quiet: bool,
) -> Iterator[Chunk]:
    """Yield what `make` returns for the columns of at most 10,000 jets at a time, file by file.

    Args:
        sources: The files.
        names: Returns the columns to read from a file.
        make: Takes columns, file, and where the jets are.
        title: Title of the progress bar.
        quiet: Print no progress.

    Raises:
        SubquadError: A file is cut short, or a jet cannot be used.
    """
    with track(title, sum(source.entries for source in sources), quiet=quiet) as advance:
        for source in sources:
            begin = 0
            for columns in iterate_columns(source, names(source), ENTRIES_PER_CHUNK):
                count = len(next(iter(columns.values())))
                place = Place(file=str(source.path), entries=np.arange(begin, begin + count))
                with reading(source.path, "a table of jets"):
                    chunk = make(columns, source, place)
                begin += count
                advance(count)
                yield chunk
