"""Figures, kept as they come: rows in small JSON files, so that a killed evaluation loses minutes and not hours."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError
from subquad.progress import track
from subquad.runs.storage import as_folder, atomic, plain, read_json

__all__ = ["Figures", "Row"]

FOLDER = "figures"
OWN = frozenset({FOLDER, "evaluation.json", "report.html"})

Row = dict[str, Any]
"""What is known of one item, sequence, trial or length."""


class Figures:
    """The figures of one output folder."""

    def __init__(self, out: Path | str, *, quiet: bool = False):
        """Look into an output folder; it is made when the first figure is written.

        Args:
            out: The output folder.
            quiet: Show no progress.

        Raises:
            SubquadError: the folder holds other things.
        """
        self.directory = as_folder(out)
        self.quiet = quiet
        names = {path.name for path in self.directory.iterdir()} if self.directory.is_dir() else set()
        if (names and FOLDER not in names) or names - OWN - {name for name in names if name.startswith(".")}:
            raise SubquadError(f"{out}: holds other things than an evaluation; name another folder with --out")

    def forget(self) -> None:
        """Remove all figures."""
        for path in (self.directory / FOLDER).glob("*.json"):
            path.unlink()

    def rows(
        self,
        name: str,
        asked: Mapping[str, Any],
        total: int,
        compute: Callable[[int, int], list[Row]],
        *,
        step: int,
        title: str = "",
    ) -> list[Row]:
        """Return `total` rows: those that are kept, and those that `compute(start, stop)` gives, kept `step` at a time.

        Args:
            name: Of the figure; a file name.
            asked: All that the rows depend on; rows of another kind are not used.
            total: How many rows there are.
            compute: Returns the rows from `start` to `stop`.
            step: How many rows are computed between two writes.
            title: Of the progress bar.
        """
        path, wanted = self.directory / FOLDER / f"{name}.json", plain(asked)
        kept = read_json(path) if path.is_file() else {}
        rows: list[Row] = kept["rows"][:total] if kept.get("asked") == wanted else []
        if len(rows) == total:
            return rows
        with track(title or name, total, done=len(rows), quiet=self.quiet) as advance:
            while len(rows) < total:
                start, stop = len(rows), min(len(rows) + step, total)
                rows += compute(start, stop)
                text = json.dumps(plain({"asked": wanted, "rows": rows}), ensure_ascii=False, separators=(",", ":"))
                with atomic(path) as temporary:
                    temporary.write_text(text + "\n", encoding="utf-8")
                advance(stop - start)
        return rows
