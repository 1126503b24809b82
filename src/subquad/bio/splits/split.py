"""Split of a table into training, validation and test set, and the leakage between them.

The validation set is held out by the same method as the test set (whole clusters, groups or positions), so that model
selection faces the same shift as the test. Cost: one pass over the rows, plus MMseqs2 for clusters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.dataset import PARTS
from subquad.bio.data.files import naming
from subquad.bio.data.numbers import to_numbers
from subquad.bio.data.table import Table
from subquad.bio.settings import FitSettings
from subquad.bio.splits.holdout import (
    Holdout,
    Mutations,
    hold_out_folds,
    hold_out_mutated,
    hold_out_positions,
    hold_out_random,
    hold_out_units,
)
from subquad.bio.splits.leakage import Leakage, find_leakage
from subquad.bio.splits.near_duplicates import equal_sequences
from subquad.bio.splits.split_column import are_folds, column_values, parts_of_column, split_column
from subquad.bio.splits.units import KINDS, units_of
from subquad.errors import SubquadError

__all__ = [
    "Split",
    "SplitMethod",
    "fewer_rows",
    "make_split",
    "split_method",
]

MIN_VALIDATION = 10
"""Minimum number of validation rows if they are reduced along with the training rows."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of each part of a split."""

    parts: dict[str, np.ndarray]
    """Sorted row numbers of `train`, `validation` and `test`."""
    how: str
    """Description of the split in a sentence."""
    units: np.ndarray
    """`(n,)` index of the unit that each row is held out with: sequence, group, cluster, or first mutated position."""
    leakage: Leakage


@dataclass(frozen=True)
class SplitMethod:
    """A method to split a table; it serves all folds."""

    hold_out_test: Holdout
    hold_out_validation: Holdout
    describe: Callable[[dict[str, np.ndarray]], str]
    """Function from the parts to a description."""
    units: np.ndarray
    """See `Split`."""
    equal: np.ndarray
    """`(n,)` index of the sequence of each row; see `equal_sequences`."""


def make_split(table: Table, settings: FitSettings, *, seed: int, method: SplitMethod | None = None) -> Split:
    """Split a table as the settings ask for, or as one of its columns says.

    A column named split or set that contains the value train is used unless the settings ask for another split.
    `settings.fold` selects the test fold. `settings.train_rows` limits the training rows to a random subset, and the
    validation rows to a quarter of that number (at least ten); the test set stays the same. Test rows whose sequence is
    in the training or validation set are removed unless `settings.keep_duplicates`; near-duplicates are removed as
    `settings.leak_distance` says.

    Args:
        table: The table.
        settings: Method, fractions and fold.
        seed: Seed of the split.
        method: Its `split_method`, which serves all folds. Default: made here.

    Raises:
        SubquadError: There is no such column, it has invalid values, the table does not have what the method needs, or
            a part is empty.
    """
    column = split_column(table.frame, settings)
    if column is not None:
        return _from_column(table, settings, column, seed=seed)
    method, random = method or _method(table, settings), np.random.default_rng(seed)
    rows = np.flatnonzero(table.has_target)
    fold = None if settings.fold is None else (settings.fold, settings.folds)
    with naming(table.path):
        test, kept = method.hold_out_test(rows, fraction=settings.test_fraction, fold=fold, random=random)
        fraction = min(settings.validation_fraction * len(rows) / max(len(kept), 1), 0.5)
        validation, train = method.hold_out_validation(kept, fraction=fraction, fold=None, random=random)
    which = "" if fold is None else f", fold {fold[0]} of {fold[1]}"
    parts = {"train": train, "validation": validation, "test": test}
    how = f"{method.describe(parts)}{which}"
    return _finish(table, settings, parts, how, units=method.units, equal=method.equal, is_given=False, seed=seed)


def split_method(table: Table, settings: FitSettings) -> SplitMethod | None:
    """Return the method by which the settings split a table; None if a column of the table says the split.

    Raises:
        SubquadError: The table does not have what the method needs.
    """
    return _method(table, settings) if split_column(table.frame, settings) is None else None


def fewer_rows(
    parts: Mapping[str, np.ndarray], count: int, random: np.random.Generator, random_validation: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the parts of a split with fewer rows: random training rows, and a quarter as many validation rows.

    Args:
        parts: Sorted row numbers of each part.
        count: Number of training rows; there are at least ten validation rows, if the split has them.
        random: Generator that draws the training rows.
        random_validation: Generator that draws the validation rows; it may be the same.
    """
    draws = {"train": (random, count), "validation": (random_validation, max(count // 4, MIN_VALIDATION))}
    # a random order of all rows is the same for all numbers of rows, so that smaller sets are subsets of larger ones
    chosen = {part: np.sort(own.permutation(parts[part])[:size]) for part, (own, size) in draws.items()}
    return {**parts, **chosen}


def _method(table: Table, settings: FitSettings) -> SplitMethod:
    name, equal = settings.split_by, equal_sequences(table.inputs)
    if name == "random":
        # rare classes have at least one row in each part
        test, validation = _random(table, equal, keep=2), _random(table, equal, keep=1)
        what = "pairs" if table.schema.partner else "sequences"
        return SplitMethod(test, validation, lambda _: f"random rows, equal {what} together", equal, equal)
    if name in KINDS:
        units, description = units_of(table, settings)
        hold_out = hold_out_units(units, KINDS[name])
        return SplitMethod(hold_out, hold_out, lambda _: description, units, equal)
    if table.mutants is None:
        raise SubquadError(f"{table.path}: a split by {name} needs variants of one wild type")
    mutations = Mutations.of(table.mutants)
    return _by_number(mutations, equal) if name == "mutations" else _by_position(mutations, equal, settings)


def _random(table: Table, equal: np.ndarray, *, keep: int = 0) -> Holdout:
    target = table.target
    classes = target.y if target is not None and target.task_type in ("binary", "multiclass") else None
    return hold_out_random(equal, classes, keep=keep)


def _by_number(mutations: Mutations, equal: np.ndarray) -> SplitMethod:
    def hold_out_test(rows: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        return hold_out_mutated(mutations, rows, **options)

    def hold_out_validation(rows: np.ndarray, *, fraction: float, fold: Any, random: np.random.Generator) -> Any:
        # the most mutated rows first, in random order within a number of mutations; equal sequences stay together
        _, unit = np.unique(equal[rows], return_inverse=True)
        order = np.lexsort([random.random(unit.max() + 1)[unit], -mutations.count[rows]])
        size, unit = max(1, round(fraction * len(rows))), unit[order]
        borders = np.append(np.flatnonzero(unit[1:] != unit[:-1]) + 1, len(rows))
        size = int(borders[np.searchsorted(borders, size)])
        order = rows[order]
        return np.sort(order[:size]), np.sort(order[size:])

    def describe(parts: dict[str, np.ndarray]) -> str:
        most, least = mutations.count[parts["train"]].max(initial=0), mutations.count[parts["test"]].min(initial=99)
        return f"trained on variants with up to {most} mutation{'s' if most != 1 else ''}, tested on {least} or more"

    return SplitMethod(hold_out_test, hold_out_validation, describe, equal, equal)


def _by_position(mutations: Mutations, equal: np.ndarray, settings: FitSettings) -> SplitMethod:
    is_contiguous = settings.split_by == "contiguous"

    def hold_out_test(
        rows: np.ndarray, *, fold: tuple[int, int] | None, **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        if settings.split_by == "position":
            return hold_out_positions(mutations, rows, fold=fold, **options)
        return hold_out_folds(mutations, rows, fold=fold or (0, settings.folds), is_contiguous=is_contiguous)

    def hold_out_validation(rows: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        return hold_out_positions(mutations, rows, is_contiguous=is_contiguous, **options)

    description = "whole positions; variants mutated at positions of two parts are not used"
    if settings.split_by != "position":
        first = "" if settings.fold is not None else f", fold 0 of {settings.folds}"
        description = f"{settings.split_by} positions as in ProteinGym; variants across folds are not used{first}"
    return SplitMethod(hold_out_test, hold_out_validation, lambda _: description, mutations.first(), equal)


def _from_column(table: Table, settings: FitSettings, name: str, *, seed: int) -> Split:
    frame = table.frame
    values = column_values(table.path, frame, name)
    marked = 0
    if are_folds(values):
        parts, how = _folds_of_column(table, settings, name, values)
    else:
        if settings.fold is not None:
            raise SubquadError(f"{table.path}: column {name!r} assigns rows to the test set and has no folds")
        part = np.where(table.has_target, parts_of_column(table.path, frame, name), "")
        parts = {word: np.flatnonzero(part == word) for word in PARTS}
        how, marked = f"column {name!r}", int((part == "duplicate").sum())
        empty = int((table.has_target & (frame[name].astype(str).str.strip() == "").to_numpy()).sum())
        if empty:
            how += f" (empty in {empty:,} measured rows, which are not used)"
        absent = [word for word in ("train", "test") if not len(parts[word])]
        if absent:
            raise SubquadError(f"{table.path}: column {name!r} has no measured row with the value {absent[0]}")
    groups, equal = _own_groups(table, parts), equal_sequences(table.inputs)
    if not len(parts["validation"]):
        # the validation set is drawn from training, in whole groups if the test set has groups of its own
        hold_out, drawn = _random(table, equal), "validation rows drawn from training"
        if groups is not None:
            hold_out, drawn = hold_out_units(groups, "groups"), "validation groups drawn from training"
        parts["validation"], parts["train"] = hold_out(
            parts["train"], fraction=settings.validation_fraction, fold=None, random=np.random.default_rng(seed)
        )
        how += f", {drawn}"
    units = equal if groups is None else groups
    return _finish(table, settings, parts, how, units=units, equal=equal, is_given=True, marked=marked, seed=seed)


def _folds_of_column(
    table: Table, settings: FitSettings, name: str, values: pd.Series
) -> tuple[dict[str, np.ndarray], str]:
    numbers = to_numbers(values)
    numbers[~table.has_target] = np.nan
    known = np.unique(numbers[~np.isnan(numbers)])
    fold = settings.fold or 0
    if fold >= len(known) or len(known) < 2:
        raise SubquadError(f"{table.path}: column {name!r} has {len(known)} folds with measured rows, no fold {fold}")
    parts = {"train": np.flatnonzero(~np.isnan(numbers) & (numbers != known[fold]))}
    parts |= {"validation": np.zeros(0, dtype=np.int64), "test": np.flatnonzero(numbers == known[fold])}
    return parts, f"column {name!r}, fold {known[fold]:.0f} of {len(known)} as test"


def _own_groups(table: Table, parts: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return the group of each row if the test set has groups of its own, otherwise None."""
    if table.groups is None:
        return None
    groups = np.unique(np.asarray(table.groups).astype(str), return_inverse=True)[1].reshape(-1)
    trained = groups[parts["train"]]
    return groups if len(np.unique(trained)) > 1 and not np.isin(groups[parts["test"]], trained).any() else None


def _finish(
    table: Table,
    settings: FitSettings,
    parts: dict[str, np.ndarray],
    how: str,
    *,
    units: np.ndarray,
    equal: np.ndarray,
    is_given: bool,
    marked: int = 0,
    seed: int,
) -> Split:
    """Return the split without leaking test rows, and with at most `settings.train_rows` training rows."""
    _check_parts(table, parts)
    leakage, test = find_leakage(table, settings, parts, equal, is_given=is_given)
    notes = [how]
    if leakage.removed:
        has_near = leakage.near_duplicates and not leakage.kept_because
        near = f", or near-duplicates ({leakage.definition})" if has_near else ""
        notes.append(f"{leakage.removed:,} test rows removed that are in training or validation{near}")
    if leakage.homologs:
        is_clustered = settings.split_by == "homology"
        remedy = "a lower --identity separates more of them" if is_clustered else "--split-by homology separates them"
        notes.append(
            f"{leakage.homologs:,} test rows have homologs in training or validation ({leakage.homology}); {remedy}"
        )
    if not len(test):
        raise SubquadError(
            f"{table.path}: all test rows are (nearly) equal to training or validation rows; none is left"
        )
    parts = {**parts, "test": test}
    if settings.train_rows is not None:
        count, limit = len(parts["train"]), settings.train_rows
        note = f"all {count:,} training rows, fewer than the {limit:,} of --train-rows"
        if limit < count:
            random = np.random.default_rng([seed, 1])
            parts, note = fewer_rows(parts, limit, random, random), f"{limit:,} of {count:,} training rows"
        notes.append(note)
    unused = int(table.has_target.sum()) - sum(len(rows) for rows in parts.values())
    notes.append(", ".join(f"{len(parts[part]):,} {part}" for part in PARTS))
    return Split(parts=parts, how="; ".join(notes), units=units, leakage=replace(leakage, marked=marked, unused=unused))


def _check_parts(table: Table, parts: dict[str, np.ndarray]) -> None:
    for part in PARTS:
        if not len(parts[part]):
            sequences = {table.sequences[row] for row in np.flatnonzero(table.has_target)}
            raise SubquadError(
                f"{table.path}: no {part} rows in the split of {table.has_target.sum():,} rows; equal sequences stay "
                f"together, and {len(sequences):,} are different"
            )
