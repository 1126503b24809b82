"""Networks for jets: building them from settings, saving and loading them, and inference in batches of similar length.

Axes: J jets, B jets of a batch, C classes.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.errors import SubquadError
from subquad.hep.data.batches import Batch, collate
from subquad.hep.data.layout import Layout, Standardizer
from subquad.hep.data.store import JetDataset
from subquad.hep.settings import NetSettings
from subquad.nn.graph import PCN
from subquad.nn.kinematic import EPCN, KinematicNet
from subquad.nn.weights import load_weights
from subquad.train.bucketing import batches_by_length
from subquad.train.distributed import processes, sum_over_processes

Network = PCN | EPCN | KinematicNet

_THREADS = Lock()
"""The number of threads of torch belongs to the whole process."""


def build_network(settings: NetSettings, layout: Layout, classes: int, *, targets: int = 0) -> Network:
    """Return a network with initial weights, whose last outputs are the regression targets.

    Args:
        settings: Architecture.
        layout: Columns of the jets.
        classes: Number of classes.
        targets: Number of regression targets.

    Raises:
        SubquadError: The network takes variables of pairs from the momenta, and the layout has none.
    """
    net = _network(settings, layout, classes + targets)
    # read by `target_count`; the networks themselves know of outputs only
    net.targets = targets  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return net


def check_momenta(settings: NetSettings, layout: Layout) -> None:
    """Check that a layout has the momenta that a network needs.

    Raises:
        SubquadError: The network takes variables of pairs from the momenta, and the layout has none.
    """
    if settings.kind != "pcn" and layout.vectors is None:
        raise SubquadError(
            "this preset needs the momenta of the particles, for variables of pairs, and the card has no pf_vectors; "
            "add them (px, py, pz and energy), or use --preset standard"
        )


def target_count(net: nn.Module) -> int:
    """Return the number of regression targets of a network."""
    return getattr(net, "targets", 0)


def logits_and_targets(net: nn.Module, outputs: Float[Tensor, "B N"]) -> tuple[Tensor, Tensor]:
    """Return the logits of the classes [B, C] and the standardized regression targets [B, T]."""
    classes = outputs.shape[-1] - target_count(net)
    return outputs[..., :classes], outputs[..., classes:]


def _network(settings: NetSettings, layout: Layout, classes: int) -> Network:
    features = len(layout.features.names)
    jet_features = len(layout.jet_features) if settings.has_jet_features else 0
    shape = {"width": settings.width, "terms": settings.chebyshev_order, "layers": settings.layers, "k": settings.k}
    check_momenta(settings, layout)
    match settings.kind:
        case "epcn":
            return EPCN(features, classes, **shape)
        case "kinematic":
            return KinematicNet(
                features,
                classes,
                jet_features=jet_features,
                filter=settings.filter,
                **shape,
                has_jet_mean=settings.has_jet_mean,
                graphs=settings.graphs,
                feed=settings.feed,
                pool_heads=settings.pool_heads,
                dropout=settings.dropout,
            )
    return PCN(
        features,
        classes,
        jet_features=jet_features,
        **shape,
        periodic=(1,) if settings.graph == "angles" else (),
        has_edges=settings.has_edges,
        is_normalised=settings.is_normalised,
        is_residual=settings.is_residual,
        pool=settings.pool,
        hidden=settings.hidden,
        dropout=settings.dropout,
    )


def forward(net: nn.Module, batch: Batch) -> Float[Tensor, "B C"]:
    """Return the logits of a batch."""
    return logits_and_targets(net, outputs_of(net, batch))[0]


def outputs_of(net: nn.Module, batch: Batch) -> Float[Tensor, "B N"]:
    """Return logits and targets of a batch; all networks but PCN also get the momenta."""
    vectors: dict[str, Any] = {} if isinstance(net, PCN) else {"vectors": batch.vectors}
    return net(batch.x, batch.points, batch.mask, jet_features=batch.jet_features, edges=batch.edges, **vectors)


def predict_logits(net: Network, dataset: JetDataset, batch_size: int = 64) -> Float[Tensor, "J C"]:
    """Return the logits of all jets, in their order; see `predict_outputs`."""
    return logits_and_targets(net, predict_outputs(net, dataset, batch_size))[0]


def predict_outputs(
    net: Network,
    dataset: JetDataset,
    batch_size: int = 64,
    *,
    advance: Callable[[int], object] | None = None,
    is_shared: bool = False,
) -> Float[Tensor, "J N"]:
    """Return logits and standardized targets of all jets, in their order; `logits_and_targets` divides them.

    On a CPU each of torch's threads takes batches of its own, since single operations are too small to be divided.

    Args:
        net: The network.
        dataset: The jets.
        batch_size: Jets per forward pass.
        advance: Called with the number of jets after each batch; batches are then processed one after the other.
        is_shared: Each process computes a part of the batches, and all return all outputs; all must call this.
    """
    device = next(net.parameters()).device
    out = torch.zeros(len(dataset), net.classes)
    batches = batches_by_length(dataset.lengths, batch_size) if len(dataset) else []
    if is_shared:
        batches = batches[processes().process_index :: processes().num_processes]
    threads = min(torch.get_num_threads(), len(batches)) if device.type == "cpu" and advance is None else 1

    def predict(indices: Tensor) -> None:
        with torch.no_grad():
            out[indices] = outputs_of(net, collate(dataset, indices, device)).float().cpu()
        if advance is not None:
            advance(len(indices))

    was_training = net.training
    net.eval()
    try:
        if threads > 1:
            with (
                _THREADS,
                using_threads(1),
                ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
            ):
                # longest jets first, so that no thread is left alone with them at the end
                list(pool.map(predict, reversed(batches)))
        else:
            for indices in batches:
                predict(indices)
    finally:
        net.train(was_training)
    # the outputs of the other processes are zeros here
    return sum_over_processes(out) if is_shared else out


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Set the number of CPU threads of torch inside a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def network_tensors(net: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """Return the tensors to save: weights, and the standardization of the jet-level features."""
    tensors = {name: tensor.cpu() for name, tensor in net.state_dict().items()}
    standardizer = layout.jet_standardizer
    if standardizer is None:
        return tensors
    return {**tensors, "jet_features.center": standardizer.center, "jet_features.scale": standardizer.scale}


def load_network(
    tensors: Mapping[str, Tensor], settings: NetSettings, layout: Layout, classes: int, *, targets: int = 0
) -> tuple[Network, Layout]:
    """Return the network of saved tensors, in evaluation mode, and the layout with its standardization.

    Raises:
        ValueError: The tensors are not those of such a network.
    """
    tensors = dict(tensors)
    center, scale = tensors.pop("jet_features.center", None), tensors.pop("jet_features.scale", None)
    if center is not None and scale is not None:
        layout = replace(layout, jet_standardizer=Standardizer.of(center, scale))
    # each layer takes time, also without memory
    if settings.layers > len(tensors):
        raise ValueError(f"net.layers is {settings.layers:,}, and there are {len(tensors)} tensors of weights")
    net = load_weights(partial(build_network, settings, layout, classes, targets=targets), tensors)
    return net.eval(), layout
