"""A saved tagger, opened: the net, and how jets are made ready for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from subquad.hep.data.card import card_of
from subquad.hep.data.chunks import Piece, pieces
from subquad.hep.data.layout import Layout, layout_of, layout_of_card
from subquad.hep.models.tagger import Inputs, Scale, from_tensors, inputs_of_piece
from subquad.hep.settings import NetSettings
from subquad.runs.folder import load_config, load_tensors

__all__ = ["Tagger", "open_tagger"]


@dataclass(frozen=True, kw_only=True)
class Tagger:
    """What a folder of `subquad hep fit` holds."""

    path: Path
    config: dict[str, Any]
    """Its `config.json`."""
    net: nn.Module
    """In evaluation."""
    settings: NetSettings
    layout: Layout
    scale: Scale | None
    """Of the jet-level numbers; None: the net takes none."""
    classes: tuple[str, ...]

    def pieces(
        self,
        files: Sequence[Path],
        *,
        tree: str = "tree",
        needs_labels: bool = True,
        title: str = "scoring jets",
        quiet: bool = True,
    ) -> Iterator[Piece]:
        """Yield the jets of files in chunks, read as the tagger's own were; see `subquad.hep.data.chunks`."""
        return pieces(
            files,
            self.layout,
            features=self.settings.features,
            tree=tree,
            is_training=False,
            needs_labels=needs_labels,
            title=title,
            quiet=quiet,
        )

    def inputs(self, piece: Piece) -> Inputs:
        """Return what the net takes of a piece."""
        return inputs_of_piece(piece, self.layout, self.settings, self.scale)


def open_tagger(path: Path | str) -> Tagger:
    """Return the tagger that `subquad hep fit` wrote.

    Raises:
        SubquadError: no such folder, not finished, or of another field.
    """
    config = load_config(path, "hep")
    settings, classes = NetSettings(**config["net"]), tuple(config["classes"])
    layout = layout_of(settings)
    if config.get("card"):
        layout = layout_of_card(card_of(config["card"]["options"], config["card"]["name"]), settings)
    net, scale = from_tensors(load_tensors(path), settings, len(classes), layout)
    return Tagger(
        path=Path(path), config=config, net=net, settings=settings, layout=layout, scale=scale, classes=classes
    )
