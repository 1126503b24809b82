r"""Linear models on sparse features: paths of ridge and logistic regression over penalties.

One pass over the rows gives the normal equations, and each penalty then costs $F^3/3$, where scikit-learn's `RidgeCV`
starts anew. Logistic regression is minimised by L-BFGS in coordinates in which the covariance of the data is round:
tens of passes instead of hundreds. Penalties act on scaled features: 1 for letters at positions, one over the standard
deviation for frequencies and numbers, so that rare k-mers and large units are not penalised.

Axes: n rows, F features, K columns of measurements, O outputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import expit, log_softmax, softmax

__all__ = [
    "PENALTIES",
    "Linear",
    "Rows",
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
DENSE_FROM = 0.1
"""Fraction of non-zero values above which dense products are faster."""
MAX_DOUBLE = 20_000_000
"""Maximum number of values for which dense rows are float64."""
ABSENT = -20.0
"""Logit of a class without training rows."""


SparseMatrix = Any
"""A `scipy.sparse.csr_matrix`; scipy ships no types."""
Map = Callable[[np.ndarray], np.ndarray]


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

    def predict(self, X: SparseMatrix, task_type: str) -> np.ndarray:
        """Return measurements or probabilities, `(n, O)`; see `subquad.bio.data.dataset.Target.outputs`."""
        if task_type == "regression":
            return self(X)
        return softmax(self(X), axis=1) if task_type == "multiclass" else expit(self(X))


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
    """Yield each penalty with its ridge regression of `Y` `(n, K)`, without missing values, strongest penalty first.

    Up to `MAX_DENSE` features the normal equations are solved directly, beyond by conjugate gradients over the rows.
    """
    rows = Rows.centred(X, weight, scale)
    centre = rows.weight @ Y / rows.weight.sum()
    product = np.asarray(rows.Z.T @ (rows.weight[:, None] * (Y - centre))) * scale[:, None]
    if penalties is None:
        # every second penalty is enough if each costs seconds
        penalties = PENALTIES[::-1] if X.shape[1] <= MAX_DENSE // 2 else PENALTIES[::-2]
    gram = rows.gram() if X.shape[1] <= MAX_DENSE else None
    w = np.zeros(product.shape)
    for penalty in penalties:
        if gram is None:
            w = _solve_iteratively(rows, product, penalty, start=w)
        else:
            w = _solve_normal(gram, product, penalty)
        yield penalty, Linear(weight=w.T, bias=centre - rows.shift @ w, scale=scale)


def logistic_path(
    X: SparseMatrix,
    y: np.ndarray,
    classes: int,
    *,
    weight: np.ndarray | None,
    scale: np.ndarray,
    penalties: tuple[float, ...] = PENALTIES[::-2],
    iterations: int = 100,
) -> Iterator[tuple[float, Linear]]:
    """Yield each penalty with its logistic regression of classes `y` `(n,)`, warm-started from the previous one.

    The objective is the sum of the rows' log losses plus half the penalty times the sum of squares.
    """
    there, y = np.unique(y, return_inverse=True)
    outputs = 1 if classes == 2 else len(there)
    rows = Rows.centred(X, weight, scale)
    times, back = rows.products()
    frequency = np.bincount(y, rows.weight) / rows.weight.sum()
    # the curvature of the log loss is that of the squared features times the variance of a class
    curvature = max(float(np.mean(frequency * (1 - frequency))), 1e-3)
    gram = curvature * rows.gram() if X.shape[1] <= MAX_DENSE else None
    unit = np.sqrt(curvature * rows.weight.sum())
    W, b = np.zeros((X.shape[1], outputs)), np.zeros(outputs)
    for penalty in penalties:
        if len(there) > 1:
            into, out_of = _whitening(gram, curvature * rows.squares(), penalty)
            loss = _log_loss(y, rows.weight, penalty, times=times, back=back)
            W, b = _minimise(loss, W, b, into=into, out_of=out_of, unit=unit, iterations=iterations)
        elif classes == 2:
            b = np.array([ABSENT if there[0] == 0 else -ABSENT])
        weights, bias = W.T, b - rows.shift @ W
        if outputs > 1 or classes > 2:
            weights, bias = np.zeros((classes, X.shape[1])), np.full(classes, ABSENT + bias.min())
            weights[there], bias[there] = W.T, b - rows.shift @ W
        yield penalty, Linear(weight=weights.copy(), bias=bias, scale=scale)


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

    def squares(self) -> np.ndarray:
        """Return the diagonal of `gram`."""
        squares = np.asarray(self.weight @ self.Z.multiply(self.Z)).ravel()
        return np.maximum(squares - self.weight.sum() * self.mean**2, 0.0) * self.scale**2

    def products(self) -> tuple[Map, Map]:
        """Return the products of the scaled, centred rows with `(F, O)`, and of their transpose with `(n, O)`."""
        n, F = self.Z.shape
        if self.Z.nnz > DENSE_FROM * n * F:
            Z = self.Z.toarray().astype(np.float64 if n * F <= MAX_DOUBLE else np.float32)
            transposed = Z.T
        else:
            Z = self.Z.astype(np.float64)
            transposed = Z.T.tocsr()

        def times(W: np.ndarray) -> np.ndarray:
            scaled = W * self.scale[:, None]
            return np.asarray(Z @ scaled.astype(Z.dtype), dtype=np.float64) - self.mean @ scaled

        def back(U: np.ndarray) -> np.ndarray:
            product = np.asarray(transposed @ U.astype(Z.dtype), dtype=np.float64)
            return (product - np.outer(self.mean, U.sum(0))) * self.scale[:, None]

        return times, back


def _mean(X: SparseMatrix, weight: np.ndarray) -> np.ndarray:
    return np.asarray(weight @ X).ravel() / weight.sum()


def _subtract(block: SparseMatrix, common: np.ndarray) -> SparseMatrix:
    columns = np.flatnonzero(common)
    indptr = np.arange(block.shape[0] + 1) * len(columns)
    data, indices = np.tile(common[columns], block.shape[0]), np.tile(columns, block.shape[0])
    difference = block - sparse.csr_matrix((data, indices, indptr), shape=block.shape)
    difference.eliminate_zeros()
    return difference


def _solve_normal(gram: np.ndarray, product: np.ndarray, penalty: float) -> np.ndarray:
    system = gram.copy()
    system[np.diag_indices(len(gram))] += penalty
    return cho_solve(cho_factor(system, overwrite_a=True, check_finite=False), product, check_finite=False)


def _solve_iteratively(rows: Rows, product: np.ndarray, penalty: float, *, start: np.ndarray) -> np.ndarray:
    times, back = rows.products()
    size = (len(product), len(product))

    def system(v: np.ndarray) -> np.ndarray:
        return back(rows.weight[:, None] * times(v.reshape(-1, 1))).ravel() + penalty * v.ravel()

    diagonal = rows.squares() + penalty
    # scipy's class makes subclasses in `__new__`, which pyright cannot follow
    make: Any = LinearOperator
    operator, inverse = make(size, matvec=system), make(size, matvec=lambda v: v.ravel() / diagonal)
    columns = [
        cg(operator, product[:, k], x0=start[:, k], M=inverse, rtol=1e-5, maxiter=500)[0]
        for k in range(product.shape[1])
    ]
    return np.stack(columns, axis=1)


def _whitening(gram: np.ndarray | None, squares: np.ndarray, penalty: float) -> tuple[Map, Map]:
    r"""Return $V \mapsto R^{-1} V$ and $G \mapsto R^{-\top} G$, where $R^\top R$ approximates the loss's curvature."""
    if gram is None:
        root = np.sqrt(squares + penalty)[:, None]
        return lambda V: V / root, lambda G: G / root
    system = gram.copy()
    system[np.diag_indices(len(gram))] += penalty
    R = cholesky(system, overwrite_a=True, check_finite=False)
    return (
        lambda V: solve_triangular(R, V, check_finite=False),
        lambda G: solve_triangular(R, G, trans=1, check_finite=False),
    )


def _log_loss(y: np.ndarray, weight: np.ndarray, penalty: float, *, times: Map, back: Map) -> Callable:
    """Return the loss and its gradients as a function of weights and bias."""

    def loss(W: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        logits = times(W) + b
        if logits.shape[1] == 1:
            value = weight @ (np.logaddexp(0, logits[:, 0]) - y * logits[:, 0])
            slope = (expit(logits) - y[:, None]) * weight[:, None]
        else:
            logs = log_softmax(logits, axis=1)
            value = -weight @ logs[np.arange(len(y)), y]
            slope = np.exp(logs)
            slope[np.arange(len(y)), y] -= 1
            slope *= weight[:, None]
        return value + penalty / 2 * (W**2).sum(), back(slope) + penalty * W, slope.sum(0)

    return loss


def _minimise(
    loss: Callable, W: np.ndarray, b: np.ndarray, *, into: Map, out_of: Map, unit: float, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights and bias at the minimum, starting from those given."""
    # optimise the difference from the start, which then needs no transform into round coordinates
    size = W.size

    def objective(v: np.ndarray) -> tuple[float, np.ndarray]:
        value, by_weight, by_bias = loss(W + into(v[:size].reshape(W.shape)), b + v[size:] / unit)
        return value, np.concatenate([out_of(by_weight).ravel(), by_bias / unit])

    options = {"maxiter": iterations, "maxcor": 20, "ftol": 1e-8, "gtol": 1e-4}
    v = minimize(objective, np.zeros(size + len(b)), jac=True, method="L-BFGS-B", options=options).x
    return W + into(v[:size].reshape(W.shape)), b + v[size:] / unit
