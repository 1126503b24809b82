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
    find_columns,
    find_inputs,
    named_inputs,
)
from subquad.bio.data.consistency import check_lengths
from subquad.bio.data.covariates import read_covariates
from subquad.bio.data.dataset import PAD, ROW_TASK_TYPES, Dataset, Inputs, InputSchema, Target
from subquad.bio.data.embeddings import add_embeddings, add_embeddings_like
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.files import column_of, naming, read_frame
from subquad.bio.data.inputs import InputOptions, ReadInputs, check_strands, check_task, read_inputs
from subquad.bio.data.numbers import is_missing, read_numbers, rows_without
from subquad.bio.data.targets import read_target
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError, collect_errors, counted, raise_errors, unknown

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
    columns, remarks = find_columns(path, frame, settings)
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
    made, (aims, has, notes), (covariates, fill, filled), (weight, weighted), _ = collect_errors(*checks)
    if weight is not None:
        weight = np.where(has, weight / weight[has].mean(), 1.0)
    with naming(path):
        check_task(made.inputs, alphabet=made.schema.alphabet, task_type=aims.task_type)
        own = check_strands(made.inputs, settings.strands, alphabet=made.schema.alphabet, task_type=aims.task_type)
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
    columns, remarks = find_inputs(path, frame, sequence=sequence, mutant=mutant, partner=None)
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
    embeddings: Path | str | None = None,
) -> Table:
    """Read a table to predict in the same way as the training table: columns, alphabet, wild type and offset.

    Args:
        path: The file (see `read_frame`), or `example:NAME`; it has full sequences or variants.
        schema: Schema of the training table.
        sequence: Column with the sequences, or with variants of the run's wild type. Default: that of the training
            table, otherwise inferred.
        embeddings: File with the embeddings of the table, by the same language model as in training.

    Raises:
        SubquadError: The file cannot be read, columns are missing, values are invalid, or embeddings are missing.
    """
    path = resolve_table(path)
    frame = read_frame(path)
    expected = {key: getattr(schema, key) for key in ("sequence", "mutant", "partner")}
    names: dict[str, str | None] = {key: name if name in frame.columns else None for key, name in expected.items()}
    if schema.partner is not None and names["partner"] is None:
        raise SubquadError(f"{path}: {unknown('column', schema.partner, frame.columns)}; the model reads pairs")
    if sequence is not None:
        names |= named_inputs(frame, sequence, schema)
    remarks: list[str] = []
    is_absent = names["sequence"] is None and (names["mutant"] is None or schema.wild_type is None)
    if sequence is not None or is_absent:
        inferred = find_inputs(path, frame, excluded=(), **names)
        names, remarks = inferred if is_absent else (names, [])
    made, (covariates, _, filled) = collect_errors(
        lambda: read_inputs(path, frame, InputOptions.of_schema(schema, **names)),
        lambda: read_covariates(path, frame, tuple(schema.covariates), schema.covariates),
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
    others = [*schema.covariates, *([] if schema.embedding is None else [schema.embedding.title])]
    if others:
        raise SubquadError(f"the model also reads {', '.join(others)}, which sequences alone do not have")
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
        f"{path}: {rows_without(len(missing))} group in column {name!r}",
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
        f"{path}: {len(wrong):,} {what} in column {name!r} are not above 0",
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
        remarks.append(
            f"standard errors: {counted(len(limited), 'weight')} limited to {MAX_WEIGHT:g} times the median, that of a "
            f"standard error of {most**-0.5:.3g}"
        )
    return np.minimum(weight, most), remarks


def _check_learnable(path: Path | str, target: Target, has: np.ndarray) -> None:
    """Raise if the target is constant, or if too few rows have one."""
    rows, names = int(has.sum()), list(target.names)
    if rows < MIN_ROWS:
        raise SubquadError(f"{path}: {counted(rows, 'row')} with a measurement; at least {MIN_ROWS} are needed")
    if target.task_type == "pairs":
        constant = [] if any(map(len, target.y)) else names
    elif target.classes or target.task_type == "residue_binary":
        constant = [] if len(np.unique(target.y[target.y >= 0])) > 1 else names
    else:
        y = target.y[has]
        columns = [y.ravel()] if target.task_type == "residue_regression" else y.T
        known = [values[~np.isnan(values)] for values in columns]
        constant = [name for name, values in zip(names, known, strict=True) if len(np.unique(values)) < 2]
    if constant:
        raise SubquadError(f"{path}: nothing to learn, since column {constant[0]!r} has one value in all rows")
