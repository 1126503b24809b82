"""What every model of this field is given: sequences, targets, and which rows are for what. Arrays only.

Axes: n rows, T positions, A letters, K columns of measurements, O outputs. `codes` are letters as their places in the
alphabet; `PAD` after the end of a sequence, `ANY` where a letter stands for several (N, X): equal parts of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from subquad.bio.settings import TaskType

__all__ = ["ANY", "TASK_TYPES", "PAD", "PARTS", "ROW_TASK_TYPES", "Inputs", "TaskType", "Dataset", "Target", "with_both_strands"]

PAD, ANY = -1, -2
PARTS = ("train", "validation", "test")

TASK_TYPES: tuple[TaskType, ...] = get_args(TaskType)
ROW_TASK_TYPES: tuple[TaskType, ...] = ("regression", "binary", "multiclass", "multilabel")
"""One prediction a row; the others have one a residue, or pairs of bases."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model sees of the rows."""

    codes: np.ndarray
    """`(n, T)` int8. T is 0 where there are no sequences."""
    letters: int
    """Of the alphabet."""
    partner: np.ndarray | None = None
    """`(n, T)` int8: a second channel, each letter beside the one of `codes` that it pairs with (a guide on its
    target); `PAD` where it has none."""
    covariates: np.ndarray
    """`(n, E)` float64, finite: further numbers of each row, as measured."""
    is_aligned: bool
    """Position t means the same place in all rows, and all have T letters."""
    is_double: bool = False
    """Double-stranded DNA that may be read from either side: a prediction is the mean of those of both strands."""

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def lengths(self) -> np.ndarray:
        """Letters of each row."""
        return (self.codes != PAD).sum(1)

    def take(self, rows: np.ndarray) -> "Inputs":
        """Return some of the rows."""
        partner = None if self.partner is None else self.partner[rows]
        return replace(self, codes=self.codes[rows], partner=partner, covariates=self.covariates[rows])

    def other_strand(self) -> "Inputs":
        """Return the reverse complements, each from its first letter on, as single strands."""
        T = self.codes.shape[1]
        place = self.lengths[:, None] - 1 - np.arange(T)
        turned = np.take_along_axis(self.codes, np.maximum(place, 0), axis=1)
        # A and T, C and G stand opposite in the alphabet; what stands for several stays so
        turned = np.where(turned >= 0, self.letters - 1 - turned, turned)
        return replace(self, codes=np.where(place >= 0, turned, PAD).astype(self.codes.dtype), is_double=False)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is to be predicted of the rows."""

    task_type: TaskType
    y: Any
    """By kind:

    - regression: `(n, K)` float64, NaN where not measured (never a whole row)
    - binary, multiclass: `(n,)` int64, place in `classes`
    - multilabel: `(n, K)` float64, 0, 1 or NaN
    - residue_binary, residue_multiclass: `(n, T)` int16, -1 where unknown and in the padding
    - residue_regression: `(n, T)` float64, NaN where unknown and in the padding
    - pairs: a list of n int64 arrays `(p, 2)`: paired positions from 0, first below second
    """
    classes: Sequence[str] = ()
    """Names of the classes of binary, multiclass, residue_binary and residue_multiclass; binary has two, the second is
    the one looked for."""
    names: Sequence[str] = ("target",)
    """Columns of the table: K in regression and multilabel, else one."""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def outputs(self) -> int:
        """O, columns of a prediction.

        Predictions are `(n, O)` for rows, `(n, T, O)` for residues (what stands in the padding means nothing), and a
        list of n symmetric `(L, L)` arrays for pairs. Values are measurements, or probabilities: of the second class in
        binary, one a class in multiclass, one a label in multilabel, and of each pair.
        """
        if self.task_type in ("multiclass", "residue_multiclass"):
            return len(self.classes)
        return len(self.names) if self.task_type in ("regression", "multilabel") else 1

    @property
    def is_residue(self) -> bool:
        """One value a residue."""
        return self.task_type.startswith("residue")

    def take(self, rows: np.ndarray) -> "Target":
        """Return some of the rows."""
        return replace(self, y=[self.y[row] for row in rows] if self.task_type == "pairs" else self.y[rows])


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is learned from, what choices are made on, and what the test is."""

    inputs: Inputs
    target: Target
    split: dict[str, np.ndarray]
    """Row numbers of `train`, `validation` and `test`; rows in none of them are left out."""
    weight: np.ndarray | None = None
    """`(n,)` how much each row counts in learning; mean 1 over the training rows."""
    units: np.ndarray | None = None
    """`(n,)` number of what each row belongs to (sequence, group, cluster, position), as the split held it together."""

    def part(self, name: str) -> tuple[Inputs, Target]:
        """Return the inputs and targets of one part."""
        return self.inputs.take(self.split[name]), self.target.take(self.split[name])


def with_both_strands(dataset: Dataset) -> Dataset:
    """Return the problem with the other strand of each training row as a further training row, in the same unit."""
    inputs, rows, n = dataset.inputs, dataset.split["train"], len(dataset.inputs)
    other = inputs.take(rows).other_strand()

    def joined(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.concatenate([values, values[rows]])

    return Dataset(
        inputs=replace(
            inputs, codes=np.concatenate([inputs.codes, other.codes]), covariates=np.concatenate([inputs.covariates, other.covariates])
        ),
        target=replace(dataset.target, y=np.concatenate([dataset.target.y, dataset.target.y[rows]])),
        split={**dataset.split, "train": np.concatenate([rows, n + np.arange(len(rows))])},
        weight=joined(dataset.weight),
        units=joined(dataset.units),
    )
