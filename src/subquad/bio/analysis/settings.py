"""Settings of `scan` and `epistasis`."""

from collections.abc import Collection
from dataclasses import dataclass, fields

from subquad.bio.settings import Direction
from subquad.errors import SubquadError, flag_name
from subquad.runs.options import Count, Input, Model, Settings

__all__ = ["EpistasisSettings", "ScanSettings", "check_unused"]


def check_unused(settings: "ScanSettings | EpistasisSettings", names: Collection[str], reason: str) -> None:
    """Check that settings without an effect have their default.

    Args:
        settings: The settings.
        names: Fields without an effect.
        reason: Why they have none, as the beginning of the message.

    Raises:
        SubquadError: One of them has another value.
    """
    for field in fields(settings):
        if field.name in names and getattr(settings, field.name) != field.default:
            raise SubquadError(f"{reason}; leave out {flag_name(field.name)}")


@dataclass(frozen=True, kw_only=True)
class ScanSettings(Settings):
    """What to scan, and the measurements to compare with."""

    sequence: Input[str | None] = None
    """Sequence to mutate: letters, or a FASTA or text file with one sequence. Default: the wild type of the run."""
    partner: Input[str | None] = None
    """Partner sequence, for a model of pairs; it stays the same in all mutants. Letters, or a FASTA or text file with
    one sequence."""
    table: Input[str | None] = None
    """Table with measurements to show beside the predictions. Default: the test rows of the run."""
    target: Model[str | None] = None
    """Target column or class to scan. Default: the first target column, the second of two classes, or the likeliest of
    several classes for the wild type."""
    direction: Model[Direction | None] = None
    """Whether a high (maximize) or a low (minimize) value of the target is better, for the order of the mutants and for
    warnings. Default: maximize, which the page and the terminal then call an assumption."""


@dataclass(frozen=True, kw_only=True)
class EpistasisSettings(Settings):
    """Columns of the table of variants, and the number of double mutants that a model predicts."""

    sequence: Input[str | None] = None
    """Column of the sequences of a table. Default: inferred."""
    mutant: Input[str | None] = None
    """Column of variants such as A24G:K30R, of a table without full sequences. Default: inferred."""
    target: Input[str | None] = None
    """Column of the measurements; for a fitted model, the target column or class. Default: inferred, or the first."""
    wild_type: Input[str | None] = None
    """Wild-type sequence: letters, or a FASTA or text file with one sequence. Default: that of the run, which must
    have one; of a table, inferred from its variants, or the most frequent letter at each position."""
    offset: Input[int | None] = None
    """Position in a table minus position in the wild type (counted from 1). Default: inferred from the variants."""
    table: Input[str | None] = None
    """Table with measurements to compare the predictions of a fitted model with."""
    max_double_mutants: Model[Count] = 50_000
    """Maximum number of double mutants that a fitted model predicts; of more, a random sample is predicted."""
