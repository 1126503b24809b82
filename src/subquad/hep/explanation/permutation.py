"""Permutation importance: decrease of a tagger's metrics when features are permuted; one forward pass each.

Attributions measure small changes of the scores of single jets, permutation importance changes of the metrics.
Particle features are permuted among all particles of the sample, jet-level features among the jets; the graph and its
edges stay unchanged. Jets count in the metrics with the weights of their batches.

Axes: J jets, B jets of a batch, P particles, H particle features, C classes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from subquad.hep.data.batches import Batch
from subquad.hep.metrics.classification import weighted_auc
from subquad.hep.models.networks import Network, forward, logits_and_targets

OTHER = "other features"
PATTERNS = {
    "kinematics": re.compile(
        r"(^|[_ ])(log)?(p[txyz]?|en?|energy|m|mass|(abs|d)?eta|d?phi|(d|delta_?)?r|y|rapidity|theta)(rel)?([_ /]|$)",
        re.IGNORECASE,
    ),
    "particle types": re.compile(r"(^|_)(is[A-Z]\w+|charge)$"),
    "impact parameters": re.compile(r"(^|[^a-z]|tanh)(d[0z]|dxy|z0)|[sS]?ip[23]d|[sS]ignificance"),
}
"""Names of features in each group, as in JetClass and in usual data cards; the first that matches counts."""
FEATURE_GROUPS = (*PATTERNS, OTHER)


def feature_groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the indices of the particle features in each group; empty groups are omitted."""
    groups = [_group_of(name) for name in names]
    found = {group: [i for i, one in enumerate(groups) if one == group] for group in FEATURE_GROUPS}
    return {group: columns for group, columns in found.items() if columns}


def _group_of(name: str) -> str:
    return next((group for group, pattern in PATTERNS.items() if pattern.search(name)), OTHER)


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Decrease of the metrics: mean and standard deviation over the permutations; negative for an increase.

    The deviation of a single permutation is None.
    """

    accuracy: float
    accuracy_deviation: float | None
    auc: float | None
    """None if a class has no jets."""
    auc_deviation: float | None


def mean_auc(
    probabilities: np.ndarray, labels: np.ndarray, only: int | None, weights: np.ndarray | None = None
) -> float | None:
    """Return the one-vs-rest AUC, averaged over the classes or of one class.

    Args:
        probabilities: [J, C].
        labels: [J], indices of the classes.
        only: The class; None for all.
        weights: [J], event weights; None counts all jets the same.

    Returns:
        None if the weights of a class, or of the other classes, do not add up to more than 0.
    """
    own = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    classes = range(probabilities.shape[1]) if only is None else (only,)
    truths = [labels == i for i in classes]
    if any(not own[truth].sum() > 0 or not own[~truth].sum() > 0 for truth in truths):
        return None
    return float(
        np.mean([weighted_auc(probabilities[:, i], truth, own) for i, truth in zip(classes, truths, strict=True)])
    )


@torch.no_grad()
def particle_importance(
    net: nn.Module,
    batches: Sequence[Batch],
    columns: Mapping[str, Sequence[int]],
    *,
    repeats: int,
    seed: int,
    only: int | None = None,
    owners: Sequence[int] = (),
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Importance]:
    """Return the importance of particle features, or of groups of them that are permuted together.

    Args:
        net: Network in evaluation mode.
        batches: The sample.
        columns: Indices of the particle features by name.
        repeats: Number of permutations of each.
        seed: Seed of the permutations.
        only: Measure the metrics on the jets of this class; None for all.
        owners: With several collections of inputs, for each feature the index of the one that is 1 for the entries of
            its collection; it is permuted among these.
        advance: Called after each name.
    """
    counts = [int(batch.mask.sum()) for batch in batches]

    def logits(particles: Tensor) -> Tensor:
        outputs = []
        for batch, own in zip(batches, particles.split(counts), strict=True):
            x = batch.x.clone()
            x[batch.mask] = own
            outputs.append(forward(net, replace(batch, x=x)))
        return torch.cat(outputs)

    particles = torch.cat([batch.x[batch.mask] for batch in batches])
    options = {"repeats": repeats, "seed": seed, "only": only}
    return _importances(particles, columns, logits, *_truth(batches), owners=owners, advance=advance, **options)


@torch.no_grad()
def jet_feature_importance(
    net: Network,
    batches: Sequence[Batch],
    columns: Mapping[str, Sequence[int]],
    *,
    repeats: int,
    seed: int,
    only: int | None = None,
) -> dict[str, Importance]:
    """Return the importance of jet-level features, or of groups of them; only the head is evaluated again.

    The arguments are those of `particle_importance`.
    """
    inputs: list[Tensor] = []
    hook = net.head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        for batch in batches:
            forward(net, batch)
    finally:
        hook.remove()
    head_input = torch.cat(inputs)
    # the jet-level features are the last inputs of the head
    first = head_input.shape[1] - net.jet_features
    shifted = {name: [first + i for i in places] for name, places in columns.items()}
    head = lambda table: logits_and_targets(net, net.head(table))[0]  # noqa: E731
    return _importances(head_input, shifted, head, *_truth(batches), repeats=repeats, seed=seed, only=only)


def _truth(batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Return labels and weights of all jets."""
    return torch.cat([batch.labels for batch in batches]), torch.cat([batch.weights for batch in batches])


def _importances(
    table: Tensor,
    columns: Mapping[str, Sequence[int]],
    logits: Callable[[Tensor], Tensor],
    labels: Tensor,
    weights: Tensor,
    *,
    repeats: int,
    seed: int,
    only: int | None,
    owners: Sequence[int] = (),
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Importance]:
    """Return the importance of columns of a table, of which `logits` computes the predictions."""
    generator = torch.Generator().manual_seed(seed)
    accuracy, auc = _metrics(logits(table), labels, weights, only)
    found = {}
    for name, places in columns.items():
        after = []
        for _ in range(repeats):
            permuted = _permuted(table, places, owners, generator)
            after.append(_metrics(logits(permuted), labels, weights, only))
        of_accuracy = _mean_and_deviation([accuracy - lower for lower, _ in after])
        # permutations do not change which classes have jets
        of_auc = (None, None)
        if auc is not None:
            of_auc = _mean_and_deviation([auc - lower for _, lower in after if lower is not None])
        found[name] = Importance(
            accuracy=of_accuracy[0], accuracy_deviation=of_accuracy[1], auc=of_auc[0], auc_deviation=of_auc[1]
        )
        advance()
    return found


def _permuted(table: Tensor, places: Sequence[int], owners: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return the table with the rows of some columns permuted, those of a collection among its own rows."""
    permuted = table.clone()
    for owner in dict.fromkeys(owners[i] if owners else None for i in places):
        columns = [i for i in places if not owners or owners[i] == owner]
        rows = torch.arange(len(table)) if owner is None else table[:, owner].nonzero()[:, 0]
        permuted[rows[:, None], columns] = table[rows[torch.randperm(len(rows), generator=generator)]][:, columns]
    return permuted


def _metrics(logits: Tensor, labels: Tensor, weights: Tensor, only: int | None) -> tuple[float, float | None]:
    """Return the top-1 accuracy, for the jets of one class if given, and the AUC."""
    counted = weights.double() if only is None else weights.double() * (labels == only)
    accuracy = ((logits.argmax(-1) == labels) * counted).sum() / counted.sum()
    return accuracy.item(), mean_auc(logits.double().softmax(-1).numpy(), labels.numpy(), only, weights.numpy())


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
