"""The training history of a run: one JSON object per line of `history.jsonl`."""

from pathlib import Path
from typing import Any

from subquad.errors import SubquadError
from subquad.runs.markup import parse_json
from subquad.runs.records import shown
from subquad.runs.storage import atomic, null_as_nan

__all__ = ["HISTORY", "cut_history", "read_history", "remove_part"]

HISTORY = "history.jsonl"


def remove_part(directory: Path | str, part: str) -> None:
    """Remove the entries of a stage that starts again, and what a killed process or a power loss left of others.

    Entries of a stage that has a checkpoint are on the disk, so that only this stage can have damaged ones.
    """
    path = Path(directory) / HISTORY
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and _part_of(line) not in {part, None}]
    if kept != lines:
        with atomic(path) as temporary:
            temporary.write_bytes(b"".join(kept))


def _part_of(line: bytes) -> str | None:
    """Return the stage of an entry; None for a damaged one."""
    try:
        return parse_json(line.decode("utf-8"))["part"]
    except (ValueError, KeyError, TypeError):
        return None


def cut_history(directory: Path | str, length: int) -> None:
    """Remove what was written after a checkpoint, which says how long the history was, in bytes."""
    path = Path(directory) / HISTORY
    if path.is_file():
        with path.open("r+b") as file:
            # entries are whole, even if the file is shorter than the checkpoint says
            file.truncate(file.read(length).rfind(b"\n") + 1)


def read_history(directory: Path | str) -> list[dict[str, Any]]:
    """Return the entries of a run's history, oldest first; an empty list where the run has none.

    Args:
        directory: Folder of the run.

    Returns:
        Entries with `part` (the stage of training), `step`, `seconds` and the metrics logged at that step; NaN where a
        metric was not defined.

    Raises:
        SubquadError: A line is not JSON, or no entry.
    """
    path = Path(directory) / HISTORY
    if not path.is_file():
        return []
    entries = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            entries.append(null_as_nan(parse_json(line.decode("utf-8"))))
        except ValueError as error:
            raise SubquadError(f"{path}, line {number}: not JSON ({error}); the file is damaged") from error
        _check(entries[-1], f"{path}, line {number}")
    return entries


def _check(entry: Any, place: str) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("part"), str):
        raise SubquadError(f"{place}: no object with the stage of a training (part); the file is damaged")
    for name in ("step", "loss"):
        value = entry.get(name, 0.0 if name == "loss" else None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SubquadError(f"{place}: {name} is {shown(value)}, which is no number; the file is damaged")
