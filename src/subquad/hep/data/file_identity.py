"""Identity of files by content: training jets are recognized in a copy, under a link, and from any folder."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from subquad.hep.data.formats import file_of, tree_of
from subquad.runs.storage import fingerprint
from subquad.train.distributed import broadcast_object, processes

__all__ = ["are_same", "digests_of", "joined_digests", "training_note", "training_paths"]


def digests_of(files: Iterable[Path]) -> dict[str, str]:
    """Return size and fingerprint of each file, and its tree if one is named.

    The first process reads the files, and sends the result to the others.

    Args:
        files: Files, possibly with the name of a tree (`file.root:tree`).
    """
    own = {str(path): _digest(path) for path in files} if processes().is_main_process else {}
    return broadcast_object(own)


def joined_digests(own: Mapping[str, str], others: Mapping[str, str], origin: Path | str) -> dict[str, str]:
    """Return the digests of two fits by path; those of other content under the same path are kept beside one another.

    Args:
        own: Digests of this fit.
        others: Digests of the fit of a run.
        origin: Folder of that run, by which its paths are named then.
    """
    return {**{path if own.get(path, it) == it else f"{path} of {origin}": it for path, it in others.items()}, **own}


def are_same(digest: str, other: str) -> bool:
    """Return whether two digests are of the same jets: of equal files and, as far as both name one, of one tree."""
    (content, _, tree), (other_content, _, other_tree) = digest.partition(":"), other.partition(":")
    return content == other_content and (not tree or not other_tree or tree == other_tree)


def training_paths(config: Mapping[str, Any], files: Iterable[Path]) -> list[Path]:
    """Return those of the files whose content a tagger was fitted to or selected on.

    Args:
        config: `config.json` of its run.
        files: Files to score. Only those that are as large as a training file are read.
    """
    known = set(config.get("digests", {}).values())
    sizes = {digest.partition("-")[0] for digest in known}
    alike = [path for path in files if str(file_of(path).stat().st_size) in sizes]
    return [path for path in alike if any(are_same(_digest(path), digest) for digest in known)]


def training_note(run: Path | str, config: Mapping[str, Any], files: Iterable[Path], *, remedy: str) -> str | None:
    """Return a warning that jets to score are among those that a tagger was fitted to; None if no file is.

    Args:
        run: Folder of the run.
        config: Its `config.json`.
        files: Files to score.
        remedy: What to do, as an imperative.
    """
    files = list(files)
    shared = training_paths(config, files)
    if not shared:
        return None
    names = ", ".join(path.name for path in shared[:3]) + (", …" if len(shared) > 3 else "")
    which = f"{len(shared)} of the {len(files)} files ({names})" if len(files) > 1 else names
    start = f"{run} was trained on jets of {which}"
    if config.get("is_marked"):
        return (
            f"{start}: on those that the files mark for training. Results are biased upwards if these are among the "
            f"scored jets; {remedy}."
        )
    return f"{start}, so results are biased upwards; {remedy}."


def _digest(path: Path) -> str:
    file, tree = file_of(path), tree_of(path)
    status = file.stat()
    digest = f"{status.st_size}-{_fingerprint(file.resolve(), status.st_mtime_ns)}"
    return digest if tree is None else f"{digest}:{tree}"


@cache
def _fingerprint(file: Path, modified: int) -> str:
    """Return the fingerprint of a file, which is read once as long as it is not modified."""
    return fingerprint(file)
