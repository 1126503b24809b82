"""Reading of a table of sequences with measurements; all errors of a table are reported together.

Axes: n rows, T positions, E covariates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.alphabet import is_nucleotide
from subquad.bio.data.columns import (
    Columns,
    expected_columns,
    find_columns,
    find_inputs,
    looks_like_sequences,
    named_inputs,
)
from subquad.bio.data.consistency import check_lengths
from subquad.bio.data.covariates import read_covariates
from subquad.bio.data.dataset import PAD, ROW_TASK_TYPES, Dataset, Inputs, InputSchema, Target
from subquad.bio.data.embeddings import add_embeddings, add_embeddings_like
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.files import column_of, read_frame
from subquad.bio.data.inputs import InputOptions, ReadInputs, check_strands, check_task, read_inputs
from subquad.bio.data.numbers import is_missing, read_numbers, rows_without
from subquad.bio.data.targets import read_target
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError, collect_errors, raise_errors, unknown

__all__ = ["Table", "inputs_of", "read_like", "read_sequences", "read_table"]

MIN_ROWS = 10
MAX_WEIGHT = 10.0
"""Maximum weight of a row from its standard error, as a multiple of the median weight. A standard error far below the
others is that of few replicates which agree by chance, and would let one row decide the fit."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that has been read and checked."""

    path: Path
    frame: pd.DataFrame
    """All columns as text, in the order of the file."""
    inputs: Inputs
    target: Target | None = None
    """Target of all rows; rows outside `has_target` hold NaN, -1 or no pairs. None for a table to predict."""
    sequences: list[str]
    """Full sequences in upper case (with either T or U); `partner|sequence` with partner sequences."""
    mutants: list[str] | None
    """Variant of each row, such as `A24G:K30R`, counted from 1 in the wild type and empty for the wild type itself;
    None if the rows are not variants."""
    wild_type: str | None
    weight: np.ndarray | None = None
    """`(n,)`, with mean 1 over the rows with a target."""
    groups: np.ndarray | None = None
    """Group of each row, as text."""
    has_target: np.ndarray
    """`(n,)` bool."""
    schema: InputSchema
    """How to read another table in the same way."""
    remarks: list[str]
    """What was inferred or changed, to be logged."""

    def with_split(self, split: Mapping[str, np.ndarray], units: np.ndarray | None = None) -> Dataset:
        """Return the dataset with the given split, so that one table serves all folds of a cross-validation.

        Args:
            split: Row numbers of `train`, `validation` and `test`.
            units: `(n,)` index of the unit that the split keeps together.
        """
        assert self.target is not None, "only a table with a target is split"
        weight = None if self.weight is None else self.weight / self.weight[split["train"]].mean()
        return Dataset(inputs=self.inputs, target=self.target, split=dict(split), weight=weight, units=units)


def read_table(
    path: Path | str, settings: FitSettings, *, check: Callable[[pd.DataFrame], None] = lambda frame: None
) -> Table:
    """Read a table with its targets.

    Args:
        path: The file (see `read_frame`), or `example:NAME`.
        settings: Columns, wild type and offset, task type, alphabet and treatment of ambiguous letters; what is not set
            is inferred and remarked on.
        check: Additional check of the columns, whose errors are reported with the others.

    Raises:
        SubquadError: The file cannot be read, columns are not found, or values are invalid; all errors in letters,
            variants, targets, covariates and weights are reported together.
    """
    path = resolve_table(path)
    frame = read_frame(path)
    note = frame.attrs.get("note", "")
    ((columns, remarks),) = collect_errors(lambda: find_columns(path, frame, settings), note=note)
    read: list[ReadInputs] = []

    def inputs() -> ReadInputs:
        read.append(read_inputs(path, frame, _input_options(columns, settings)))
        return read[0]

    def target() -> tuple[Target, np.ndarray, list[str]]:
        lengths = read[0].inputs.chains[0].lengths if read else None
        if lengths is None and columns.sequence is not None:
            lengths = frame[columns.sequence].str.replace(r"\s", "", regex=True).str.len().to_numpy(dtype=np.int64)
        codes = read[0].inputs.codes if read and is_nucleotide(read[0].schema.alphabet) else None
        found = read_target(path, frame, columns.target, lengths, task_type=settings.task_type, codes=codes)
        _check_learnable(path, found[0], found[1])
        if read and settings.lengths == "auto" and found[0].task_type in ROW_TASK_TYPES:
            check_lengths(path, (read[0].inputs.codes != PAD).sum(1))
        return found

    checks: list[Callable[[], Any]] = [inputs, target, lambda: read_covariates(path, frame, columns.covariates, None)]
    checks += [lambda: _weight(path, frame, columns), lambda: check(frame)]
    made, (aims, has, notes), (covariates, fill, filled), (weight, weighted), _ = collect_errors(*checks, note=note)
    if weight is not None:
        weight = np.where(has, weight / weight[has].mean(), 1.0)
    try:
        check_task(made.inputs, alphabet=made.schema.alphabet, task_type=aims.task_type)
    except SubquadError as error:
        raise SubquadError(f"{path}: {error}") from error
    try:
        own = check_strands(made.inputs, settings.strands, alphabet=made.schema.alphabet, task_type=aims.task_type)
    except SubquadError as error:
        raise SubquadError(f"{path}: --{error}") from error
    own, texts = replace(own, covariates=covariates), made.sequences.sequences
    schema = replace(made.schema, covariates=fill, group=columns.group, strands=settings.strands)
    if settings.embeddings is not None:
        own, schema, embedded = add_embeddings(settings.embeddings, own, schema, texts, aims.task_type, table=path)
        weighted = [*weighted, *embedded]
    return Table(
        path=path,
        frame=frame,
        inputs=own,
        target=aims,
        sequences=texts,
        mutants=made.sequences.mutants,
        wild_type=made.sequences.wild_type,
        weight=weight,
        groups=_training_groups(path, frame, columns.group),
        has_target=has,
        schema=schema,
        remarks=[*frame.attrs.get("remarks", []), *remarks, *made.remarks, *notes, *filled, *weighted],
    )


def _input_options(columns: Columns, settings: FitSettings) -> InputOptions:
    """Return how to read the inputs of a training table from its columns."""
    return InputOptions(
        sequence=columns.sequence,
        mutant=columns.mutant,
        partner=columns.partner,
        alphabet=settings.alphabet,
        partner_alphabet=settings.partner_alphabet,
        pairing=settings.pairing,
        ambiguity=settings.ambiguity,
        wild_type=settings.wild_type,
        offset=settings.offset,
        is_mutant_named=settings.mutant is not None,
    )


def read_sequences(
    path: Path | str,
    *,
    sequence: str | None,
    mutant: str | None,
    wild_type: str | None,
    offset: int | None,
    alphabet: str,
) -> Table:
    """Read the sequences of a table as `read_table` does, without targets and covariates; those of a pair without it.

    Args:
        path: The file (see `read_frame`), or `example:NAME`.
        sequence: Column with the sequences; None infers it.
        mutant: Column with the variants; None infers it.
        wild_type: Letters, or a file with one sequence; None infers it.
        offset: Position in the table minus position in the wild type; None infers it.
        alphabet: Name of the alphabet, or `auto`.

    Raises:
        SubquadError: The file cannot be read, columns are not found, or letters or variants are invalid.
    """
    path = resolve_table(path)
    frame = read_frame(path)
    ((columns, remarks),) = collect_errors(
        lambda: find_inputs(path, frame, sequence=sequence, mutant=mutant, partner=None),
        note=frame.attrs.get("note", ""),
    )
    made = read_inputs(
        path,
        frame,
        InputOptions(
            sequence=columns["sequence"],
            mutant=columns["mutant"],
            partner=None,
            alphabet=alphabet,
            ambiguity="any",
            wild_type=wild_type,
            offset=offset,
            is_mutant_named=mutant is not None,
        ),
    )
    return Table(
        path=path,
        frame=frame,
        inputs=made.inputs,
        sequences=made.sequences.sequences,
        mutants=made.sequences.mutants,
        wild_type=made.sequences.wild_type,
        has_target=np.zeros(len(frame), dtype=bool),
        schema=made.schema,
        remarks=[*frame.attrs.get("remarks", []), *remarks, *made.remarks],
    )


def read_like(
    path: Path | str,
    schema: InputSchema,
    *,
    sequence: str | None = None,
    has_flag: bool = False,
    embeddings: Path | str | None = None,
) -> Table:
    """Read a table to predict in the same way as the training table: columns, alphabet, wild type and offset.

    Args:
        path: The file (see `read_frame`), or `example:NAME`; it has full sequences or variants.
        schema: Schema of the training table.
        sequence: Column with the sequences, or with variants of the run's wild type. Default: that of the training
            table, otherwise inferred.
        has_flag: The command has a flag `--sequence` for that column, which messages name.
        embeddings: File with the embeddings of the table, by the same language model as in training.

    Raises:
        SubquadError: The file cannot be read, columns are missing, values are invalid, or embeddings are missing.
    """
    path = resolve_table(path)
    frame = read_frame(path)
    expected = {key: getattr(schema, key) for key in ("sequence", "mutant", "partner")}
    names: dict[str, str | None] = {key: name if name in frame.columns else None for key, name in expected.items()}
    if sequence is not None:
        names |= named_inputs(frame, sequence, schema)
    remarks: list[str] = []
    is_absent = names["sequence"] is None and (names["mutant"] is None or schema.wild_type is None)

    def find() -> None:
        """Find the columns if they are absent, and check the one that `sequence` names."""
        flags = ("--sequence", "--sequence") if has_flag else None
        try:
            found, notes = find_inputs(
                path, frame, sequence=names["sequence"], mutant=names["mutant"], partner=names["partner"], flags=flags
            )
        except SubquadError as error:
            if not is_absent:
                raise
            raise SubquadError(expected_columns(path, frame, schema, has_flag=has_flag)) from error
        if is_absent:
            names.update(found)
            remarks.extend(notes)

    def inputs() -> ReadInputs:
        if schema.partner is not None and names["partner"] is None:
            error = unknown("column", schema.partner, frame.columns)
            raise SubquadError(f"{path}: {error}; the model pairs it with the sequence")
        if is_absent or sequence is not None:
            find()
        try:
            return read_inputs(path, frame, InputOptions.of_schema(schema, **names))
        except SubquadError as error:
            own = names["sequence"]
            if not is_absent or own is None or looks_like_sequences(column_of(frame, own)):
                raise
            # the column was chosen for its name only, and the table may be another one
            raise SubquadError(f"{expected_columns(path, frame, schema, has_flag=has_flag)}\n{error}") from error

    made, (covariates, _, filled) = collect_errors(
        inputs,
        lambda: read_covariates(path, frame, tuple(schema.covariates), schema.covariates),
        note=frame.attrs.get("note", ""),
    )
    own = replace(made.inputs, covariates=covariates, is_double_stranded=schema.strands == "both")
    own = add_embeddings_like(embeddings, own, schema, made.sequences.sequences, table=path)
    return Table(
        path=path,
        frame=frame,
        inputs=own,
        sequences=made.sequences.sequences,
        mutants=made.sequences.mutants,
        wild_type=made.sequences.wild_type,
        groups=_groups(frame, schema.group),
        has_target=np.zeros(len(frame), dtype=bool),
        schema=schema,
        remarks=[*frame.attrs.get("remarks", []), *remarks, *made.remarks, *filled],
    )


def inputs_of(schema: InputSchema, sequences: Sequence[str]) -> Inputs:
    """Return sequences as inputs of a model; a partner sequence precedes `|`, as in `partner|sequence`.

    Raises:
        SubquadError: Letters outside the alphabet, wrong lengths, or the model needs covariates or embeddings.
    """
    if schema.embedding is not None:
        raise SubquadError(
            f"the model was trained with {schema.embedding.title}, which sequences alone do not have; predict a table "
            "of them with --embeddings, or fit a model without embeddings"
        )
    if schema.covariates:
        names = ", ".join(schema.covariates)
        raise SubquadError(f"the model was trained with covariates ({names}), which sequences alone do not have")
    columns = {"sequence": [text.rpartition("|")[2] for text in sequences]}
    if schema.partner is not None:
        columns["partner"] = [text.partition("|")[0] for text in sequences]
    options = InputOptions.of_schema(schema, sequence="sequence", partner="partner" if schema.partner else None)
    # they are not read as variants
    inputs = read_inputs("the sequences", pd.DataFrame(columns), replace(options, wild_type=None)).inputs
    return replace(inputs, is_double_stranded=schema.strands == "both")


def _groups(frame: pd.DataFrame, name: str | None) -> np.ndarray | None:
    return None if name not in frame.columns else frame[name].str.strip().to_numpy(dtype=object)


def _training_groups(path: Path, frame: pd.DataFrame, name: str | None) -> np.ndarray | None:
    """Return the groups of the rows of a training table, each of which must have one."""
    if name is None or name not in frame.columns:
        return None
    column = column_of(frame, name)
    missing = np.flatnonzero(is_missing(column))
    raise_errors(
        f"{path}: {rows_without(len(missing))} group in column {name!r}; complete or remove them",
        [f"row {row + 1}: {column.iloc[row]!r}" for row in missing],
    )
    return _groups(frame, name)


def _weight(path: Path | str, frame: pd.DataFrame, columns: Columns) -> tuple[np.ndarray | None, list[str]]:
    name = columns.weight or columns.error
    if name is None:
        return None, []
    what = "weights" if columns.weight else "standard errors"
    numbers, remarks = read_numbers(path, column_of(frame, name), what)
    # rows without a measurement need no weight
    has = ~np.stack([is_missing(column_of(frame, target)) for target in columns.target]).all(0)
    wrong = np.flatnonzero(has & ~(numbers > 0))
    raise_errors(
        f"{path}: {what} in column {name!r} must be above 0; correct or remove {len(wrong):,} rows",
        [f"row {row + 1}: {frame[name].iloc[row]!r}" for row in wrong],
    )
    numbers = np.where(numbers > 0, numbers, 1.0)
    if columns.weight:
        return numbers, [f"weights: column {name!r}", *remarks]
    remarks.insert(0, f"weights: 1/SE² of {name!r}")
    weight = numbers**-2.0
    most = MAX_WEIGHT * float(np.median(weight[has])) if has.any() else np.inf
    limited = np.flatnonzero(has & (weight > most))
    if len(limited):
        row = int(limited[numbers[limited].argmin()])
        remarks.append(
            f"standard errors: the weights of {len(limited):,} row{'s'[: len(limited) > 1]} are limited to "
            f"{MAX_WEIGHT:g} times the median weight, as if the standard error were {most**-0.5:.3g} (smallest: "
            f"{numbers[row]:.3g} in row {row + 1})"
        )
    return np.minimum(weight, most), remarks


def _check_learnable(path: Path | str, target: Target, has: np.ndarray) -> None:
    """Raise if the target is constant, or if too few rows have one."""
    rows = int(has.sum())
    name = ", ".join(map(repr, target.names))
    if rows < MIN_ROWS:
        unit = "row" if rows == 1 else "rows"
        raise SubquadError(f"{path}: {rows} {unit} with a measurement in {name}; at least {MIN_ROWS} are needed")
    nothing = f"{path}: there is nothing to learn: "
    if target.task_type == "pairs":
        if not any(map(len, target.y)):
            raise SubquadError(f"{nothing}no structure in column {name} has a base pair")
        return
    y = target.y[has]
    if target.classes or target.task_type == "residue_binary":
        present = np.unique(y[y >= 0])
        if len(present) < 2:
            only = target.classes[present[0]] if len(present) else "unknown"
            raise SubquadError(f"{nothing}column {name} has the same value or class ({only!r}) in all rows")
        return
    columns = [y.ravel()] if target.task_type == "residue_regression" else list(y.T)
    for label, values in zip(target.names, columns, strict=True):
        known = values[~np.isnan(values)]
        if not len(known) or known.min() == known.max():
            value = f"the same value ({known[0]:g})" if len(known) else "no value"
            raise SubquadError(f"{nothing}column {label!r} has {value} in all rows")
