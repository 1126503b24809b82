"""A file of tasks, read and checked: which tables, what is predicted, what others reached. Reads headers only."""

import csv
import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.data.dataset import TASK_TYPES, TaskType
from subquad.bio.data.files import separator_of
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError, raise_errors, unknown
from subquad.runs.storage import atomic, read_json

__all__ = ["Task", "read_tasks"]

SHORT_KINDS: dict[str, TaskType] = {
    "reg": "regression",
    "bin": "binary",
    "multi": "multiclass",
    "perres_reg": "residue_regression",
    "perres_bin": "residue_binary",
    "perres_multi": "residue_multiclass",
}
"""Short words for kinds; the number of classes may stand behind `multi`."""

NUCLEOTIDES = set("ACGTURYSWKMBDHVN")
"""And their codes for several, of which most are amino acids too."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One table, and how it is learned from."""

    id: str
    """Family and name, such as `dms/tdp43`."""
    table: Path
    """Where it is."""
    task_type: TaskType
    """Of the target."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Those of `FitSettings` that differ from the default."""
    metric: str = ""
    """What the task is measured by elsewhere, in words."""
    published: str = ""
    """What others reached, in words."""
    size: float = 0.0
    """About how many letters the rows have together; the larger go first."""
    has_training: bool = True
    """It has rows to learn from."""
    train_on: str | None = None
    """Id of the task whose training rows it takes."""

    @property
    def family(self) -> str:
        """What stands before the first `/` of the id."""
        return self.id.partition("/")[0] if "/" in self.id else "tasks"


def read_tasks(path: Path | str, settings: BenchSettings, folder: Path | str) -> list[Task]:
    """Return the tasks of a file that are asked for.

    The file is a JSON list with one object a task: `id`, `file` (relative to the list), `kind`; and if there,
    `settings` (those of `subquad bio fit`), `metric`, `published`, `train_on` (id of the task whose training rows this
    one takes), `alphabet` (all letters that occur), `rows`, `length` (shortest and longest) and `splits` (rows of each
    part). Other keys mean nothing. Columns called sequence, guide and context, target, split and group are taken as
    such.

    Tasks that take another's training rows get a table of their own in `folder`/tables.

    Raises:
        SubquadError: the file or its entries are not as said, tables are missing, or nothing is asked for; all at once.
    """
    path = Path(path)
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise SubquadError(f'{path}: must hold a list of tasks, such as [{{"id": …, "file": …, "kind": …}}]')
    mistakes: list[str] = []
    tasks = [_task(path.parent, entry, number, settings, mistakes) for number, entry in enumerate(entries, start=1)]
    found = [task for task in tasks if task is not None]
    seen = [task.id for task in found]
    mistakes += [
        f"id {name!r} stands there {seen.count(name)} times" for name in dict.fromkeys(seen) if seen.count(name) > 1
    ]
    raise_errors(f"{path}:", mistakes)
    by_id = {task.id: task for task in found}
    found = [replace(task, train_on=task.train_on or _donor(task, settings.train_pairs)) for task in found]
    chosen = _chosen(found, settings)
    mistakes = [
        f"{task.id}: {unknown('task', task.train_on, by_id)} (train_on)" for task in chosen if _is_lost(task, by_id)
    ]
    raise_errors(f"{path}:", mistakes)
    mistakes = []
    chosen = [_merged(task, by_id, Path(folder), mistakes) if task.train_on else task for task in chosen]
    raise_errors(f"{path}:", mistakes)
    return chosen


def _task(folder: Path, entry: Any, number: int, asked: BenchSettings, mistakes: list[str]) -> Task | None:
    if not isinstance(entry, Mapping):
        mistakes.append(f"task {number} is {entry!r}, not an object with id, file and kind")
        return None
    name, before = entry.get("id"), len(mistakes)
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*(/\w[\w.+-]*)*", name):
        mistakes.append(
            f"task {number}: its id is {name!r}; use letters, digits and . _ + - with / between, such as dms/tdp43"
        )
    file = entry.get("file")
    table = folder / file if isinstance(file, str) else None
    if table is None:
        mistakes.append(f"{name}: file is {file!r}; name the table, relative to this file")
    elif not table.is_file():
        mistakes.append(f"{name}: {table}: no such file")
    task_type = _kind(entry.get("kind"))
    if task_type is None:
        known = ", ".join([*TASK_TYPES, *SHORT_KINDS])
        mistakes.append(f"{name}: kind is {entry.get('kind')!r}; there are: {known}")
    own = _own_settings(name, entry.get("settings", {}), mistakes)
    if len(mistakes) > before or table is None or task_type is None:
        return None
    settings = {
        **_columns(table),
        **_alphabet(entry.get("alphabet")),
        "kind": task_type,
        "train_rows": asked.rows,
        "tokens": asked.tokens,
        "boosting_iterations": asked.boosting_iterations,
        "preset": asked.preset_names[0],
        **own,
    }
    try:
        FitSettings(**settings)
    except (SubquadError, TypeError) as error:
        # JSON may hold a word where a number is needed
        mistakes.append(f"{name}: settings: {error}")
        return None
    splits = entry.get("splits")
    return Task(
        id=str(name),
        table=table,
        task_type=task_type,
        settings=settings,
        metric=str(entry.get("metric") or ""),
        published=str(entry.get("published") or ""),
        size=_size(entry, table, settings["train_rows"]),
        has_training=not isinstance(splits, Mapping) or bool(splits.get("train")),
        train_on=entry.get("train_on"),
    )


def _kind(word: Any) -> TaskType | None:
    if not isinstance(word, str):
        return None
    return word if word in TASK_TYPES else SHORT_KINDS.get(re.sub(r"(?<=multi)\d+$", "", word))


def _own_settings(name: Any, given: Any, mistakes: list[str]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        mistakes.append(f"{name}: settings are {given!r}, not an object")
        return {}
    types = {entry.name: entry.type for entry in fields(FitSettings)}
    mistakes += [f"{name}: {unknown('setting', key, types)}" for key in given if key not in types]
    # JSON has lists only, the settings tuples; one name alone means a list of one
    return {
        key: ((value,) if isinstance(value, str) else tuple(value)) if key in ("target", "covariates") else value
        for key, value in given.items()
        if key in types
    }


def _columns(table: Path) -> dict[str, Any]:
    names = _header(table)
    settings: dict[str, Any] = {}
    if {"guide", "context"} <= names:
        settings |= {"sequence": "context", "partner": "guide"}
    elif "sequence" in names:
        settings["sequence"] = "sequence"
    if "target" in names:
        settings["target"] = ("target",)
    return settings | {name: name for name in ("split", "group") if name in names}


def _header(table: Path) -> set[str]:
    if Path(table.name.removesuffix(".gz")).suffix not in (".csv", ".tsv"):
        return set()
    opened = gzip.open if table.suffix == ".gz" else open
    # the names that are looked for are ASCII in every code page
    with opened(table, "rt", encoding="utf-8-sig", errors="replace") as file:
        return set(next(csv.reader(file, delimiter=separator_of(table)), ()))


def _alphabet(letters: Any) -> dict[str, str]:
    """Return the alphabet by name; from a table alone, codes such as N or R could make DNA look like a protein."""
    if not isinstance(letters, str) or not letters:
        return {}
    own = {letter.upper() for letter in letters if letter.isalpha()}
    if own - NUCLEOTIDES:
        return {"alphabet": "protein_stop" if "*" in letters else "protein"}
    return {"alphabet": "rna" if "U" in own else "dna"}


def _size(entry: Mapping[str, Any], table: Path, most: int | None) -> float:
    rows, length = entry.get("rows"), entry.get("length")
    if isinstance(rows, int) and isinstance(length, Sequence) and len(length) == 2:
        return float(min(rows, most or rows) * sum(length) / 2)
    return float(table.stat().st_size)


def _donor(task: Task, pairs: Sequence[tuple[str, str]]) -> str | None:
    return next((donor for pattern, donor in pairs if fnmatchcase(task.id, pattern)), None)


def _is_lost(task: Task, by_id: Mapping[str, Task]) -> bool:
    return task.train_on is not None and task.train_on not in by_id


def _chosen(tasks: Sequence[Task], settings: BenchSettings) -> list[Task]:
    ids = [task.id for task in tasks]
    for pattern in settings.patterns:
        if not any(fnmatchcase(name, pattern) for name in ids):
            raise SubquadError(f"--only: {unknown('task', pattern, ids)}")
    kinds = []
    for word in settings.kind_names:
        task_type = _kind(word)
        if task_type is None:
            raise SubquadError(f"--kinds: {unknown('kind', word, TASK_TYPES)}")
        kinds.append(task_type)
    for pattern, _ in settings.train_pairs:
        if not any(fnmatchcase(name, pattern) for name in ids):
            raise SubquadError(f"--train-on: {unknown('task', pattern, ids)}")
    chosen = [
        task
        for task in tasks
        if (not settings.patterns or any(fnmatchcase(task.id, pattern) for pattern in settings.patterns))
        and (not kinds or task.task_type in kinds)
    ]
    if not chosen:
        raise SubquadError("no task is left by --only and --kinds together")
    return chosen


def _merged(task: Task, by_id: Mapping[str, Task], folder: Path, mistakes: list[str]) -> Task:
    """Return the task on a table of its test rows and the other's training rows."""
    donor = by_id[str(task.train_on)]
    before = len(mistakes)
    if donor.task_type != task.task_type:
        mistakes.append(f"{task.id}: train_on {donor.id}, which is {donor.task_type}, and this is {task.task_type}")
    mistakes += [
        f"{own.id}: {own.table}: has no column {name!r}, which train_on needs (CSV or TSV)"
        for own in (task, donor)
        for name in _missing(_header(own.table))
    ]
    if len(mistakes) > before:
        return task
    taking, giving = (_read(own.table) for own in (task, donor))
    kept = [name for name in taking.columns if name in giving.columns]
    letters = [name for name in ("sequence", "guide", "context") if name in kept]
    tested = taking[taking["split"] == "test"]
    learned = giving[giving["split"].isin(["train", "validation"])]
    in_test = set(tested[letters].itertuples(index=False, name=None))
    is_new = [row not in in_test for row in learned[letters].itertuples(index=False, name=None)]
    path = folder / "tables" / f"{task.id}.csv.gz"
    with atomic(path) as temporary:
        # no time in it: the same rows make the same file
        pd.concat([learned[is_new][kept], tested[kept]]).to_csv(
            temporary, index=False, compression={"method": "gzip", "mtime": 0}
        )
    return replace(task, table=path, has_training=bool(any(is_new)), size=max(task.size, donor.size))


def _missing(names: set[str]) -> Iterator[str]:
    yield from (name for name in ("target", "split") if name not in names)
    if "sequence" not in names and not {"guide", "context"} <= names:
        yield "sequence"


def _read(table: Path) -> pd.DataFrame:
    return pd.read_csv(table, dtype=str, keep_default_na=False, sep=separator_of(table), encoding="utf-8-sig")
