"""Column roles of a table: named by the user, or inferred from column names and a sample of the rows."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd

from subquad.bio.data.dataset import InputSchema
from subquad.bio.data.files import column_of, sample_of
from subquad.bio.data.numbers import is_missing, look_like_numbers, to_numbers
from subquad.bio.data.variants import looks_like_variants
from subquad.bio.settings import ALPHABETS, FitSettings
from subquad.errors import SubquadError, collect_errors, shortened, unknown

__all__ = [
    "SPLIT_NAMES",
    "Columns",
    "find_columns",
    "find_inputs",
    "looks_like_sequences",
    "named_inputs",
]

SEQUENCE_NAMES = ("sequence", "seq", "mutated_sequence", "protein", "guide", "peptide", "x")
GUIDE_NAMES = ("guide", "grna", "sgrna", "spacer", "crrna")
CONTEXT_NAMES = ("context", "target_context", "target_sequence", "target")
MUTANT_NAMES = ("mutant", "mutants", "mutation", "mutations", "variant", "variants", "hgvs_pro", "hgvs_nt", "hgvs")
NAMES_OF_LETTERS = {*SEQUENCE_NAMES, *GUIDE_NAMES, *MUTANT_NAMES} - {"x"}
"""Names of columns that never have numbers."""
TARGET_NAMES = ("target", "score", "dms_score", "label", "fitness", "activity", "y")
SPLIT_NAMES = ("split", "set")
SAMPLE_ROWS = 2000
MOST_NAMES = 10
"""Columns that an error names."""
MIN_HEADER_LETTERS = 5
"""Minimum length of a column name that may be a sequence."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns that are read; None or empty if there is none."""

    sequence: str | None = None
    mutant: str | None = None
    partner: str | None = None
    target: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    weight: str | None = None
    error: str | None = None
    group: str | None = None


def find_columns(path: Path | str, frame: pd.DataFrame, settings: FitSettings) -> tuple[Columns, list[str]]:
    """Return the columns to read, and a remark on each inferred role.

    Raises:
        SubquadError: A named column does not exist, or a role cannot be inferred.
    """
    _check_header(path, frame)
    flags = {"--weight": settings.weight, "--error": settings.error, "--group": settings.group}
    flags |= {"--split": settings.split}
    named: list[tuple[str, str]] = [(flag, name) for flag, name in flags.items() if name is not None]
    named += [("--target", name) for name in settings.target]
    checks: list[Callable] = [lambda pair=pair: _known(path, frame, pair[1], pair[0]) for pair in named]
    checks.append(lambda: _covariates(path, frame, settings))
    checks.append(
        lambda: find_inputs(
            path, frame, sequence=settings.sequence, mutant=settings.mutant, partner=settings.partner, excluded=named
        )
    )
    *_, covariates, (inputs, remarks) = collect_errors(*checks)
    group = settings.group
    lower = {str(name).lower(): name for name in frame.columns}
    if group is None and "group" in lower and lower["group"] not in settings.target:
        group = lower["group"]
        remarks.append(f"groups: column {group!r} (inferred; --group overrides)")
    splits = [settings.split, *(lower[name] for name in SPLIT_NAMES if name in lower)]
    taken = [*inputs.values(), *covariates, settings.weight, settings.error, group, *splits]
    target = settings.target or _infer_target(path, frame, [name for name in taken if name is not None], remarks)
    if any(pattern not in covariates for pattern in settings.covariates):
        remarks.append(f"covariates: {', '.join(covariates)}")
    twice = [name for name, count in Counter([*target, *covariates]).items() if count > 1]
    if twice or set(target) & set(inputs.values()):
        shown = ", ".join(map(repr, twice or sorted(set(target) & set(inputs.values()))))
        raise SubquadError(f"{path}: column {shown} has two roles; a column is either a target or an input")
    columns = Columns(
        **inputs,
        target=target,
        covariates=covariates,
        weight=settings.weight,
        error=settings.error,
        group=group,
    )
    return columns, remarks


def find_inputs(
    path: Path | str,
    frame: pd.DataFrame,
    *,
    sequence: str | None,
    mutant: str | None,
    partner: str | None,
    excluded: Sequence[tuple[str, str]] = (),
) -> tuple[dict[str, str | None], list[str]]:
    """Return the columns `sequence`, `mutant` and `partner`, inferred unless given, and remarks.

    Args:
        path: The table, for messages.
        frame: Its columns as text.
        sequence: Column with the sequences.
        mutant: Column with the variants.
        partner: Column with the partner sequences.
        excluded: Flags and the columns that they name, which have other roles.

    Raises:
        SubquadError: A named column does not exist, or neither sequences nor variants are found.
    """
    given = {"--sequence": sequence, "--mutant": mutant, "--partner": partner}
    checks = [
        lambda flag=flag, name=name: _known(path, frame, name, flag) for flag, name in given.items() if name is not None
    ]
    collect_errors(*checks)
    remarks = []
    left = [name for name in frame.columns if name not in [name for _, name in excluded]]
    likely = [name for name in left if looks_like_sequences(column_of(frame, name))]
    variants = [name for name in left if looks_like_variants(column_of(frame, name))]
    for name in (sequence, mutant, partner):
        if name is not None and _has_numbers(frame, name):
            raise SubquadError(f"{path}: column {name!r} has numbers, not sequences or variants")
    if partner is None and sequence is None:
        partner = _named(GUIDE_NAMES, likely)
        sequence = _named(CONTEXT_NAMES, likely) if partner is not None else None
        if sequence is None or _named(("sequence",), likely) or not _are_nucleotides(frame, (sequence, partner)):
            sequence = partner = None
        else:
            remarks.append(f"contexts: column {sequence!r}, guides: column {partner!r} (inferred)")
    elif sequence is None:
        sequence = _named(CONTEXT_NAMES, [name for name in likely if name != partner])
    if mutant is None:
        mutant = _named(MUTANT_NAMES, variants) or (variants[0] if len(variants) == 1 else None)
        if mutant is not None:
            remarks.append(f"variants: column {mutant!r} (inferred; --mutant overrides)")
    if sequence is None:
        sequence = _infer_sequence(path, frame, left, [name for name in likely if name != partner], mutant)
        if sequence is not None:
            remarks.append(f"sequences: column {sequence!r} (inferred; --sequence overrides)")
    return {"sequence": sequence, "mutant": mutant, "partner": partner}, remarks


def named_inputs(frame: pd.DataFrame, name: str, schema: InputSchema) -> dict[str, str | None]:
    """Return the roles of the column that `--sequence` names: sequences, or variants of the wild type of a run."""
    is_variants = False
    if schema.wild_type is not None and name in frame.columns:
        column = column_of(frame, name)
        is_variants = looks_like_variants(column)
    return {"sequence": None, "mutant": name} if is_variants else {"sequence": name, "mutant": None}


def _check_header(path: Path | str, frame: pd.DataFrame) -> None:
    """Check that the names of the columns are not the first row, or those of the next columns."""
    letters = set("".join(ALPHABETS.values())) - {"-"}
    names = [str(name) for name in frame.columns]
    numbers = np.isfinite(to_numbers(pd.Series(names))).any()
    likely = [name for name in names if len(name) >= MIN_HEADER_LETTERS and set(name) <= letters]
    if numbers and any(looks_like_sequences(column_of(frame, name)) for name in likely):
        raise SubquadError(f"{path}: no header; add a line with the names of the columns, such as sequence,value")
    misplaced = [name for name in names if name.lower() in NAMES_OF_LETTERS and _has_numbers(frame, name)]
    if (
        "" in names
        and misplaced
        and any(looks(column_of(frame, "")) for looks in (looks_like_sequences, looks_like_variants))
    ):
        raise SubquadError(f"{path}: the rows have one value more than the header; name all columns")


def _infer_sequence(
    path: Path | str, frame: pd.DataFrame, left: list[str], likely: list[str], mutant: str | None
) -> str | None:
    if mutant is not None and not likely:
        return None
    # if no column looks like sequences, the name counts, so that invalid letters are reported
    named = _named(SEQUENCE_NAMES, likely or left)
    if named is not None:
        return named
    if len(likely) == 1:
        return likely[0]
    shown = ", ".join(map(shortened, (likely or [name for name in left if name])[:MOST_NAMES]))
    what = "several columns look like sequences" if likely else "no column looks like sequences or variants"
    raise SubquadError(f"{path}: {what} ({shown}); name the column with --sequence or --mutant")


def _infer_target(path: Path | str, frame: pd.DataFrame, taken: list[str], remarks: list[str]) -> tuple[str, ...]:
    left = [name for name in frame.columns if name not in taken and not _is_index(name)]
    named = _named(TARGET_NAMES, left)
    numbers = [name for name in left if _has_numbers(frame, name)]
    for candidate in (named, left[0] if len(left) == 1 else None, numbers[0] if len(numbers) == 1 else None):
        if candidate is not None:
            remarks.append(f"target: column {candidate!r} (inferred; --target overrides)")
            return (candidate,)
    shown = ", ".join(map(shortened, (numbers or left or [name for name in frame.columns if name])[:MOST_NAMES]))
    what = f"several columns may be the target ({shown}); name it with --target" if left else "has no measurements"
    raise SubquadError(f"{path}: {what}")


def _has_numbers(frame: pd.DataFrame, name: str) -> bool:
    sample = column_of(frame, name).head(SAMPLE_ROWS)
    return look_like_numbers(sample).sum() > 0.9 * (~is_missing(sample)).sum()


def _is_index(name: str) -> bool:
    """Return whether a column numbers or names the rows, or is one of several splits."""
    lower = name.lower()
    return lower in ("", "index", "id", "name", "unnamed: 0", *SPLIT_NAMES) or lower.startswith("split_")


def _named(usual: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((column for name in usual for column in columns if column.lower() == name), None)


def _known(path: Path | str, frame: pd.DataFrame, name: str, flag: str) -> str:
    if name not in frame.columns:
        raise SubquadError(f"{path}: {flag}: {unknown('column', name, [name for name in frame.columns if name])}")
    return name


def _covariates(path: Path | str, frame: pd.DataFrame, settings: FitSettings) -> tuple[str, ...]:
    others = {settings.sequence, settings.mutant, settings.partner, settings.weight, settings.error, *settings.target}
    others |= {settings.group, settings.split}
    if not settings.target:
        # what the target will be inferred from
        others |= {name for name in frame.columns if name.lower() in TARGET_NAMES}
    found: dict[str, None] = {}
    checks = []
    for pattern in settings.covariates:
        is_pattern = any(sign in pattern for sign in "*?[")
        if is_pattern:
            names = [name for name in frame.columns if fnmatchcase(name, pattern) and name not in others]
        else:
            names = [pattern] if pattern in frame.columns else []
        if names:
            found |= dict.fromkeys(names)
        else:
            checks.append(lambda pattern=pattern: _known(path, frame, pattern, "--covariates"))
    collect_errors(*checks)
    return tuple(found)


def _sample(column: pd.Series) -> pd.Series:
    return sample_of(column).str.strip().str.upper()


def looks_like_sequences(column: pd.Series) -> bool:
    """Return whether most letters of a column are those of sequences."""
    sample = _sample(column)
    if sample.empty or sample.str.len().median() < 4:
        return False
    letters = Counter("".join(sample))
    allowed = set(ALPHABETS["protein_gap"]) | set("UNX.")
    valid = sum(count for letter, count in letters.items() if letter in allowed)
    # labels of residues (H, E, C) are amino acids too, but few; class names such as "train" repeat
    is_labels = letters.total() > 100 and len(letters) <= 4 and not set(letters) <= set("ACGTUN")
    return valid >= 0.95 * letters.total() and not is_labels and sample.nunique() > min(10, len(sample) // 4)


def _are_nucleotides(frame: pd.DataFrame, names: Sequence[str | None]) -> bool:
    letters = Counter("".join("".join(_sample(column_of(frame, name))) for name in names if name is not None))
    return sum(letters[letter] for letter in "ACGTUN") > 0.95 * letters.total()
