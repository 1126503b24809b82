"""How well jets are told apart: top-1 accuracy, areas under the curve, background rejection. O(J C log J).

Axes: J jets, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from subquad.errors import require

__all__ = ["EFFICIENCIES", "confusion", "discriminant", "rejection", "scores_of"]

EFFICIENCIES = {"Hqql": 0.99, "Tbl": 0.995}
"""Signal efficiency at which the background is counted, as in JetClass's table; 0.5 for the other classes."""


def scores_of(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], background: str) -> dict[str, Any]:
    """Return the figures of one model on labelled jets.

    `auc_ovo` and `auc_ovr` are macro averages over pairs of classes and over classes against the rest.
    `accuracy_ovr_macro` is what the PCN paper calls accuracy: each class against the rest, averaged; answering "no"
    always gives 1 - 1/C.
    """
    metrics = require("sklearn.metrics", extra="hep")
    # float32 probabilities do not add up to 1 closely enough for scikit-learn
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(1, keepdims=True)
    present = np.unique(labels)
    C = len(classes)
    chosen = probabilities.argmax(1)
    accuracy = float((chosen == labels).mean())
    areas: dict[str, float | None] = {"auc_ovo": None, "auc_ovr": None}
    if len(present) == C:
        for name in ("ovo", "ovr"):
            given = (probabilities[:, 1],) if C == 2 else (probabilities,)
            areas[f"auc_{name}"] = float(
                metrics.roc_auc_score(labels, *given, multi_class=name, average="macro", labels=range(C))
            )
    # a wrong answer is wrong for two classes of the C, and right for all others
    return {
        "accuracy": accuracy,
        **areas,
        "accuracy_ovr_macro": 1 - 2 * (1 - accuracy) / C,
        "rejection": {
            name: rejection(probabilities, labels, signal, list(classes).index(background), EFFICIENCIES.get(name, 0.5))
            for signal, name in enumerate(classes)
            if name != background
        },
    }


def discriminant(probabilities: np.ndarray, signal: int, background: int) -> np.ndarray:
    """Return [J]: the signal's part of the two probabilities, p_S / (p_S + p_B)."""
    p, q = probabilities[:, signal], probabilities[:, background]
    return p / np.maximum(p + q, np.finfo(np.float64).tiny)


def rejection(
    probabilities: np.ndarray, labels: np.ndarray, signal: int, background: int, efficiency: float
) -> dict[str, float | None]:
    r"""Return $1/\varepsilon_B$ at a signal efficiency, with the 68.3 % Clopper-Pearson interval of $\varepsilon_B$.

    `value` is None where no background jet passes, `high` too: the sample then only says that it is above `low`. All
    are None where a class has no jet.
    """
    stats = require("scipy.stats", extra="hep")
    score = discriminant(probabilities, signal, background)
    of_signal, of_background = np.sort(score[labels == signal])[::-1], score[labels == background]
    n = len(of_background)
    if not len(of_signal) or not n:
        return {"efficiency": efficiency, "value": None, "low": None, "high": None}
    threshold = of_signal[int(np.ceil(efficiency * len(of_signal))) - 1]
    passed = int((of_background >= threshold).sum())
    outside = (1 - 0.6827) / 2
    most = stats.beta.ppf(1 - outside, passed + 1, n - passed) if passed < n else 1.0
    least = stats.beta.ppf(outside, passed, n - passed + 1) if passed else None
    return {
        "efficiency": efficiency,
        "value": n / passed if passed else None,
        "low": float(1 / most),
        "high": None if least is None else float(1 / least),
    }


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return [C, C]: of the jets of the row's class, the part that is taken for the column's."""
    C = probabilities.shape[1]
    counts = np.zeros((C, C))
    np.add.at(counts, (labels, probabilities.argmax(1)), 1)
    return counts / counts.sum(1, keepdims=True).clip(1)
