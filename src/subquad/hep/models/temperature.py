r"""Temperature scaling: the logits are divided by one number that maximizes the likelihood of the validation jets.

Guo et al., "On calibration of modern neural networks", arXiv:1706.04599. The class with the highest probability stays
the same. A fit takes milliseconds.

Axes: J jets, C classes.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

LIMITS = (0.05, 20.0)
"""Smallest and largest temperature; the likelihood of jets that are all classified correctly has no maximum."""


def fit_temperature(logits: Float[Tensor, "J C"], labels: Tensor, weights: np.ndarray | None = None) -> float:
    """Return the temperature with the smallest mean cross-entropy; 1 if the weights of all jets cancel.

    Args:
        logits: Logits of validation jets.
        labels: [J], indices of their classes.
        weights: [J], event weights; None counts all jets the same.
    """
    logits = logits.double()
    by = torch.ones(len(labels)).double() if weights is None else torch.from_numpy(weights).double()
    if by.sum() <= 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        return float((cross_entropy(logits / np.exp(log_temperature), labels, reduction="none") * by).sum() / by.sum())

    found: Any = minimize_scalar(loss, bounds=tuple(np.log(LIMITS)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def output_layer(head: nn.Module) -> nn.Linear:
    """Return the last layer of a head."""
    last = head[-1] if isinstance(head, nn.Sequential) else head
    assert isinstance(last, nn.Linear)
    return last


@torch.no_grad()
def divide_logits(head: nn.Module, temperature: float, *, targets: int = 0) -> None:
    """Divide the weights of the last layer of a head, and so its logits, by the temperature.

    Args:
        head: Head of a network.
        temperature: The temperature.
        targets: Number of its last outputs that are no logits.
    """
    last = output_layer(head)
    logits = slice(len(last.bias) - targets)
    last.weight[logits].div_(temperature)
    last.bias[logits].div_(temperature)
