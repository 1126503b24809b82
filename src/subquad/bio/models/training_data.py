"""A dataset as models are trained on it: both strands, the positions that vary, and what must be there to learn from.

Costs one pass over the rows.
"""

from dataclasses import dataclass, replace

import numpy as np

from subquad.bio.data.dataset import PARTS, Dataset, with_both_strands
from subquad.errors import SubquadError

__all__ = ["TrainingData", "check_trainable", "prepare"]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """A dataset as models are trained on it."""

    dataset: Dataset
    """With the reverse complements of the training rows if the sequences are double-stranded."""
    positions: np.ndarray | None
    """Positions that vary in the training rows; None for all."""

    def with_train(self, rows: np.ndarray) -> "TrainingData":
        """Return the data with other training rows, for one fold."""
        return replace(self, dataset=replace(self.dataset, split={**self.dataset.split, "train": rows}))


def prepare(dataset: Dataset) -> TrainingData:
    """Return a dataset with both strands and with the positions that vary."""
    if dataset.inputs.is_double_stranded:
        # a position that is constant on one strand may vary on the other
        dataset = with_both_strands(dataset)
        return TrainingData(dataset=dataset, positions=None)
    inputs, target = dataset.inputs, dataset.target
    whole = TrainingData(dataset=dataset, positions=None)
    if not inputs.are_aligned or not inputs.codes.shape[1]:
        return whole
    train = inputs.take(dataset.split["train"])
    chains = [np.any([(codes != codes[0]).any(0) for codes in chain.channels], axis=0) for chain in train.chains]
    varies = np.concatenate(chains)
    if not varies.any():
        # covariates or an embedding vary, and a network needs a position to read
        varies[0] = True
    if varies.all() or not target.is_row:
        return whole
    return replace(whole, positions=np.flatnonzero(varies))


def check_trainable(dataset: Dataset) -> None:
    """Check that there is something to learn from, before anything is fitted or written.

    Raises:
        SubquadError: All training sequences are the same, a class has no training row, or a part of the split has no
            measurement in some column.
    """
    target, inputs = dataset.target, dataset.inputs
    train = inputs.take(dataset.split["train"])
    is_constant = target.is_row and all(
        (codes == codes[:1]).all() for chain in train.chains for codes in chain.channels
    )
    if is_constant and not inputs.covariates.shape[1] and inputs.embedding is None:
        raise SubquadError("all training sequences are the same; there is nothing to learn from")
    if target.task_type in ("binary", "multiclass"):
        present = np.unique(target.y[dataset.split["train"]])
        absent = [repr(name) for k, name in enumerate(target.classes) if k not in present]
        if absent:
            raise SubquadError(f"no training row of class {', '.join(absent)}; choose another split, or leave it out")
        return
    if target.task_type == "pairs":
        return
    # a column without a test row is left out of the metrics, and estimators have no test rows
    for part in PARTS if target.is_residue and len(dataset.split["test"]) else PARTS[:2]:
        own = target.is_known[dataset.split[part]]
        known = np.atleast_1d(own.any() if target.is_residue else own.any(0))
        names = [repr(name) for name, there in zip(target.names, known, strict=True) if not there]
        if names:
            raise SubquadError(f"no {part} row has a value in column {', '.join(names)}; choose another split")
