"""A fitted net as an object: jets in, probabilities out. Batches hold jets of like length, so that little is padding.

Axes: J jets, B jets of a batch, P particles of a padded batch, H features of a particle, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.errors import SubquadError
from subquad.hep.data.chunks import Piece, piece_of
from subquad.hep.data.jets import Jets
from subquad.hep.data.layout import Layout, View, layout_of
from subquad.hep.settings import NetSettings
from subquad.nn.graph import PCN
from subquad.nn.kinematic import EPCN, KinematicPCN

__all__ = [
    "Batch",
    "Inputs",
    "Net",
    "Scale",
    "answer",
    "build",
    "collate",
    "epoch_plan",
    "from_tensors",
    "inputs_of",
    "inputs_of_piece",
    "logits",
    "plan_by_length",
    "using_threads",
]

Net = PCN | EPCN | KinematicPCN

_ONE_POOL = Lock()
"""How many threads torch takes is the whole process's."""


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


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the net sees of many jets, as flat tensors; the large ones may lie on the disk."""

    layout: Layout
    particles: Float[Tensor, "C V"]
    first: Tensor
    """[J]: the first row of each jet in `particles`."""
    lengths: Tensor
    jet_features: Float[Tensor, "R F"]
    place: Tensor
    """[J]: the row of each jet in `jet_features`."""
    scale: Scale | None
    """Of the jet's features; None: the net takes none."""
    labels: Tensor
    weights: Float[Tensor, " J"]
    """In the loss; their mean over the jets to learn from is 1."""

    def __len__(self) -> int:
        return len(self.lengths)

    def part(self, rows: Tensor) -> "Inputs":
        """Return some of the jets; what is large is shared."""
        names = ("first", "lengths", "place", "labels", "weights")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


@dataclass(frozen=True)
class Batch:
    """Padded jets."""

    x: Float[Tensor, "B P H"]
    points: Float[Tensor, "B P D"]
    mask: Bool[Tensor, "B P"]
    observers: Float[Tensor, "B J"] | None
    labels: Tensor
    vectors: Float[Tensor, "B P 4"] | None
    """px, py, pz, E in GeV; 0 for padded particles. None where a card has no vectors."""
    weights: Float[Tensor, " B"]

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: value if value is None else value.to(device) for name, value in moved.items()})


def build(settings: NetSettings, classes: int, layout: Layout | None = None) -> Net:
    """Return a net with fresh weights, for jets in JetClass's layout or another one.

    Raises:
        SubquadError: the net weighs edges by momenta, and the layout has none.
    """
    layout = layout or layout_of(settings)
    features, observers = len(layout.features.names), len(layout.jet_features) if settings.has_observers else 0
    shape = {"width": settings.width, "terms": settings.terms, "layers": settings.layers, "k": settings.k}
    if settings.kind != "pcn" and layout.vectors is None:
        raise SubquadError(
            "this preset weighs the edges by the particles' momenta, and the card has no pf_vectors; "
            "add them (px, py, pz and energy), or take --preset standard"
        )
    match settings.kind:
        case "epcn":
            return EPCN(features, classes, **shape)
        case "kinematic":
            return KinematicPCN(
                features,
                classes,
                observers=observers,
                **shape,
                graphs=settings.graphs,
                feed=settings.feed,
                pool_heads=settings.pool_heads,
                dropout=settings.dropout,
            )
    return PCN(
        features,
        classes,
        observers=observers,
        **shape,
        periodic=(1,) if settings.graph == "angles" else (),
        has_edges=settings.has_edges,
        is_normalised=settings.is_normalised,
        is_residual=settings.is_residual,
        pool=settings.pool,
        hidden=settings.hidden,
        dropout=settings.dropout,
    )


def answer(net: nn.Module, batch: Batch) -> Float[Tensor, "B F"]:
    """Return the logits of a batch; nets that weigh edges get the momenta."""
    rest = {} if isinstance(net, PCN) else {"vectors": batch.vectors}
    return net(batch.x, batch.points, batch.mask, observers=batch.observers, **rest)


def inputs_of(jets: Jets, settings: NetSettings, scale: Scale | None) -> Inputs:
    """Return what a net of these settings sees of the jets; `scale` is that of its own training jets."""
    layout = layout_of(settings)
    return inputs_of_piece(piece_of(jets, layout, settings.features), layout, settings, scale)


def inputs_of_piece(piece: Piece, layout: Layout, settings: NetSettings, scale: Scale | None) -> Inputs:
    """Return what a net of these settings sees of jets in any layout."""
    if settings.has_observers and scale is None:
        raise ValueError("a net with observers needs their scale")
    lengths = torch.from_numpy(piece.lengths)
    return Inputs(
        layout=layout,
        particles=torch.from_numpy(piece.particles),
        first=lengths.cumsum(0) - lengths,
        lengths=lengths.clamp(max=settings.most_particles),
        jet_features=torch.from_numpy(piece.jet_features),
        place=torch.arange(len(piece)),
        scale=scale if settings.has_observers else None,
        labels=torch.from_numpy(piece.labels),
        weights=torch.ones(len(piece)),
    )


def collate(inputs: Inputs, rows: Tensor, settings: NetSettings, device: torch.device | str = "cpu") -> Batch:
    """Return the jets of `rows`, padded to the longest of them."""
    lengths, layout = inputs.lengths[rows], inputs.layout
    places = torch.arange(max(1, int(lengths.max())))
    mask = places < lengths[:, None]
    table = torch.zeros(*mask.shape, inputs.particles.shape[1])
    # one row after the other, as they lie on the disk
    table[mask] = inputs.particles[(inputs.first[rows, None] + places)[mask]]
    observers = None
    if inputs.scale is not None:
        observers = torch.from_numpy(inputs.scale(inputs.jet_features[inputs.place[rows]].numpy()))
    return Batch(
        x=_seen(table, mask, layout.features),
        points=_seen(table, mask, layout.points),
        mask=mask,
        observers=observers,
        labels=inputs.labels[rows],
        vectors=None if layout.vectors is None else _seen(table, mask, layout.vectors),
        weights=inputs.weights[rows],
    ).to(device)


def _seen(table: Float[Tensor, "B P V"], mask: Bool[Tensor, "B P"], view: View) -> Float[Tensor, "B P H"]:
    begin = view.columns[0]
    is_run = view.columns == tuple(range(begin, begin + len(view.columns)))
    x = table[..., begin : begin + len(view.columns)] if is_run else table[..., list(view.columns)]
    if view.center is None:
        return x
    center, scale, low, high = (torch.from_numpy(v) for v in (view.center, view.scale, view.low, view.high))
    return torch.where(mask[..., None], ((x - center) * scale).clamp(low, high), 0)


def epoch_plan(rows: Tensor, lengths: Tensor, batch: int, *, seed: int, epoch: int, together: int = 1) -> list[Tensor]:
    """Return the batches of an epoch: all rows in random order, but jets of like length together.

    Rows are shuffled, cut into stretches of 32 batches, and sorted by length inside each stretch; inside of a batch
    they stand as on the disk. So many batches as are worked on `together`, one by each process, are of like length too,
    or the processes would wait for that of the longest jets.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    batches: list[Tensor] = []
    for stretch in shuffled.split(32 * batch):
        batches += [part.sort().values for part in stretch[lengths[stretch].argsort(stable=True)].split(batch)]
    # those that are left, which are nobody's in this epoch, are any
    left = len(batches) % together
    alone = torch.randperm(len(batches), generator=generator)[:left].tolist() if left else []
    shared = [one for i, one in enumerate(batches) if i not in alone]
    groups = [shared[i : i + together] for i in range(0, len(shared), together)]
    order = torch.randperm(len(groups), generator=generator).tolist()
    return [one for i in order for one in groups[i]] + [batches[i] for i in alone]


def plan_by_length(lengths: Tensor, batch: int) -> Sequence[Tensor]:
    """Return batches of all jets, shortest first."""
    return [part.sort().values for part in lengths.argsort(stable=True).split(batch)]


def logits(net: Net, inputs: Inputs, settings: NetSettings, batch: int = 64, *, advance: Any = None) -> Tensor:
    """Return [J, C], in the order of the jets.

    On a CPU each of torch's threads takes a batch of its own, since the parts of one are small; `advance`, which is
    told how many jets are done, sees one batch after the other.
    """
    device = next(net.parameters()).device
    out = torch.zeros(len(inputs), net.classes)
    plan = plan_by_length(inputs.lengths, batch) if len(inputs) else ()
    threads = min(torch.get_num_threads(), len(plan)) if device.type == "cpu" and advance is None else 1

    def score(rows: Tensor) -> None:
        with torch.no_grad():
            out[rows] = answer(net, collate(inputs, rows, settings, device)).float().cpu()
        if advance is not None:
            advance(len(rows))

    was_training = net.training
    net.eval()
    try:
        if threads > 1:
            with (
                _ONE_POOL,
                using_threads(1),
                ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
            ):
                # the longest first, so that none is left alone with them
                list(pool.map(score, reversed(plan)))
        else:
            for rows in plan:
                score(rows)
    finally:
        net.train(was_training)
    return out


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Compute with so many threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def from_tensors(
    tensors: Mapping[str, Tensor], settings: NetSettings, classes: int, layout: Layout | None = None
) -> tuple[Net, Scale | None]:
    """Return the net and the scale of a saved model."""
    tensors = dict(tensors)
    mean, deviation = tensors.pop("scale.mean", None), tensors.pop("scale.deviation", None)
    net = build(settings, classes, layout)
    net.load_state_dict(tensors)
    return net.eval(), None if mean is None else Scale(mean.numpy(), deviation.numpy())
