"""A saved tagger, opened: how it reads jets, and its net."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subquad.hep.card import card_of
from subquad.hep.layout import Layout, layout_of, layout_of_card
from subquad.hep.pieces import Piece, pieces
from subquad.hep.settings import NetSettings
from subquad.hep.tagger import Inputs, Net, Scale, from_tensors, inputs_of_piece
from subquad.train.artifact import load_config, load_tensors

__all__ = ["Tagger", "opened"]


@dataclass(frozen=True, kw_only=True)
class Tagger:
    """What scoring needs of a model folder."""

    config: dict[str, Any]
    """Its `config.json`."""
    settings: NetSettings
    layout: Layout
    """JetClass's, or that of the data card in the folder."""
    net: Net
    scale: Scale | None
    """Of the jet's features; None: the net takes none."""

    def pieces(self, files: Sequence[Path], *, tree: str, needs_labels: bool, quiet: bool) -> Iterator[Piece]:
        """Yield the jets of files piece by piece, those that the card selects where there is one."""
        return pieces(
            files,
            self.layout,
            features=self.settings.features,
            tree=tree,
            is_training=False,
            needs_labels=needs_labels,
            title="scoring jets",
            quiet=quiet,
        )

    def inputs(self, piece: Piece) -> Inputs:
        """Return what the net sees of jets."""
        return inputs_of_piece(piece, self.layout, self.settings, self.scale)


def opened(model: Path | str) -> Tagger:
    """Return the tagger of a folder that `fit` wrote.

    Raises:
        SubquadError: no such model.
    """
    config = load_config(model, "hep")
    settings = NetSettings(**config["net"])
    layout = layout_of(settings)
    if config.get("card"):
        layout = layout_of_card(card_of(config["card"]["options"], config["card"]["name"]), settings)
    net, scale = from_tensors(load_tensors(model), settings, len(config["classes"]), layout)
    return Tagger(config=config, settings=settings, layout=layout, net=net, scale=scale)
