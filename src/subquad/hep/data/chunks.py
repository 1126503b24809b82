"""Jets made ready for a net, some thousand at a time, from JetClass's branches or as a data card says.

Axes: J jets, C particles of all jets, V columns of the particles' table.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError, raise_errors, require
from subquad.hep.data.card import WEIGHT_COLUMN, Card
from subquad.hep.data.columns import Place, check_finite, jet_table, label_numbers, particle_table
from subquad.hep.data.expressions import Expression
from subquad.hep.data.features import angles_of, jet_features, particle_features, sums_of
from subquad.hep.data.formats import Source
from subquad.hep.data.jets import Jets, jets_of, look_into, read_pieces, stream
from subquad.hep.data.layout import ANGLES_FOUND, Layout
from subquad.progress import say

__all__ = ["Piece", "piece_of", "pieces"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some jets, as a `Layout` has them; the particles of one jet after those of the other."""

    particles: np.ndarray
    """[C, V] float32."""
    lengths: np.ndarray
    """[J] int64."""
    jet_features: np.ndarray
    """[J, F] float32."""
    observers: Mapping[str, np.ndarray]
    """[J] each, of the type in the file."""
    labels: np.ndarray
    """[J] int64; -1 where the files have no labels."""
    classes: tuple[str, ...]
    """Names of the labels; none where they are numbers, or not there."""

    def __len__(self) -> int:
        return len(self.lengths)


def pieces(
    files: Sequence[Path],
    layout: Layout,
    *,
    features: str,
    tree: str,
    is_training: bool,
    needs_labels: bool = True,
    title: str,
    quiet: bool,
) -> Iterator[Piece]:
    """Yield the jets of the files piece by piece.

    Args:
        files: of jets.
        layout: what is kept of them.
        features: `raw` or `standard`, of JetClass's branches.
        tree: name of the tree where no card says it.
        is_training: the card's `selection` and weights hold; otherwise its `test_time_selection`.
        needs_labels: files without labels are refused.
        title: of the progress bar.
        quiet: no progress.

    Raises:
        SubquadError: files or jets that cannot be used; all are listed.
    """
    if layout.card is None:
        for jets in read_pieces(files, tree=tree, needs_labels=needs_labels, title=title, quiet=quiet):
            yield piece_of(jets, layout, features)
        return
    reader = _CardReader(layout, layout.card, is_training=is_training, needs_labels=needs_labels)
    sources = reader.look(files, tree)
    yield from stream(sources, reader.branches, reader.piece, title=title, quiet=quiet)
    for name, count in reader.not_numbers.items():
        say(f"{layout.card.name}: {name} has no value for {count:,} particles, which count as 0", quiet=quiet)


def piece_of(jets: Jets, layout: Layout, features: str) -> Piece:
    """Return jets in JetClass's layout made ready."""
    table = particle_features(jets, features)
    # where the features have no momenta, these come behind
    rest = len(layout.particles) - table.shape[1]
    return Piece(
        particles=np.concatenate([table, jets.particles[:, :rest]], axis=1),
        lengths=jets.lengths,
        jet_features=jet_features(jets),
        observers={name: jets.observers[:, i] for i, name in enumerate(layout.observers)},
        labels=jets.labels,
        classes=jets.classes,
    )


class _Columns(Mapping[str, Any]):
    """The columns of some jets: those of the file, and the card's new variables, each computed when it is asked for."""

    def __init__(self, card: Card, given: Mapping[str, Any], count: int) -> None:
        self._card, self._known, self._count = card, dict(given), count

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = self.computed(self._card.new_variables[name])
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._known, **self._card.new_variables})

    def __len__(self) -> int:
        return len({**self._known, **self._card.new_variables})

    def computed(self, expression: Expression) -> Any:
        """Return the value of an expression; one number stands for all jets."""
        ak = require("awkward", extra="hep")
        value = expression(self)
        if isinstance(value, bool | int | float | np.generic):
            value = np.full(self._count, value)
        if isinstance(value, np.ndarray):
            value = ak.Array(value)
        if not isinstance(value, ak.Array):
            # four-vectors, of which other variables take parts
            return value
        if value.ndim and len(value) != self._count:
            raise SubquadError(
                f"{expression.place}: {expression.text!r} gives {len(value)} values for {self._count} jets; sums over "
                "the particles of a jet take axis=1"
            )
        return ak.from_regular(value, axis=1) if value.ndim == 2 else value


class _CardReader:
    def __init__(self, layout: Layout, card: Card, *, is_training: bool, needs_labels: bool) -> None:
        self.layout, self.card, self.is_training = layout, card, is_training
        self.needs_labels = self.has_labels = needs_labels
        self.not_numbers: Counter[str] = Counter()

    def look(self, files: Sequence[Path], tree: str) -> list[Source]:
        """Return what is in the files; all must have the columns that the card asks for."""
        sources, mistakes = look_into(files, self.card.tree, otherwise=tree)
        columns = {source.path: set(source.columns) for source in sources}
        if not self.needs_labels:
            wanted = self.card.branches(is_training=self.is_training, has_labels=True)
            self.has_labels = all(self.card.branch(name) in columns[s.path] for name in wanted for s in sources)
        asked = self.card.branches(is_training=self.is_training, has_labels=self.has_labels)
        for source in sources:
            lacking = {
                name: place for name, place in asked.items() if self.card.branch(name) not in columns[source.path]
            }
            for name, place in lacking.items():
                mistakes.append(_lacking(source, self.card.branch(name), f"{self.card.name}: {place}"))
        raise_errors("Some files cannot be used:", mistakes)
        return sources

    def branches(self, source: Source) -> list[str]:
        """Return the names in the file."""
        return sorted({self.card.branch(name) for name in self._asked()})

    def _asked(self) -> dict[str, str]:
        return self.card.branches(is_training=self.is_training, has_labels=self.has_labels)

    def piece(self, given: Mapping[str, Any], source: Source, place: Place) -> Piece:
        """Return the jets that the card selects."""
        ak = require("awkward", extra="hep")
        given = {name: given[self.card.branch(name)] for name in self._asked()}
        for name, values in self.card.file_magic.items():
            given[name] = ak.Array(np.full(len(place.entries), _magic(values, source)))
        columns = _Columns(self.card, given, len(place.entries))
        selection = self.card.selection if self.is_training else self.card.test_selection
        if selection is not None:
            keep = np.asarray(columns.computed(selection)).astype(bool)
            place = Place(file=place.file, entries=place.entries[keep], mistakes=place.mistakes)
            columns = _Columns(self.card, {name: column[keep] for name, column in given.items()}, int(keep.sum()))
        before = len(place.mistakes)
        check_finite(columns, list(self._asked()), place)
        # what is computed of bad columns is bad again, and needs no telling
        is_good = len(place.mistakes) == before
        return self._ready(columns, place) if is_good else self._nothing()

    def _nothing(self) -> Piece:
        none = np.zeros(0, np.int64)
        return Piece(
            particles=np.zeros((0, len(self.layout.particles)), np.float32),
            lengths=none,
            jet_features=np.zeros((0, len(self.layout.jet_features)), np.float32),
            observers={name: np.zeros(0, np.float32) for name in self.layout.observers},
            labels=none,
            classes=(),
        )

    def _ready(self, columns: _Columns, place: Place) -> Piece:
        card = self.card
        if not len(place.entries):
            return self._nothing()
        names = [name for name in self.layout.particles if name not in ANGLES_FOUND]
        masks = [card.mask] if card.mask else []
        table, lengths = particle_table(columns, [*names, *masks], place, is_finite=False)
        table, lengths = _kept(table, lengths, place, length=card.length, has_mask=bool(masks))
        self._clean(table, names, lengths, place)
        vectors = None
        if self.layout.vectors:
            vectors = table[:, list(self.layout.vectors.columns)]
        if len(names) < len(self.layout.particles):
            assert vectors is not None
            table = np.concatenate([table, angles_of(vectors, lengths)], axis=1)
        return Piece(
            particles=table,
            lengths=lengths,
            jet_features=self._jet_features(columns, table, vectors, lengths, place),
            observers=self._observers(columns, place),
            labels=self._labels(columns, place),
            classes=card.classes or (),
        )

    def _clean(self, table: np.ndarray, names: Sequence[str], lengths: np.ndarray, place: Place) -> None:
        """Put 0 for NaN, as weaver does, and count it; infinity is clipped later, or a mistake where nothing is."""
        is_clipped = {v.name for v in self.card.features if v.center is not None or v.is_automatic}
        for i, name in enumerate(names):
            bad = np.isnan(table[:, i])
            if bad.any():
                self.not_numbers[name] += int(bad.sum())
                table[bad, i] = 0
            endless = np.isinf(table[:, i])
            if endless.any() and name not in is_clipped:
                jet = np.repeat(np.arange(len(lengths)), lengths)
                place.tell(int(jet[np.argmax(endless)]), f"{name} is infinite", len(np.unique(jet[endless])))

    def _jet_features(
        self, columns: _Columns, table: np.ndarray, vectors: np.ndarray | None, lengths: np.ndarray, place: Place
    ) -> np.ndarray:
        if self.layout.has_jetclass_features:
            return jet_features(jets_of(columns, (), place))
        if vectors is not None:
            return sums_of(vectors, lengths)
        jet = np.repeat(np.arange(len(lengths)), lengths)
        # a logarithm of 0 counts nothing here
        seen = np.nan_to_num(table[:, list(self.layout.features.columns)], posinf=0, neginf=0)
        means = [np.bincount(jet, weights=column, minlength=len(lengths)) for column in seen.T]
        return np.stack([lengths, *(mean / lengths.clip(1) for mean in means)], axis=1).astype(np.float32)

    def _observers(self, columns: _Columns, place: Place) -> dict[str, np.ndarray]:
        names = list(self.card.per_jet(is_training=self.is_training))
        jet_table(columns, names, place)
        found = {name: np.asarray(columns[name]) for name in names if columns[name].ndim == 1}
        if self.is_training and isinstance(self.card.weights, Expression):
            computed = {WEIGHT_COLUMN: columns.computed(self.card.weights)}
            found[WEIGHT_COLUMN] = jet_table(computed, [WEIGHT_COLUMN], place)[:, 0]
            if (found[WEIGHT_COLUMN] < 0).any():
                j = int(np.argmax(found[WEIGHT_COLUMN] < 0))
                place.tell(j, f"the weight is {found[WEIGHT_COLUMN][j]:g}", int((found[WEIGHT_COLUMN] < 0).sum()))
        return found

    def _labels(self, columns: _Columns, place: Place) -> np.ndarray:
        if not self.has_labels:
            return np.full(len(place.entries), -1)
        values = {label.text: columns.computed(label) for label in self.card.labels}
        if self.card.classes is not None:
            return label_numbers(values, list(values), place)
        ((text, _),) = values.items()
        numbers = jet_table(values, [text], place)[:, 0]
        bad = (numbers < 0) | (numbers % 1 != 0)
        if bad.any():
            j = int(np.argmax(bad))
            place.tell(j, f"{text} is {numbers[j]:g}", int(bad.sum()), then="classes are whole numbers from 0 on")
        return numbers.astype(np.int64)


def _kept(
    table: np.ndarray, lengths: np.ndarray, place: Place, *, length: int, has_mask: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the particles among the first `length` of each jet whose mask is not 0, and their numbers."""
    jet = np.repeat(np.arange(len(lengths)), lengths)
    keep = np.arange(len(table)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < length
    if has_mask:
        keep &= table[:, -1] != 0
        table = table[:, :-1]
    kept = np.bincount(jet[keep], minlength=len(lengths))
    if ((kept == 0) & (lengths > 0)).any():
        none = (kept == 0) & (lengths > 0)
        place.tell(int(np.argmax(none)), "the card's mask leaves no particle of the jet", int(none.sum()))
    return table[keep], kept


def _magic(values: Mapping[str, float], source: Source) -> float:
    """Return what weaver's `file_magic` says of a file: the value of the first pattern that its name has; else 0."""
    return next((value for pattern, value in values.items() if re.search(pattern, str(source.path))), 0)


def _lacking(source: Source, name: str, place: str) -> str:
    near = difflib.get_close_matches(name, source.columns, n=1, cutoff=0.6)
    also = f"; did you mean {near[0]!r}?" if near else ""
    return f"{source.path}: {source.words} lacks the branch {name}, which {place} asks for{also}"
