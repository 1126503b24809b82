"""Checks of the angles of a data card that are relative to the axis of the jet, by the momenta of the particles.

An axis in degrees, or η and φ of the jet exchanged, gives numbers of which none looks wrong by itself. They agree with
the momenta within each jet, and are off by the same angle for all particles of a jet.

Axes: J jets, C particles of all jets.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.errors import require
from subquad.hep.data.card import Card
from subquad.hep.data.columns import ChunkErrors, jet_totals
from subquad.hep.data.input_collections import InputCollection, columns_of
from subquad.hep.data.momentum_checks import (
    MAX_AXIS_OFFSET,
    MAX_BEYOND,
    MAX_OFFSET,
    MAX_PAIRS,
    MIN_PAIRS,
    eta_and_phi,
    momenta_of_jets,
    wrapped,
)
from subquad.hep.data.value_notes import UnusualValues

__all__ = ["AngleChecks"]

ETA, PHI = 0, 1
SYMBOLS = ("η", "φ")
MIN_JETS = 5
"""Smallest number of jets whose axes are checked."""
MAX_DEVIATION = 0.1
"""Largest deviation from the momenta, as a fraction of the distance of two particles, of columns that are angles."""
ZERO = 1e-3
"""Largest median of an angle that is taken to be 0."""
MAX_SAME = 0.1
"""Largest median difference of two angles that are taken to be the same one."""


@dataclass(frozen=True, kw_only=True)
class _Angle:
    """A column of particles that is an angle, or that may be one."""

    name: str
    place: str
    """Card and group of inputs."""
    definition: str
    """Expression of the card; empty for a branch."""
    values: np.ndarray
    """[C]"""
    axes: Mapping[str, np.ndarray]
    """Columns of jets [J] that are subtracted; with them the angle must be a relative one."""
    coordinate: int | None
    """`ETA` or `PHI` for points; None for features, which may be anything."""


@dataclass(frozen=True, kw_only=True)
class _Jets:
    """Jets with an axis, and one particle of each, which is enough: all are off by the same angle."""

    is_known: np.ndarray
    """[J]: has an axis; K jets have one."""
    first: np.ndarray
    """[K]: rows of the particles."""
    particles: tuple[np.ndarray, np.ndarray]
    """η and φ [K] of the particles."""
    axes: tuple[np.ndarray, np.ndarray]
    """η and φ [K] of the sums of all particles."""


class AngleChecks:
    """Checks the angles of all chunks of a read, and keeps what is to be logged once."""

    def __init__(self, card: Card, *, is_training: bool) -> None:
        self.card, self.is_training = card, is_training
        self._axes = dict[str, str]()
        self._differences = set[str]()
        self._unwrapped = UnusualValues("unwrapped", "beyond ±π and taken as they are")

    def notes(self) -> list[str]:
        """Return a sentence for each column that is unusual."""
        return [*self._axes.values(), *(f"Warning: {note}" for note in self._unwrapped.notes(self.card.name))]

    def check_axes(
        self, columns: Mapping[str, Any], table: np.ndarray, lengths: np.ndarray, errors: ChunkErrors
    ) -> None:
        """Add errors for angles of the first collection that are not relative to the axis of the jet.

        η and φ themselves are accepted where no angle of the jet is subtracted.

        Args:
            columns: Branches and variables.
            table: [C, V], entries of the collection.
            lengths: [J], its entries in each jet.
            errors: Receives the errors.
        """
        collection = self.card.inputs[0]
        vectors = columns_of(table, collection, self.card.vectors)
        angles = self._angles(columns, collection, table)
        momenta = momenta_of_jets(vectors, lengths)
        is_known = (np.hypot(momenta[:, 0], momenta[:, 1]) > 0) & (lengths > 0)
        own = lengths[np.cumsum(lengths) <= MAX_PAIRS]
        jet = np.repeat(np.arange(len(own)), own)
        is_pair = jet[1:] == jet[:-1]
        if not angles or is_known.sum() < MIN_JETS or is_pair.sum() < MIN_PAIRS:
            return
        some = eta_and_phi(*vectors[: len(jet), :3].astype(np.float64).T)
        first = (np.cumsum(lengths) - lengths)[is_known]
        particles = eta_and_phi(*vectors[first, :3].astype(np.float64).T)
        jets = _Jets(is_known=is_known, first=first, particles=particles, axes=eta_and_phi(*momenta[is_known].T))
        for angle in angles:
            coordinate = _coordinate(angle, some, is_pair)
            if coordinate is None:
                continue
            values = angle.values[first].astype(np.float64)
            off = _distance(values, particles[coordinate] - jets.axes[coordinate], coordinate)
            from_zero = float(np.median(_distance(values, particles[coordinate], coordinate)))
            middle = float(np.median(off))
            is_absolute = from_zero < min(MAX_SAME, middle)
            if is_absolute and not angle.axes:
                continue
            # features may be relative to the axis of a subjet
            limit = MAX_OFFSET if angle.coordinate is not None or is_absolute else MAX_AXIS_OFFSET
            if middle > limit:
                _add(angle, coordinate, jets, off, errors)
                continue
            if middle > limit / 2:
                self._axes.setdefault(angle.name, _note(angle, coordinate, middle, errors))
            if coordinate == PHI:
                self._differences.add(angle.name)

    def check_turns(
        self,
        columns: Mapping[str, Any],
        tables: Sequence[np.ndarray],
        counts: Sequence[np.ndarray],
        errors: ChunkErrors,
    ) -> None:
        """Add errors for jets with a Δφ beyond ±π; of a fitted tagger such values are logged only.

        Args:
            columns: Branches and variables.
            tables: [C, V] for each collection of inputs.
            counts: [J] for each collection: its entries in each jet.
            errors: Receives the errors.
        """
        for collection, table, lengths in zip(self.card.inputs, tables, counts, strict=True):
            for angle in self._angles(columns, collection, table):
                # without momenta, the definition must say so
                is_difference = angle.name in self._differences
                is_difference |= not collection.vectors and angle.coordinate == PHI and bool(angle.axes)
                if not is_difference:
                    continue
                is_beyond = np.abs(angle.values) > np.pi * (1 + 1e-3)
                if not is_beyond.any():
                    continue
                if not self.is_training:
                    self._unwrapped.add(angle.name, is_beyond, lengths, errors)
                    continue
                jet = np.repeat(np.arange(len(lengths)), lengths)
                value = angle.values[np.argmax(is_beyond)]
                what = f"{angle.place}: {angle.name} is {value:.4g}, and a Δφ must be from -π to π"
                errors.add(jet_totals(jet, is_beyond, len(lengths)) > 0, what, advice=_wrapping(angle))

    def _angles(self, columns: Mapping[str, Any], collection: InputCollection, table: np.ndarray) -> list[_Angle]:
        """Return the points of a collection, and the features from which a column of jets is subtracted."""
        card, found = self.card, dict[str, _Angle]()
        for group, variables in (("points", collection.points), ("features", collection.features)):
            for number, name in enumerate(variable.name for variable in variables):
                axes = {one: _numbers(columns[one]) for one in card.differences(name) if columns[one].ndim == 1}
                if name in found or (group == "features" and not axes):
                    continue
                found[name] = _Angle(
                    name=name,
                    place=f"{card.name}: inputs: {collection.prefix}_{group}",
                    definition=card.new_variables[name].text if name in card.new_variables else "",
                    values=table[:, collection.columns.index(name)],
                    axes=axes,
                    coordinate=number if group == "points" else None,
                )
        return [*found.values()]


def _numbers(column: Any) -> np.ndarray:
    """Return a column of jets, with NaN for missing values."""
    values = require("awkward", extra="hep").to_numpy(column, allow_missing=True)
    return np.ma.filled(np.ma.asarray(values, np.float64), np.nan)


def _coordinate(angle: _Angle, true: Sequence[np.ndarray], is_pair: np.ndarray) -> int | None:
    """Return the coordinate whose differences between particles are those of the angle; None if neither's are."""
    own = np.abs(np.diff(angle.values[: len(true[0])].astype(np.float64))[is_pair])
    for coordinate in (ETA, PHI) if angle.coordinate is None else (angle.coordinate,):
        steps = np.abs(np.diff(true[coordinate])[is_pair])
        if coordinate == PHI:
            steps = np.abs(wrapped(steps))
        deviation = np.abs((np.abs(wrapped(own)) if coordinate == PHI else own) - steps)
        if np.quantile(deviation, 0.8) <= MAX_DEVIATION * np.median(steps):
            return coordinate
    return None


def _distance(first: np.ndarray, second: np.ndarray, coordinate: int) -> np.ndarray:
    """Return [J]: the difference of two angles, whose signs may be flipped, as by that of the jet's η."""
    both = (first - second, first + second)
    return np.minimum(*(np.abs(wrapped(x) if coordinate == PHI else x) for x in both))


def _add(angle: _Angle, coordinate: int, jets: _Jets, off: np.ndarray, errors: ChunkErrors) -> None:
    """Add the error of jets whose angle is relative to another axis; `off` [K] is by how much."""
    symbol, entry = SYMBOLS[coordinate], int(np.argmax(off > MAX_OFFSET))
    used = jets.particles[coordinate] - angle.values[jets.first].astype(np.float64)
    used = wrapped(used) if coordinate == PHI else used
    given = [f"{name} = {column[jets.is_known][entry]:.4g}" for name, column in angle.axes.items()]
    name = next(iter(angle.axes)) if len(angle.axes) == 1 else f"{symbol} of the jet"
    remedy = f"subtract {symbol} of the jet" + " in radians" * (coordinate == PHI)
    if any((np.abs(column) > 2 * np.pi).mean() > MAX_BEYOND for column in angle.axes.values()):
        remedy = f"give {name} in radians, such as np.deg2rad({name})"
    elif np.median(np.abs(wrapped(used - jets.axes[1 - coordinate]))) < MAX_SAME:
        remedy = f"exchange η and φ of the jet, as {name} has the values of {SYMBOLS[1 - coordinate]}"
    elif np.median(np.abs(used)) < ZERO:
        remedy = f"{name} is 0; give {symbol} of the jet"
    is_off = np.zeros(len(jets.is_known), bool)
    is_off[jets.is_known] = off > MAX_OFFSET
    columns = f" ({', '.join(given)})" if given else ""
    what = (
        f"{angle.place}: by the four-vectors, {angle.name} is relative to {symbol} = {round(used[entry], 4):g}{columns}"
        f", but {symbol} of the sum of the particles is {jets.axes[coordinate][entry]:.4g}"
    )
    errors.add(is_off, what, advice=remedy)


def _note(angle: _Angle, coordinate: int, off: float, errors: ChunkErrors) -> str:
    """Return the warning of an angle whose axis is another one, but not a wrong one."""
    return (
        f"Warning: {errors.file}: {angle.place}: by the four-vectors, {angle.name} is not the difference of "
        f"{SYMBOLS[coordinate]} to that of the sum of the particles (off by {off:.2g}, median of the jets); check that "
        "it is meant to be relative to another axis"
    )


def _wrapping(angle: _Angle) -> str:
    """Return how a Δφ gets values between -π and π."""
    if not angle.definition:
        name = f"{angle.name}_wrapped"
        return f"take {name} in its place, with `{name}: ({angle.name} + np.pi) % (2 * np.pi) - np.pi` in new_variables"
    is_sum = re.fullmatch(r"[\w\s.+-]+", angle.definition)
    text = angle.definition if is_sum else f"({angle.definition})"
    return f"write `{angle.name}: ({text} + np.pi) % (2 * np.pi) - np.pi` in new_variables"
