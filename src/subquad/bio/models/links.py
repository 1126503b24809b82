"""Link functions: predictions to the scale on which models add up, and back.

Measurements stay as they are, probabilities become log-odds, and those of several classes their logarithms.
"""

import numpy as np
from scipy.special import expit, softmax

__all__ = ["linked", "log_odds", "unlinked"]


def linked(prediction: np.ndarray, task_type: str, least: float) -> np.ndarray:
    """Return measurements, log-odds, or logarithms of the probabilities of several classes, of the same shape.

    Args:
        prediction: Measurements or probabilities; see `subquad.bio.data.dataset.Target.outputs`.
        task_type: The task type.
        least: Probabilities are at least this, and at most one minus it.
    """
    if task_type.endswith("regression"):
        return prediction
    if task_type.endswith("multiclass"):
        return np.log(np.clip(prediction, least, 1 - least))
    return log_odds(prediction, least)


def log_odds(probability: np.ndarray, least: float) -> np.ndarray:
    """Return the log-odds of probabilities, which are at least `least`, and at most one minus it."""
    clipped = np.clip(probability, least, 1 - least)
    return np.log(clipped / (1 - clipped))


def unlinked(value: np.ndarray, task_type: str) -> np.ndarray:
    """Return measurements or probabilities: the inverse of `linked`."""
    if task_type.endswith("regression"):
        return value
    return softmax(value, axis=-1) if task_type.endswith("multiclass") else expit(value)
