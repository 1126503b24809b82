"""The training history of a run: one JSON object per line of `history.jsonl`."""

import json
from pathlib import Path
from typing import Any

from subquad.errors import reading
from subquad.runs.storage import atomic, null_as_nan

HISTORY = "history.jsonl"


def remove_part(directory: Path | str, part: str) -> None:
    """Remove the entries of a stage that starts again, and a line that a killed process wrote only half."""
    path = Path(directory) / HISTORY
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and _part_of(line) not in {part, None}]
    if kept != lines:
        with atomic(path) as temporary:
            temporary.write_bytes(b"".join(kept))


def _part_of(line: bytes) -> str | None:
    try:
        return json.loads(line)["part"]
    except (ValueError, LookupError, TypeError):
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

    Returns:
        Entries with `part` (the stage of training), `step`, `seconds` and the metrics logged at that step; NaN where a
        metric was not defined.

    Raises:
        SubquadError: The file cannot be read.
    """
    path = Path(directory) / HISTORY
    if not path.is_file():
        return []
    with reading(path, "a training history"):
        entries = [null_as_nan(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        for entry in entries:
            _ = entry["part"] + "", entry["step"] + 0, entry.get("loss", 0) + 0
        return entries
