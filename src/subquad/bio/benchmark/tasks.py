"""Task files of `bench`: tables, targets and published results. Reads headers only, unless rows are combined."""

import csv
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.compared_models import models_suiting
from subquad.bio.data.dataset import TASK_TYPES, TaskType
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.files import naming, read_frame
from subquad.bio.data.names import separator_of
from subquad.bio.settings import AMBIGUITY, FitSettings
from subquad.bio.splits.split_column import parts_of_column
from subquad.errors import SubquadError, collect_errors, raise_errors, reading, unknown
from subquad.runs.storage import atomic, check_present, read_json

__all__ = ["TABLES", "Task", "read_tasks"]

TABLES = "tables"
"""Folder of tables of combined rows in the output folder."""

SHORT_NAMES: dict[str, TaskType] = {
    "reg": "regression",
    "bin": "binary",
    "multi": "multiclass",
    "perres_reg": "residue_regression",
    "perres_bin": "residue_binary",
    "perres_multi": "residue_multiclass",
}
"""Short names of task types; the number of classes may follow `multi`."""
FITTING = tuple(field.name for field in fields(FitSettings))
"""Names of the settings of a fit."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One table, and the settings of its fit."""

    id: str
    """Family and name, such as `dms/tdp43`."""
    table: Path
    task_type: TaskType
    settings: dict[str, Any] = field(default_factory=dict)
    """Values of `FitSettings` that differ from the defaults."""
    metric: str = ""
    """Metric of the publication, as text."""
    published: str = ""
    """Published results, as text."""
    size: float = 0.0
    """Approximate number of letters in the rows; larger tasks start first."""
    has_training: bool = True
    """It has training rows."""
    train_on: str | None = None
    """Id of the task whose training rows it uses."""

    @property
    def family(self) -> str:
        """Part of the id before the first `/`."""
        return self.id.partition("/")[0] if "/" in self.id else "tasks"


def read_tasks(path: Path | str, settings: BenchSettings, folder: Path | str) -> list[Task]:
    """Return the requested tasks of a file.

    The file is a JSON list with one object per task: `id`, `file` (relative to the list) and `task_type` (or `kind`);
    optional are `settings` (those of `fit`), `metric` and `published` (text), `train_on` (id of the task whose training
    rows this one uses), `alphabet` (all letters that occur), `rows`, `length` (shortest and longest) and `splits` (rows
    of each part). Other keys are ignored. Columns named sequence, guide and context, target, split and group are
    recognised. Tasks that use the training rows of another one get a table of their own in `folder`/tables.

    Args:
        path: The task file.
        settings: Which tasks, and their training budget.
        folder: Output folder.

    Raises:
        SubquadError: All errors of the file at once: invalid entries, missing tables, or no task selected.
    """
    beside = Path(path).parent
    entries = read_json(path)
    if not isinstance(entries, list):
        raise SubquadError(f"{path}: must be a JSON list of tasks")

    def read(number: int, entry: Any) -> Task:
        place = f"{path}, task {number}"
        with reading(place, "a task"), naming(place):
            return _task(beside, entry, settings)

    tasks = collect_errors(*(partial(read, number, entry) for number, entry in enumerate(entries, start=1)))
    by_id = {task.id: task for task in tasks}
    raise_errors(f"{path}:", _colliding([task.id for task in tasks]))
    tasks = [replace(task, train_on=task.train_on or _donor(task, settings.train_pairs)) for task in tasks]
    chosen = _chosen(tasks, settings)
    errors = [
        f"{task.id}: {unknown('task', task.train_on, by_id)} (train_on)"
        for task in chosen
        if task.train_on is not None and task.train_on not in by_id
    ]
    # without any model a task would get the default ones
    errors += [
        f"{task.id}: none of --models {' '.join(settings.models)} suits a task of type {task.task_type}"
        for task in chosen
        if settings.models and not task.settings["models"]
    ]
    raise_errors(f"{path}:", errors)
    return collect_errors(
        *(lambda task=task: _merged(task, by_id, Path(folder)) if task.train_on else task for task in chosen)
    )


def _colliding(ids: Sequence[str]) -> list[str]:
    """Return what is wrong with ids whose runs would be in one folder; seeds are folders in that of a task."""
    first: dict[str, str] = {}
    errors = []
    for name in ids:
        if name.casefold() in first:
            errors.append(f"ids {first[name.casefold()]!r} and {name!r} may be one folder; rename one of them")
        first.setdefault(name.casefold(), name)
    for name in ids:
        above, _, last = name.rpartition("/")
        if last.isdecimal() and above.casefold() in first:
            errors.append(f"id {name!r} is the folder of a seed of the task {above!r}; rename one of them")
    return errors


def _task(folder: Path, entry: Mapping[str, Any], options: BenchSettings) -> Task:
    name, file, splits = entry["id"], entry["file"], entry.get("splits")
    # it is the name of a folder
    if not re.fullmatch(r"\w[\w.+-]{0,99}(/\w[\w.+-]{0,99}){0,9}", name):
        raise SubquadError(f"id {name!r} must be letters, digits and . _ + - with / between, such as dms/tdp43")
    table = resolve_table(file) if file.startswith("example:") else folder / file
    check_present(table)
    task_type = _task_type(entry.get("task_type", entry.get("kind")))
    settings = {
        **_columns(table),
        **_alphabet(entry.get("alphabet")),
        "task_type": task_type,
        "train_rows": options.train_rows,
        "tokens": options.tokens,
        "boosting_iterations": options.boosting_iterations,
        "models": models_suiting(task_type, options.models),
        **entry.get("settings", {}),
    }
    for key in settings:
        if key not in FITTING:
            raise SubquadError(f"{name}: {unknown('setting', key, FITTING)}")
    try:
        checked = FitSettings.from_dict(settings)
    except (SubquadError, TypeError) as error:
        # JSON may have text where a number is needed
        raise SubquadError(f"{name}: settings: {error}") from error
    rows, length = entry.get("rows"), entry.get("length")
    size = min(rows, settings["train_rows"] or rows) * sum(length) / 2 if rows and length else table.stat().st_size
    return Task(
        id=name,
        table=table,
        task_type=task_type,
        settings={key: getattr(checked, key) for key in settings},
        metric=str(entry.get("metric") or ""),
        published=str(entry.get("published") or ""),
        size=float(size),
        has_training=splits is None or bool(splits.get("train")),
        train_on=entry.get("train_on"),
    )


def _task_type(name: str) -> TaskType:
    known: dict[str, TaskType] = {**SHORT_NAMES, **{name: name for name in TASK_TYPES}}
    short = re.sub(r"(?<=multi)\d+$", "", name)
    if short not in known:
        raise unknown("task type", name, known)
    return known[short]


def _columns(table: Path) -> dict[str, Any]:
    """Return the columns that are recognised by their names, from the header."""
    opened = gzip.open if table.suffix == ".gz" else open
    names: set[str] = set()
    if Path(table.name.removesuffix(".gz")).suffix in (".csv", ".tsv"):
        # the expected names are ASCII in every code page
        with reading(table, "a table"), opened(table, "rt", encoding="utf-8-sig", errors="replace") as file:
            names = set(next(csv.reader(file, delimiter=separator_of(table)), ()))
    settings: dict[str, Any] = {}
    if {"guide", "context"} <= names:
        settings |= {"sequence": "context", "partner": "guide"}
    elif "sequence" in names:
        settings["sequence"] = "sequence"
    if "target" in names:
        settings["target"] = ("target",)
    return settings | {name: name for name in ("split", "group") if name in names}


def _alphabet(letters: str | None) -> dict[str, str]:
    """Return the name of the alphabet, since IUPAC codes such as N or R could make DNA look like a protein.

    Proteins with gaps have none here: `fit` tells an alignment from a table in which a few sequences have gaps.
    """
    if not letters:
        return {}
    present = {letter.upper() for letter in letters if letter.isalpha()}
    if present - {*AMBIGUITY, "U"}:
        if "-" in letters:
            return {}
        return {"alphabet": "protein_stop" if "*" in letters else "protein"}
    name = "rna" if "U" in present else "dna"
    return {"alphabet": f"{name}_gap" if "-" in letters else name}


def _donor(task: Task, pairs: Sequence[tuple[str, str]]) -> str | None:
    return next((donor for pattern, donor in pairs if fnmatchcase(task.id, pattern)), None)


def _chosen(tasks: Sequence[Task], settings: BenchSettings) -> list[Task]:
    ids = [task.id for task in tasks]
    patterns = [("--only", pattern) for pattern in settings.only]
    patterns += [("--train-on", pattern) for pattern, _ in settings.train_pairs]
    for flag, pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in ids):
            raise SubquadError(f"{flag}: {unknown('task', pattern, ids)}")
    task_types = [_task_type(name) for name in settings.task_types]
    chosen = [
        task
        for task in tasks
        if (not settings.only or any(fnmatchcase(task.id, pattern) for pattern in settings.only))
        and (not task_types or task.task_type in task_types)
    ]
    if not chosen:
        raise SubquadError("no task matches both --only and --task-types")
    return chosen


def _merged(task: Task, by_id: Mapping[str, Task], folder: Path) -> Task:
    """Return the task with a table of its test rows and the training rows of another task."""
    donor = by_id[str(task.train_on)]
    if donor.task_type != task.task_type:
        raise SubquadError(f"{task.id}: train_on {donor.id} is a task of type {donor.task_type}, not {task.task_type}")
    (frame, part), (other, part_of_other) = collect_errors(lambda: _with_parts(task), lambda: _with_parts(donor))
    test, training = frame[part == "test"], other[np.isin(part_of_other, ("train", "validation"))]
    if not len(test):
        raise SubquadError(f"{task.id}: {task.table}: train_on needs test rows, and column 'split' has none")
    kept = [name for name in frame.columns if name in other.columns]
    letters = [name for name in ("sequence", "guide", "context") if name in kept]
    in_test = set(test[letters].itertuples(index=False, name=None))
    is_new = [row not in in_test for row in training[letters].itertuples(index=False, name=None)]
    path = folder / TABLES / f"{task.id}.csv.gz"
    with atomic(path) as temporary:
        # without a time stamp, so that equal rows give equal files
        pd.concat([training[is_new][kept], test[kept]]).to_csv(
            temporary, index=False, compression={"method": "gzip", "mtime": 0}
        )
    return replace(task, table=path, has_training=bool(any(is_new)), size=max(task.size, donor.size))


def _with_parts(task: Task) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the table of a task as text, and the part of its split that each row is in."""
    frame, place = read_frame(task.table), f"{task.id}: {task.table}"
    letters = ("guide", "context") if {"guide", "context"} <= {*frame.columns} else ("sequence",)
    absent = [name for name in ("target", "split", *letters) if name not in frame.columns]
    raise_errors(f"{place}: train_on needs more columns:", absent)
    return frame, parts_of_column(place, frame, "split")
