"""Measured rows, written to small JSON files as they arrive, so that a stopped evaluation can be resumed."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, reading
from subquad.progress import track
from subquad.runs.storage import as_folder, atomic, null_as_nan, plain, read_json

FOLDER, RESULT = "measurements", "evaluation.json"
OWN = frozenset({FOLDER, RESULT, "report.html"})

Row = dict[str, Any]
"""The measurement of one item, sequence, trial or context length."""


class MeasurementStore:
    """The measured rows in an output folder."""

    def __init__(self, out: Path | str, *, force: bool = False, extend: bool = False, quiet: bool = False):
        """Check an output folder; it is created when the first rows are written.

        Args:
            out: Output folder.
            force: Replace a finished evaluation.
            extend: Add to a finished evaluation.
            quiet: Show no progress.

        Raises:
            SubquadError: The folder contains other files, or a finished evaluation and neither flag is given.
        """
        self.directory, self.quiet = as_folder(out), quiet
        names = {path.name for path in self.directory.glob("[!.]*")}
        stored = sorted((self.directory / FOLDER).glob("[!.]*"))
        if (names and FOLDER not in names) or names - OWN or any(path.suffix != ".json" for path in stored):
            raise SubquadError(f"{out}: contains something other than an evaluation; choose another --out")
        if RESULT in names and not (force or extend):
            raise SubquadError(f"{out}: contains a finished evaluation; extend it, or overwrite it")

    def clear(self) -> None:
        """Remove all rows and the results."""
        for path in (*(self.directory / FOLDER).glob("*.json"), self.directory / RESULT):
            path.unlink(missing_ok=True)

    def rows(
        self,
        name: str,
        conditions: Mapping[str, Any],
        total: int,
        measure: Callable[[int, int], list[Row]],
        *,
        step: int,
        prepare: Callable[[], object] = lambda: None,
        title: str = "",
    ) -> list[Row]:
        """Return `total` rows: the stored ones, and those that `measure(start, stop)` returns, stored `step` at a time.

        Args:
            name: Name of the file.
            conditions: Everything that the rows depend on; stored rows of other conditions are not used.
            total: Number of rows.
            measure: Returns the rows from `start` to `stop`.
            step: Number of rows between two writes.
            prepare: Called before the first row is measured, if one is missing.
            title: Title of the progress bar.

        Raises:
            SubquadError: The file of the stored rows is damaged.
        """
        path, wanted = self.directory / FOLDER / f"{name}.json", plain(conditions)
        rows: list[Row] = []
        if path.is_file():
            with reading(path, "rows of an evaluation"):
                stored = read_json(path)
                rows = null_as_nan(stored["rows"][:total]) if stored["conditions"] == wanted else []
        if len(rows) == total:
            return rows
        prepare()
        with track(title or name, total, done=len(rows), quiet=self.quiet) as advance:
            while len(rows) < total:
                start, stop = len(rows), min(len(rows) + step, total)
                rows += measure(start, stop)
                content = plain({"conditions": wanted, "rows": rows})
                with atomic(path) as temporary:
                    temporary.write_text(
                        json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n",
                        encoding="utf-8",
                    )
                advance(stop - start)
        return rows
