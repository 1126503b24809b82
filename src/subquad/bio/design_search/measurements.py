"""Measurements of proposed variants, read back and appended to the table of the fit.

Axes: n rows, K columns of measurements.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from subquad.bio.data.table import Table, read_table
from subquad.bio.models.fitted import BioModel
from subquad.bio.models.measured import classes_of_model, read_measured
from subquad.bio.settings import FitSettings
from subquad.bio.splits.split import make_split
from subquad.errors import SubquadError, collect_errors, raise_errors, unknown

__all__ = ["Measurements", "batch_table", "read_measurements", "settings_of_run"]

SPLIT = "rounds_split"
"""Column with the part of each row, from the second round on."""
TOLERANCE = 1e-6
"""Relative difference below which two measurements are equal."""


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """New measurements beside those of the table of the fit."""

    table: pd.DataFrame
    """The table of the fit with the new rows at its end, as text, and the part of each row in the column `SPLIT`."""
    settings: FitSettings
    """Settings of the next fit: those of the run, with that column as the split."""
    sequences: list[str]
    """Sequences of the new rows."""
    y: np.ndarray
    """`(n, K)` measurements of the new rows, or `(n,)` indices of classes."""
    remarks: list[str]


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of one table."""

    path: Path
    frame: pd.DataFrame
    sequences: list[str]
    y: np.ndarray
    has: np.ndarray

    def value(self, row: int) -> str:
        values = np.ravel(self.y[row])
        return " ".join(f"{value:g}" for value in values)


def settings_of_run(model: BioModel) -> tuple[FitSettings, int]:
    """Return the settings with which a run was fitted, and its seed; what was inferred from its table is fixed.

    Raises:
        SubquadError: An estimator saved the folder, which keeps no settings of a table.
    """
    saved = model.config["subquad"]["settings"]
    if "fingerprint" not in saved:
        raise SubquadError(f"{model.directory}: not fitted by `subquad bio fit`; rounds need its table and settings")
    given, schema = FitSettings.from_dict(saved), model.schema
    settings = replace(
        given,
        sequence=schema.sequence,
        # an inferred column is inferred again, since it may not have been used
        mutant=given.mutant,
        target=tuple(model.names),
        task_type=model.task_type,
        alphabet=schema.alphabet,
        wild_type=schema.wild_type,
        offset=schema.offset if schema.mutant is not None else given.offset,
    )
    return settings, int(saved["seed"])


def read_measurements(
    paths: Sequence[Path | str], table: Path | str, model: BioModel, settings: FitSettings, *, seed: int
) -> Measurements:
    """Return the measurements of tables, appended to the table of the fit.

    Rows without a measurement are left out, and so are rows that repeat a known measurement. All errors of all tables
    are reported together. New rows are training rows; validation and test rows stay those of the run, so that metrics
    of all rounds are comparable, and no measurement is lost to `--train-rows`.

    Args:
        paths: Tables with the columns that the fit reads.
        table: The table of the fit.
        model: The fitted model.
        settings: Its settings, from `settings_of_run`.
        seed: Its seed.

    Raises:
        SubquadError: A table cannot be read or lacks a column, has no measurement, or a measurement differs from
            another one of the same sequence.
    """
    base = read_table(table, settings)
    known = _known(Path(table), base, model)
    read = collect_errors(*(lambda path=path: _read(Path(path), model, settings) for path in paths))
    seen = {}
    for row in np.flatnonzero(known.has):
        seen.setdefault(known.sequences[row], []).append((known, int(row)))
    conflicts, kept, repeated = [], [], 0
    for rows in read:
        for row in np.flatnonzero(rows.has):
            before = seen.setdefault(rows.sequences[row], [])
            if any(np.allclose(rows.y[row], own.y[k], rtol=TOLERANCE, atol=0.0, equal_nan=True) for own, k in before):
                repeated += 1
            elif before:
                own, k = before[0]
                conflicts.append(
                    f"{rows.path}, row {row + 1}: {rows.value(row)}, but {own.path}, row {k + 1}, has {own.value(k)}"
                )
            else:
                before.append((rows, int(row)))
                kept.append((rows, int(row)))
    raise_errors("measurements of one sequence differ; correct them, or give the mean of replicates once:", conflicts)
    missing = sum(int((~rows.has).sum()) for rows in read)
    remarks = [f"{len(kept):,} new measurements"]
    remarks += [f"{missing:,} rows without a measurement are left out"] if missing else []
    remarks += [f"{repeated:,} rows repeat a known measurement and are left out"] if repeated else []
    if not kept:
        raise SubquadError(f"{', '.join(map(str, paths))}: no new measurement; all rows are in {known.path} already")
    new = pd.DataFrame([rows.frame.iloc[row].to_dict() for rows, row in kept]).reindex(
        columns=known.frame.columns, fill_value=""
    )
    frame, settings = _with_split(base, settings, seed=seed)
    new[SPLIT] = "train"
    return Measurements(
        table=pd.concat([frame, new], ignore_index=True),
        settings=settings,
        sequences=[rows.sequences[row] for rows, row in kept],
        y=np.stack([rows.y[row] for rows, row in kept]),
        remarks=remarks,
    )


def _read(path: Path, model: BioModel, settings: FitSettings) -> _Rows:
    read = read_measured(path, model)
    frame = read.table.frame
    absent = [name for name in (settings.group, settings.weight, settings.error) if name and name not in frame.columns]
    if absent:
        raise SubquadError(f"{path}: {unknown('column', absent[0], frame.columns)}; the fit reads it")
    return _Rows(path=path, frame=frame, sequences=read.table.sequences, y=read.y, has=read.has)


def _known(path: Path, table: Table, model: BioModel) -> _Rows:
    """Return the rows of the table of the fit."""
    assert table.target is not None, "the table of a fit has a target"
    y = classes_of_model(path, table.target, model)
    return _Rows(path=path, frame=table.frame, sequences=table.sequences, y=y, has=table.has_target)


def _with_split(table: Table, settings: FitSettings, *, seed: int) -> tuple[pd.DataFrame, FitSettings]:
    """Return the table of a fit with the part of each row as a column, and the settings that use the column."""
    if settings.split == SPLIT:
        return table.frame, settings
    if SPLIT in table.frame.columns:
        raise SubquadError(f"{table.path}: has a column {SPLIT!r}, which rounds write; rename it")
    split = make_split(table, settings, seed=seed)
    part = np.full(len(table.frame), "unused", dtype=object)
    for name, rows in split.parts.items():
        part[rows] = name
    fixed = replace(settings, split=SPLIT, split_by="random", fold=None, train_rows=None)
    return table.frame.assign(**{SPLIT: part}), fixed


def batch_table(designs: pd.DataFrame, model: BioModel) -> pd.DataFrame:
    """Return proposed variants as a table to fill in: with the columns that the fit reads, those of the target empty.

    Args:
        designs: Variants of a `Proposal`.
        model: The model that proposed them.

    Raises:
        SubquadError: A column of the fit has the name of a column of the batch.
    """
    schema = model.schema
    names = {"mutants": schema.mutant or "mutants", "sequence": schema.sequence or "sequence"}
    # a column of variants may be called mutations, like the number of them
    frame = designs.drop(columns=[name for name in names.values() if name == "mutations"]).rename(columns=names)
    for place, name in enumerate(model.names):
        frame.insert(3 + place, name, "", allow_duplicates=True)
    if frame.columns.duplicated().any():
        twice = frame.columns[frame.columns.duplicated()][0]
        raise SubquadError(f"column {twice!r} of the fit is also a column of proposed batches; rename it in the table")
    return frame
