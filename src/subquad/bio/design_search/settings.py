"""Settings of `design` and of `rounds`."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal, get_args

from annotated_types import Ge, MinLen

from subquad.bio.settings import Direction
from subquad.errors import SubquadError, flag_name
from subquad.runs.options import (
    Count,
    Distinct,
    Fraction,
    Input,
    Model,
    MoreInput,
    MoreModel,
    MoreOutput,
    MoreTraining,
    Natural,
    NonNegative,
    Output,
    Probability,
    Seed,
    Settings,
    Training,
)

__all__ = [
    "ONLY_SIMULATED",
    "STRATEGIES",
    "AcquisitionKind",
    "DesignSettings",
    "RoundsSettings",
    "SearchSettings",
    "Strategy",
]

AcquisitionKind = Literal["ucb", "ei", "thompson"]
"""Acquisition function; see `subquad.bio.design_search.acquisition`."""
Strategy = Literal["ensemble", "gp", "ridge", "random"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
"""What chooses the rows of a simulated round: a model, or chance."""
NOT_SIMULATED = frozenset((
    "start", "table", "max_mutations", "fixed", "only", "allow", "forbid_letters", "gc", "forbid_sites",
    "allow_unobserved", "generations", "population", "wells", "controls",
))  # fmt: skip
"""Settings of new variants, which a simulation does not make."""
ONLY_SIMULATED = frozenset((
    "strategies", "models", "sequence", "mutant", "wild_type", "assay_rows", "start_rows", "rounds", "seeds", "tokens",
    "ensemble_size", "hit_fraction",
))  # fmt: skip
"""Settings of the assay and of the replay."""


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
    """Rounds of proposing, measuring and fitting again, in the laboratory or simulated on a complete assay."""

    measured: Input[tuple[str, ...]] = ()
    """Tables with the measurements of proposed variants, such as batch.csv with its empty column filled in."""
    propose: Model[Count | None] = None
    """Number of variants to propose; with --simulate, per round (default there: 20)."""
    acquisition: Model[AcquisitionKind] = "ucb"
    """Acquisition function that ranks the variants: ucb (upper confidence bound, with --beta), ei (expected
    improvement over the best measurement), or thompson (each choice by another random member of the model, or by
    another sample from the posterior of a Gaussian process)."""
    simulate: Model[bool] = False
    """Replay the loop on a complete assay: the source is then a table, and each round chooses from its unmeasured
    rows."""
    strategies: Model[Annotated[tuple[Strategy, ...], MinLen(1), Distinct()]] = STRATEGIES
    """With --simulate: what chooses the rows. ensemble: the models of --models; gp: a Gaussian process; ridge: an
    additive model, which has no standard deviation; random."""
    models: Model[Annotated[tuple[str, ...], MinLen(1), Distinct()]] = ("ridge", "boosting", "lyra")
    """With --simulate: models of the strategy `ensemble`."""
    sequence: Input[str | None] = None
    """With --simulate: column of the sequences. Default: inferred."""
    mutant: Input[str | None] = None
    """With --simulate: column of the variants, for tables without full sequences. Default: inferred."""
    wild_type: Input[str | None] = None
    """With --simulate: wild-type sequence of the variants. Default: inferred from the full sequences."""
    assay_rows: Input[Annotated[int, Ge(100)] | None] = None
    """With --simulate: maximum number of rows of the assay, drawn at random. Default: all."""
    start_rows: Training[Annotated[int, Ge(20)]] = 50
    """With --simulate: number of random rows that are measured before the first round."""
    rounds: Training[Count] = 5
    """With --simulate: number of rounds."""
    seeds: Training[Annotated[tuple[Seed, ...], MinLen(1), Distinct()]] = (0, 1, 2)
    """With --simulate: seeds of the start rows and of the models; the loop is replayed once per seed."""
    tokens: Training[Count] = 100_000
    """With --simulate: training budget of each network, in tokens (letters of the sequences)."""
    ensemble_size: Training[Count] = 2
    """With --simulate: number of networks of `lyra`."""
    hit_fraction: Output[Fraction] = 0.01
    """With --simulate: fraction of the assay, the best rows, that counts as hits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.simulate and self.measured:
            raise SubquadError("--simulate takes all measurements from its table; leave out --measured")
        for field in fields(self):
            if getattr(self, field.name) != field.default:
                if self.simulate and field.name in NOT_SIMULATED:
                    raise SubquadError(f"--simulate chooses rows of its table; leave out {flag_name(field.name)}")
                if not self.simulate and field.name in ONLY_SIMULATED:
                    raise SubquadError(
                        f"{flag_name(field.name)} belongs to --simulate; leave it out, or add --simulate"
                    )

    @property
    def batch_size(self) -> int:
        """Number of rows that each simulated round chooses."""
        return 20 if self.propose is None else self.propose
