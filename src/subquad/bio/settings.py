"""What a user can set for sequences with measurements. Imports the standard library only, to start fast."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from subquad.errors import SubquadError, unknown, validate_choices

__all__ = ["ALPHABETS", "PRESETS", "FitSettings", "Kind", "refuse_other_presets"]

ALPHABETS = {
    "dna": "ACGT",
    "rna": "ACGU",
    "protein": "ACDEFGHIKLMNPQRSTVWY",
    "protein_stop": "ACDEFGHIKLMNPQRSTVWY*",
}
"""Name and letters; `protein_stop` has `*`, a stop codon, as a letter of its own."""

FEWEST = 10
"""Training rows of a point of a learning curve, at least."""
PRESETS = ("auto", "paper")
"""Nets there are."""


def refuse_other_presets(presets: Iterable[str]) -> None:
    """Check names of presets.

    Raises:
        SubquadError: one that is none of them.
    """
    for preset in presets:
        if preset not in PRESETS:
            raise unknown("preset", preset, PRESETS)


Kind = Literal[
    "regression",
    "binary",
    "multiclass",
    "multilabel",
    "residue_regression",
    "residue_binary",
    "residue_multiclass",
    "pairs",
]
"""Of a target; see `subquad.bio.data.dataset.Target`."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Which columns to read, how to split, and how to learn."""

    sequence: str | None = None
    """Column of the sequences; guessed where it is not given. With `second`, the target context, the longer one."""
    mutant: str | None = None
    """Column of variants (A24G:K30R, p.Ala24Gly …) of a table without full sequences; guessed where it is not given."""
    wild_type: str | None = None
    """The sequence that variants are of: letters, or a FASTA file. Found from full sequences where they are there."""
    offset: int | None = None
    """What to take off a variant's position to get the place in the wild type, from 1; found from the variants."""
    second: str | None = None
    """Column of a second channel that pairs with the sequence, such as the guide of a target context."""
    target: tuple[str, ...] = ()
    """Column or columns of the measurements or classes; guessed where none is given. Several are learned together."""
    extra: tuple[str, ...] = ()
    """Columns of further numbers to learn from, such as ESM or EVE scores; `*` stands for any letters."""
    weight: str | None = None
    """Column that says how much each row counts in learning."""
    error: str | None = None
    """Column of standard errors of the measurements; rows count by the inverse square."""
    group: str | None = None
    """Column of groups (gene, family) that are kept together in a split by group, and told apart in the report."""
    split: str | None = None
    """Column of train, validation and test; a column called split or set is taken."""
    kind: Literal["auto", Kind] = "auto"
    """What the target is; seen from the column where it is not said."""
    alphabet: Literal["auto", "dna", "rna", "protein", "protein_stop"] = "auto"
    """Auto: the smallest alphabet that holds all letters."""
    ambiguity: Literal["any", "refuse"] = "any"
    """Letters that stand for several (N, X, B …): any takes equal parts of all letters, refuse calls them mistakes."""
    split_by: Literal["random", "group", "homology", "mutations", "position", "modulo", "contiguous"] = "random"
    """Where no column says: random rows, whole groups, clusters of similar sequences (MMseqs2), most mutated variants
    as test, whole mutated positions at random, or ProteinGym's modulo and contiguous positions."""
    identity: float = 0.5
    """Least identity of two sequences in one cluster, in a split by homology."""
    folds: int = 5
    """Parts in a cross-validation; in a split by modulo or contiguous positions also the parts of the protein."""
    fold: int | None = None
    """Which of the folds is the test, from 0; not given: `test_fraction` of the rows."""
    test_fraction: float = 0.15
    """Part of the rows kept for the test."""
    validation_fraction: float = 0.1
    """Part of the rows that choices are made on."""
    train_rows: int | None = None
    """Learn from so many rows only, drawn at random from the training rows."""
    keep_duplicates: bool = False
    """Keep test rows whose sequence is in training too, and near copies unless `near` says otherwise; else they are
    counted, reported and left out of the test."""
    near: int | None = None
    """Leave out near copies: test rows within so many substitutions of a training row (or one insertion or deletion, or
    its reverse complement); 0 keeps them. By default they are left out within 1, but counted only where a column gave
    the split, and in libraries of variants, whose rows are near copies of each other."""
    strands: Literal["one", "both"] = "one"
    """Both: double-stranded DNA that may be read from either side (enhancers, binding sites); all models also learn the
    reverse complements, and predict the mean of both. One: guides, promoters, all whose strand is known."""
    preset: Literal["auto", "paper"] = "auto"
    """Auto: Lyra with positions beside an additive path started from ridge. Paper: the net as published, alone."""
    members: int | None = None
    """Nets with different seeds whose predictions are averaged; from two on there is a `prediction_std`. By default as
    many as `letters` allows, at most five: few data want more."""
    epochs: float | None = None
    """Passes over the training rows; by default what `letters` allows, at least 0.3 and at most 40."""
    letters: int = 5_000_000
    """Letters that training goes over where `epochs` is not given; about a minute."""
    batch: int | None = None
    """Sequences in a step; by default few enough for 2,000 steps, at most 128."""
    learning_rate: float = 3e-3
    """The highest rate of the cycle."""
    weight_decay: float = 0.3
    """Pull of the net to zero, and of the additive path to ridge."""
    transform: Literal["auto", "none", "rank"] = "auto"
    """Of measurements before learning: none standardises them; rank takes their ranks as normal quantiles; auto ranks
    where they are far from normal."""
    boosting_iterations: int | None = None
    """Most trees of the boosting; by default what keeps it to about a minute, at most 300."""
    learning_curve: int = 0
    """Also fit all models on a half, a quarter … of the training rows, so many times: would more rows help?"""
    learning_sizes: str | None = None
    """Training rows of the learning curve in place of halves, with commas between, such as 24,48,96: would few do?"""
    learning_repeats: int = 1
    """Drawings of each size of the learning curve: the mean is shown, with their spread."""
    stack_folds: int = 1
    """Folds of the training rows whose held-out predictions weigh the models of the stack; 1: the validation rows."""

    def __post_init__(self) -> None:
        validate_choices(self)
        for name in ("test_fraction", "validation_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise SubquadError(f"--{_flag(name)} must be between 0 and 1, got {getattr(self, name)}")
        if self.test_fraction + self.validation_fraction >= 0.9:
            raise SubquadError("--test-fraction and --validation-fraction leave less than a tenth of the rows to learn")
        least = {"members": 1, "batch": 1, "boosting_iterations": 1, "letters": 1, "stack_folds": 1, "folds": 2}
        least |= {"learning_curve": 0, "learning_repeats": 1, "near": 0, "fold": 0, "train_rows": 10}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise SubquadError(f"--{_flag(name)} must be at least {bound}, got {value}")
        _ = self.learning_numbers
        if self.fold is not None and self.fold >= self.folds:
            raise SubquadError(f"--fold must be below --folds ({self.folds}), got {self.fold}")
        if not 0 < self.identity <= 1:
            raise SubquadError(f"--identity must be above 0 and at most 1, got {self.identity}")
        if self.learning_rate <= 0:
            raise SubquadError(f"--learning-rate must be above 0, got {self.learning_rate}")
        if self.weight_decay < 0:
            raise SubquadError(f"--weight-decay must not be negative, got {self.weight_decay}")
        if self.epochs is not None and self.epochs <= 0:
            raise SubquadError(f"--epochs must be above 0, got {self.epochs}")
        if self.weight is not None and self.error is not None:
            raise SubquadError("--weight and --error both say how much rows count; give one of them")
        if self.split is not None and self.split_by != "random":
            raise SubquadError("--split names a column and --split-by a way to split; give one of them")
        if self.split_by == "group" and self.group is None:
            raise SubquadError("--split-by group needs the column of the groups; name it with --group")

    @property
    def learning_numbers(self) -> tuple[int, ...]:
        """The sizes of the learning curve as numbers, from the largest down; none where halves are asked for."""
        words = [word.strip() for word in (self.learning_sizes or "").split(",") if word.strip()]
        if not all(word.isdecimal() and int(word) >= FEWEST for word in words):
            raise SubquadError(
                f"--learning-sizes takes numbers of rows, {FEWEST} or more, with commas between, such as 24,48,96; got "
                f"{self.learning_sizes!r}"
            )
        return tuple(sorted({int(word) for word in words}, reverse=True))


def _flag(name: str) -> str:
    return name.replace("_", "-")
