"""A trained tagger in the folder of a run: the network, and how jets are read for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from subquad.errors import reading
from subquad.hep.data.card import card_of
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.jet_chunk import JetChunk
from subquad.hep.data.layout import Layout, layout_of, with_event_weights, with_targets
from subquad.hep.data.store import JetDataset, dataset_of
from subquad.hep.models.networks import Network, load_network
from subquad.hep.models.targets import Targets
from subquad.hep.settings import NetSettings
from subquad.runs.examples import run_folder
from subquad.runs.folder import CONFIG, load_config, load_tensors


@dataclass(frozen=True, kw_only=True)
class TrainedTagger:
    """What `subquad hep fit` or `PCNTagger.save` wrote."""

    path: Path
    """Folder of the run."""
    config: dict[str, Any]
    """Its `config.json`."""
    net: Network
    """In evaluation mode."""
    settings: NetSettings
    layout: Layout
    """With fitted standardization."""
    classes: tuple[str, ...]
    targets: Targets = field(default_factory=Targets)
    """Regression targets beside the classes."""

    @classmethod
    def load(cls, run: Path | str) -> Self:
        """Return the tagger in the folder of a run, or `example:tagger`.

        Raises:
            SubquadError: There is no such folder, it is not finished, or holds a model of another field.
        """
        run = run_folder(run)
        config, tensors = load_config(run, "hep"), load_tensors(run)
        with reading(run / CONFIG, "a tagger"):
            settings, classes, card = NetSettings(**config["net"]), tuple(config["classes"]), config["card"]
            # the features that it was trained with, whatever those of a later version are
            names = {"features": config.get("particle_features", ()), "jet_features": config.get("jet_features", ())}
            layout = layout_of(settings, None if card is None else card_of(card["options"], card["name"]), **names)
            if card is None and config.get("event_weights"):
                layout = with_event_weights(layout, config["event_weights"])
            targets = Targets.of_config(config.get("targets"))
            # those of a card are part of it
            layout = with_targets(layout, [name for name in targets.names if name not in layout.targets])
            net, layout = load_network(tensors, settings, layout, len(classes), targets=len(targets))
        return cls(
            path=run,
            config=config,
            net=net,
            settings=settings,
            layout=layout,
            classes=classes,
            targets=targets,
        )

    @property
    def temperature(self) -> float:
        """Number by which the logits were divided after the training; the weights of the last layer contain it."""
        return float(self.config.get("temperature", 1.0))

    def weighted_by(self, event_weights: str | None) -> Self:
        """Return the tagger with jets that count with these event weights: a branch or, with a card, an expression.

        Args:
            event_weights: None keeps those of the run.
        """
        if event_weights is None or event_weights == self.layout.event_weights:
            return self
        return replace(self, layout=with_event_weights(self.layout, event_weights))

    def read_chunks(
        self,
        files: Sequence[Path],
        *,
        tree: str = "tree",
        needs_labels: bool = True,
        needs_weights: bool = False,
        needs_targets: bool = False,
        observers: Sequence[str] = (),
        title: str = "scoring jets",
        quiet: bool = True,
    ) -> Iterator[JetChunk]:
        """Yield the jets of files, read as the tagger's training jets were; see `subquad.hep.data.chunks`."""
        needs = {"needs_labels": needs_labels, "needs_weights": needs_weights, "needs_targets": needs_targets}
        options = {"observers": observers, "title": title, "quiet": quiet}
        yield from read_chunks(files, self.layout, tree=tree, **needs, **options)

    def class_indices(self, chunk: JetChunk) -> np.ndarray:
        """Return [J] int64: index of each jet's label in `classes`; -1 for other labels."""
        names = chunk.classes or [str(number) for number in range(chunk.labels.max(initial=-1) + 1)]
        index = np.array([self.classes.index(name) if name in self.classes else -1 for name in (*names, "")])
        # label -1, of a jet without label, is the last entry
        return index[chunk.labels]

    def dataset(self, chunk: JetChunk) -> JetDataset:
        """Return a chunk as the dataset that the network takes."""
        return dataset_of(chunk, self.layout)
