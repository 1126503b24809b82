"""A table of sequences with measurements, read and checked: all mistakes are said at once. Costs one pass.

Axes: n rows, T positions, E covariates.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.columns import Columns, find_columns, find_inputs
from subquad.bio.data.dataset import Inputs, Target
from subquad.bio.data.files import is_missing, read_frame, read_numbers
from subquad.bio.data.inputs import Ask, Read, on_strands, read_covariates, read_inputs
from subquad.bio.data.targets import read_target
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError, collect_errors, raise_errors, unknown

__all__ = ["Table", "read_again", "read_table"]

LEAST_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that was read and checked."""

    path: Path
    frame: pd.DataFrame
    """All columns as text, in the order of the file."""
    inputs: Inputs
    """Of all rows."""
    target: Target | None
    """Of all rows; those that are not in `has_target` hold NaN, -1 or no pairs. None where there is only to predict."""
    sequences: list[str]
    """Full sequences in upper case (with one of T and U); guide and context with `|` between."""
    mutants: list[str] | None
    """`A24G:K30R` of each row, counted from 1 in the wild type, empty for the wild type itself; None where the table
    has no variants."""
    wild_type: str | None
    weight: np.ndarray | None
    """`(n,)`, mean 1 over the rows with a target."""
    groups: np.ndarray | None
    """Text of each row."""
    has_target: np.ndarray
    """`(n,)` of bool."""
    about: dict[str, Any]
    """What `read_again` needs to make the same inputs of another table (JSON)."""
    remarks: list[str]
    """What was guessed or changed, to be said aloud."""


def read_table(
    path: Path | str, settings: FitSettings, *, check: Callable[[pd.DataFrame], None] = lambda frame: None
) -> Table:
    """Return a table with its targets.

    Args:
        path: the file; see `read_frame`.
        settings: which columns are what, wild type and offset, kind, alphabet, and the policy for letters that stand
            for several. What is not said is guessed, and remarked.
        check: a further look at the columns, whose mistakes are said with all others.

    Raises:
        SubquadError: the file cannot be read, columns are not found, or values are wrong; all that is wrong with
            letters, variants, targets, covariates and weights is said at once.
    """
    frame = read_frame(path)
    columns, remarks = find_columns(path, frame, settings)
    ask = Ask(
        sequence=columns.sequence,
        mutant=columns.mutant,
        partner=columns.partner,
        alphabet=settings.alphabet,
        ambiguity=settings.ambiguity,
        wild_type=settings.wild_type,
        offset=settings.offset,
        is_named=settings.mutant is not None,
    )
    read: list[Read] = []

    def inputs() -> Read:
        read.append(read_inputs(path, frame, ask))
        return read[0]

    def target() -> tuple[Target, np.ndarray, list[str]]:
        lengths = read[0].inputs.lengths if read else None
        if lengths is None and columns.sequence is not None:
            lengths = frame[columns.sequence].str.replace(r"\s", "", regex=True).str.len().to_numpy(dtype=np.int64)
        codes = read[0].inputs.codes if read and read[0].about["alphabet"] in ("dna", "rna") else None
        found = read_target(path, frame, columns.target, lengths, task_type=settings.task_type, codes=codes)
        _refuse_nothing_to_learn(path, found[0], found[1])
        return found

    checks: list[Callable[[], Any]] = [inputs, target, lambda: read_covariates(path, frame, columns.covariates, None)]
    checks += [lambda: _weight(path, frame, columns), lambda: check(frame)]
    note = frame.attrs.get("note", "")
    made, (aims, has, said), (covariates, fill, filled), (weight, weighed), _ = collect_errors(*checks, note=note)
    if weight is not None:
        weight = np.where(has, weight / weight[has].mean(), 1.0)
    about = made.about | {"covariates": fill, "target": list(columns.target), "task_type": aims.task_type}
    about |= {"weight": columns.weight, "error": columns.error, "group": columns.group, "split": columns.split}
    about |= {"strands": settings.strands}
    try:
        stranded = on_strands(made.inputs, settings.strands, alphabet=about["alphabet"], task_type=aims.task_type)
    except SubquadError as error:
        raise SubquadError(f"{path}: --{error}") from error
    return Table(
        path=Path(path),
        frame=frame,
        inputs=replace(stranded, covariates=covariates),
        target=aims,
        sequences=made.construct.sequences,
        mutants=made.construct.mutants,
        wild_type=made.construct.wild_type,
        weight=weight,
        groups=None if columns.group is None else frame[columns.group].str.strip().to_numpy(dtype=object),
        has_target=has,
        about=about,
        remarks=[*frame.attrs.get("remarks", []), *remarks, *made.remarks, *said, *filled, *weighed],
    )


def read_again(path: Path | str, about: dict[str, Any], *, sequence: str | None = None) -> Table:
    """Return a table to predict for, read as the one of a fit: with its columns, alphabet, wild type and offset.

    Args:
        path: the file; see `read_frame`. It may hold full sequences or variants, whichever the first one had.
        about: of the first table.
        sequence: column of the sequences; by default the one of the first table, else guessed.

    Raises:
        SubquadError: the file cannot be read, columns are missing, or values are wrong; all are said at once.
    """
    frame = read_frame(path)
    names = {key: about[key] if about[key] in frame.columns else None for key in ("sequence", "mutant", "partner")}
    if about["partner"] is not None and names["partner"] is None:
        raise SubquadError(
            f"{path}: {unknown('column', about['second'], frame.columns)}; the model pairs it with the sequence"
        )
    if sequence is not None:
        names["sequence"], names["mutant"] = sequence, None
    remarks: list[str] = []
    if names["sequence"] is None and (names["mutant"] is None or about["wild_type"] is None):
        names, remarks = find_inputs(path, frame, **names)
    elif sequence is not None:
        find_inputs(path, frame, **names)
    ask = Ask(
        **names,
        alphabet=about["alphabet"],
        ambiguity=about["ambiguity"],
        wild_type=about["wild_type"],
        offset=about["offset"],
        is_again=True,
        length=about["length"],
        laid=about["laid"],
    )
    made, (covariates, _, filled) = collect_errors(
        lambda: read_inputs(path, frame, ask),
        lambda: read_covariates(path, frame, tuple(about["covariates"]), about["covariates"]),
        note=frame.attrs.get("note", ""),
    )
    group = about["group"] if about["group"] in frame.columns else None
    return Table(
        path=Path(path),
        frame=frame,
        inputs=replace(made.inputs, covariates=covariates, is_double=about.get("strands") == "both"),
        target=None,
        sequences=made.construct.sequences,
        mutants=made.construct.mutants,
        wild_type=made.construct.wild_type,
        weight=None,
        groups=None if group is None else frame[group].str.strip().to_numpy(dtype=object),
        has_target=np.zeros(len(frame), dtype=bool),
        about=dict(about),
        remarks=[*frame.attrs.get("remarks", []), *remarks, *made.remarks, *filled],
    )


def _weight(path: Path | str, frame: pd.DataFrame, columns: Columns) -> tuple[np.ndarray | None, list[str]]:
    name = columns.weight or columns.error
    if name is None:
        return None, []
    what = "weights" if columns.weight else "standard errors"
    numbers, remarks = read_numbers(path, frame[name], what)
    # rows that are left out need no weight
    has = ~np.stack([is_missing(frame[target]) for target in columns.target]).all(0)
    wrong = np.flatnonzero(has & ~(numbers > 0))
    raise_errors(
        f"{path}: {what} in column {name!r} must be above 0; mend {len(wrong):,} rows or leave them out",
        [f"row {row + 1}: {frame[name].iloc[row]!r}" for row in wrong],
    )
    numbers = np.where(numbers > 0, numbers, 1.0)
    return (numbers if columns.weight else numbers**-2.0), remarks


def _refuse_nothing_to_learn(path: Path | str, target: Target, has: np.ndarray) -> None:
    """Raise where a target is the same for all, or too few rows have one."""
    rows = int(has.sum())
    name = ", ".join(map(repr, target.names))
    if rows < LEAST_ROWS:
        raise SubquadError(
            f"{path}: {rows} rows with a measurement in {name}; at least {LEAST_ROWS} are needed to learn from"
        )
    nothing = f"{path}: there is nothing to learn from: "
    if target.task_type == "pairs":
        if not any(map(len, target.y)):
            raise SubquadError(f"{nothing}no structure in column {name} has a pair")
        return
    y = target.y[has]
    if target.classes or target.task_type == "residue_binary":
        seen = np.unique(y[y >= 0])
        if len(seen) < 2:
            only = target.classes[seen[0]] if len(seen) else "unknown"
            raise SubquadError(f"{nothing}column {name} has one class only ({only!r})")
        return
    columns = [y.ravel()] if target.task_type == "residue_regression" else list(y.T)
    for label, values in zip(target.names, columns, strict=True):
        known = values[~np.isnan(values)]
        if not len(known) or known.min() == known.max():
            value = f"the same value ({known[0]:g})" if len(known) else "no value"
            raise SubquadError(f"{nothing}column {label!r} has {value} in all rows")
