"""Which rows are learned from, which choices are made on, and which are kept for the test; and what leaks across.

The validation rows are held out of what the test leaves in the same way as the test: whole clusters, groups or
positions, so that early stopping is as honest as the test. Costs one look at each row; clusters are MMseqs2's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.dataset import PARTS
from subquad.bio.data.table import Table
from subquad.bio.settings import FitSettings
from subquad.bio.splits import mutations as mutated
from subquad.bio.splits.clusters import cluster
from subquad.bio.splits.holdout import Hold, hold_random, hold_units
from subquad.bio.splits.leakage import find_leaks
from subquad.bio.splits.near_duplicates import equal_sequences
from subquad.errors import SubquadError, raise_errors, unknown

__all__ = ["Split", "count_folds", "find_split", "make_split", "refuse_strange_words"]

WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "": "",
    "unused": "",
    "test_duplicate": "duplicate",
}
"""What people write, and what it means; nothing: the row is left out."""
LEAST_VALIDATION = 10
"""Rows that choices are made on, at least, in a run with few training rows."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of each part, and how they came there."""

    parts: dict[str, np.ndarray]
    """Row numbers, rising, of `train`, `validation` and `test`."""
    how: str
    """In a sentence."""
    units: np.ndarray
    """`(n,)` number of what each row belongs to, and is held out with: sequence, group, cluster, first position."""
    leaks: dict[str, Any]
    """Those of `find_leaks`, and `marked`, test rows that the table calls test_duplicate; `left_out`, measured rows in
    no part."""


@dataclass(frozen=True)
class _Way:
    """A way to split."""

    hold_test: Hold
    hold_validation: Hold
    tell: Callable[[dict[str, np.ndarray]], str]
    """From the parts to the way in words."""
    units: np.ndarray
    """See `Split`."""


def make_split(table: Table, settings: FitSettings, *, seed: int) -> Split:
    """Return the split that the settings ask for, or that a column of the table gives.

    A column called split or set with the word train in it is taken where nothing else is asked for. `settings.fold` is
    the part of `settings.folds` that is the test. With `settings.train_rows` only so many training rows are kept, the
    same ones and more for a larger number, and at most a fourth as many validation rows (ten at least); the test is the
    same for all. Test rows whose sequence is in training or validation are left out, unless `settings.keep_duplicates`;
    near copies too, as `settings.leak_distance` says.

    Raises:
        SubquadError: no such column, strange words in it, what the way to split needs is missing, or a part is empty.
    """
    column = _column(table.frame, settings)
    if column is not None:
        return _given(table, settings, column, seed=seed)
    return _made(table, settings, _way(table, settings), seed=seed)


def refuse_strange_words(path: Path | str, frame: pd.DataFrame, settings: FitSettings) -> None:
    """Raise where the column that says the parts has words that are none, before anything else of the table is read.

    Raises:
        SubquadError: such words, each with its row.
    """
    name = _column(frame, settings)
    if name is None or name not in frame.columns:
        return
    words = _words(frame, name)
    strange = np.flatnonzero(~words.isin(list(WORDS)))
    raise_errors(
        f"{path}: column {name!r} must say train, validation or test (or unused)",
        [] if _are_folds(words) else [f"row {row + 1}: {frame[name].iloc[row]!r}" for row in strange],
    )


def find_split(frame: pd.DataFrame) -> str | None:
    """Return the column that tells train from test: one called split or set, with the word train in it."""
    for column in frame.columns:
        if str(column).lower() in ("split", "set"):
            words = set(frame[column].astype(str).str.strip().str.lower())
            if words & {"train", "training"}:
                return str(column)
    return None


def _words(frame: pd.DataFrame, name: str) -> pd.Series:
    return frame[name].astype(str).str.strip().str.lower().reset_index(drop=True)


def _are_folds(words: pd.Series) -> bool:
    return bool(words[words != ""].str.fullmatch(r"\d+(\.0+)?").all() and (words != "").any())


def _column(frame: pd.DataFrame, settings: FitSettings) -> str | None:
    if settings.split is not None:
        return settings.split
    return find_split(frame) if settings.split_by == "random" and settings.fold is None else None


def _made(table: Table, settings: FitSettings, way: _Way, *, seed: int) -> Split:
    rows, random = np.flatnonzero(table.has_target), np.random.default_rng(seed)
    fold = None if settings.fold is None else (settings.fold, settings.folds)
    try:
        test, kept = way.hold_test(rows, fraction=settings.test_fraction, fold=fold, random=random)
        fraction = min(settings.validation_fraction * len(rows) / max(len(kept), 1), 0.5)
        validation, train = way.hold_validation(kept, fraction=fraction, fold=None, random=random)
    except SubquadError as error:
        raise SubquadError(f"{table.path}: {error}") from error
    which = "" if fold is None else f", fold {fold[0]} of {fold[1]}"
    parts = {"train": train, "validation": validation, "test": test}
    how = f"{way.tell(parts)}{which}"
    return _finished(table, settings, parts, how, units=way.units, is_given=False, seed=seed)


def _way(table: Table, settings: FitSettings) -> _Way:
    way = settings.split_by
    if way == "random":
        # a rare class has one row in each part, so that all of them can tell it from the others
        test, validation = _random(table, keeps=2), _random(table, keeps=1)
        units = equal_sequences(table.inputs)
        return _Way(test, validation, lambda _: "random rows, equal sequences together", units)
    if way in ("group", "homology"):
        units, words = _units(table, settings)
        hold = hold_units(units, "groups" if way == "group" else "clusters")
        return _Way(hold, hold, lambda _: words, units)
    if table.mutants is None:
        raise SubquadError(
            f"{table.path}: --split-by {way} needs variants of one wild type; name their column with --mutant, "
            "or give --wild-type"
        )
    changes = mutated.Mutated.of(table.mutants)
    if way == "mutations":
        return _by_number(changes, equal_sequences(table.inputs))
    return _by_position(changes, settings)


def _random(table: Table, *, keeps: int = 0) -> Hold:
    target = table.target
    classes = target.y if target is not None and target.task_type in ("binary", "multiclass") else None
    return hold_random(equal_sequences(table.inputs), classes, keeps=keeps)


def _units(table: Table, settings: FitSettings) -> tuple[np.ndarray, str]:
    """Return the number of the group or cluster of each row; -1 of rows that are not measured."""
    rows, units = np.flatnonzero(table.has_target), np.full(len(table.has_target), -1)
    if settings.split_by == "group":
        if table.groups is None:
            raise SubquadError(f"{table.path}: --split-by group needs the column of the groups; name it with --group")
        units[rows] = np.unique(np.asarray(table.groups)[rows].astype(str), return_inverse=True)[1].reshape(-1)
        words = f"whole groups of {settings.group!r}"
    else:
        sequences = [table.sequences[row] for row in rows]
        is_nucleotide = table.schema.alphabet in ("dna", "rna")
        units[rows], words = cluster(sequences, settings.identity, is_nucleotide=is_nucleotide)
    sizes = np.unique(units[rows], return_counts=True)[1]
    count = len(sizes)
    if count < 3:
        what = "groups" if settings.split_by == "group" else "clusters"
        remedy = "" if what == "groups" else f" at --identity {settings.identity} (they are all alike; raise it)"
        raise SubquadError(
            f"{table.path}: the measured rows are in {count} {what[: -1 if count == 1 else None]}{remedy}; three are "
            "needed for training, validation and test; take another --split-by"
        )
    largest = f", the largest with {sizes.max() / len(rows):.0%} of the rows" if sizes.max() > len(rows) / 2 else ""
    return units, f"{words} ({count:,}{largest})"


def _by_number(changes: mutated.Mutated, units: np.ndarray) -> _Way:
    def hold_test(rows: np.ndarray, **asked: Any) -> tuple[np.ndarray, np.ndarray]:
        return mutated.by_number(changes, rows, **asked)

    def hold_validation(rows: np.ndarray, *, fraction: float, fold: Any, random: np.random.Generator) -> Any:
        # the most mutated first; equal ones in random order
        order = rows[np.lexsort([random.random(len(rows)), -changes.count[rows]])]
        size = max(1, round(fraction * len(rows)))
        return np.sort(order[:size]), np.sort(order[size:])

    def tell(parts: dict[str, np.ndarray]) -> str:
        most, least = changes.count[parts["train"]].max(initial=0), changes.count[parts["test"]].min(initial=99)
        few = f"variants with up to {most} mutation{'s' if most != 1 else ''} to learn from"
        return f"{few}, with {least} or more as test"

    return _Way(hold_test, hold_validation, tell, units)


def _by_position(changes: mutated.Mutated, settings: FitSettings) -> _Way:
    is_contiguous = settings.split_by == "contiguous"

    def hold_test(rows: np.ndarray, *, fold: tuple[int, int] | None, **asked: Any) -> tuple[np.ndarray, np.ndarray]:
        if settings.split_by == "position":
            return mutated.by_position(changes, rows, fold=fold, **asked)
        return mutated.within_folds(changes, rows, fold=fold or (0, settings.folds), is_contiguous=is_contiguous)

    def hold_validation(rows: np.ndarray, **asked: Any) -> tuple[np.ndarray, np.ndarray]:
        return mutated.by_position(changes, rows, is_contiguous=is_contiguous, **asked)

    words = "whole positions, variants mutated at positions of two parts in none"
    if settings.split_by != "position":
        first = "" if settings.fold is not None else f", fold 0 of {settings.folds}"
        words = f"{settings.split_by} positions as in ProteinGym, variants across folds in none{first}"
    return _Way(hold_test, hold_validation, lambda _: words, changes.first())


def _given(table: Table, settings: FitSettings, name: str, *, seed: int) -> Split:
    frame = table.frame
    if name not in frame.columns:
        raise SubquadError(f"{table.path}: {unknown('column', name, frame.columns)} (--split)")
    words = _words(frame, name)
    if _are_folds(words):
        return _given_folds(table, settings, name, words, seed=seed)
    if settings.fold is not None:
        raise SubquadError(f"{table.path}: column {name!r} says which rows are the test; leave out --fold, or --split")
    refuse_strange_words(table.path, frame, settings)
    part = np.where(table.has_target, words.map(WORDS).to_numpy(), "")
    parts = {word: np.flatnonzero(part == word) for word in PARTS}
    for word in ("train", "test"):
        if not len(parts[word]):
            raise SubquadError(f"{table.path}: no measured row of column {name!r} says {word}; mark some rows so")
    how, groups, marked = f"column {name!r}", _own_groups(table, parts), int((part == "duplicate").sum())
    if not len(parts["validation"]):
        parts["train"], parts["validation"], said = _validation_of(table, settings, parts["train"], groups, seed)
        how += f", {said}"
    units = equal_sequences(table.inputs) if groups is None else groups
    return _finished(table, settings, parts, how, units=units, is_given=True, marked=marked, seed=seed)


def _given_folds(table: Table, settings: FitSettings, name: str, words: pd.Series, *, seed: int) -> Split:
    numbers = pd.to_numeric(words).to_numpy(dtype=np.float64)
    numbers[~table.has_target] = np.nan
    known = np.unique(numbers[~np.isnan(numbers)])
    fold = settings.fold or 0
    if fold >= len(known) or len(known) < 2:
        raise SubquadError(f"{table.path}: column {name!r} has {len(known)} folds with measured rows, no fold {fold}")
    parts = {"train": np.flatnonzero(~np.isnan(numbers) & (numbers != known[fold]))}
    parts |= {"validation": np.zeros(0, dtype=np.int64), "test": np.flatnonzero(numbers == known[fold])}
    groups = _own_groups(table, parts)
    parts["train"], parts["validation"], said = _validation_of(table, settings, parts["train"], groups, seed)
    how = f"column {name!r}, fold {known[fold]:.0f} of {len(known)} as test, {said}"
    units = equal_sequences(table.inputs) if groups is None else groups
    return _finished(table, settings, parts, how, units=units, is_given=True, seed=seed)


def _own_groups(table: Table, parts: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return the number of each row's group, where the test has groups of its own; else None."""
    if table.groups is None:
        return None
    groups = np.unique(np.asarray(table.groups).astype(str), return_inverse=True)[1].reshape(-1)
    learned = groups[parts["train"]]
    return groups if len(np.unique(learned)) > 1 and not np.isin(groups[parts["test"]], learned).any() else None


def _validation_of(
    table: Table, settings: FitSettings, rows: np.ndarray, groups: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray, str]:
    """Return training and validation rows of the training rows, whole groups where there are any."""
    hold, said = _random(table), "validation rows drawn from training"
    if groups is not None:
        hold, said = hold_units(groups, "groups"), "whole groups of training as validation"
    random = np.random.default_rng(seed)
    validation, train = hold(rows, fraction=settings.validation_fraction, fold=None, random=random)
    return train, validation, said


def _finished(
    table: Table,
    settings: FitSettings,
    parts: dict[str, np.ndarray],
    how: str,
    *,
    units: np.ndarray,
    is_given: bool,
    marked: int = 0,
    seed: int,
) -> Split:
    """Return the split with what leaks taken out, few training rows where asked for, and all parts seen to be there."""
    _refuse_empty(table, parts)
    leaks, test = find_leaks(table, settings, parts, is_given=is_given)
    leaks["marked"] = marked
    said = [how]
    if len(test) < len(parts["test"]):
        near = f", or nearly so ({leaks['near_how']})" if leaks["near"] and not leaks["near_kept"] else ""
        said.append(f"{leaks['removed']:,} test rows left out that are in training or validation too{near}")
    if not len(test):
        raise SubquadError(
            f"{table.path}: all {len(parts['test']):,} test rows have sequences of training or validation rows, or "
            "near ones, and none is left to test on; mark others as test, keep near ones with --leak-distance 0, or all with "
            "--keep-duplicates"
        )
    parts = {**parts, "test": test}
    if settings.train_rows is not None:
        parts, words = _few(parts, settings.train_rows, seed)
        said.append(words)
    used = sum(len(rows) for rows in parts.values())
    leaks["left_out"] = int(table.has_target.sum()) - used
    said.append(", ".join(f"{len(parts[part]):,} {part}" for part in PARTS))
    return Split(parts=parts, how="; ".join(said), units=units, leaks=leaks)


def _few(parts: dict[str, np.ndarray], count: int, seed: int) -> tuple[dict[str, np.ndarray], str]:
    if count >= len(parts["train"]):
        return parts, f"all {len(parts['train']):,} training rows, fewer than the {count:,} of --train-rows"
    random = np.random.default_rng([seed, 1])
    # one order for all numbers, so that more rows contain fewer
    train, validation = (random.permutation(parts[part]) for part in ("train", "validation"))
    chosen = {"train": np.sort(train[:count]), "validation": np.sort(validation[: max(count // 4, LEAST_VALIDATION)])}
    return {**parts, **chosen}, f"{count:,} of {len(train):,} training rows"


def _refuse_empty(table: Table, parts: dict[str, np.ndarray]) -> None:
    remedy = {
        "train": "give more rows, or a smaller --test-fraction",
        "validation": "give more rows, or a larger --validation-fraction",
        "test": "give more rows, a larger --test-fraction, or another --fold",
    }
    for part in PARTS:
        if not len(parts[part]):
            measured = int(table.has_target.sum())
            raise SubquadError(f"{table.path}: no {part} rows in the split of {measured} rows; {remedy[part]}")


def count_folds(table: Table, settings: FitSettings) -> int:
    """Return how many folds there are: those of a column of numbers, else `settings.folds`.

    Raises:
        SubquadError: the column of the split says which rows are the test, so that there is nothing to take in turn.
    """
    name = settings.split
    if name is None:
        return settings.folds
    if name not in table.frame.columns:
        raise SubquadError(f"{table.path}: {unknown('column', name, table.frame.columns)} (--split)")
    words = _words(table.frame, name)[np.asarray(table.has_target)]
    if not _are_folds(words):
        raise SubquadError(
            f"{table.path}: column {name!r} holds no numbers of folds ({', '.join(words.unique()[:3])} …); leave out "
            "--split to have folds cut"
        )
    return int(pd.to_numeric(words[words != ""]).nunique())
