"""Datasets of jets: flat tables in memory, or in a folder on disk and mapped into memory.

A fit writes all jets once, chunk by chunk, into the run's folder (about 2.3 times the size of compressed ROOT files),
under another name until they are complete. Every process maps the same tables, so that memory stays bounded.
Each jet belongs to a part: for training, from which parts that are not given are drawn, for testing or for validation.

Axes: J jets, C particles of all jets, V columns, R rows of the tables of jets.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from subquad.errors import SubquadError, reading
from subquad.hep.data.input_collections import membership
from subquad.hep.data.jet_chunk import JetChunk
from subquad.hep.data.layout import Layout
from subquad.progress import say
from subquad.runs.storage import read_json, sync, write_json

INDEX = "index.json"
TABLES = ("particles", "jet_features", "observers")
INTEGERS = ("lengths", "labels", "parts")

PARTS = ("train", "test", "validation")
"""Names of the parts by their numbers."""

OPTIONAL = ("decorrelated", "targets")
"""Columns of jets that only some fits have."""

MOST_CLASSES = 1000
"""Largest number of classes of files whose labels are numbers."""

UNUSED = len(PARTS)
"""Part of jets that their file marks for another part than the one that other files are given for."""


@dataclass(frozen=True, kw_only=True)
class JetDataset:
    """Jets with labels and weights; subsets share the large tables."""

    layout: Layout
    """Meaning and standardization of the columns."""
    classes: tuple[str, ...]
    """Names of the labels; empty if labels are numbers or missing."""
    particles: Float[Tensor, "C V"]
    jet_features: Float[Tensor, "R F"]
    observers: Float[Tensor, "R O"]
    """Columns as the layout's observers; NaN for jets whose files have no such column."""
    rows: Tensor
    """[J]: row of each jet in `jet_features` and `observers`."""
    first: Tensor
    """[J]: first row of each jet in `particles`."""
    lengths: Tensor
    """[J]: number of particles that are used."""
    labels: Tensor
    """[J] int64, index into `classes`; -1 without a label."""
    parts: Tensor
    """[J] int64, index into `PARTS`."""
    weights: Float[Tensor, " J"]
    """Weights in the loss; their mean over the training jets is 1."""
    decorrelated: Float[Tensor, " J"] | None = None
    """The observer that the background's scores are decorrelated from; None without a penalty."""
    targets: Float[Tensor, "J T"] | None = None
    """Standardized regression targets; None if there are none."""

    def __len__(self) -> int:
        return len(self.lengths)

    def subset(self, indices: Tensor) -> "JetDataset":
        """Return some of the jets, in the order of the indices."""
        names = ("rows", "first", "lengths", "labels", "parts", "weights", *OPTIONAL)
        columns = {name: getattr(self, name) for name in names}
        return replace(self, **{name: None if x is None else x[indices] for name, x in columns.items()})

    def observer(self, name: str) -> np.ndarray | None:
        """Return an observer [J], or None if the layout or the files of these jets have none of this name."""
        if name not in self.layout.observers:
            return None
        values = self.observers[self.rows, self.layout.observers.index(name)].numpy()
        return None if len(values) and np.isnan(values).all() else values

    def part(self, name: str) -> Tensor:
        """Return the indices of the jets of a part."""
        return torch.nonzero(self.parts == PARTS.index(name))[:, 0]

    def multiplicities(self) -> Tensor:
        """Return [J]: the particles of each jet; with several collections of inputs, the entries of the first one."""
        card = self.layout.card
        if card is None or len(card.inputs) == 1:
            return self.lengths
        is_first = self.particles[self.particle_rows(), self.layout.particles.index(membership(card.inputs[0]))]
        jet = torch.repeat_interleave(torch.arange(len(self)), self.lengths)
        return torch.zeros(len(self)).index_add(0, jet, is_first)

    def particle_rows(self) -> Tensor:
        """Return the rows of all particles of the jets in `particles`."""
        begin = torch.repeat_interleave(self.first - (self.lengths.cumsum(0) - self.lengths), self.lengths)
        return begin + torch.arange(int(self.lengths.sum()))


def dataset_of(chunk: JetChunk, layout: Layout) -> JetDataset:
    """Return a chunk of jets as a dataset in memory."""
    return _dataset(
        layout,
        chunk.classes,
        particles=torch.from_numpy(chunk.particles),
        jet_features=torch.from_numpy(chunk.jet_features),
        observers=torch.from_numpy(_observer_table(chunk, layout)),
        lengths=torch.from_numpy(chunk.lengths),
        labels=torch.from_numpy(chunk.labels),
        parts=torch.zeros(len(chunk), dtype=torch.int64),
    )


def _dataset(layout: Layout, classes: Sequence[str], *, lengths: Tensor, **tables: Tensor) -> JetDataset:
    return JetDataset(
        layout=layout,
        classes=tuple(classes),
        rows=torch.arange(len(lengths)),
        first=lengths.cumsum(0) - lengths,
        lengths=lengths.clamp(max=layout.max_particles),
        weights=torch.ones(len(lengths)),
        **tables,
    )


def _observer_table(chunk: JetChunk, layout: Layout) -> np.ndarray:
    table = np.full((len(chunk), len(layout.observers)), np.nan, np.float32)
    for i, name in enumerate(layout.observers):
        if name in chunk.observers:
            table[:, i] = chunk.observers[name]
    return table


def open_store(folder: Path, key: str, layout: Layout) -> JetDataset | None:
    """Return the dataset in a folder, or None if there is no complete store with this key.

    Args:
        folder: Written by `write_store`.
        key: Must be the key that the store was written with.
        layout: Meaning of the columns.

    Raises:
        SubquadError: The index of the store is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        return None
    with reading(path, "a store of jets"):
        index, sizes = read_json(path), _sizes(folder)
        # mapping a file that is too short would fill it up with zeros
        if index["key"] != key or index["bytes"] != sizes or len(sizes) < len((*TABLES, *INTEGERS)):
            return None
        integers = {name: torch.from_numpy(np.fromfile(folder / name, np.int32)).long() for name in INTEGERS}
        tables = {name: _mapped(folder / name, index["shapes"][name]) for name in TABLES}
        return _dataset(layout, index["classes"], **integers, **tables)


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file of a store but its index."""
    files = [folder / name for name in (*TABLES, *INTEGERS)]
    return {path.name: path.stat().st_size for path in files if path.is_file()}


def _mapped(path: Path, shape: Sequence[int]) -> Tensor:
    if 0 in shape:
        return torch.zeros(*shape)
    # writable because torch requires it, and shared so that no memory is reserved for it
    return torch.from_numpy(np.memmap(path, np.float32, "r+", shape=tuple(shape)))


def write_store(
    folder: Path, layout: Layout, chunks: Mapping[str, Iterable[JetChunk]], *, key: str, quiet: bool = True
) -> None:
    """Write the jets of all chunks into a new folder; its index, which is written last, completes the store.

    Args:
        folder: Folder to write.
        layout: Meaning of the columns.
        chunks: Jets by part, those of `train` first. Some of these may be marked for another part; they are used there,
            unless that part has chunks of its own.
        key: Identifies files and layout.
        quiet: Do not warn of jets that are all marked for testing or validation.

    Raises:
        SubquadError: The card selects no jet, no jet is for training, or an error of the chunks.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts: list[np.ndarray] = []
    with ExitStack() as stack:
        writer = _Writer(folder, layout, stack)
        for name, own in chunks.items():
            marks = [np.zeros(0, np.int8), *(writer.add(chunk, name) for chunk in own)]
            parts.append(np.concatenate(marks))
            if not len(parts[0]):
                raise SubquadError("the card selects no jet to fit on; check the units of its selection")
    parts[0] = _checked_marks(parts[0], [PARTS.index(name) for name in chunks], quiet=quiet)
    # by Python, whose error says that the disk is full
    (folder / "parts").write_bytes(np.concatenate(parts).astype(np.int32).tobytes())
    sizes = _sizes(folder)
    for name in sizes:
        # before the index, which says that they are complete
        sync(folder / name)
    write_json(folder / INDEX, {"key": key, "bytes": sizes, **writer.index()})


def _checked_marks(marks: np.ndarray, given: Sequence[int], *, quiet: bool) -> np.ndarray:
    """Return the parts of the jets to fit on, from the parts that they are marked for and those that are given."""
    if len(np.unique(marks)) == 1:
        # only one part of a data set was given
        if marks[0] and marks[0] < UNUSED:
            say(f"Warning: all jets to fit on are marked for {PARTS[marks[0]]}, and used for training", quiet=quiet)
        return np.zeros_like(marks)
    if (marks != PARTS.index("train")).all():
        raise SubquadError("the files have jets for testing and validation, and none for training; add these")
    return np.where((marks != 0) & np.isin(marks, given), UNUSED, marks)


def class_numbers(labels: np.ndarray) -> tuple[str, ...]:
    """Return the names of classes that are numbers.

    Raises:
        SubquadError: A number is too large for a class.
    """
    largest = int(labels.max())
    if largest >= MOST_CLASSES:
        raise SubquadError(f"labels go up to {largest:,}; give numbers of classes, from 0 to {MOST_CLASSES - 1}")
    return tuple(map(str, range(largest + 1)))


class _Writer:
    def __init__(self, folder: Path, layout: Layout, stack: ExitStack) -> None:
        self._layout = layout
        # parts are known at the end
        names = (*TABLES, *(name for name in INTEGERS if name != "parts"))
        self._files: dict[str, Any] = {name: stack.enter_context((folder / name).open("wb")) for name in names}
        self._classes: list[str] = []
        self.jets = self.particles = 0

    def add(self, chunk: JetChunk, part: str) -> np.ndarray:
        """Write a chunk and return the part [J] of each of its jets."""
        if len(chunk):
            self._add(chunk)
        if chunk.split is not None and part == "train":
            return chunk.split
        return np.full(len(chunk), PARTS.index(part), np.int8)

    def _add(self, chunk: JetChunk) -> None:
        self._write("particles", chunk.particles, np.float32)
        self._write("jet_features", chunk.jet_features, np.float32)
        self._write("observers", _observer_table(chunk, self._layout), np.float32)
        self._write("lengths", chunk.lengths, np.int32)
        self._write("labels", self._class_indices(chunk), np.int32)
        self.jets += len(chunk)
        self.particles += len(chunk.particles)

    def _write(self, name: str, table: np.ndarray, kind: type) -> None:
        self._files[name].write(np.ascontiguousarray(table, kind).data)

    def _class_indices(self, chunk: JetChunk) -> np.ndarray:
        """Return the labels as indices into the list of all classes, whose order may differ between files."""
        names = chunk.classes or class_numbers(chunk.labels)
        self._classes += [name for name in names if name not in self._classes]
        return np.array([self._classes.index(name) for name in names])[chunk.labels]

    def index(self) -> dict[str, Any]:
        """Return what opens the tables again."""
        columns = (self._layout.particles, self._layout.jet_features, self._layout.observers)
        rows = (self.particles, self.jets, self.jets)
        shapes = {name: [count, len(width)] for name, count, width in zip(TABLES, rows, columns, strict=True)}
        return {"classes": self._classes, "shapes": shapes}
