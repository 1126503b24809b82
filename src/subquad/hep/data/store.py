"""The jets of a fit on the disk, drawn from in any order: memory stays bounded however many files there are.

All jets are written once, piece by piece, as flat tables in the run's folder (about 2.3 times the size of compressed
ROOT files), under another name until they are whole. Every process maps the same tables; pages that are not needed
leave memory.

Axes: J jets, C particles of all jets, V columns.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subquad.errors import SubquadError
from subquad.hep.data.chunks import Piece
from subquad.hep.data.layout import Layout
from subquad.runs.storage import read_json, write_json

__all__ = ["Store", "open_store", "write_store"]

INDEX = "index.json"
TABLES = ("particles", "jet_features", "observers")


@dataclass(frozen=True, kw_only=True)
class Store:
    """The tables: those with a row per particle or many columns are files, the rest is in memory."""

    particles: Tensor
    """[C, V] float32."""
    jet_features: Tensor
    """[J, F] float32."""
    observers: Tensor
    """[J, O] float32, columns as the layout's observers; 0 where the files that are measured on have no such column."""
    lengths: Tensor
    """[J] int64."""
    labels: Tensor
    """[J] int64, index into `classes`."""
    classes: tuple[str, ...]
    fitted: int
    """So many jets come from the files to fit on; the rest from those to measure on."""

    @property
    def first(self) -> Tensor:
        """[J]: the first row of each jet."""
        return self.lengths.cumsum(0) - self.lengths


def open_store(folder: Path, key: str) -> Store | None:
    """Return the store in a folder, or None where there is none with this key."""
    if not (folder / INDEX).is_file():
        return None
    index = read_json(folder / INDEX)
    if index["key"] != key:
        return None
    mapped = {name: _mapped(folder / name, index["shapes"][name]) for name in TABLES}
    return Store(
        **mapped,
        lengths=torch.from_numpy(np.fromfile(folder / "lengths", np.int32)).long(),
        labels=torch.from_numpy(np.fromfile(folder / "labels", np.int32)).long(),
        classes=tuple(index["classes"]),
        fitted=index["fitted"],
    )


def _mapped(path: Path, shape: Sequence[int]) -> Tensor:
    if 0 in shape:
        return torch.zeros(*shape)
    # writable, since torch wants it, and shared, so that no memory is set aside for it
    return torch.from_numpy(np.memmap(path, np.float32, "r+", shape=tuple(shape)))


def write_store(folder: Path, layout: Layout, fitted: Iterator[Piece], measured: Iterator[Piece], *, key: str) -> None:
    """Write the jets of all pieces into a new folder; it is a store once its index is there, which comes last.

    Raises:
        SubquadError: from the pieces; or files without a jet that the card selects.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ExitStack() as opened:
        writer = _Writer(folder, layout, opened)
        for piece in fitted:
            writer.add(piece)
        count = writer.jets
        if not count:
            raise SubquadError("the card's selection leaves no jet to fit on")
        for piece in measured:
            writer.add(piece)
    write_json(folder / INDEX, {"key": key, "fitted": count, **writer.index})


class _Writer:
    def __init__(self, folder: Path, layout: Layout, opened: ExitStack) -> None:
        self._layout = layout
        names = (*TABLES, "lengths", "labels")
        self._files: dict[str, Any] = {name: opened.enter_context((folder / name).open("wb")) for name in names}
        self._classes: list[str] = []
        self.jets = self.rows = 0

    def add(self, piece: Piece) -> None:
        if not len(piece):
            return
        zeros = np.zeros(len(piece), np.float32)
        observers = [piece.observers.get(name, zeros) for name in self._layout.observers]
        self._write("particles", piece.particles, np.float32)
        self._write("jet_features", piece.jet_features, np.float32)
        self._write("observers", np.stack(observers, axis=1) if observers else np.zeros((len(piece), 0)), np.float32)
        self._write("lengths", piece.lengths, np.int32)
        self._write("labels", self._numbered(piece), np.int32)
        self.jets += len(piece)
        self.rows += len(piece.particles)

    def _write(self, name: str, table: np.ndarray, kind: type) -> None:
        self._files[name].write(np.ascontiguousarray(table, kind).data)

    def _numbered(self, piece: Piece) -> np.ndarray:
        """Return the labels as places in the list of all classes, since files may have them in another order."""
        names = piece.classes or tuple(map(str, range(int(piece.labels.max()) + 1)))
        self._classes += [name for name in names if name not in self._classes]
        return np.array([self._classes.index(name) for name in names])[piece.labels]

    @property
    def index(self) -> dict[str, Any]:
        """What opens the tables again."""
        widths = (self._layout.particles, self._layout.jet_features, self._layout.observers)
        rows = (self.rows, self.jets, self.jets)
        shapes = {name: [count, len(width)] for name, count, width in zip(TABLES, rows, widths, strict=True)}
        return {"classes": self._classes, "shapes": shapes}
