"""Notes on a fit for the report and the terminal: what is taken from another tagger, and what looks wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from subquad.hep.data.fit_files import training_note
from subquad.hep.data.preparation import FitSource
from subquad.hep.data.reweighting import is_inside
from subquad.hep.data.store import JetDataset
from subquad.hep.models.decorrelation import MIN_JETS
from subquad.hep.models.fine_tuning import Origin
from subquad.hep.models.presets import training_defaults
from subquad.hep.settings import FitSettings, Reweighting
from subquad.train.distributed import broadcast_object, processes

CHANCE_AUC = 0.7
"""AUC up to which a tagger that is no more accurate than the most frequent class is called so."""

FEW_WRONG = 3
"""Number of test jets below which a tagger that is wrong for fewer of them may have the label among its inputs."""

ENOUGH_JETS = 100
"""Number of test jets from which it is said so."""

LABEL_JETS = 2000
"""Number of jets in which features are searched for the label."""

FEWEST_OF_CLASS = 20
"""Number of jets of a class, and of others, from which a feature that separates them is named."""

FEW_STEPS = 30
"""Steps below which a tagger that has learned nothing has had too few of them."""


def origin_notes(origin: Origin | None, source: FitSource, dataset: JetDataset) -> list[str]:
    """Return what is taken from the tagger that is fine-tuned, and a warning if it may know the test jets."""
    if origin is None:
        return []
    tested = source.files.test or source.files.all()
    is_main = processes().is_main_process
    note = broadcast_object(training_note(origin.tagger.path, origin.tagger.config, tested) if is_main else None)
    return [origin.note(dataset.classes, dataset.layout.targets), *([f"Warning: {note}"] if note else [])]


def data_notes(
    settings: FitSettings, dataset: JetDataset, background: str, reweighting: Reweighting | None
) -> list[str]:
    """Return all notes on the jets of a fit before the training."""
    return [
        *_batch_notes(settings, dataset, background),
        *outside_notes(dataset, reweighting),
        *label_notes(dataset),
    ]


def result_notes(test: Mapping[str, Any], scores: Mapping[str, np.ndarray], rate: float, steps: int) -> list[str]:
    """Return warnings if the network has learned nothing, or more than can be true."""
    return [*chance_notes(test, scores, rate, steps), *flawless_notes(scores)]


def _batch_notes(settings: FitSettings, dataset: JetDataset, background: str) -> list[str]:
    """Return a warning if too few background jets are in a batch for the penalty of `--decorrelate`."""
    fraction = float((dataset.labels == dataset.classes.index(background)).double().mean())
    expected = training_defaults(settings).batch_size * fraction
    if settings.decorrelate is None or expected >= 2 * MIN_JETS:
        return []
    return [
        f"Warning: a batch has {expected:.1f} jets of {background} on average; below {MIN_JETS} of them there is no "
        "penalty of --decorrelate. Increase --batch-size until a batch has a few dozen."
    ]


def outside_notes(dataset: JetDataset, reweighting: Reweighting | None) -> list[str]:
    """Return how many jets are outside the bins of the reweighting, if any are, and what becomes of them."""
    if reweighting is None:
        return []
    columns = {name: dataset.observer(name) for name in reweighting.bins}
    outside = int((~is_inside(reweighting, {name: own for name, own in columns.items() if own is not None})).sum())
    if not outside:
        return []
    what = "have weight 0" if reweighting.drops_outside else "have the weights of the nearest bins"
    names = ", ".join(reweighting.bins)
    return [f"{outside:,} of {len(dataset):,} jets are outside the bins of {names} for reweighting, and {what}."]


def chance_notes(test: Mapping[str, Any], scores: Mapping[str, np.ndarray], rate: float, steps: int) -> list[str]:
    """Return a warning if the most frequent class alone is named as accurately, and the classes are not separated.

    Of rare signals, or with classes of equal weight in the loss, a good tagger may be less accurate than that.
    """
    of_classes = np.bincount(scores["labels"], scores.get("weights"))
    # of a single class every tagger could be right
    if np.count_nonzero(of_classes) < 2:
        return []
    chance = of_classes.max() / of_classes.sum()
    accuracy = test["accuracy"]
    if accuracy > chance or (test.get("auc_ovo") or 0.5) > CHANCE_AUC:
        return []
    reason = f"The training may have diverged; use a --learning-rate below {rate:g}."
    if steps < FEW_STEPS:
        # it is not known which of the two it is
        reason += f" Or it had too few steps ({steps}); use more --epochs or smaller batches."
    return [
        f"Warning: the tagger is right for {100 * accuracy:.1f} % of the test jets, and the most frequent class is "
        f"{100 * chance:.1f} % of them. {reason}"
    ]


def flawless_notes(scores: Mapping[str, np.ndarray]) -> list[str]:
    """Return a warning if the network is wrong for so few test jets that its inputs may contain the label."""
    labels = scores["labels"]
    wrong = int((scores["probabilities"].argmax(1) != labels).sum())
    if wrong >= FEW_WRONG or len(labels) < ENOUGH_JETS or len(np.unique(labels)) < 2:
        return []
    return [
        f"Warning: almost no jet is wrong ({wrong:,} of {len(labels):,} test jets); check that no input contains the "
        "label."
    ]


def label_notes(dataset: JetDataset) -> list[str]:
    """Return a warning for each feature that is one number per jet and separates a class from all other jets.

    Some of the jets are compared.
    """
    group, step = dataset.layout.features, max(1, len(dataset) // LABEL_JETS)
    some = dataset.subset(torch.arange(0, len(dataset), step))
    rows, begin, found = some.particle_rows(), some.lengths.cumsum(0) - some.lengths, []
    for name, column in zip(group.names, group.columns, strict=True):
        values = dataset.particles[rows, column]
        first = values[begin.clamp(max=len(values) - 1)]
        if not torch.equal(values, torch.repeat_interleave(first, some.lengths)):
            continue
        separated = [dataset.classes[number] for number in _separated(first.numpy(), some.labels.numpy())]
        if separated:
            found.append(
                f"Warning: the input feature {name} alone separates {' and '.join(separated[:3])} from all other jets "
                f"({len(some):,} jets were compared); check that it does not contain the label."
            )
    return found


def _separated(values: np.ndarray, labels: np.ndarray) -> list[int]:
    """Return the classes between whose smallest and largest value there is no other jet."""
    found = []
    for number in np.unique(labels).tolist():
        own, others = values[labels == number], values[labels != number]
        is_between = (others >= own.min()) & (others <= own.max())
        if min(len(own), len(others)) >= FEWEST_OF_CLASS and not is_between.any():
            found.append(number)
    return found
