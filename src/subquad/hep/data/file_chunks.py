"""Files of jets read some thousand entries at a time; all errors of all files are collected."""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from subquad.errors import SubquadError, raise_errors
from subquad.hep.data.columns import ChunkErrors
from subquad.hep.data.formats import Source, inspect_file, iterate_columns
from subquad.progress import say, track

__all__ = ["inspect_files", "iterate_chunks", "missing_branch"]

Chunk = TypeVar("Chunk")

ENTRIES_PER_CHUNK = 10_000


def inspect_files(
    files: Sequence[Path], tree: str | None, *, default: str = "tree", card: str = "", quiet: bool = True
) -> tuple[list[Source], list[str]]:
    """Return the contents of the files that can be opened and have entries, and the errors of the others.

    Empty files, which event selections leave behind, are an error only if all files are empty. The other arguments are
    those of `inspect_file`.
    """
    errors, sources, empty = [], [], []
    for file in files:
        try:
            source = inspect_file(file, tree, default=default, card=card)
        except SubquadError as error:
            errors.append(str(error))
            continue
        (sources if source.entries else empty).append(source)
    if not sources:
        errors += [f"{one.path}: {one.description} is empty; give files with jets" for one in empty]
    elif empty:
        names = ", ".join(str(one.path) for one in empty[:3]) + ", …" * (len(empty) > 3)
        say(f"Warning: {len(empty):,} of {len(files):,} files are empty and are not used: {names}", quiet=quiet)
    return sources, errors


def iterate_chunks(
    sources: Sequence[Source],
    names: Callable[[Source], Sequence[str]],
    make: Callable[[Mapping[str, Any], Source, ChunkErrors], Chunk],
    *,
    title: str,
    quiet: bool,
) -> Iterator[Chunk]:
    """Yield what `make` returns for the columns of at most 10,000 jets at a time, file by file.

    After the first error nothing more is yielded, but the files are read to the end, so that all errors are reported.

    Args:
        sources: The files.
        names: Returns the columns to read from a file.
        make: Takes columns, file, and where to add errors.
        title: Title of the progress bar.
        quiet: Print no progress.

    Raises:
        SubquadError: Files are cut short, or jets cannot be used; all are listed.
    """
    errors: list[str] = []
    with track(title, sum(source.entries for source in sources), quiet=quiet) as advance:
        for source in sources:
            begin = 0
            try:
                for columns in iterate_columns(source, names(source), ENTRIES_PER_CHUNK):
                    count = len(next(iter(columns.values())))
                    entries = np.arange(begin, begin + count)
                    begin += count
                    chunk = make(columns, source, ChunkErrors(file=f"{source.path}", entries=entries, errors=errors))
                    advance(count)
                    if not errors:
                        yield chunk
            except SubquadError as error:
                text = str(error)
                errors.append(text if str(source.path) in text else f"{source.path}: {text}")
    raise_errors("Some files or jets cannot be used:", errors)


def _similar(name: str, columns: Sequence[str]) -> list[str]:
    """Return the column whose name may be a misspelling, and which is not another quantity, such as cand_eta of cand_e.

    Names that differ in one part between underscores only must be similar in this part.
    """
    found = difflib.get_close_matches(name, columns, n=1, cutoff=0.6)
    if found and len(parts := found[0].split("_")) == len(own := name.split("_")):
        differing = [pair for pair in zip(own, parts, strict=True) if pair[0] != pair[1]]
        ratios = [difflib.SequenceMatcher(None, *pair).ratio() for pair in differing]
        return found if min(ratios) >= 0.6 else []
    return found


def _similar_label(name: str, columns: Sequence[str]) -> list[str]:
    """Return the label whose name may be meant: a similar one, or else the longest that the name begins or ends with.

    Names of labels may be as short as W, whose similarity to Wjet is small.
    """
    parts = [column for column in columns if name.lower().startswith(column.lower())]
    parts += [column for column in columns if column.lower().startswith(name.lower())]
    parts += [column for column in columns if name.lower().endswith(column.lower())]
    return difflib.get_close_matches(name, columns, n=1, cutoff=0.6) or sorted(parts, key=len, reverse=True)[:1]


def missing_branch(source: Source, name: str, place: str, *, labels: Sequence[Collection[str]] = ()) -> str:
    """Return the error for a branch that a file lacks.

    Args:
        source: The file.
        name: Name of the branch.
        place: What asks for it, such as a key of a card.
        labels: If it is a label, groups of branches of the file that may be meant, the most probable ones first.
    """
    alike = [column for column in source.columns if column.lower() == name.lower()]
    similar = alike or _similar(name, source.columns)
    if labels and not alike:
        similar = next((near for group in labels if (near := _similar_label(name, [*group]))), [])
    hint = f"; did you mean {similar[0]!r}?" if similar else ""
    refused = next((one for one in source.refused if name.startswith(one)), None)
    if refused is not None:
        hint = f"; {refused} is not read, as {source.refused[refused]}"
    return f"{source.path}: {source.description} has no branch {name}, which {place} asks for{hint}"
