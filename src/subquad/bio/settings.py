"""What a user can set for sequences with measurements. Imports the standard library only, to start fast."""

from dataclasses import dataclass
from typing import Literal

from subquad.errors import SubquadError

__all__ = ["ALPHABETS", "FitSettings"]

ALPHABETS = {
    "dna": "ACGT",
    "rna": "ACGU",
    "protein": "ACDEFGHIKLMNPQRSTVWY",
    "protein_stop": "ACDEFGHIKLMNPQRSTVWY*",
}
"""Name and letters; `protein_stop` has `*`, a stop codon, as a letter of its own."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Which columns to read, and how to learn."""

    sequence: str | None = None
    """Column of the sequences; guessed where it is not given."""
    target: str | None = None
    """Column of the measurements or classes; guessed where it is not given."""
    split: str | None = None
    """Column of train, validation and test; a column called split or set is taken, else rows are split at random."""
    task: Literal["auto", "regression", "classification"] = "auto"
    """Auto: classes where the target is words, or nothing but 0 and 1."""
    alphabet: Literal["auto", "dna", "rna", "protein", "protein_stop"] = "auto"
    """Auto: the smallest alphabet that holds all letters."""
    test_fraction: float = 0.15
    """Part of the sequences kept for the test, in a random split."""
    validation_fraction: float = 0.1
    """Part of the sequences that choices are made on, in a random split."""
    preset: Literal["auto", "paper"] = "auto"
    """Auto: Lyra with positions beside an additive path started from ridge. Paper: the net as published, alone."""
    members: int = 1
    """Nets with different seeds whose predictions are averaged; from two on there is a `prediction_std`."""
    epochs: float | None = None
    """Passes over the training rows; by default what 5 million letters allow, at least 1 and at most 80."""
    batch: int = 128
    """Sequences in a step."""
    learning_rate: float = 3e-3
    """The highest rate of the cycle."""
    weight_decay: float = 0.01
    """Pull of the net to zero, and of the additive path to ridge."""
    boosting_iterations: int | None = None
    """Most trees of the boosting; by default what keeps it to about a minute, at most 300."""

    def __post_init__(self) -> None:
        for name in ("test_fraction", "validation_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise SubquadError(f"--{name.replace('_', '-')} must be between 0 and 1, got {getattr(self, name)}")
        if self.test_fraction + self.validation_fraction >= 0.9:
            raise SubquadError("--test-fraction and --validation-fraction leave less than a tenth of the rows to learn")
        for name in ("members", "batch", "boosting_iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SubquadError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.learning_rate <= 0:
            raise SubquadError(f"--learning-rate must be above 0, got {self.learning_rate}")
        if self.weight_decay < 0:
            raise SubquadError(f"--weight-decay must not be negative, got {self.weight_decay}")
        if self.epochs is not None and self.epochs <= 0:
            raise SubquadError(f"--epochs must be above 0, got {self.epochs}")
