"""The sample of jets that a tagger is explained on: the first jets of each file, with the tagger's labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from subquad.errors import SubquadError, raise_errors
from subquad.hep.data.card import WEIGHT_COLUMN
from subquad.hep.data.jet_chunk import JetChunk
from subquad.hep.data.store import JetDataset
from subquad.hep.models.trained import TrainedTagger
from subquad.hep.settings import ExplainSettings
from subquad.progress import say


def read_sample(tagger: TrainedTagger, files: Sequence[Path], settings: ExplainSettings, *, quiet: bool) -> JetDataset:
    """Return at most `settings.jets` jets as inputs of the network, equally many from each file.

    Their weights are the event weights that the tagger's layout has, or 1.

    Raises:
        SubquadError: Files that cannot be used, no jet of the tagger's classes, or classes whose event weights do not
            add up to more than 0.
    """
    taken: list[JetChunk] = []
    unknown_jets, left = 0, settings.jets
    for i, path in enumerate(files):
        quota = -(-left // (len(files) - i))
        for chunk in tagger.read_chunks([path], tree=settings.tree, needs_weights=True):
            labels = tagger.class_indices(chunk)
            is_known = labels >= 0
            # jets after the last one that is taken are not skipped for their class
            is_wanted = np.cumsum(is_known) - is_known < quota
            rows = np.flatnonzero(is_known & is_wanted)
            unknown_jets += int((~is_known & is_wanted).sum())
            taken.append(_selected(replace(chunk, labels=labels, classes=tagger.classes), rows))
            quota, left = quota - len(rows), left - len(rows)
            if not quota:
                break
    if not sum(len(chunk) for chunk in taken):
        raise SubquadError(
            f"{files[0]}{' …' * (len(files) > 1)}: no jet of the classes of {tagger.path} "
            f"({', '.join(tagger.classes)}); give --files with such jets"
        )
    if unknown_jets:
        say(f"skipped {unknown_jets:,} jets of classes that {tagger.path} does not know", quiet=quiet)
    dataset = tagger.dataset(_concatenated(taken))
    weights = dataset.observer(WEIGHT_COLUMN) if tagger.layout.event_weights else None
    if weights is None:
        return dataset
    sums = np.bincount(dataset.labels, weights.astype(np.float64), minlength=len(tagger.classes))
    present = np.unique(dataset.labels)
    bad = [f"{tagger.classes[i]}: {sums[i]:g}" for i in present if not sums[i] > 0]
    raise_errors(
        f"The event weights ({tagger.layout.event_weights}) of some classes do not add up to more than 0; increase "
        "--jets, or name another branch with --event-weights:",
        bad,
    )
    return replace(dataset, weights=torch.from_numpy(weights))


def _selected(chunk: JetChunk, rows: np.ndarray) -> JetChunk:
    is_kept = np.zeros(len(chunk), bool)
    is_kept[rows] = True
    return replace(
        chunk,
        particles=chunk.particles[np.repeat(is_kept, chunk.lengths)],
        lengths=chunk.lengths[is_kept],
        jet_features=chunk.jet_features[is_kept],
        observers={name: column[is_kept] for name, column in chunk.observers.items()},
        labels=chunk.labels[is_kept],
    )


def _concatenated(taken: Sequence[JetChunk]) -> JetChunk:
    names = ("particles", "lengths", "jet_features", "labels")
    return JetChunk(
        **{name: np.concatenate([getattr(chunk, name) for chunk in taken]) for name in names},
        observers={
            name: np.concatenate([chunk.observers[name] for chunk in taken])
            for name in (WEIGHT_COLUMN,)
            if all(name in chunk.observers for chunk in taken)
        },
        classes=taken[0].classes,
    )
