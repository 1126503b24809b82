"""The training history of a run: one JSON object per line of `history.jsonl`."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from subquad.errors import reading
from subquad.runs.storage import atomic, null_as_nan, plain

HISTORY = "history.jsonl"


def write_history(directory: Path | str, part: str, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write the entries of one stage of training in place of its earlier ones; those of other stages stay."""
    kept = [entry for entry in read_history(directory) if entry["part"] != part]
    with atomic(Path(directory) / HISTORY) as temporary:
        lines = [json.dumps(plain(entry), allow_nan=False) + "\n" for entry in (*kept, *entries)]
        temporary.write_text("".join(lines), encoding="utf-8")


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
