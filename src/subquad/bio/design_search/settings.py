"""Settings of `design` and of `rounds`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from subquad.bio.settings import Direction
from subquad.errors import SubquadError
from subquad.runs.options import (
    Count,
    Ge,
    Input,
    Model,
    MoreInput,
    MoreModel,
    MoreOutput,
    MoreTraining,
    Natural,
    NonNegative,
    Probability,
    Settings,
)

__all__ = ["AcquisitionKind", "DesignSettings", "RoundsSettings", "SearchSettings"]

AcquisitionKind = Literal["ucb", "ei", "thompson"]
"""Acquisition function; see `subquad.bio.design_search.acquisition`."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings(Settings):
    """Objective and constraints of a search for variants. Positions are numbered as in the table of the fit."""

    start: Input[str | None] = None
    """Sequence to mutate: letters, or a FASTA or text file with one sequence. Default: the wild type of the run."""
    table: MoreInput[str | None] = None
    """Measured variants, which are not designed again. Default: the table of the fit, if its file still exists."""
    max_mutations: Model[Count] = 4
    """Maximum number of mutations per design."""
    fixed: Model[tuple[str, ...]] = ()
    """Positions that must not mutate, such as 1-10 24."""
    only: Model[tuple[str, ...]] = ()
    """The only positions that may mutate, such as 30-60."""
    allow: Model[tuple[str, ...]] = ()
    """The only substitutions allowed at a position, such as 24=AGS 30=KR; other positions stay free. A stop codon (*)
    or a gap (-) is designed only where it is listed here."""
    forbid_letters: Model[str | None] = None
    """Letters that no substitution may introduce, such as CM."""
    gc: MoreModel[tuple[Probability, Probability] | None] = None
    """Lowest and highest GC content of a design, such as 0.4 0.6; DNA and RNA only."""
    forbid_sites: MoreModel[tuple[str, ...]] = ()
    """Sites that no design may contain on either strand: IUPAC sequences or restriction enzymes, such as GAATTC BsaI;
    DNA and RNA only."""
    allow_unobserved: MoreModel[bool] = False
    """Allow letters that were not observed at a position in training; their effect is an extrapolation."""
    direction: Model[Direction | None] = None
    """Whether a high (maximize) or a low (minimize) value of the target is better. Default: maximize, which the page
    and the terminal then call an assumption."""
    target: MoreModel[str | None] = None
    """Target column or class to optimize. Default: the first target column, or the second of two classes."""
    beta: MoreModel[NonNegative | None] = None
    """Weight of the ensemble's standard deviation in the upper confidence bound (UCB) that ranks the designs; 0 ranks
    by the mean prediction, larger values explore. Default: 1, or 0 if the model has a single member and thus no
    standard deviation."""
    diversity: MoreModel[NonNegative] = 0.2
    """Penalty for mutations shared with designs chosen before, as a fraction of the best design's gain; 0 ignores
    similarity."""
    min_distance: MoreModel[Count] = 1
    """Minimum number of substitutions between any two designs."""
    generations: MoreTraining[Count] = 30
    """Maximum number of generations of the evolutionary search, used if there are too many variants to score all of
    them."""
    population: MoreTraining[Annotated[int, Ge(2)]] = 300
    """Number of parents per generation."""
    wells: MoreOutput[Literal["96", "384"]] = "96"
    """Wells per plate."""
    controls: MoreOutput[Natural] = 4
    """Wells per plate that hold the start sequence as a control."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.controls >= int(self.wells):
            raise SubquadError(f"--controls must be below the number of wells, {self.wells}, got {self.controls}")
        if self.fixed and self.only:
            raise SubquadError("--fixed and --only exclude each other; give one of them")
        if self.gc is not None and self.gc[0] > self.gc[1]:
            raise SubquadError(f"--gc must be a lowest and a highest fraction, such as 0.4 0.6, got {self.gc}")


@dataclass(frozen=True, kw_only=True)
class DesignSettings(SearchSettings):
    """Number of designs, objective and constraints of a design."""

    partner: Input[str | None] = None
    """Partner sequence, for a model of pairs of chains; it is not designed. Letters, or a FASTA or text file with one
    sequence."""
    number: Model[Count] = 92
    """Number of designs; 92 designs and 4 controls fill a 96-well plate."""
    allow_measured: MoreModel[bool] = False
    """Allow variants that have already been measured."""


@dataclass(frozen=True, kw_only=True)
class RoundsSettings(SearchSettings):
    """Rounds of proposing, measuring and fitting again."""

    measured: Input[tuple[Path, ...]] = ()
    """Tables with the measurements of proposed variants, such as batch.csv with its empty column filled in."""
    propose: Model[Count | None] = None
    """Number of variants to propose."""
    acquisition: Model[AcquisitionKind] = "ucb"
    """Acquisition function that ranks the variants: ucb (upper confidence bound, with --beta), ei (expected
    improvement over the best measurement), or thompson (each choice by another random member of the model, or by
    another sample from the posterior of a Gaussian process)."""
