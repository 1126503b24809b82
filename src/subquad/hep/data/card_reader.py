"""Jets read by a data card.

Axes: J jets, C particles of all jets, V columns of the table of particles.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError, raise_errors, require
from subquad.hep.data.axis_checks import AngleChecks
from subquad.hep.data.card import WEIGHT_COLUMN, Card
from subquad.hep.data.card_columns import CardColumns
from subquad.hep.data.columns import (
    ChunkErrors,
    check_finite,
    class_indices,
    column_of_numbers,
    flat_column,
    jet_table,
    jet_totals,
    observers_of,
    particle_table,
    truncated,
)
from subquad.hep.data.expressions import Expression
from subquad.hep.data.features import jet_features, momentum_features
from subquad.hep.data.file_chunks import inspect_files, missing_branch
from subquad.hep.data.formats import Source
from subquad.hep.data.input_collections import InputCollection, columns_of, united
from subquad.hep.data.jet_chunk import JetChunk
from subquad.hep.data.jets import OBSERVERS, jets_of
from subquad.hep.data.layout import Layout
from subquad.hep.data.momentum_checks import angles_from_momenta, check_azimuth, check_collections
from subquad.hep.data.value_notes import UnusualValues, WeightSums
from subquad.hep.data.variations import Variation, fixed_inputs, vary

__all__ = ["CardReader"]


class CardReader:
    """Reads chunks of files by a data card."""

    def __init__(
        self, layout: Layout, card: Card, *, is_training: bool, needs_labels: bool, needs_weights: bool
    ) -> None:
        self.layout, self.card, self.is_training = layout, card, is_training
        self.has_labels, self.has_weights = needs_labels, needs_weights
        self.needs_labels = needs_labels
        self.not_numbers = UnusualValues("NaN", "set to 0")
        self.infinite = UnusualValues("infinite", "clipped")
        self.angle_checks = AngleChecks(card, is_training=is_training)
        self.weight_sums = WeightSums()
        self.flagged: Sequence[str] = ()
        self.variation: Variation | None = None

    def inspect(self, files: Sequence[Path], tree: str, *, quiet: bool = True) -> list[Source]:
        """Return the contents of the files that are not empty, which must have all columns that the card asks for."""
        sources, errors = inspect_files(files, self.card.tree, default=tree, card=self.card.name, quiet=quiet)
        columns = {source.path: set(source.columns) for source in sources}
        for name in ("has_labels", "has_weights"):
            if not getattr(self, name):
                # what is optional is read if all files have it
                wanted = self.card.branches(
                    is_training=self.is_training, **{"has_labels": False, "has_weights": False, name: True}
                )
                known = all(self.card.branch(branch) in columns[s.path] for branch in wanted for s in sources)
                setattr(self, name, known)
        for source in sources:
            for name, place in self._wanted().items():
                if self.card.branch(name) not in columns[source.path]:
                    asks = "--observers" if name in self.flagged else f"{self.card.name}: {place}"
                    labels = self._labels_for(name, place, source)
                    errors.append(missing_branch(source, self.card.branch(name), asks, labels=labels))
            for key, name in self._links(source).items():
                if name not in columns[source.path]:
                    wanted = name or f"{getattr(self.card.collections, key)}_*"
                    errors.append(missing_branch(source, wanted, f"{self.card.name}: collections: {key}"))
        raise_errors("Some files cannot be used:", errors)
        return sources

    def _labels_for(self, name: str, place: str, source: Source) -> list[list[str]]:
        """Return the branches that may be meant by a missing label: those that the card does not use come first."""
        if not place.startswith("labels") and name not in self.card.label_origins():
            return []
        others = self.card.branches(is_training=self.is_training, has_labels=False, has_weights=self.has_weights)
        used = {self.card.branch(column) for column in self._wanted()}
        inputs = {self.card.branch(column) for column in others}
        return [[one for one in source.columns if one not in used], [one for one in used if one not in inputs]]

    def branches(self, source: Source) -> list[str]:
        """Return the branches to read."""
        others = [*self._links(source).values(), source.split if self.is_training else None, *self._redefined(source)]
        return sorted({self.card.branch(name) for name in self._wanted()} | {name for name in others if name})

    def _redefined(self, source: Source) -> list[str]:
        """Return the branches of a file whose names new variables of the card have that are used."""
        if self.card.has_layout_names:
            return []
        used = self.card.used_variables(**self._needs())
        return sorted(used & {*source.columns})

    def _links(self, source: Source) -> dict[str, str | None]:
        return self.card.collections.branches(source.columns) if self.card.collections else {}

    def _wanted(self) -> dict[str, str]:
        return self.card.branches(**self._needs())

    def _needs(self) -> dict[str, bool]:
        return {"is_training": self.is_training, "has_labels": self.has_labels, "has_weights": self.has_weights}

    def chunk(self, given: Mapping[str, Any], source: Source, errors: ChunkErrors) -> JetChunk:
        """Return the jets that the card selects."""
        split = _split(given, source, errors) if self.is_training else None
        if self.card.collections is not None:
            names = [*(self.card.branch(name) for name in self._wanted()), *self._redefined(source)]
            given, event = self.card.collections.flattened(given, names, errors)
            errors = replace(errors, entries=errors.entries[event])
            if not len(event):
                return self._empty()
        redefined = {name: given[name] for name in self._redefined(source)}
        given = self._columns(given, source, len(errors.entries))
        if self.variation is not None:
            # branches have other values than the variables that are computed from varied ones
            given, redefined = self._varied(given, self.variation, source, errors), {}
        columns = CardColumns(self.card, given, len(errors.entries))
        selection = self.card.selection if self.is_training else self.card.test_selection
        if selection is not None:
            keep = self._kept(columns.evaluate(selection), selection, errors)
            errors = replace(errors, entries=errors.entries[keep])
            split = None if split is None else split[keep]
            columns = CardColumns(self.card, {name: column[keep] for name, column in given.items()}, int(keep.sum()))
            redefined = {name: column[keep] for name, column in redefined.items()}
        before = len(errors.errors)
        check_finite(columns, list(self._wanted()), errors, repaired=self.card.repaired_branches(**self._needs()))
        # variables computed from bad columns are bad too, and need no message of their own
        if len(errors.errors) > before or not len(errors.entries):
            return self._empty()
        for name, branch in redefined.items():
            _check_definition(name, branch, columns, self.card, errors)
        return replace(self._selected(columns, errors), split=split)

    def selects(self, branches: Mapping[str, Any], source: Source, errors: ChunkErrors) -> np.ndarray:
        """Return [J]: whether the card selects each jet, from branches of jets."""
        selection = self.card.selection if self.is_training else self.card.test_selection
        count = len(errors.entries)
        if selection is None:
            return np.ones(count, bool)
        columns = CardColumns(self.card, self._columns(branches, source, count), count)
        return self._kept(columns.evaluate(selection), selection, errors)

    def _columns(self, branches: Mapping[str, Any], source: Source, count: int) -> dict[str, Any]:
        """Return the branches of jets by the names of the card, and the columns that depend on the file."""
        ak = require("awkward", extra="hep")
        found = {name: branches[self.card.branch(name)] for name in self._wanted()}
        for name, values in self.card.file_magic.items():
            # of one type in all files
            kind = np.result_type(*values.values(), 0)
            found[name] = ak.Array(np.full(count, _file_magic(values, source), kind))
        return found

    def _kept(self, values: Any, selection: Expression, errors: ChunkErrors) -> np.ndarray:
        """Return [J]: whether the selection, of which `values` are the values, keeps each jet."""
        name = f"{selection.place}: {selection.text!r}"
        column = column_of_numbers(values, name, 1, errors, advice="write ak.fill_none(…, False)")
        return np.zeros(len(errors.entries), bool) if column is None else np.asarray(column).astype(bool)

    def _varied(
        self, given: Mapping[str, Any], variation: Variation, source: Source, errors: ChunkErrors
    ) -> dict[str, Any]:
        """Return the branches with varied momenta."""
        inputs = {name: given[name] for name in self.card.input_branches() if name in given}
        of_jets = [name for name, column in inputs.items() if column.ndim == 1 and name not in self.card.file_magic]
        fixed = fixed_inputs([name for name, column in inputs.items() if column.ndim > 1], of_jets)
        if fixed and variation.kind != "rotate":
            raise SubquadError(
                f"--vary {variation.name}: {self.card.name} takes {', '.join(fixed[:5])} from the files, which cannot "
                "be recomputed from varied momenta; fit a tagger without such inputs"
            )

        def vectors(columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
            own = CardColumns(self.card, columns, len(errors.entries))
            names = [variable.name for variable in self.card.vectors]
            return particle_table(own, names, replace(errors, errors=[]), is_finite=False)

        generator = variation.generator(source.path.name, int(errors.entries[0]))
        return vary(given, variation, vectors, generator, jets={*of_jets, *OBSERVERS})

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

    def _selected(self, columns: CardColumns, errors: ChunkErrors) -> JetChunk:
        card, layout, before = self.card, self.layout, len(errors.errors)
        tables, counts = zip(*(self._entries(columns, one, errors) for one in card.inputs), strict=True)
        table, lengths = united(card.inputs, tables, counts)
        momenta = None
        if layout.vectors is not None:
            # columns with errors are 0
            check_collections(card.inputs, tables, counts, errors, has_energies=len(errors.errors) == before)
            # of the first collection: secondary vertices consist of particles, which must not count twice
            momenta = columns_of(tables[0], card.inputs[0], card.vectors), counts[0]
            if not card.points:
                table = np.concatenate([table, angles_from_momenta(*momenta)], axis=1)
        if momenta is not None and len(errors.errors) == before:
            self.angle_checks.check_axes(columns, tables[0], counts[0], errors)
        # degrees that the checks of momenta and points found need no second message
        if len(errors.errors) == before:
            for name, (place, mask) in card.azimuths().items():
                # padding that the mask drops may have any angle
                values = flat_column(columns[name], None if mask is None else columns[mask])
                check_azimuth(values, name, place, errors)
        if len(errors.errors) == before:
            self.angle_checks.check_turns(columns, tables, counts, errors)
        return JetChunk(
            particles=table,
            lengths=lengths,
            jet_features=self._jet_features(columns, table, lengths, momenta, errors),
            observers=self._observers(columns, errors),
            labels=self._labels(columns, errors),
            classes=(card.classes or ()) if self.has_labels else (),
        )

    def _entries(
        self, columns: CardColumns, collection: InputCollection, errors: ChunkErrors
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the entries of a collection [C, V] that the card keeps, and how many of them each jet has [J]."""
        names, masks = collection.columns, [collection.mask] if collection.mask else []
        # jets consist of the first one
        may_be_empty = collection != self.card.inputs[0]
        advice = ""
        if len(self.card.inputs) > 1:
            other = self.card.inputs[1].prefix
            advice = f"{collection.prefix} is the first collection, which no jet may lack; list {other} first"
        table, lengths = particle_table(
            columns, [*names, *masks], errors, is_finite=False, may_be_empty=may_be_empty, advice=advice
        )
        table, lengths = truncated(
            table, lengths, errors, length=collection.length, has_mask=bool(masks), may_be_empty=may_be_empty
        )
        self._replace_nan(table, names, lengths, errors)
        return table, lengths

    def _replace_nan(self, table: np.ndarray, names: Sequence[str], lengths: np.ndarray, errors: ChunkErrors) -> None:
        """Set NaN to 0, and count it and infinity, which is clipped later, or an error in unclipped columns."""
        is_clipped = {v.name for v in self.card.features if v.center is not None or v.is_automatic}
        jet = np.repeat(np.arange(len(lengths)), lengths)
        for i, name in enumerate(names):
            is_nan, is_infinite = np.isnan(table[:, i]), np.isinf(table[:, i])
            if is_nan.any():
                self.not_numbers.add(name, is_nan, lengths, errors)
                table[is_nan, i] = 0
            if is_infinite.any() and name not in is_clipped:
                advice = errors.drop(f"ak.all(np.isfinite({name}), axis=1)")
                errors.add(jet_totals(jet, is_infinite, len(lengths)) > 0, f"{name} is infinite", advice=advice)
            elif is_infinite.any():
                self.infinite.add(name, is_infinite, lengths, errors)

    def _jet_features(
        self,
        columns: CardColumns,
        table: np.ndarray,
        lengths: np.ndarray,
        momenta: tuple[np.ndarray, np.ndarray] | None,
        errors: ChunkErrors,
    ) -> np.ndarray:
        """Return the jet-level features [J, F], from momenta [C, 4] and their number per jet [J], if there are any."""
        if self.layout.has_jetclass_features:
            # padding that a mask drops has an energy of 0
            jets = jets_of(columns, (), errors, may_be_padded=self.card.inputs[0].mask is not None)
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

    def _observers(self, columns: CardColumns, errors: ChunkErrors) -> dict[str, np.ndarray]:
        found = observers_of(columns, self.card.per_jet(is_training=self.is_training), errors)
        for name, expression in self.card.targets.items():
            # a target may be an observer too
            column = f"the regression target {name}"
            found[name] = jet_table({column: columns.evaluate(expression)}, [column], errors)[:, 0]
        if self.has_weights and self.card.event_weights is not None:
            text = self.card.event_weights.text
            values = columns.evaluate(self.card.event_weights)
            name = f"the event weight {text}"
            found[WEIGHT_COLUMN] = jet_table({name: values}, [name], errors)[:, 0]
            self.weight_sums.add(found[WEIGHT_COLUMN], errors)
        return found

    def _labels(self, columns: CardColumns, errors: ChunkErrors) -> np.ndarray:
        if not self.has_labels:
            return np.full(len(errors.entries), -1)
        values = {label.text: columns.evaluate(label) for label in self.card.labels}
        if self.card.classes is not None:
            origins = {name: columns[name] for name in self.card.label_origins() if columns[name].ndim == 1}
            return class_indices(values, list(values), errors, needs_labels=self.needs_labels, origins=origins)
        ((text, _),) = values.items()
        numbers = jet_table(values, [text], errors)[:, 0]
        is_bad = (numbers < 0) | (numbers % 1 != 0)
        if is_bad.any():
            what = f"{text} is {numbers[np.argmax(is_bad)]:g}"
            errors.add(is_bad, what, advice="classes are whole numbers from 0 on")
        return numbers.astype(np.int64)


def _check_definition(name: str, branch: Any, columns: CardColumns, card: Card, errors: ChunkErrors) -> None:
    """Add an error if a new variable differs from the branch of the same name."""
    ak = require("awkward", extra="hep")
    own, text = columns[name], card.new_variables[name].text
    place = f"{name} is a branch of the file, and {card.name} defines it as {text!r}"
    advice = f"rename the variable, or remove it from new_variables to use the branch {name}"
    is_alike = (
        branch.ndim == own.ndim
        and "str" not in str(branch.type)
        and (own.ndim == 1 or bool(ak.all(ak.num(branch) == ak.num(own))))
    )
    if not is_alike:
        errors.errors.append(f"{errors.file}: {place}, of another shape; {advice}")
        return
    pairs = [ak.to_numpy(ak.flatten(values, axis=None)).astype(np.float64) for values in (branch, own)]
    differs = ~np.isclose(*pairs, rtol=1e-3, atol=1e-3 * np.nanmedian(np.abs(pairs[0])), equal_nan=True)
    if differs.any():
        first = int(np.argmax(differs))
        counts = ak.to_numpy(ak.num(own)) if own.ndim == 2 else np.ones(len(own), np.int64)
        is_bad = np.zeros(len(own), bool)
        is_bad[np.repeat(np.arange(len(own)), counts)[differs]] = True
        errors.add(is_bad, f"{place}: {pairs[0][first]:g} against {pairs[1][first]:g}", advice=advice)


def _split(given: Mapping[str, Any], source: Source, errors: ChunkErrors) -> np.ndarray | None:
    """Return [J] int8: the part of each jet, or None if the file has no split."""
    if source.split is None:
        return None
    split = np.asarray(given[source.split])
    is_bad = ~np.isin(split, (0, 1, 2))
    if is_bad.any():
        what = f"{source.split} is {split[np.argmax(is_bad)]}"
        errors.add(is_bad, what, advice="it must be 0 (training), 1 (testing) or 2 (validation)")
    return split.astype(np.int8)


def _file_magic(values: Mapping[str, float], source: Source) -> float:
    """Return the value of weaver's `file_magic` for a file: that of the first pattern found in its path, else 0."""
    return next((value for pattern, value in values.items() if re.search(pattern, str(source.path))), 0)
