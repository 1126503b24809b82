r"""Linear models on sparse features: paths of ridge and logistic regression over penalties.

Ridge forms the normal equations in one pass over the rows, after which each penalty costs $F^3/3$: scikit-learn's
`Ridge`, which iterates over sparse rows anew for each penalty, took 40 times as long on 52,000 variants of a protein.
It fits tables with too many features for that, and scikit-learn's `LogisticRegression` fits classes. Penalties act on
scaled features: 1 for letters at positions, one over the standard deviation for frequencies and numbers, so that rare
k-mers and large units are not penalised.

Axes: n rows, F features, K columns of measurements, O outputs.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import solve
from sklearn.exceptions import ConvergenceWarning

from subquad.bio.models.links import unlinked

__all__ = [
    "PENALTIES",
    "Linear",
    "SparseMatrix",
    "logistic_path",
    "ridge_path",
    "scale_of",
    "unit_scale",
]

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Penalties of ridge and logistic regression, for features of unit standard deviation."""
MAX_DENSE = 6000
"""Maximum number of features for which the normal equations are formed: 288 MB."""
DENSE_ADVANTAGE = 60
"""Speed of one multiplication in a dense product relative to a sparse one."""
CHUNK = 4096
DENSE_FROM, MAX_DENSE_VALUES = 0.1, 100_000_000
"""Fraction of non-zero values above which dense products are faster, and maximum number of values that are dense."""
MAX_ITERATIONS, TOLERANCE = 300, 1e-6
"""Maximum number of iterations of logistic regression for one penalty, and the gradient of the mean loss at its end."""
MANY_ROWS, LOOSE_TOLERANCE = 20_000, 1e-3
"""Number of rows from which that gradient may be larger: the loss hardly changes any more, and time does."""
ABSENT = -20.0
"""Logit of a class without training rows."""


SparseMatrix = Any
"""A `scipy.sparse.csr_matrix`; scipy ships no types."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear map from features to measurements, or to logits of the positive class or of each class."""

    weight: np.ndarray
    """`(O, F)` coefficients of the features times `scale`."""
    bias: np.ndarray
    """`(O,)`."""
    scale: np.ndarray
    """`(F,)`."""

    def __call__(self, X: SparseMatrix) -> np.ndarray:
        """Return `(n, O)`."""
        return np.asarray(X @ (self.weight * self.scale).T) + self.bias

    @property
    def outputs(self) -> int:
        """Number of outputs, O."""
        return len(self.weight)

    def as_dict(self) -> dict[str, np.ndarray]:
        """Return all fields."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, np.ndarray]) -> "Linear":
        """Return the model from the result of `as_dict`."""
        return cls(**values)

    def predict(self, X: SparseMatrix, task_type: str) -> np.ndarray:
        """Return measurements or probabilities, `(n, O)`; see `subquad.bio.data.dataset.Target.outputs`."""
        return unlinked(self(X), task_type)


def scale_of(X: SparseMatrix, is_unit: np.ndarray) -> np.ndarray:
    """Return `(F,)`: 1 for a feature that is 0 or 1, otherwise one over its standard deviation; 0 if constant."""
    return np.where(is_unit, 1.0, unit_scale(X))


def unit_scale(X: SparseMatrix) -> np.ndarray:
    """Return `(F,)`: one over the standard deviation of each feature; 0 if constant."""
    mean = np.asarray(X.mean(0, dtype=np.float64)).ravel()
    square = np.asarray(X.multiply(X).mean(0, dtype=np.float64)).ravel()
    spread = np.sqrt(np.maximum(square - mean**2, 0.0))
    # the variance of a constant is rounding error
    varies = spread > 1e-6 * np.sqrt(square)
    return np.where(varies, 1 / np.where(varies, spread, 1.0), 0.0)


def ridge_path(
    X: SparseMatrix,
    Y: np.ndarray,
    weight: np.ndarray | None,
    scale: np.ndarray,
    *,
    penalties: tuple[float, ...] | None = None,
) -> Iterator[tuple[float, Linear]]:
    """Yield each penalty with its ridge regression of `Y` `(n, K)`, without missing values, strongest penalty first."""
    if X.shape[1] > MAX_DENSE:
        yield from _ridge_path_over_rows(X, Y, weight, scale, penalties=penalties or PENALTIES[::-2])
        return
    rows = Rows.centred(X, weight, scale)
    centre = rows.weight @ Y / rows.weight.sum()
    product = np.asarray(rows.Z.T @ (rows.weight[:, None] * (Y - centre))) * scale[:, None]
    gram = rows.gram()
    # every second penalty is enough if each costs seconds
    for penalty in penalties or PENALTIES[:: -1 if X.shape[1] <= MAX_DENSE // 2 else -2]:
        system = gram + penalty * np.eye(len(gram))
        w = solve(system, product, assume_a="pos", overwrite_a=True, check_finite=False)
        yield penalty, Linear(weight=w.T, bias=centre - rows.shift @ w, scale=scale)


def _ridge_path_over_rows(
    X: SparseMatrix, Y: np.ndarray, weight: np.ndarray | None, scale: np.ndarray, *, penalties: tuple[float, ...]
) -> Iterator[tuple[float, Linear]]:
    from sklearn.linear_model import Ridge

    Z = _scaled(X, scale)
    for penalty in penalties:
        ridge = Ridge(alpha=penalty, solver="sparse_cg", tol=1e-5, max_iter=500).fit(Z, Y, sample_weight=weight)
        coefficients = np.asarray(ridge.coef_, dtype=np.float64).reshape(Y.shape[1], -1)
        yield penalty, Linear(weight=coefficients, bias=np.broadcast_to(ridge.intercept_, Y.shape[1]), scale=scale)


def logistic_path(
    X: SparseMatrix,
    y: np.ndarray,
    classes: int,
    *,
    weight: np.ndarray | None,
    scale: np.ndarray,
    penalties: tuple[float, ...] = PENALTIES[::-2],
) -> Iterator[tuple[float, Linear]]:
    """Yield each penalty with its logistic regression of classes `y` `(n,)`, warm-started from the previous one.

    The objective is the sum of the rows' log losses plus half the penalty times the sum of squares.
    """
    from sklearn.linear_model import LogisticRegression

    Z, there = _scaled(X, scale), np.unique(y)
    tolerance = TOLERANCE if len(y) < MANY_ROWS else LOOSE_TOLERANCE
    model: Any = LogisticRegression(warm_start=True, max_iter=MAX_ITERATIONS, tol=tolerance)
    for penalty in penalties:
        if len(there) > 1:
            model.set_params(C=1 / penalty)
            with warnings.catch_warnings():
                # after that many iterations the validation loss hardly changes
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(Z, y, sample_weight=weight)
            W, b = model.coef_, model.intercept_
        else:
            W, b = np.zeros((1, X.shape[1])), np.array([ABSENT if there[0] == 0 else -ABSENT])
        if classes > 2:
            W, b = _of_all_classes(W, b, there, classes)
        yield penalty, Linear(weight=W.copy(), bias=b.copy(), scale=scale)


def _of_all_classes(W: np.ndarray, b: np.ndarray, there: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and biases of all classes from those of the ones that are in training."""
    if len(there) < 3:
        # one logit: half of it for the last class, and half against the first
        W, b = (np.concatenate([-x, x])[-len(there) :] / 2 for x in (W, b))
    weights, biases = np.zeros((classes, W.shape[1])), np.full(classes, ABSENT + b.min())
    weights[there], biases[there] = W, b
    return weights, biases


def _scaled(X: SparseMatrix, scale: np.ndarray) -> Any:
    """Return the scaled features, dense if few are zero and memory allows."""
    Z = (X.astype(np.float64) @ sparse.diags_array(scale)).tocsr()
    return Z.toarray() if MAX_DENSE_VALUES >= X.shape[0] * X.shape[1] < X.nnz / DENSE_FROM else Z


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Features minus their most common row, and the rest that must be subtracted to centre them."""

    Z: SparseMatrix
    mean: np.ndarray
    """Mean of Z."""
    shift: np.ndarray
    """Mean of the scaled features."""
    scale: np.ndarray
    weight: np.ndarray

    @classmethod
    def centred(cls, X: SparseMatrix, weight: np.ndarray | None, scale: np.ndarray) -> "Rows":
        """Return the rows of `X`, weighted or equally weighted, in this form."""
        weight = np.ones(X.shape[0]) if weight is None else weight
        # the same after centring, and almost nothing remains of a variant of a protein
        common = ((_mean(X, weight) > 0.5) & (X.max(0).toarray().ravel() == 1)).astype(X.dtype)
        Z = X
        if common.any():
            Z = sparse.vstack(
                [_subtract(X[begin : begin + CHUNK], common) for begin in range(0, X.shape[0], CHUNK)], format="csr"
            )
        mean = _mean(Z, weight)
        return cls(Z=Z, mean=mean, shift=(mean + common) * scale, scale=scale, weight=weight)

    def gram(self) -> np.ndarray:
        """Return the Gram matrix of the scaled, centred, weighted features, `(F, F)`."""
        n, F = self.Z.shape
        root = np.sqrt(self.weight)
        if self.Z.nnz**2 / n * DENSE_ADVANTAGE < n * F**2:
            weighted = sparse.diags_array(root) @ self.Z.astype(np.float64)
            gram = (weighted.T @ weighted).toarray()
        else:
            gram = np.zeros((F, F))
            for begin in range(0, n, CHUNK):
                block = self.Z[begin : begin + CHUNK].toarray().astype(np.float64) * root[begin : begin + CHUNK, None]
                gram += block.T @ block
        gram -= self.weight.sum() * np.outer(self.mean, self.mean)
        gram *= self.scale
        gram *= self.scale[:, None]
        return gram


def _mean(X: SparseMatrix, weight: np.ndarray) -> np.ndarray:
    return np.asarray(weight @ X).ravel() / weight.sum()


def _subtract(block: SparseMatrix, common: np.ndarray) -> SparseMatrix:
    columns = np.flatnonzero(common)
    indptr = np.arange(block.shape[0] + 1) * len(columns)
    data, indices = np.tile(common[columns], block.shape[0]), np.tile(columns, block.shape[0])
    difference = block - sparse.csr_matrix((data, indices, indptr), shape=block.shape)
    difference.eliminate_zeros()
    return difference
