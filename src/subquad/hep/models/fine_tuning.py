"""Fine-tuning: a fit that starts from the weights and the standardization of a saved tagger."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from subquad.errors import SubquadError, flag_name, raise_errors
from subquad.hep.data.card import Card, card_like
from subquad.hep.data.layout import Layout, layout_of
from subquad.hep.models.networks import Network
from subquad.hep.models.presets import ARCHITECTURE
from subquad.hep.models.trained import TrainedTagger
from subquad.hep.settings import FitSettings, NetSettings
from subquad.runs.examples import name_of_run
from subquad.runs.folder import WEIGHTS
from subquad.runs.storage import fingerprint


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The tagger that a fit starts from."""

    tagger: TrainedTagger
    fingerprint: str
    """Of its weights; saved in `config.json`, and a fit is resumed only from the same weights."""

    @property
    def net(self) -> NetSettings:
        """Architecture of the network."""
        return self.tagger.settings

    def settings(self, given: FitSettings) -> FitSettings:
        """Return the settings of the fit, with the preset of the run.

        Raises:
            SubquadError: The settings ask for another network than that of the run.
        """
        run, own, preset = self.tagger.path, self.net, self.tagger.config["preset"]
        asked = {
            **{name: getattr(given, name) for name in ARCHITECTURE},
            "inputs": given.inputs,
            # the default cannot be told from --preset auto
            "preset": None if given.preset == FitSettings.preset else given.preset,
        }
        has = {
            **{name: getattr(own, name) for name in ARCHITECTURE},
            "inputs": "particles+jet" if own.has_jet_features else "particles",
            "preset": preset,
        }
        errors = [
            f"{flag_name(name)} is {value}, and the run has {has[name]}; omit it"
            for name, value in asked.items()
            if value is not None and value != has[name]
        ]
        raise_errors(f"--from {run}: fine-tuning keeps the network of the run:", errors)
        return replace(given, preset=preset)

    def layout(self, given: Layout) -> Layout:
        """Return the layout of other jets with the standardization of the run.

        Raises:
            SubquadError: The inputs are not those of the run.
        """
        own = self.tagger.layout
        names = {
            "particle features": (own.features.names, given.features.names),
            "points": (own.points.names, given.points.names),
            "vectors": tuple(() if layout.vectors is None else layout.vectors.names for layout in (own, given)),
            "collections": tuple(_collections(layout) for layout in (own, given)),
            "jet-level features": (own.jet_features, given.jet_features) if self.net.has_jet_features else ((), ()),
        }
        errors = [f"{what}: {_difference(*pair)}" for what, pair in names.items() if pair[0] != pair[1]]
        if own.max_particles != given.max_particles:
            errors.append(f"particles per jet: at most {own.max_particles} in the run, {given.max_particles} here")
        raise_errors(f"--from {self.tagger.path}: these jets do not have the inputs of the run:", errors)
        if given.card is not None and own.card is not None:
            given = replace(layout_of(self.net, card_like(given.card, own.card)), observers=given.observers)
        return replace(given, jet_standardizer=own.jet_standardizer)

    @property
    def card(self) -> Card | None:
        """Data card of the run, unless it is that of a public layout; files without a card are read by it."""
        card = self.tagger.layout.card
        return None if card is None or card.is_layout else card

    def keeps_output_layer(self, classes: Sequence[str], targets: Sequence[str] = ()) -> bool:
        """Return whether these are the classes of the run, in any order, and its regression targets."""
        return set(classes) == set(self.tagger.classes) and tuple(targets) == self.tagger.targets.names

    def load_into(self, net: Network, classes: Sequence[str], targets: Sequence[str] = ()) -> list[nn.Parameter]:
        """Load the weights of the run into a network; the output layer of other classes stays as it is.

        Args:
            net: A network with initial weights.
            classes: Its classes.
            targets: Its regression targets.

        Returns:
            The parameters that the run does not have.
        """
        state = dict(self.tagger.net.state_dict())
        prefix = f"head.{len(net.head) - 1}" if isinstance(net.head, nn.Sequential) else "head"
        for name in ("weight", "bias"):
            saved = state.pop(f"{prefix}.{name}")
            if self.keeps_output_layer(classes, targets):
                rows = [self.tagger.classes.index(label) for label in classes]
                rows += range(len(classes), len(saved))
                state[f"{prefix}.{name}"] = saved[torch.tensor(rows)]
        net.load_state_dict(state, strict=False)
        return [parameter for name, parameter in net.named_parameters() if name not in state]

    def note(self, classes: Sequence[str], targets: Sequence[str] = ()) -> str:
        """Return a sentence on what is taken from the run."""
        start = f"Fine-tuned from {self.tagger.path} (weights {self.fingerprint}), with its standardization"
        if self.keeps_output_layer(classes, targets):
            return f"{start} and its output layer."
        own = f"the classes {_some(self.tagger.classes)}"
        if self.tagger.targets.names or targets:
            own += f" and the regression targets {_some(self.tagger.targets.names) or 'none'}"
        return f"{start}; the output layer is newly initialised, as the run has {own}."

    def as_config(self, classes: Sequence[str], targets: Sequence[str] = ()) -> dict[str, Any]:
        """Return the record of the origin in `config.json`."""
        return {
            "run": name_of_run(self.tagger.path.absolute()),
            "fingerprint": self.fingerprint,
            "classes": self.tagger.classes,
            "keeps_output_layer": self.keeps_output_layer(classes, targets),
        }


def origin_of(run: Path | str | None) -> Origin | None:
    """Return the tagger that a fit starts from; None without one.

    Raises:
        SubquadError: There is no such run, or it is not finished.
    """
    if run is None:
        return None
    try:
        tagger = TrainedTagger.load(run)
    except SubquadError as error:
        raise SubquadError(f"--from: {error}") from error
    return Origin(tagger=tagger, fingerprint=fingerprint(tagger.path / WEIGHTS))


def _collections(layout: Layout) -> list[str]:
    """Return the collections of inputs, if there are several, with their lengths and numbers of features."""
    inputs = () if layout.card is None or len(layout.card.inputs) == 1 else layout.card.inputs
    return [f"{one.prefix} (length {one.length}, {len(one.features)} features)" for one in inputs]


def _difference(own: Sequence[str], given: Sequence[str]) -> str:
    missing, more = ([name for name in these if name not in those] for these, those in ((own, given), (given, own)))
    parts = [f"{_some(missing)} of the run missing"] * bool(missing) + [f"{_some(more)} not in the run"] * bool(more)
    return ", ".join(parts) or f"other order: {_some(own)} in the run, {_some(given)} here"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)
