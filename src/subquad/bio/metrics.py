"""How good predictions are: rank and linear agreement for measurements, separation for classes."""

import math

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, matthews_corrcoef, roc_auc_score

__all__ = ["MAIN", "difference", "score"]

MAIN = {"regression": "spearman", "classification": "auroc"}
"""The figure that choices are made by and the winner is named by."""


def score(truth: np.ndarray, prediction: np.ndarray, *, task: str) -> dict[str, float]:
    """Return the figures of predictions.

    Args:
        truth: measurements, or classes as numbers from 0.
        prediction: measurements; the probability of class 1; or one column of probabilities a class.
        task: `regression` or `classification`.

    A constant prediction has the correlation 0. With more than two classes `auroc` and `ap` are averages over the
    classes that occur, each against the rest.
    """
    return _measurements(truth, prediction) if task == "regression" else _classes(truth.astype(int), prediction)


def difference(
    truth: np.ndarray, first: np.ndarray, second: np.ndarray, *, task: str, draws: int = 200
) -> dict[str, float]:
    """Return by how much the first predictions' main figure is above the second's, with a 95 % interval.

    The interval is that of `draws` bootstrap samples of the rows, the same rows for both.
    """
    random, name = np.random.default_rng(0), MAIN[task]

    def above(rows: np.ndarray) -> float:
        return score(truth[rows], first[rows], task=task)[name] - score(truth[rows], second[rows], task=task)[name]

    everyone = np.arange(len(truth))
    drawn = [above(random.choice(everyone, len(everyone))) for _ in range(draws)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": above(everyone), "low": float(low), "high": float(high)}


def _measurements(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    spread = ((y - y.mean()) ** 2).sum()
    is_constant = np.ptp(y) == 0 or np.ptp(p) == 0
    return {
        "spearman": 0.0 if is_constant else float(spearmanr(y, p).statistic),
        "pearson": 0.0 if is_constant else float(np.corrcoef(y, p)[0, 1]),
        "r2": float(1 - ((y - p) ** 2).sum() / spread) if spread else math.nan,
    }


def _classes(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    if p.ndim == 1:
        p = np.stack([1 - p, p], axis=1)
    # of two classes the second is the one that is looked for
    columns = [1] if p.shape[1] == 2 else range(p.shape[1])
    occurring = [k for k in columns if 0 < (y == k).sum() < len(y)]
    chosen = p.argmax(1)
    return {
        "auroc": float(np.mean([roc_auc_score(y == k, p[:, k]) for k in occurring])) if occurring else 0.5,
        "ap": float(np.mean([average_precision_score(y == k, p[:, k]) for k in occurring])) if occurring else 0.0,
        "accuracy": float((chosen == y).mean()),
        "mcc": float(matthews_corrcoef(y, chosen)) if len(np.unique(y)) > 1 else 0.0,
    }
