"""Permutation importance: what a tagger's metrics lose when features are permuted; one forward pass per permutation.

Attributions say what would change a single jet's score a little, permutation importance what the metrics depend on.
Particle features are permuted among all particles of the sample, jet-level features among the jets; the graph and its
edges stay unchanged.

Axes: J jets, B jets of a batch, P particles, H particle features, C classes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from subquad.errors import require
from subquad.hep.data.batches import Batch
from subquad.hep.models.networks import forward

__all__ = [
    "FEATURE_GROUPS",
    "Importance",
    "feature_groups",
    "jet_feature_importance",
    "mean_auc",
    "particle_importance",
]

FEATURE_GROUPS = ("kinematics", "particle types", "impact parameters")


def feature_groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the indices of the particle features in each group; empty groups are omitted."""
    groups = [_group_of(name) for name in names]
    found = {group: [i for i, one in enumerate(groups) if one == group] for group in FEATURE_GROUPS}
    return {group: columns for group, columns in found.items() if columns}


def _group_of(name: str) -> str:
    """Return the group of a feature by its name, as in JetClass and in usual data cards."""
    if re.search(r"(^|[^a-z])d[0z]|[sS]ignificance", name):
        return "impact parameters"
    return "particle types" if re.search(r"(^|_)(is[A-Z]\w+|charge)$", name) else "kinematics"


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Decrease of the metrics: mean and standard deviation over the permutations; negative for an increase."""

    accuracy: float
    accuracy_deviation: float
    auc: float | None
    """None if a class has no jets."""
    auc_deviation: float | None


def mean_auc(probabilities: np.ndarray, labels: np.ndarray, only: int | None) -> float | None:
    """Return the one-vs-rest AUC, averaged over the classes or of one class; None if a class has no jets."""
    roc_auc_score = require("sklearn.metrics", extra="hep").roc_auc_score
    classes = range(probabilities.shape[1]) if only is None else (only,)
    truths = [labels == i for i in classes]
    if any(truth.all() or not truth.any() for truth in truths):
        return None
    return float(np.mean([roc_auc_score(truth, probabilities[:, i]) for i, truth in zip(classes, truths, strict=True)]))


def _metrics(logits: Tensor, labels: Tensor, only: int | None) -> tuple[float, float | None]:
    """Return the top-1 accuracy, for the jets of one class if given, and the AUC."""
    is_counted = torch.ones_like(labels, dtype=torch.bool) if only is None else labels == only
    accuracy = (logits.argmax(-1) == labels)[is_counted].float().mean().item()
    return accuracy, mean_auc(logits.double().softmax(-1).numpy(), labels.numpy(), only)


def _importance(
    logits: Tensor, permuted: Callable[[], Tensor], labels: Tensor, *, repeats: int, only: int | None
) -> Importance:
    accuracy, auc = _metrics(logits, labels, only)
    after = [_metrics(permuted(), labels, only) for _ in range(repeats)]
    of_accuracy = _mean_and_deviation([accuracy - lower for lower, _ in after])
    of_auc = (
        (None, None) if auc is None else _mean_and_deviation([auc - lower for _, lower in after if lower is not None])
    )
    return Importance(
        accuracy=of_accuracy[0], accuracy_deviation=of_accuracy[1], auc=of_auc[0], auc_deviation=of_auc[1]
    )


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


@torch.no_grad()
def particle_importance(
    net: nn.Module,
    batches: Sequence[Batch],
    columns: Mapping[str, Sequence[int]],
    *,
    repeats: int,
    seed: int,
    only: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Importance]:
    """Return the importance of particle features, or of groups of them that are permuted together.

    Args:
        net: Network in evaluation mode.
        batches: The sample.
        columns: Indices of the particle features by name.
        repeats: Number of permutations of each.
        seed: Seed of the permutations.
        only: Class whose jets are counted; None for all.
        advance: Called after each name.
    """
    labels = torch.cat([batch.labels for batch in batches])
    logits = torch.cat([forward(net, batch) for batch in batches])
    particles = torch.cat([batch.x[batch.mask] for batch in batches])
    counts = [int(batch.mask.sum()) for batch in batches]
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, places in columns.items():
        at = torch.tensor(list(places))

        def permuted(at: Tensor = at) -> Tensor:
            moved = particles.clone()
            moved[:, at] = particles[torch.randperm(len(particles), generator=generator)][:, at]
            outputs = []
            for batch, part in zip(batches, moved.split(counts), strict=True):
                x = batch.x.clone()
                x[batch.mask] = part
                outputs.append(forward(net, replace(batch, x=x)))
            return torch.cat(outputs)

        found[name] = _importance(logits, permuted, labels, repeats=repeats, only=only)
        advance()
    return found


@torch.no_grad()
def jet_feature_importance(
    net: nn.Module,
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
    labels, inputs = torch.cat([batch.labels for batch in batches]), []
    hook = net.head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        logits = torch.cat([forward(net, batch) for batch in batches])
    finally:
        hook.remove()
    head_input = torch.cat(inputs)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, places in columns.items():
        # the jet-level features are the last inputs of the head
        at = torch.tensor(list(places)) + head_input.shape[1] - net.jet_features

        def permuted(at: Tensor = at) -> Tensor:
            moved = head_input.clone()
            moved[:, at] = head_input[torch.randperm(len(head_input), generator=generator)][:, at]
            return net.head(moved)

        found[name] = _importance(logits, permuted, labels, repeats=repeats, only=only)
    return found
