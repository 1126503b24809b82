"""A fitted net as an object: jets in, probabilities out. Batches hold jets of like length, so that little is padding.

Axes: J jets, B jets of a batch, P particles of a padded batch, H features of a particle, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subquad.hep.data import Jets
from subquad.hep.features import JET_FEATURES, RAW_FEATURES, STANDARD_FEATURES, jet_features, particle_features
from subquad.hep.settings import NetSettings
from subquad.nn.graph import PCN

__all__ = [
    "Batch",
    "Inputs",
    "Scale",
    "build",
    "collate",
    "epoch_plan",
    "from_tensors",
    "inputs_of",
    "logits",
    "plan_by_length",
]

# in `standard`, the first two features are the coordinates
ANGLES = 2


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the jet-level observers among the jets that the net was fitted on."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, observers: np.ndarray) -> "Scale":
        """Return the scale of these observers; a constant one keeps its size."""
        deviation = observers.std(0)
        return cls(observers.mean(0), np.where(deviation > 1e-6, deviation, 1).astype(np.float32))

    def __call__(self, observers: np.ndarray) -> np.ndarray:
        """Return the standardised observers; outliers end at 5 deviations."""
        return ((observers - self.mean) / self.deviation).clip(-5, 5)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a saved model keeps of it."""
        return {"scale.mean": torch.from_numpy(self.mean), "scale.deviation": torch.from_numpy(self.deviation)}


@dataclass(frozen=True)
class Inputs:
    """What the net sees of many jets, as flat tensors."""

    particles: Tensor
    first: Tensor
    lengths: Tensor
    observers: Tensor | None
    labels: Tensor

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class Batch:
    """Padded jets."""

    x: Float[Tensor, "B P H"]
    points: Float[Tensor, "B P D"]
    mask: Bool[Tensor, "B P"]
    observers: Float[Tensor, "B J"] | None
    labels: Tensor


def build(settings: NetSettings, classes: int) -> PCN:
    """Return a net with fresh weights."""
    return PCN(
        len(RAW_FEATURES if settings.features == "raw" else STANDARD_FEATURES),
        classes,
        observers=len(JET_FEATURES) if settings.has_observers else 0,
        width=settings.width,
        terms=settings.terms,
        layers=settings.layers,
        k=settings.k,
        periodic=(1,) if settings.graph == "angles" else (),
        has_edges=settings.has_edges,
        is_normalised=settings.is_normalised,
        is_residual=settings.is_residual,
        pool=settings.pool,
        hidden=settings.hidden,
        dropout=settings.dropout,
    )


def inputs_of(jets: Jets, settings: NetSettings, scale: Scale | None) -> Inputs:
    """Return what a net of these settings sees of the jets; `scale` is that of its own training jets."""
    observers = None
    if settings.has_observers:
        if scale is None:
            raise ValueError("a net with observers needs their scale")
        observers = torch.from_numpy(scale(jet_features(jets)))
    return Inputs(
        particles=torch.from_numpy(particle_features(jets, settings.features)),
        first=torch.from_numpy(jets.first[:-1]),
        lengths=torch.from_numpy(np.minimum(jets.lengths, settings.most_particles)),
        observers=observers,
        labels=torch.from_numpy(jets.labels),
    )


def collate(inputs: Inputs, rows: Tensor, settings: NetSettings, device: torch.device | str = "cpu") -> Batch:
    """Return the jets of `rows`, padded to the longest of them."""
    lengths = inputs.lengths[rows]
    places = torch.arange(max(1, int(lengths.max())))
    mask = places < lengths[:, None]
    index = (inputs.first[rows, None] + places).masked_fill(~mask, 0)
    x = inputs.particles[index] if len(inputs.particles) else torch.zeros(*index.shape, inputs.particles.shape[1])
    x = torch.where(mask[..., None], x, 0)
    start = RAW_FEATURES.index("deta") if settings.features == "raw" else 0
    points = x if settings.graph == "features" else x[..., start : start + ANGLES]
    return Batch(
        x=x.to(device),
        points=points.to(device),
        mask=mask.to(device),
        observers=None if inputs.observers is None else inputs.observers[rows].to(device),
        labels=inputs.labels[rows].to(device),
    )


def epoch_plan(rows: Tensor, lengths: Tensor, batch: int, *, seed: int, epoch: int) -> list[Tensor]:
    """Return the batches of an epoch: all rows in random order, but jets of like length together.

    Rows are shuffled, cut into stretches of 32 batches, and sorted by length inside each stretch.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    batches: list[Tensor] = []
    for stretch in shuffled.split(32 * batch):
        batches += stretch[lengths[stretch].argsort(stable=True)].split(batch)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def plan_by_length(lengths: Tensor, batch: int) -> Sequence[Tensor]:
    """Return batches of all jets, shortest first."""
    return lengths.argsort(stable=True).split(batch)


@torch.no_grad()
def logits(net: PCN, inputs: Inputs, settings: NetSettings, batch: int = 256, *, advance: Any = None) -> Tensor:
    """Return [J, C], in the order of the jets."""
    device = next(net.parameters()).device
    out = torch.zeros(len(inputs), net.classes)
    was_training = net.training
    net.eval()
    for rows in plan_by_length(inputs.lengths, batch) if len(inputs) else ():
        jets = collate(inputs, rows, settings, device)
        out[rows] = net(jets.x, jets.points, jets.mask, observers=jets.observers).float().cpu()
        if advance is not None:
            advance(len(rows))
    net.train(was_training)
    return out


def from_tensors(tensors: Mapping[str, Tensor], settings: NetSettings, classes: int) -> tuple[PCN, Scale | None]:
    """Return the net and the scale of a saved model."""
    tensors = dict(tensors)
    mean, deviation = tensors.pop("scale.mean", None), tensors.pop("scale.deviation", None)
    net = build(settings, classes)
    net.load_state_dict(tensors)
    return net.eval(), None if mean is None else Scale(mean.numpy(), deviation.numpy())
