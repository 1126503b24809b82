"""Predictions of trained taggers: for jets in files, which are read once for all taggers, or for a run's own test jets.

Axes: J jets, C classes, N batches.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subquad.errors import SubquadError
from subquad.hep.data.chunks import chunk_of
from subquad.hep.data.jet_chunk import JetChunk
from subquad.hep.data.jets import iterate_jets
from subquad.hep.data.store import JetDataset
from subquad.hep.metrics.predictions import OBSERVERS, TEST_SCORES, Predictions, concatenated, predictions_of_run
from subquad.hep.models.networks import logits_and_targets, predict_outputs, using_threads
from subquad.hep.models.trained import TrainedTagger
from subquad.hep.settings import EvaluateSettings
from subquad.runs.storage import read_tensors
from subquad.train.bucketing import batches_by_length
from subquad.train.distributed import processes

SINGLE_JETS = 50
"""Jets that are scored one by one for the latency."""
MOST_NAMES = 10
"""Classes that a message names."""
BOOSTING = "boosting"
"""Name of the gradient-boosting baseline that `subquad hep fit` trains beside the network."""
OF_BASELINE = (
    *("data", "card", "layout", "test_fraction", "validation_fraction"),
    *("event_weights", "reweight", "reweight_vars"),
)
"""Settings of a fit that its baseline depends on, besides the seed and the inputs."""


def is_baseline(name: str) -> bool:
    """Return whether a name is one of those of gradient boosting."""
    return name == BOOSTING or name.startswith(f"{BOOSTING} of ")


def score_files(
    taggers: Mapping[str, Sequence[TrainedTagger]],
    files: Sequence[Path],
    settings: EvaluateSettings,
    classes: Sequence[str],
    *,
    quiet: bool,
) -> list[Predictions]:
    """Score the jets of files with all taggers and time the networks.

    Taggers that read the same columns share one pass over the files: all without a data card, and all with equal cards.

    Args:
        taggers: Trainings of each model, by the model's name.
        files: Files of labelled jets.
        settings: Batch size, tree and threads.
        classes: Order of the classes.
        quiet: Show no progress.

    Raises:
        SubquadError: Files or jets that cannot be used, or jets of a class that the taggers do not know.
    """
    scorers = [_Scorer(name, tagger, classes, settings) for name, each in taggers.items() for tagger in each]
    readers: dict[str, list[_Scorer]] = {}
    for scorer in scorers:
        scorer.tagger.net.to(processes().device)
        readers.setdefault(_reader_key(scorer.tagger), []).append(scorer)
    with using_threads(settings.threads):
        for group in readers.values():
            options = {"tree": settings.tree, "quiet": quiet, "title": "scoring jets"}
            for chunks in _chunks([scorer.tagger for scorer in group], files, **options):
                for scorer, chunk in zip(group, chunks, strict=True):
                    scorer.add(chunk, files)
    return [scorer.predictions(files) for scorer in scorers]


def _reader_key(tagger: TrainedTagger) -> str:
    """Return a key that is equal for taggers that make the same chunks of a file."""
    card = tagger.layout.card
    if card is None:
        return json.dumps([tagger.layout.event_weights, tagger.layout.targets])
    # centers and scales are applied to batches, not to chunks
    columns = {key: value for key, value in card.options.items() if key != "preprocess"}
    is_plain = [variable.center is None for variable in card.features]
    # collections of inputs may have another order
    names = [tagger.layout.particles, tagger.layout.jet_features]
    return json.dumps([columns, is_plain, *names], sort_keys=True, default=str)


def _chunks(taggers: Sequence[TrainedTagger], files: Sequence[Path], **options: Any) -> Iterator[list[JetChunk]]:
    """Yield the next jets of the files, as each of the taggers takes them."""
    if taggers[0].layout.card is None:
        given = {"event_weights": taggers[0].layout.event_weights, "targets": taggers[0].layout.targets}
        for jets in iterate_jets(files, **given, **options):
            yield [chunk_of(jets, tagger.layout) for tagger in taggers]
    else:
        needs = {"needs_weights": True, "needs_targets": True}
        for chunk in taggers[0].read_chunks(files, **needs, **options):
            yield [chunk] * len(taggers)


@dataclass
class _Scorer:
    """One tagger, and what it has predicted so far."""

    name: str
    tagger: TrainedTagger
    classes: Sequence[str]
    settings: EvaluateSettings
    parts: list[Predictions] = field(default_factory=list)
    latency: float | None = None

    def add(self, chunk: JetChunk, files: Sequence[Path]) -> None:
        """Score a chunk of jets."""
        if not len(chunk):
            return
        inputs, batch_size = self.tagger.dataset(chunk), self.settings.batch_size
        if not self.parts:
            # the first call allocates memory, and its time would be attributed to the jets
            self._timed_outputs(inputs.subset(torch.arange(min(batch_size, len(chunk)))))
            self.latency = self._latency(inputs)
        outputs, batches = self._timed_outputs(inputs)
        logits, targets = logits_and_targets(self.tagger.net, outputs)
        order = [self.tagger.classes.index(name) for name in self.classes]
        observers = {key: chunk.observers.get(OBSERVERS[key]) for key in ("pt", "sdmass", "weights")}
        # an observer of this name is no weight
        observers |= {} if self.tagger.layout.event_weights else {"weights": None}
        self.parts.append(
            Predictions(
                model=self.name,
                source=str(self.tagger.path),
                seed=self.tagger.config["seed"],
                probabilities=logits.softmax(-1).numpy()[:, order],
                labels=_labels(chunk, self.tagger, self.classes, files),
                multiplicity=inputs.multiplicities().numpy().astype(np.float32),
                batches=batches,
                latency=self.latency,
                temperature=self.tagger.config.get("temperature"),
                predicted=self.tagger.targets.predicted(targets),
                true={name: chunk.observers[name].astype(np.float32) for name in self.tagger.targets.names},
                **{key: None if column is None else column.astype(np.float32) for key, column in observers.items()},
            )
        )

    def _latency(self, inputs: JetDataset) -> float:
        """Return the median milliseconds of single jets, from their standardization to the outputs."""
        seconds = []
        for row in torch.linspace(0, len(inputs) - 1, SINGLE_JETS).long():
            began = time.perf_counter()
            predict_outputs(self.tagger.net, inputs.subset(row[None]), 1)
            seconds.append(time.perf_counter() - began)
        return 1e3 * float(np.median(seconds))

    def _timed_outputs(self, inputs: JetDataset) -> tuple[torch.Tensor, np.ndarray]:
        """Return the outputs and, of each batch, the mean number of particles, the number of jets and the seconds."""
        batch_size, clock = self.settings.batch_size, [time.perf_counter()]
        outputs = predict_outputs(
            self.tagger.net,
            inputs,
            batch_size,
            advance=lambda _: clock.append(time.perf_counter()),
        )
        plan = batches_by_length(inputs.lengths, batch_size)
        sizes = [(inputs.lengths[rows].float().mean().item(), len(rows)) for rows in plan]
        return outputs, np.column_stack([sizes, np.diff(clock)])

    def predictions(self, files: Sequence[Path]) -> Predictions:
        """Return all predictions."""
        if not self.parts:
            raise SubquadError(f"{files[0]}{' …' * (len(files) > 1)}: the card of {self.tagger.path} selects no jet")
        return concatenated(self.parts)


def _labels(chunk: JetChunk, tagger: TrainedTagger, classes: Sequence[str], files: Sequence[Path]) -> np.ndarray:
    """Return [J]: the labels as indices into `classes`."""
    own = tagger.class_indices(chunk)
    if (own < 0).any():
        unknown_labels = np.unique(chunk.labels[own < 0]).tolist()
        every = [chunk.classes[label] if chunk.classes else str(label) for label in unknown_labels]
        names = ", ".join(every[:MOST_NAMES]) + " …" * (len(every) > MOST_NAMES)
        raise SubquadError(f"{files[0]}{' …' * (len(files) > 1)}: jets of {names}, which no tagger was fitted on")
    return np.array([classes.index(name) for name in tagger.classes])[own]


def stored_predictions(
    configs: Mapping[Path, Mapping[str, Any]], names: Mapping[Path, str], classes: Sequence[str]
) -> list[Predictions]:
    """Return the predictions that runs stored for their own test jets: those of their networks and of their baselines.

    Runs that differ in their networks only have the same baseline, which is returned once. Baselines that differ in
    more than their seed are named after the first model that they were fitted beside.

    Args:
        configs: `config.json` of each run, by its folder.
        names: Name of the model of each run.
        classes: Order of the classes.

    Raises:
        SubquadError: A run has no test jets of its own.
    """
    stored = {folder: _stored(folder, names[folder], config, classes) for folder, config in configs.items()}
    baselines = {folder: _baseline_key(configs[folder]) for folder, own in stored.items() if BOOSTING in own}
    first: dict[str, Path] = {}
    for folder, key in baselines.items():
        first.setdefault(key, folder)
    found, seen = [], set()
    for folder, own in stored.items():
        found.append(own[names[folder]])
        if BOOSTING not in own or (training := (baselines[folder], configs[folder]["seed"])) in seen:
            continue
        seen.add(training)
        name = BOOSTING if len(first) == 1 else f"{BOOSTING} of {names[first[baselines[folder]]]}"
        found.append(replace(own[BOOSTING], model=name))
    return found


def _baseline_key(config: Mapping[str, Any]) -> str:
    """Return a key that is equal for runs whose baselines differ at most in their seed."""
    settings, net = config["subquad"]["settings"], config["net"]
    own = [settings.get(name) for name in OF_BASELINE]
    return json.dumps([*own, net.get("has_jet_features"), net.get("features")], default=str)


def _stored(folder: Path, name: str, config: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Predictions]:
    """Return the predictions of a run for its own test jets by the name of the model."""
    if not (folder / TEST_SCORES).is_file():
        raise SubquadError(f"{folder}: stores no test jets of its own; give files")
    stored = {key: tensor.numpy() for key, tensor in read_tensors(folder / TEST_SCORES).items()}
    order = [config["classes"].index(name) for name in classes]
    names = {"net": name, "boosting": BOOSTING}
    return {
        one.model: replace(one, probabilities=one.probabilities[:, order], labels=np.argsort(order)[one.labels])
        for one in predictions_of_run(
            stored, names, source=str(folder), seed=config["seed"], temperature=config.get("temperature")
        )
    }
