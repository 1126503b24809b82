"""Identity of files by content: training jets are recognized in a copy, under a link, and from any folder."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from subquad.hep.data.formats import file_of
from subquad.runs.storage import fingerprint
from subquad.train.distributed import broadcast_object, processes

__all__ = ["digests_of", "training_note", "training_paths"]


def digests_of(files: Iterable[Path]) -> dict[str, str]:
    """Return size and fingerprint of each file; the first process reads the files, and sends the result to the others.

    Args:
        files: Files, possibly with the name of a tree (`file.root:tree`).
    """
    own = {str(path): _digest(file_of(path)) for path in files} if processes().is_main_process else {}
    return broadcast_object(own)


def training_paths(config: Mapping[str, Any], files: Iterable[Path]) -> list[Path]:
    """Return those of the files whose content a tagger was fitted to or selected on.

    Args:
        config: `config.json` of its run.
        files: Files to score. Only those that are as large as a training file are read.
    """
    known = set(config.get("digests", {}).values())
    sizes = {digest.partition("-")[0] for digest in known}
    paths = ((path, file_of(path)) for path in files)
    return [path for path, file in paths if str(file.stat().st_size) in sizes and _digest(file) in known]


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
    start = f"{run} was trained on jets of {len(shared)} of the {len(files)} files ({names})"
    if config.get("is_marked"):
        return (
            f"{start}: on those that the files mark for training. Results are biased upwards if these are among the "
            f"scored jets; {remedy}."
        )
    return f"{start}, so results are biased upwards; {remedy}."


def _digest(file: Path) -> str:
    status = file.stat()
    return f"{status.st_size}-{_fingerprint(file.resolve(), status.st_mtime_ns)}"


@cache
def _fingerprint(file: Path, modified: int) -> str:
    """Return the fingerprint of a file, which is read once as long as it is not modified."""
    return fingerprint(file)
