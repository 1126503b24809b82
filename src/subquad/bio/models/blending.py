"""How much of each of several models counts, where rows that none learned from decide. Costs some bootstrap samples."""

from collections.abc import Sequence

import numpy as np

from subquad.bio.data.dataset import Target
from subquad.bio.metrics.scores import MAIN_METRIC, bootstrap_metric, score

__all__ = ["best_blending"]

DRAWS, MANY = 50, 3000


def best_blending(
    truth: Target, predictions: Sequence[np.ndarray], shares: Sequence[tuple[float, ...]], *, seed: int
) -> np.ndarray:
    """Return the mean of the shares that are best in bootstrap samples of the rows: where few rows speak, some of each.

    Args:
        truth: of the rows.
        predictions: of each of the shares.
        shares: that are tried.
        seed: of the samples; of very many rows there are none.
    """
    main = MAIN_METRIC[truth.task_type]
    if len(truth) < MANY:
        figures = np.stack([bootstrap_metric(truth, values, main, draws=DRAWS, seed=seed) for values in predictions])
    else:
        figures = np.array([[score(truth, values)[main]] for values in predictions])
    # a sample of one class alone speaks for none
    best = np.nan_to_num(figures, nan=-np.inf).argmax(0)
    return np.array(shares)[best].mean(0)
