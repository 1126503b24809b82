"""One number a sequence, and how sure it is: what a search or a list of guides asks of a fitted model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subquad.bio.data.dataset import ROW_KINDS
from subquad.errors import SubquadError, unknown

__all__ = ["NUCLEOTIDES", "Judge", "open_model"]

NUCLEOTIDES = frozenset("ACGTU")
"""Letters of DNA and RNA."""

BATCH = 4096
"""Sequences in one call of the model."""


@dataclass(frozen=True)
class Judge:
    """A model, and which of its outputs counts."""

    model: Any
    """A `BioModel`, or what looks like one."""
    column: int
    """The output that counts."""
    name: str
    """What it is called."""

    @property
    def is_nucleotide(self) -> bool:
        """It reads DNA or RNA."""
        return set(self.model.alphabet) <= NUCLEOTIDES

    def normal(self, sequence: str) -> str:
        """Return a sequence with U or T as the model writes them."""
        sequence = sequence.upper()
        if not self.is_nucleotide:
            return sequence
        return sequence.replace("T", "U") if "U" in self.model.alphabet else sequence.replace("U", "T")

    def scores(self, sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation over the members, `(n,)` each; one member alone has NaN as the latter."""
        means, spreads = [np.empty(0)], [np.empty(0)]
        for begin in range(0, len(sequences), BATCH):
            batch = list(sequences[begin : begin + BATCH])
            members = np.asarray(self.model.members_of_sequences(batch), dtype=np.float64)
            members = members.reshape(len(members), len(batch), -1)[..., self.column]
            means.append(members.mean(0))
            spreads.append(members.std(0, ddof=1) if len(members) > 1 else np.full(len(batch), np.nan))
        return np.concatenate(means), np.concatenate(spreads)


def open_model(model: Any, *, of: str | None = None) -> Judge:
    """Return the judge of a model, or of the folder that holds it.

    Args:
        model: a `BioModel`, or the folder that `fit` wrote.
        of: which target or class counts, where there are several; by default the first target.

    Raises:
        SubquadError: the folder holds no model, or one that does not give one number a sequence.
    """
    if isinstance(model, str | Path):
        from subquad.bio.models.fitted import BioModel

        model = BioModel.load(Path(model))
    if model.kind not in ROW_KINDS:
        raise SubquadError(
            f"the model predicts {model.kind.replace('_', ' ')}, not one value a sequence; fit it on a column with one "
            "measurement or class in each row"
        )
    extra = list(model.about.get("extra") or [])
    if extra:
        raise SubquadError(
            f"the model reads the column{'s'[: len(extra) > 1]} {', '.join(map(str, extra))} beside the sequence, and "
            "new sequences have none; fit one without --extra"
        )
    names = [str(name) for name in (model.names if model.kind in ("regression", "multilabel") else model.classes)]
    if model.kind == "binary":
        # the one output is the probability of the second class
        names = names[1:]
    if of is not None and of not in names:
        raise unknown("target or class", of, names)
    if of is None and model.kind == "multiclass":
        raise SubquadError(f"the model tells {len(names)} classes apart; say which one with --of ({', '.join(names)})")
    column = 0 if of is None else names.index(of)
    is_class = model.kind in ("binary", "multiclass")
    return Judge(model, column, f"probability of {names[column]}" if is_class else names[column])
