"""Task files of `bench`: tables, targets and published results. Reads headers only, unless rows are combined."""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from subquad.bio.data.files import read_frame, separator_of
from subquad.bio.settings import AMBIGUITY, FitSettings
from subquad.bio.splits.split_column import parts_of_column
from subquad.errors import SubquadError, collect_errors, raise_errors, shortened, unknown
from subquad.runs.damage import damage_as_error
from subquad.runs.storage import atomic, read_json
from subquad.runs.unpacking import open_unpacked

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
LONGEST_LINE = 2**24
"""Characters of the header of a table."""
LARGEST_COUNT = 2**53
"""Largest number of rows or letters that a task file may give."""


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
    path = Path(path)
    if path.is_file() and path.suffix.lower() != ".json":
        raise SubquadError(
            f"{path}: bench reads a JSON list of tasks; compare models on one table with: "
            f"subquad bio fit {path} --out run"
        )
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise SubquadError(f'{path}: must be a list of tasks, such as [{{"id": …, "file": …, "task_type": …}}]')
    errors: list[str] = []
    tasks = [_task(path.parent, entry, number, settings, errors) for number, entry in enumerate(entries, start=1)]
    found = [task for task in tasks if task is not None]
    ids = Counter(task.id for task in found)
    errors += [f"id {name!r} occurs {count} times" for name, count in ids.items() if count > 1]
    errors += _colliding(list(ids))
    raise_errors(f"{path}:", errors)
    by_id = {task.id: task for task in found}
    found = [replace(task, train_on=task.train_on or _donor(task, settings.train_pairs)) for task in found]
    chosen = _chosen(found, settings)
    errors = [
        f"{task.id}: {unknown('task', task.train_on, by_id)} (train_on)"
        for task in chosen
        if task.train_on is not None and task.train_on not in by_id
    ]
    # without any model a task would get the default ones
    errors += [
        f"{task.id}: none of --models {' '.join(settings.models)} suits a task of type {task.task_type}; add one that "
        "does, or leave the task out with --only or --task-types"
        for task in chosen
        if settings.models and not task.settings["models"]
    ]
    raise_errors(f"{path}:", errors)
    errors = []
    chosen = [_merged(task, by_id, Path(folder), errors) if task.train_on else task for task in chosen]
    raise_errors(f"{path}:", errors)
    return chosen


def _colliding(ids: Sequence[str]) -> list[str]:
    """Return what is wrong with ids whose runs would be in one folder; seeds are folders in that of a task."""
    first: dict[str, str] = {}
    errors = [
        f"ids {before!r} and {name!r} differ in upper and lower case only, and may be one folder; rename one of them"
        for name in ids
        if (before := first.setdefault(name.casefold(), name)) != name
    ]
    for name in ids:
        above, _, last = name.rpartition("/")
        if last.isdecimal() and above.casefold() in first:
            errors.append(f"id {name!r} is the folder of a seed of the task {above!r}; rename one of them")
    return errors


def _task(folder: Path, entry: Any, number: int, options: BenchSettings, errors: list[str]) -> Task | None:
    if not isinstance(entry, Mapping):
        errors.append(f"task {number} is {entry!r}, not an object with id, file and task_type")
        return None
    name, before = entry.get("id"), len(errors)
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]{0,99}(/\w[\w.+-]{0,99}){0,9}", name):
        errors.append(
            f"task {number}: its id is {name!r}; use letters, digits and . _ + - with / between, such as dms/tdp43"
        )
    file = entry.get("file")
    table = _table(folder, file) if isinstance(file, str) else None
    if table is None:
        errors.append(f"{name}: file is {file!r}; give the path of the table, relative to the task file")
    # unlike the method of the path, also for a name that is too long
    elif not os.path.isfile(table):
        errors.append(f"{name}: {shortened(str(table), 300)}: no such file")
    given = entry.get("task_type", entry.get("kind"))
    task_type = _task_type(given)
    if task_type is None:
        known = ", ".join([*TASK_TYPES, *SHORT_NAMES])
        errors.append(f"{name}: task_type is {given!r}; the task types are: {known}")
    own = _own_settings(name, entry.get("settings", {}), errors)
    _check_optional(name, entry, errors)
    if len(errors) > before or table is None or task_type is None:
        return None
    try:
        columns = _columns(table)
    except SubquadError as error:
        errors.append(f"{name}: {error}")
        return None
    settings = {
        **columns,
        **_alphabet(entry.get("alphabet")),
        "task_type": task_type,
        "train_rows": options.train_rows,
        "tokens": options.tokens,
        "boosting_iterations": options.boosting_iterations,
        "models": models_suiting(task_type, options.models),
        **own,
    }
    try:
        checked = FitSettings.from_dict(settings)
    except (SubquadError, TypeError) as error:
        # JSON may have text where a number is needed
        errors.append(f"{name}: settings: {error}")
        return None
    splits = entry.get("splits")
    return Task(
        id=str(name),
        table=table,
        task_type=task_type,
        settings={key: getattr(checked, key) for key in settings},
        metric=str(entry.get("metric") or ""),
        published=str(entry.get("published") or ""),
        size=_size(entry, table, settings["train_rows"]),
        has_training=not isinstance(splits, Mapping) or bool(splits.get("train")),
        train_on=entry.get("train_on"),
    )


def _table(folder: Path, file: str) -> Path:
    return resolve_table(file) if file.startswith("example:") else folder / file


def _task_type(name: Any) -> TaskType | None:
    if not isinstance(name, str):
        return None
    return name if name in TASK_TYPES else SHORT_NAMES.get(re.sub(r"(?<=multi)\d+$", "", name))


def _own_settings(name: Any, given: Any, errors: list[str]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        errors.append(f"{name}: settings are {given!r}, not an object")
        return {}
    known = {entry.name for entry in fields(FitSettings)}
    errors += [f"{name}: {unknown('setting', key, known)}" for key in given if key not in known]
    return {key: value for key, value in given.items() if key in known}


def _check_optional(name: Any, entry: Mapping[str, Any], errors: list[str]) -> None:
    """Check the optional keys that are not text for the results."""
    donor, rows, length = entry.get("train_on"), entry.get("rows"), entry.get("length")
    if donor is not None and not isinstance(donor, str):
        errors.append(f"{name}: train_on is {donor!r}; give the id of the task whose training rows it uses")
    if rows is not None and not _is_count(rows):
        errors.append(f"{name}: rows is {rows!r}; give the number of rows of the table, or leave it out")
    if length is not None and not (isinstance(length, list) and len(length) == 2 and all(map(_is_count, length))):
        errors.append(
            f"{name}: length is {length!r}; give the lengths of the shortest and the longest sequence, such as "
            "[20, 75], or leave it out"
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


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
    message = f"{table}: its header cannot be read: damaged, truncated or not of the kind of its name"
    try:
        # the expected names are ASCII in every code page
        with damage_as_error(message), open_unpacked(table, message) as (file, _):
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace")
            # a longer line is read in parts
            lines = iter(partial(text.readline, LONGEST_LINE), "")
            return set(next(csv.reader(lines, delimiter=separator_of(table)), ()))
    except csv.Error as error:
        raise SubquadError(
            f"{table}: its header has a cell of more than {csv.field_size_limit():,} characters; if a quotation mark "
            "begins it, close or remove the mark, and otherwise shorten the name"
        ) from error


def _alphabet(letters: Any) -> dict[str, str]:
    """Return the name of the alphabet, since IUPAC codes such as N or R could make DNA look like a protein.

    Proteins with gaps have none here: `fit` tells an alignment from a table in which a few sequences have gaps.
    """
    if not isinstance(letters, str) or not letters:
        return {}
    own = {letter.upper() for letter in letters if letter.isalpha()}
    if own - {*AMBIGUITY, "U"}:
        if "-" in letters:
            return {}
        return {"alphabet": "protein_stop" if "*" in letters else "protein"}
    name = "rna" if "U" in own else "dna"
    return {"alphabet": f"{name}_gap" if "-" in letters else name}


def _size(entry: Mapping[str, Any], table: Path, most: int | None) -> float:
    rows, length = entry.get("rows"), entry.get("length")
    if rows is not None and length is not None:
        return float(min(rows, most or rows) * sum(length) / 2)
    return float(table.stat().st_size)


def _donor(task: Task, pairs: Sequence[tuple[str, str]]) -> str | None:
    return next((donor for pattern, donor in pairs if fnmatchcase(task.id, pattern)), None)


def _chosen(tasks: Sequence[Task], settings: BenchSettings) -> list[Task]:
    ids = [task.id for task in tasks]
    patterns = [("--only", pattern) for pattern in settings.only]
    patterns += [("--train-on", pattern) for pattern, _ in settings.train_pairs]
    for flag, pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in ids):
            raise SubquadError(f"{flag}: {unknown('task', pattern, ids)}")
    task_types = []
    for name in settings.task_types:
        task_type = _task_type(name)
        if task_type is None:
            raise SubquadError(f"--task-types: {unknown('task type', name, TASK_TYPES)}")
        task_types.append(task_type)
    chosen = [
        task
        for task in tasks
        if (not settings.only or any(fnmatchcase(task.id, pattern) for pattern in settings.only))
        and (not task_types or task.task_type in task_types)
    ]
    if not chosen:
        raise SubquadError("no task matches both --only and --task-types")
    return chosen


def _merged(task: Task, by_id: Mapping[str, Task], folder: Path, errors: list[str]) -> Task:
    """Return the task with a table of its test rows and the training rows of another task."""
    donor = by_id[str(task.train_on)]
    if donor.task_type != task.task_type:
        errors.append(f"{task.id}: train_on {donor.id} is a task of type {donor.task_type}, not {task.task_type}")
        return task
    try:
        (own, part), (other, part_of_other) = collect_errors(lambda: _with_parts(task), lambda: _with_parts(donor))
        test, training = own[part == "test"], other[np.isin(part_of_other, ("train", "validation"))]
        if not len(test):
            raise SubquadError(f"{task.id}: {task.table}: train_on needs test rows, and column 'split' has none")
    except SubquadError as error:
        errors.append(str(error))
        return task
    kept = [name for name in own.columns if name in other.columns]
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
    """Return the table of a task as text, and the part of its split that each row is in.

    Raises:
        SubquadError: The table cannot be read or lacks a column, or its split has other values than names of parts.
    """
    frame = read_frame(task.table)
    raise_errors(
        f"{task.id}: {task.table}: train_on needs more columns:",
        [str(unknown("column", name, frame.columns)) for name in _missing(set(frame.columns))],
    )
    return frame, parts_of_column(f"{task.id}: {task.table}", frame, "split")


def _missing(names: set[str]) -> Iterator[str]:
    yield from (name for name in ("target", "split") if name not in names)
    if "sequence" not in names and not {"guide", "context"} <= names:
        yield "sequence"
