"""Predictions of several members of a model: networks with different seeds, or the models of an ensemble.

Axes: m members, n rows, O outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.bio.data.dataset import Inputs
from subquad.errors import SubquadError, raise_errors, shortened

__all__ = ["Members", "deviation", "finite_members"]


@dataclass(frozen=True, kw_only=True)
class Members:
    """Predictions of the same rows by each member, and their combination."""

    mean: Any
    """Prediction of the model; see `subquad.bio.data.dataset.Target.outputs` for the shapes."""
    each: Sequence[Any]
    """Predictions of the m members, of the same shape."""
    weights: np.ndarray
    """`(m,)`, with sum one."""
    to_first: Sequence[Any] | None = None
    """As `each`, but members that differ by a posterior's deviation differ by that of the difference to the first row;
    None if there are no such members, or if it was not asked for."""

    @classmethod
    def of_equals(cls, each: Sequence[Any]) -> "Members":
        """Return members of equal weight, whose mean is the prediction."""
        if isinstance(each[0], list):
            mean: Any = [np.mean(own, axis=0) for own in zip(*each, strict=True)]
        else:
            mean = np.mean(each, axis=0)
        return cls(mean=mean, each=each, weights=np.full(len(each), 1 / len(each)))

    def std(self) -> np.ndarray | None:
        """Return the sample standard deviation over the members; None for a single one or for base pairs."""
        return None if len(self.each) < 2 or isinstance(self.each[0], list) else deviation(self.each, self.weights)

    def std_to_first(self) -> np.ndarray:
        """Return the sample standard deviation of the differences to the first row; NaN for a single member."""
        each = np.asarray(self.each if self.to_first is None else self.to_first, dtype=np.float64)
        return deviation(each - each[:, :1], self.weights)


def deviation(each: Any, weights: np.ndarray) -> np.ndarray:
    """Return the weighted sample standard deviation over the first axis; NaN for a single member."""
    each = np.asarray(each, dtype=np.float64)
    if len(each) < 2:
        return np.full(each.shape[1:], np.nan)
    square = (each - np.tensordot(weights, each, 1)) ** 2
    return np.sqrt(np.tensordot(weights, square, 1) / max(1 - (weights**2).sum(), 1e-12))


def finite_members(predict: Callable[[], Members], inputs: Inputs, covariates: Mapping[str, Any]) -> Members:
    """Return predictions after checking that they are finite.

    Numbers that are finite in the table may not be so in float32, in which models read them; damaged weights may not be
    so either.

    Args:
        predict: Function that predicts the rows.
        inputs: The rows.
        covariates: Names of their covariates.

    Raises:
        SubquadError: Predictions are not finite; it names their rows. Or files of the model contradict each other.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            members = predict()
            members.std()
    # a saved model whose files are each readable
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        text = shortened(f"{type(error).__name__}: {error}")
        raise SubquadError(f"the model cannot predict ({text}); its files may be damaged") from error
    mean = members.mean
    if isinstance(mean, list):
        is_finite = np.array([bool(np.isfinite(own).all()) for own in mean], dtype=bool)
    else:
        is_finite = np.isfinite(mean).all(axis=tuple(range(1, np.ndim(mean))))
    rows = np.flatnonzero(~is_finite)
    names, errors = list(covariates), []
    for row in rows:
        own = inputs.covariates[row]
        largest = int(np.abs(own).argmax()) if len(own) else 0
        errors.append(f"row {row + 1}" + (f": {names[largest]} is {own[largest]:g}" if len(own) else ""))
    raise_errors(
        f"predictions of {len(rows):,} of {len(is_finite):,} rows are not finite: their numbers are too large for the "
        "model (correct or remove the rows), or its weights are damaged (copy or fit the model again)",
        errors,
    )
    return members
