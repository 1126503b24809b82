"""The jets that a tagger is looked into with: the first of each file, labelled as the tagger counts its classes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from subquad.errors import SubquadError
from subquad.hep.data.chunks import Piece
from subquad.hep.models.tagger import Inputs
from subquad.hep.models.trained import Tagger
from subquad.hep.settings import ExplainSettings
from subquad.progress import say

__all__ = ["sample_of"]


def sample_of(tagger: Tagger, files: Sequence[Path], settings: ExplainSettings, *, quiet: bool) -> Inputs:
    """Return the jets as the net sees them, at most `settings.jets`, of each file as many.

    Raises:
        SubquadError: files that cannot be used, or no jet of the tagger's classes.
    """
    taken: list[Piece] = []
    others, left = 0, settings.jets
    for i, path in enumerate(files):
        quota = -(-left // (len(files) - i))
        for piece in tagger.pieces([path], tree=settings.tree):
            labels = _labels(piece, tagger.classes)
            rows = np.flatnonzero(labels >= 0)
            others += len(labels) - len(rows)
            rows = rows[:quota]
            taken.append(_some(replace(piece, labels=labels), rows))
            quota, left = quota - len(rows), left - len(rows)
            if not quota:
                break
    if not sum(len(piece) for piece in taken):
        raise SubquadError(f"{files[0]} …: no jet of {', '.join(tagger.classes)}, the classes of {tagger.path}")
    if others:
        say(f"{others:,} jets of classes that {tagger.path} does not know are left out", quiet=quiet)
    return tagger.inputs(_joined(taken))


def _labels(piece: Piece, classes: Sequence[str]) -> np.ndarray:
    """Return [J]: the classes as the tagger counts them; -1 for others."""
    if not piece.classes:
        names = {int(name): i for i, name in enumerate(classes) if name.isdigit()}
        return np.array([names.get(int(label), -1) for label in piece.labels], np.int64)
    index = np.array([classes.index(name) if name in classes else -1 for name in piece.classes])
    return np.where(piece.labels >= 0, index[piece.labels], -1)


def _some(piece: Piece, rows: np.ndarray) -> Piece:
    keep = np.zeros(len(piece), bool)
    keep[rows] = True
    return replace(
        piece,
        particles=piece.particles[np.repeat(keep, piece.lengths)],
        lengths=piece.lengths[keep],
        jet_features=piece.jet_features[keep],
        observers={name: column[keep] for name, column in piece.observers.items()},
        labels=piece.labels[keep],
    )


def _joined(taken: Sequence[Piece]) -> Piece:
    names = ("particles", "lengths", "jet_features", "labels")
    return Piece(
        **{name: np.concatenate([getattr(piece, name) for piece in taken]) for name in names},
        observers={},
        classes=taken[0].classes,
    )
