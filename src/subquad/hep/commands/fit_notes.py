"""Notes on a fit for the report and the terminal: what is taken from another tagger, and what looks wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from subquad.hep.data.file_identity import training_note
from subquad.hep.data.preparation import FitSource
from subquad.hep.data.reweighting import is_inside
from subquad.hep.data.store import JetDataset
from subquad.hep.models.decorrelation import MIN_JETS
from subquad.hep.models.fine_tuning import Origin
from subquad.hep.models.presets import training_defaults
from subquad.hep.settings import FitSettings, Reweighting
from subquad.train.distributed import broadcast_object, processes

__all__ = ["batch_notes", "chance_notes", "origin_notes", "outside_notes"]

CHANCE_AUC = 0.7
"""AUC up to which a tagger that is no more accurate than the most frequent class is called so."""

FEW_STEPS = 30
"""Steps below which a tagger that has learned nothing has had too few of them."""


def origin_notes(origin: Origin | None, source: FitSource, dataset: JetDataset) -> list[str]:
    """Return what is taken from the tagger that is fine-tuned, and a warning if it may know the test jets."""
    if origin is None:
        return []
    tested = source.files.test or source.files.all()
    remedy = "test on jets of other files with --test"
    note = None
    if processes().is_main_process:
        note = training_note(origin.tagger.path, origin.tagger.config, tested, remedy=remedy)
    note = broadcast_object(note)
    return [origin.note(dataset.classes, dataset.layout.targets), *([f"Warning: {note}"] if note else [])]


def batch_notes(settings: FitSettings, dataset: JetDataset, background: str) -> list[str]:
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
