"""Regression targets beside the classes: their standardization, and the loss of their predictions.

Axes: J jets, B jets of a batch, T targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from subquad.errors import SubquadError
from subquad.hep.data.store import JetDataset


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Names of regression targets, and their standardization (x - center) / scale."""

    names: tuple[str, ...] = ()
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def standardized(self, values: Float[np.ndarray, "J T"]) -> Float[np.ndarray, "J T"]:
        """Return what the network is fitted to."""
        return ((values - self.center) / self.scale).astype(np.float32)

    def predicted(self, outputs: Float[Tensor, "J T"]) -> dict[str, np.ndarray]:
        """Return the predictions [J] by target from the outputs of the network."""
        values = outputs.double().numpy() * self.scale + self.center
        return {name: values[:, i].astype(np.float32) for i, name in enumerate(self.names)}

    def as_config(self) -> dict[str, dict[str, float]]:
        """Return the entry `targets` of `config.json`."""
        pairs = zip(self.names, self.center, self.scale, strict=True)
        return {name: {"center": center, "scale": scale} for name, center, scale in pairs}

    @classmethod
    def of_config(cls, entry: Mapping[str, Mapping[str, float]] | None) -> "Targets":
        """Return the targets of a saved entry, which older runs do not have."""
        entry = entry or {}
        columns = {key: tuple(one[key] for one in entry.values()) for key in ("center", "scale")}
        return cls(names=tuple(entry), **columns)

    def loss(self, outputs: Float[Tensor, "B T"], wanted: Float[Tensor, "B T"], weights: Float[Tensor, " B"]) -> Tensor:
        """Return the weighted sum over jets of the smooth L1 loss, averaged over the targets."""
        return (smooth_l1_loss(outputs.float(), wanted, reduction="none").mean(1) * weights).sum()


def targets_of(train: JetDataset) -> Targets:
    """Return the targets of a dataset with the standardization of its jets: mean and standard deviation.

    Raises:
        SubquadError: A target is the same for all jets.
    """
    names, values = train.layout.targets, _values(train)
    for name, scale in zip(names, values.std(0), strict=True):
        if not scale > 0:
            raise SubquadError(f"regression target {name}: all training jets have the same value; omit it")
    return Targets(names=names, center=tuple(values.mean(0).tolist()), scale=tuple(values.std(0).tolist()))


def standardized_targets(dataset: JetDataset, targets: Targets) -> Tensor:
    """Return the standardized targets of the jets [J, T]."""
    return torch.from_numpy(targets.standardized(_values(dataset)))


def _values(dataset: JetDataset) -> np.ndarray:
    return true_targets(dataset, dataset.layout.targets)


def true_targets(dataset: JetDataset, names: Sequence[str]) -> np.ndarray:
    """Return the true values [J, T] of targets."""
    columns = [dataset.observer(name) for name in names]
    return np.stack([column.astype(np.float64) for column in columns if column is not None], axis=1)
