"""What a command of the page reads: examples, uploads, results of jobs, and the folders of `--data`.

The browser sends back one of the values that it was offered; any other path is refused.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from subquad.app.jobs import Jobs
from subquad.errors import SubquadError, reading
from subquad.runs.folder import load_config


@dataclass(frozen=True)
class Source:
    """Where the values of an argument come from."""

    endings: tuple[str, ...] = ()
    """Endings of the names of files, each also with .gz."""
    examples: tuple[str, ...] = ()
    """Names of what ships with subquad."""
    commands: tuple[str, ...] = ()
    """Commands whose results can be chosen."""
    field: str = ""
    """Field of the saved models that are chosen, such as `bio`; empty for files."""
    is_several: bool = False
    """Whether several values can be chosen."""
    has_text: bool = False
    """Whether the content of a file can be typed in place of a choice."""
    is_optional: bool = False
    """Whether nothing is chosen at first."""


TABLES = Source((".csv", ".tsv", ".xlsx", ".parquet", ".fasta", ".fa"), ("example:tdp43",))
TEXTS = Source((".txt", ".md", ".jsonl", ".json", ".parquet"), is_several=True)
JETS = Source((".root", ".h5", ".hdf5", ".parquet", ".npz"), ("example:jets",), ("hep simulate",), is_several=True)
RUNS = {
    "bio": Source((), ("example:tdp43-model",), ("bio fit",), "bio"),
    "llm": Source((), ("example:linear-smollm2",), ("llm linearize",), "llm"),
    "hep": Source((), ("example:tagger",), ("hep fit",), "hep"),
}
"""Saved models by field."""


class Inputs:
    """What can be chosen on the page."""

    def __init__(self, uploads: Path, data: Sequence[Path], jobs: Jobs) -> None:
        self._uploads, self._data, self._jobs = uploads, data, jobs

    def choices(self, source: Source) -> list[tuple[str, str]]:
        """Return label and value of everything that can be chosen; results are first, the newest at the top."""
        files = [*self._results(source), *self._files(source)]
        taken: set[str] = set()
        choices = []
        for label, path, sheet in files:
            shown = label if label not in taken else f"{label} ({path.parent.name[:8]})"
            taken.add(label)
            choices.append((shown, f"{path}{sheet}"))
        return [*choices, *((name, name) for name in source.examples)]

    def checked(self, source: Source, values: Iterable[str]) -> list[str]:
        """Return the values of an argument.

        Raises:
            SubquadError: One is not among the choices.
        """
        known, values = {value for _, value in self.choices(source)}, list(values)
        for value in values:
            if value not in known:
                raise SubquadError(f"{Path(value).name} is not there any more; choose another entry of the list")
        return values

    def name(self, value: str) -> str:
        """Return what a value is called in the title of a job."""
        titles = {str(job.out): job.record["title"] for job in self._jobs.list()}
        return titles.get(value, Path(value).name)

    def _results(self, source: Source) -> Iterator[tuple[str, Path, str]]:
        for job in self._jobs.list():
            if job.command in source.commands and job.state == "finished":
                yield f"{job.record['title']}, {job.time}", job.out, ""

    def _files(self, source: Source) -> Iterator[tuple[str, Path, str]]:
        """Yield the label, the file or folder, and `#` with the name of the sheet if it is not the first one."""
        uploads = sorted(self._uploads.glob("*/*"), key=lambda path: path.stat().st_mtime, reverse=True)
        offered = [path.resolve() for folder in self._data for path in (folder, *sorted(folder.glob("*")))]
        for path in (*uploads, *offered):
            is_file = path.is_file() and path.name.lower().removesuffix(".gz").endswith(source.endings)
            if source.endings and is_file:
                names = _sheets(path, path.stat().st_mtime) if path.suffix.lower() == ".xlsx" else []
                yield from ((f"{path.name}, {name}", path, f"#{name}") for name in names[1:])
                yield path.name, path, ""
            elif source.field and path.is_dir() and _is_run(path, source.field):
                yield path.name, path, ""


@lru_cache(maxsize=256)
def _sheets(path: Path, changed: float) -> list[str]:
    """Return the names of the sheets of an Excel file; none of one that is damaged, which the command then refuses."""
    try:
        with reading(path, "Excel"):
            return [*map(str, pd.ExcelFile(io.BytesIO(path.read_bytes())).sheet_names)]
    except SubquadError:
        return []


def _is_run(folder: Path, field: str) -> bool:
    try:
        return bool(load_config(folder, field))
    except (SubquadError, OSError):
        return False
