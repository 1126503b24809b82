"""Muon: momentum whose update of a matrix is orthogonalized, for hidden layers; AdamW for all other parameters.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the step size of
arXiv:2502.16982.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_SIDE = 32
"""Smallest number of rows and of columns of a matrix that Muon updates; smaller ones embed a few variables."""
MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, chosen for speed: it leaves singular values between 0.7 and 1.2."""
ITERATIONS = 5
UPDATE_RMS = 0.2
"""Root mean square of an update's entries at learning rate 1, about that of AdamW; smaller if its rank is not full."""


def orthogonalized(matrices: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
    """Return matrices with the same singular vectors and singular values near 1, by Newton–Schulz iterations.

    Singular values below about a hundredth of the norm stay smaller than 1, and 0 stays 0. Costs O(N R² C) for R ≤ C.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    first, third, fifth = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return x.mT if is_tall else x


def muon_groups(groups: Iterable[dict[str, Any]], output: Tensor) -> list[dict[str, Any]]:
    """Divide optimizer groups into those of hidden layers' matrices and the others, for `MuonAdamW`.

    AdamW updates `output`, the weights of the output layer, and all matrices with a side below `LEAST_SIDE`.
    """
    divided = []
    for group in groups:
        parts: dict[bool, list[Tensor]] = {False: [], True: []}
        for p in group["params"]:
            # of convolutions, those over one position
            is_matrix = p.ndim >= 2 and min(p.shape[:2]) >= LEAST_SIDE and math.prod(p.shape[2:]) == 1
            parts[is_matrix and p is not output].append(p)
        divided += [{**group, "params": part, "is_hidden": is_hidden} for is_hidden, part in parts.items() if part]
    return divided


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices of groups with `is_hidden`, and AdamW for all other groups.

    `torch.optim.Muon` computes in bfloat16, for which most processors have no instructions: a step on a small network
    then takes ten times as long as here. This class computes in float32, and matrices of one shape together.

    Args:
        groups: Output of `muon_groups`, with `lr` and `weight_decay`; one of them at least is not hidden.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.01, "is_hidden": False})
        self.__setstate__({})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, and let AdamW work on the same groups and the same state."""
        super().__setstate__(state)
        self._adamw = torch.optim.AdamW([group for group in self.param_groups if not group["is_hidden"]], fused=True)
        self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have a gradient."""
        self._adamw.step()
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"] if group["is_hidden"] else ():
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for shape, matrices in alike.items():
                updates = orthogonalized(torch.stack([self._momentum(matrix).flatten(1) for matrix in matrices]))
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update.reshape(shape), alpha=-group["lr"] * UPDATE_RMS * max(shape) ** 0.5)

    def _momentum(self, matrix: Tensor) -> Tensor:
        """Return Nesterov's momentum of a matrix with the present gradient."""
        gradient, state = matrix.grad, self.state[matrix]
        assert gradient is not None
        momentum = state.setdefault("momentum", torch.zeros_like(matrix)).lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)
