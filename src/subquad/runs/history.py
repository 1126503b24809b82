"""The training history of a run: one JSON object per line of `history.jsonl`."""

import json
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError
from subquad.runs.markup import parse_json
from subquad.runs.storage import atomic, null_as_nan

__all__ = ["HISTORY", "read_history", "remove_part"]

HISTORY = "history.jsonl"


def remove_part(directory: Path | str, part: str) -> None:
    """Remove the entries of a stage that starts again, and the half of a line that a killed process may have left."""
    path = Path(directory) / HISTORY
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["part"] != part]
    if kept != lines:
        with atomic(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def read_history(directory: Path | str) -> list[dict[str, Any]]:
    """Return the entries of a run's history, oldest first; an empty list where the run has none.

    Args:
        directory: Folder of the run.

    Returns:
        Entries with `part` (the stage of training), `step`, `seconds` and the metrics logged at that step; NaN where a
        metric was not defined.

    Raises:
        SubquadError: A line is not JSON.
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
    return entries
