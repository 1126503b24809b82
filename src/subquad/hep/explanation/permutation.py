"""What a tagger loses when a number is shuffled: permutation importance, one pass over the sample per shuffle.

Gradients say what would change a single jet's score a little; shuffling says what the figures rest on. A feature is
shuffled among all particles of the sample, a number of the jet among the jets; graph and edges stay as they are.

Axes: J jets, B jets of a batch, P particles, H features, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from subquad.errors import require
from subquad.hep.models.tagger import Batch, answer

__all__ = ["Fallen", "area", "shuffled_features", "shuffled_observers"]


@dataclass(frozen=True, kw_only=True)
class Fallen:
    """What was lost: the mean over the repeats and their standard deviation; negative where it was gained."""

    accuracy: float
    accuracy_deviation: float
    auc: float | None
    """None where a class has no jet."""
    auc_deviation: float | None


def area(probabilities: np.ndarray, labels: np.ndarray, only: int | None) -> float | None:
    """Return the AUC of each class against the rest, averaged; or of one class."""
    roc_auc_score = require("sklearn.metrics", extra="hep").roc_auc_score
    classes = range(probabilities.shape[1]) if only is None else (only,)
    truths = [labels == i for i in classes]
    if any(truth.all() or not truth.any() for truth in truths):
        return None
    return float(np.mean([roc_auc_score(truth, probabilities[:, i]) for i, truth in zip(classes, truths, strict=True)]))


def _figures(logits: Tensor, labels: Tensor, only: int | None) -> tuple[float, float | None]:
    """Return the accuracy, among the jets of one class where it is asked for, and the area."""
    counted = torch.ones_like(labels, dtype=torch.bool) if only is None else labels == only
    accuracy = (logits.argmax(-1) == labels)[counted].float().mean().item()
    return accuracy, area(logits.double().softmax(-1).numpy(), labels.numpy(), only)


def _fallen(whole: Tensor, again: Callable[[], Tensor], labels: Tensor, *, repeats: int, only: int | None) -> Fallen:
    accuracy, auc = _figures(whole, labels, only)
    losses = [_figures(again(), labels, only) for _ in range(repeats)]
    of_accuracy = np.array([accuracy - lost for lost, _ in losses])
    of_area = None if auc is None else np.array([auc - lost for _, lost in losses])
    return Fallen(
        accuracy=float(of_accuracy.mean()),
        accuracy_deviation=float(of_accuracy.std(ddof=1)) if repeats > 1 else 0.0,
        auc=None if of_area is None else float(of_area.mean()),
        auc_deviation=None if of_area is None else float(of_area.std(ddof=1)) if repeats > 1 else 0.0,
    )


@torch.no_grad()
def shuffled_features(
    net: nn.Module,
    batches: Sequence[Batch],
    columns: Mapping[str, Sequence[int]],
    *,
    repeats: int,
    seed: int,
    only: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Fallen]:
    """Return what is lost when columns of the features are shuffled among the particles, those of a name together.

    Args:
        net: in evaluation.
        batches: the sample.
        columns: places in the features, by name.
        repeats: shuffles of each.
        seed: of the shuffles.
        only: the class whose jets and whose area count; None: all.
        advance: called after each name.
    """
    labels = torch.cat([batch.labels for batch in batches])
    whole = torch.cat([answer(net, batch) for batch in batches])
    particles = torch.cat([batch.x[batch.mask] for batch in batches])
    counts = [int(batch.mask.sum()) for batch in batches]
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, places in columns.items():
        at = torch.tensor(list(places))

        def again(at: Tensor = at) -> Tensor:
            moved = particles.clone()
            moved[:, at] = particles[torch.randperm(len(particles), generator=generator)][:, at]
            out = []
            for batch, part in zip(batches, moved.split(counts), strict=True):
                x = batch.x.clone()
                x[batch.mask] = part
                out.append(answer(net, replace(batch, x=x)))
            return torch.cat(out)

        found[name] = _fallen(whole, again, labels, repeats=repeats, only=only)
        advance()
    return found


@torch.no_grad()
def shuffled_observers(
    net: nn.Module,
    batches: Sequence[Batch],
    columns: Mapping[str, Sequence[int]],
    *,
    repeats: int,
    seed: int,
    only: int | None = None,
) -> dict[str, Fallen]:
    """Return what is lost when these numbers of the jet are shuffled among the jets; only the head is computed anew."""
    observers = net.observers
    labels, heads = torch.cat([batch.labels for batch in batches]), []
    hook = net.head.register_forward_pre_hook(lambda _, given: heads.append(given[0]))
    try:
        whole = torch.cat([answer(net, batch) for batch in batches])
    finally:
        hook.remove()
    # they are the last that the head takes
    into = torch.cat(heads)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, places in columns.items():
        at = torch.tensor(list(places)) + into.shape[1] - observers

        def again(at: Tensor = at) -> Tensor:
            moved = into.clone()
            moved[:, at] = into[torch.randperm(len(into), generator=generator)][:, at]
            return net.head(moved)

        found[name] = _fallen(whole, again, labels, repeats=repeats, only=only)
    return found
