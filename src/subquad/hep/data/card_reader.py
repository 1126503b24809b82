"""Jets read by a data card.

Axes: J jets, C particles of all jets, V columns of the table of particles.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require
from subquad.hep.data.card import WEIGHT_COLUMN, Card
from subquad.hep.data.columns import (
    Place,
    class_indices,
    column_of_numbers,
    jet_table,
    jet_totals,
    observers_of,
    particle_table,
)
from subquad.hep.data.expressions import Expression
from subquad.hep.data.features import jet_features, momentum_features
from subquad.hep.data.file_chunks import check_columns, inspect_files
from subquad.hep.data.formats import Source
from subquad.hep.data.input_collections import InputCollection, columns_of, united
from subquad.hep.data.jet_chunk import JetChunk
from subquad.hep.data.jets import jets_of
from subquad.hep.data.layout import Layout
from subquad.hep.data.momentum_checks import angles_from_momenta, check_momenta, check_points
from subquad.progress import say


class CardColumns(Mapping[str, Any]):
    """Columns of a chunk of a file and the new variables of a card, each of which is computed on first use."""

    def __init__(self, new_variables: Mapping[str, Expression], given: Mapping[str, Any], count: int) -> None:
        self._new_variables, self._known, self._count = new_variables, dict(given), count

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = self.evaluate(self._new_variables[name])
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._known, **self._new_variables})

    def __len__(self) -> int:
        return len({**self._known, **self._new_variables})

    def evaluate(self, expression: Expression) -> Any:
        """Return the values of an expression; a single number is repeated for all jets."""
        ak = require("awkward", extra="hep")
        value = expression(self)
        if isinstance(value, bool | int | float | np.generic):
            value = np.full(self._count, value)
        value = ak.Array(value)
        if value.ndim and len(value) != self._count:
            raise SubquadError(
                f"{expression.place}: {expression.text!r} gives {len(value)} values for {self._count} jets"
            )
        return ak.from_regular(value, axis=1) if value.ndim == 2 else value


class CardReader:
    """Reads chunks of files by a data card."""

    def __init__(
        self, layout: Layout, card: Card, *, is_training: bool, needs_labels: bool, needs_weights: bool
    ) -> None:
        self.layout, self.card, self.is_training = layout, card, is_training
        self.has_labels, self.has_weights = needs_labels, needs_weights
        self.needs_labels = needs_labels
        self._replaced: Counter[str] = Counter()

    def inspect(self, files: Sequence[Path], tree: str, *, quiet: bool = True) -> list[Source]:
        """Return the contents of the files that are not empty, which must have all columns that the card asks for."""
        sources, card = inspect_files(files, self.card.tree, default=tree, quiet=quiet), self.card
        for name in ("has_labels", "has_weights"):
            if not getattr(self, name):
                # what is optional is read if all files have it
                wanted = card.branches(
                    is_training=self.is_training, **{"has_labels": False, "has_weights": False, name: True}
                )
                columns = {card.branch(branch) for branch in wanted}
                setattr(self, name, all(columns <= {*source.columns} for source in sources))
        for source in sources:
            check_columns(
                source, {card.branch(name): f"{card.name}: {place}" for name, place in self._wanted().items()}
            )
            check_columns(source, dict.fromkeys(self._links(source), f"{card.name}: collections"))
            for name in sorted(card.new_variables.keys() & {*source.columns}) if not card.is_layout else ():
                say(
                    f"{source.path}: {name} is a branch, and {card.name} defines it; its definition is used",
                    quiet=quiet,
                )
        return sources

    def branches(self, source: Source) -> list[str]:
        """Return the branches to read."""
        others = [*self._links(source), source.split if self.is_training else None]
        return sorted({self.card.branch(name) for name in self._wanted()} | {name for name in others if name})

    def _links(self, source: Source) -> list[str]:
        return self.card.collections.branches(source.columns) if self.card.collections else []

    def _wanted(self) -> dict[str, str]:
        return self.card.branches(
            is_training=self.is_training, has_labels=self.has_labels, has_weights=self.has_weights
        )

    def chunk(self, given: Mapping[str, Any], source: Source, place: Place) -> JetChunk:
        """Return the jets that the card selects."""
        split, entries = None, place.entries
        if self.is_training and source.split is not None:
            split = np.asarray(given[source.split])
            place.refuse(~np.isin(split, (0, 1, 2)), f"{source.split} must be 0, 1 or 2, and is", split)
        given, place = self.selected(given, source, place)
        if not len(place.entries):
            return self._empty()
        chunk = self._chunk(self._columns(given, source, len(place.entries)), place)
        return chunk if split is None else replace(chunk, split=split[np.isin(entries, place.entries)].astype(np.int8))

    def selected(self, given: Mapping[str, Any], source: Source, place: Place) -> tuple[Mapping[str, Any], Place]:
        """Return the branches of the jets that the card selects, and where these jets are."""
        if self.card.collections is not None:
            names = [self.card.branch(name) for name in self._wanted()]
            given, event = self.card.collections.flattened(given, names, place)
            place = replace(place, entries=place.entries[event])
        count, selection = len(place.entries), self.card.selection if self.is_training else self.card.test_selection
        if selection is None or not count:
            return given, place
        values = self._columns(given, source, count).evaluate(selection)
        keep = np.asarray(column_of_numbers(values, selection.place, 1, place)).astype(bool)
        return {name: column[keep] for name, column in given.items()}, replace(place, entries=place.entries[keep])

    def _columns(self, branches: Mapping[str, Any], source: Source, count: int) -> CardColumns:
        """Return the branches of jets by the names of the card, and the columns that depend on the file."""
        columns = {name: branches[self.card.branch(name)] for name in self._wanted()}
        for name, values in self.card.file_magic.items():
            # the value of the first pattern that is found in the path, of one type in all files
            value = next((value for pattern, value in values.items() if re.search(pattern, str(source.path))), 0)
            array = np.full(count, value, np.result_type(*values.values(), 0))
            columns[name] = require("awkward", extra="hep").Array(array)
        return CardColumns(self.card.new_variables, columns, count)

    def say_replaced(self, *, quiet: bool) -> None:
        """Log how many undefined values were set to 0."""
        for name, count in self._replaced.items():
            say(f"{self.card.name}: {name} has {count:,} NaN, which count as 0", quiet=quiet)

    def _empty(self) -> JetChunk:
        none = np.zeros(0, np.int64)
        return JetChunk(
            particles=np.zeros((0, len(self.layout.particles)), np.float32),
            lengths=none,
            jet_features=np.zeros((0, len(self.layout.jet_features)), np.float32),
            observers={name: np.zeros(0, np.float32) for name in self.layout.observers},
            labels=none,
            classes=(),
        )

    def _chunk(self, columns: CardColumns, place: Place) -> JetChunk:
        card, layout = self.card, self.layout
        tables, counts = zip(*(self._entries_of(columns, one, place) for one in card.inputs), strict=True)
        table, lengths = united(card.inputs, tables, counts)
        momenta = None
        if layout.vectors is not None:
            for one, own, size in zip(card.inputs, tables, counts, strict=True):
                vectors = columns_of(own, one, one.vectors)
                check_momenta(vectors, size, place)
                if one.points:
                    names = [point.name for point in one.points]
                    check_points(columns_of(own, one, one.points), vectors, size, names, place)
            # of the first collection: secondary vertices consist of particles, which must not count twice
            momenta = columns_of(tables[0], card.inputs[0], card.vectors), counts[0]
            if not card.points:
                table = np.concatenate([table, angles_from_momenta(*momenta)], axis=1)
        return JetChunk(
            particles=table,
            lengths=lengths,
            jet_features=self._jet_features(columns, table, lengths, momenta, place),
            observers=self._observers(columns, place),
            labels=self._labels(columns, place),
            classes=(card.classes or ()) if self.has_labels else (),
        )

    def _entries_of(
        self, columns: CardColumns, collection: InputCollection, place: Place
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the entries of a collection [C, V] that the card keeps, and how many of them each jet has [J]."""
        names, masks = collection.columns, [collection.mask] if collection.mask else []
        # jets consist of the first one
        may_be_empty = collection != self.card.inputs[0]
        table, lengths = particle_table(columns, [*names, *masks], place, is_finite=False, may_be_empty=may_be_empty)
        jet = np.repeat(np.arange(len(lengths)), lengths)
        keep = np.arange(len(table)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < collection.length
        if masks:
            # undefined is 0, as for other columns
            keep &= np.nan_to_num(table[:, -1]) != 0
        table, lengths = table[keep, : len(names)], np.bincount(jet[keep], minlength=len(lengths))
        if not may_be_empty:
            place.refuse(lengths == 0, "the card's mask leaves no particle of the jet")
        is_clipped = {v.name for v in self.card.features if v.center is not None or v.is_automatic}
        momenta = {variable.name for variable in (*collection.points, *collection.vectors)}
        for name, column in zip(names, table.T, strict=True):
            is_bad = np.isinf(column) & (name not in is_clipped) | np.isnan(column) & (name in momenta)
            place.refuse(is_bad, f"{name} is", column, lengths=lengths)
            if np.isnan(column).any():
                self._replaced[name] += int(np.isnan(column).sum())
                column[np.isnan(column)] = 0
        return table, lengths

    def _jet_features(
        self,
        columns: CardColumns,
        table: np.ndarray,
        lengths: np.ndarray,
        momenta: tuple[np.ndarray, np.ndarray] | None,
        place: Place,
    ) -> np.ndarray:
        """Return the jet-level features [J, F], from momenta [C, 4] and their number per jet [J], if there are any."""
        if self.layout.has_jetclass_features:
            # padding that a mask drops has an energy of 0
            jets = jets_of(columns, (), place, may_be_padded=self.card.inputs[0].mask is not None)
            return jet_features(jets, self.layout.jet_features)
        if momenta is not None:
            return momentum_features(*momenta)
        jet, group = np.repeat(np.arange(len(lengths)), lengths), self.layout.features
        # the logarithm of 0 must not make the mean infinite
        features = np.nan_to_num(table[:, list(group.columns)], posinf=0, neginf=0)
        counts = [lengths] * len(group.columns)
        if group.owners:
            is_own = table[:, list(group.owners)] != 0
            features = np.where(is_own, features, 0)
            # those that say which collection an entry belongs to stand for its fraction of all entries
            counts = [
                lengths if column == owner else jet_totals(jet, own, len(lengths))
                for column, owner, own in zip(group.columns, group.owners, is_own.T, strict=True)
            ]
        totals = [jet_totals(jet, column, len(lengths)) for column in features.T]
        means = [total / count.clip(1) for total, count in zip(totals, counts, strict=True)]
        return np.stack([lengths, *means], axis=1).astype(np.float32)

    def _observers(self, columns: CardColumns, place: Place) -> dict[str, np.ndarray]:
        observers = observers_of(columns, self.card.per_jet(is_training=self.is_training), place)
        # a target may be an observer too
        numbers = {name: (f"the regression target {name}", target) for name, target in self.card.targets.items()}
        if self.has_weights and self.card.event_weights is not None:
            weights = self.card.event_weights
            numbers[WEIGHT_COLUMN] = f"the event weight {weights.text}", weights
        for name, (title, expression) in numbers.items():
            observers[name] = jet_table({title: columns.evaluate(expression)}, [title], place)[:, 0]
        return observers

    def _labels(self, columns: CardColumns, place: Place) -> np.ndarray:
        if not self.has_labels:
            return np.full(len(place.entries), -1)
        values = {label.text: columns.evaluate(label) for label in self.card.labels}
        if self.card.classes is not None:
            return class_indices(values, list(values), place, needs_labels=self.needs_labels)
        ((text, _),) = values.items()
        numbers = jet_table(values, [text], place)[:, 0]
        what = f"classes are whole numbers from 0 on, and {text} is"
        place.refuse((numbers < 0) | (numbers % 1 != 0), what, numbers)
        return numbers.astype(np.int64)
