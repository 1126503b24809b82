r"""Linear models of few features, by forward stagewise steps: all of them, from none to many. Costs some seconds.

Each step moves, for each output, the one feature of unit spread that lowers the loss most, by a little (Efron et al.,
Annals of Statistics 32 (2004) 407; Bühlmann and Hothorn, arXiv:0804.2752). The path is close to that of the lasso:
where few features count, it finds them, while ridge gives a little to each.

Axes: n rows, F features, O outputs.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.special import expit, log_softmax, softmax

from subquad.bio.models.linear import Linear, Rows, unit_scale

__all__ = ["stagewise_path"]

RATE = 0.05
"""Part of the best step that is taken."""
LOOK = 20
"""Steps between two models."""
NUMBERS = 1_000_000
"""Numbers that are not 0 times outputs that a step goes over at most: more rows are drawn from."""
FEWEST = 1e-3
"""Share of a class is taken to be this at least."""


def stagewise_path(
    X: sparse.csr_matrix, Y: np.ndarray, weight: np.ndarray, *, task_type: str, steps: int, seed: int
) -> Iterator[Linear]:
    """Yield linear models with more and more features, one every `LOOK` steps.

    Args:
        X: features of the rows.
        Y: `(n, O)` values to learn: measurements, or 0 and 1 of the second class, of each label or of each class.
        weight: `(n, O)`; 0 where nothing is known.
        task_type: regression, binary, multilabel or multiclass.
        steps: of the whole path.
        seed: of the rows that are drawn.
    """
    scale = unit_scale(X)
    rows = Rows.centred(X, None, scale)
    most = int(NUMBERS * len(Y) / max(rows.Z.nnz * Y.shape[1], 1))
    if most < len(Y):
        drawn = np.sort(np.random.default_rng(seed).choice(len(Y), most, replace=False))
        X, Y, weight = X[drawn], Y[drawn], weight[drawn]
        rows = Rows.centred(X, None, scale)
    Z, transposed = rows.Z.tocsc().astype(np.float64), rows.Z.T.tocsr().astype(np.float64)
    total = np.maximum(weight.sum(0), 1e-9)
    curvature = 1.0 if task_type == "regression" else 0.25
    W, b = np.zeros((X.shape[1], Y.shape[1])), _constant(Y, weight / total, task_type)
    F = np.tile(b, (len(Y), 1))
    for step in range(1, steps + 1):
        residual = weight * (Y - _expected(F, task_type)) / total
        slope = (np.asarray(transposed @ residual) - np.outer(rows.mean, residual.sum(0))) * scale[:, None]
        for k, j in enumerate(np.abs(slope).argmax(0)):
            change = RATE * slope[j, k] / curvature
            W[j, k] += change
            begin, end = Z.indptr[j], Z.indptr[j + 1]
            F[Z.indices[begin:end], k] += change * scale[j] * Z.data[begin:end]
            F[:, k] -= change * scale[j] * rows.mean[j]
        moved = RATE * residual.sum(0) / curvature
        b, F = b + moved, F + moved
        if step % LOOK == 0:
            yield Linear(weight=W.T.copy(), bias=b - rows.shift @ W, scale=scale)


def _constant(Y: np.ndarray, share: np.ndarray, task_type: str) -> np.ndarray:
    mean = (share * Y).sum(0)
    if task_type == "regression":
        return mean
    mean = np.clip(mean, FEWEST, 1 - FEWEST)
    return log_softmax(np.log(mean)) if task_type == "multiclass" else np.log(mean / (1 - mean))


def _expected(F: np.ndarray, task_type: str) -> np.ndarray:
    if task_type == "regression":
        return F
    return softmax(F, axis=1) if task_type == "multiclass" else expit(F)
