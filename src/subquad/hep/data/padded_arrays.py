"""Padded or flat arrays of jets as columns of jets, read sequentially; `array_files` opens the files that hold them.

An array `[jets]` is a column. An array `[jets, places]` is a column of particles, of which those are real where the
array `mask` is not 0, or as many as a count says (`npart`). With a count, the particles of all jets may also follow one
another in a flat array. `vectors` `[jets, 4, places]` holds px, py, pz and energy, `points` `[jets, 2, places]` Δη and
Δφ. Without mask and count, those particles are real whose vector is not 0.

Axes: J jets, P places, n jets of a chunk.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require
from subquad.hep.data.columns import Place

LARGEST_READ = 2**29
"""Bytes of jets that are read at once, unless one jet has more."""

MASKS = ("mask", "part_mask", "pf_mask", "valid")
COUNTS = ("npart", "n_part", "n_parts", "nparticles", "n_particles", "num_particles", "jet_nparticles")
LABELS = ("labels", "label")
PARTS = {
    "vectors": ("part_px", "part_py", "part_pz", "part_energy"),
    "points": ("part_deta", "part_dphi"),
    "particle_types": (
        *("part_charge", "part_isChargedHadron", "part_isNeutralHadron"),
        *("part_isPhoton", "part_isElectron", "part_isMuon"),
    ),
}
"""Contents of arrays `[jets, parts, places]`: `vectors` and `points` of the public datasets of ParticleNet and Particle
Transformer, and `particle_types` computed from PDG ids."""

JET_SUMS = ("jet_pt", "jet_eta", "jet_phi", "jet_energy", "n_parts", "jet_nparticles")
"""Columns that are computed from `vectors` if there are no such arrays: sums over the particles."""


@dataclass(frozen=True)
class SequentialArray:
    """An array that is read sequentially."""

    shape: tuple[int, ...]
    take: Callable[[int], np.ndarray]
    """Returns the next rows, as many as asked for."""


def native(values: np.ndarray) -> np.ndarray:
    """Return numbers in the byte order of this machine, the only one that awkward knows."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def rows_of(dataset: Any) -> Callable[[int], Any]:
    """Return the function that reads the next rows of an HDF5 dataset."""
    place = 0

    def take(rows: int) -> Any:
        nonlocal place
        place += rows
        return native(dataset[place - rows : place])

    return take


def jets_per_read(bytes_per_jet: int, entries: int) -> int:
    """Return how many jets to read at once, at most `entries`, so that they take little memory."""
    return min(entries, LARGEST_READ // max(bytes_per_jet, 1)) or 1


def arrays_of_rows(
    take: Callable[[int], Any],
    make: Callable[[Any, int], Mapping[str, np.ndarray]],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, SequentialArray]:
    """Return arrays that are computed from the same rows of a file, which are read once.

    Args:
        take: Returns the next rows.
        make: Returns the arrays of some rows; it also takes the number of the first of them.
        shapes: Shapes of the arrays.
    """
    made: Mapping[str, np.ndarray] = {}
    end = 0

    def array(name: str, shape: tuple[int, ...]) -> SequentialArray:
        place = 0

        def take_part(count: int) -> np.ndarray:
            nonlocal made, end, place
            if place == end:
                made, end = make(take(count), place), place + count
            place += count
            assert place == end, "the arrays are read at the same pace"
            return made[name]

        return SequentialArray(shape, take_part)

    return {name: array(name, shape) for name, shape in shapes.items()}


class PaddedTable:
    """Columns of the arrays of one file.

    Args:
        path: The file, for messages.
        arrays: The arrays by name.
        layout: Name of the public layout that the arrays were recognized as; see `public_layouts`.
        refused: Names of arrays that cannot be columns, and the reasons.
    """

    def __init__(
        self,
        path: Path,
        arrays: Mapping[str, SequentialArray],
        layout: str = "",
        refused: Mapping[str, str] | None = None,
    ) -> None:
        self._path, self._arrays, self.layout, self.refused = path, arrays, layout, refused or {}
        self._mask = next((name for name in MASKS if name in arrays and len(arrays[name].shape) > 1), None)
        self._count = next((name for name in COUNTS if name in arrays and len(arrays[name].shape) == 1), None)
        has_vectors = "vectors" in arrays and len(arrays["vectors"].shape) == 3 and arrays["vectors"].shape[1] == 4
        self._is_zero_padded = has_vectors and self._mask is None and self._count is None
        leading = self._mask or self._count or ("vectors" if self._is_zero_padded else next(iter(arrays), None))
        self.entries = arrays[leading].shape[0] if leading else 0
        self._places = self._number_of_places()
        # column → its array, and its index on the axis of parts
        self._origins: dict[str, tuple[str, int | None]] = {}
        for name, array in arrays.items():
            self._add(path, name, array.shape)
        if "vectors" in arrays:
            self._origins |= {name: ("vectors", None) for name in JET_SUMS if name not in self._origins}
        self.columns = tuple(self._origins)

    def _number_of_places(self) -> int | None:
        """Return the number of places for the particles of a jet; None without padded arrays."""
        if self._mask is not None:
            return math.prod(self._arrays[self._mask].shape[1:])
        shapes = {name: array.shape for name, array in self._arrays.items() if name not in LABELS}
        for name, parts in PARTS.items():
            if len(shape := shapes.get(name, ())) == 3 and len(parts) in shape[1:]:
                return shape[2] if shape[1] == len(parts) else shape[1]
        for axes in (2, 3):
            # most columns are of particles
            if counts := Counter(shape[-1] for shape in shapes.values() if len(shape) == axes):
                return counts.most_common(1)[0][0]
        return None

    def _add(self, path: Path, name: str, shape: Sequence[int]) -> None:
        is_ragged = len(shape) == 1 and shape[0] != self.entries and self._count is not None
        has_particles = self._mask is not None or self._count is not None or self._is_zero_padded
        if len(shape) == 1 and (shape[0] == self.entries or is_ragged):
            self._origins[name] = (name, None)
            if name == "labels":
                self._origins["label"] = (name, None)
        elif shape[0] == self.entries and name in LABELS and len(shape) == 2:
            self._origins |= {f"label_{i}": (name, i) for i in range(shape[1])}
        elif shape[0] != self.entries or len(shape) > 3 or not has_particles:
            raise SubquadError(
                f"{path}: array {name!r} has the shape {list(shape)}; give a row for each of {self.entries} jets, and "
                "`mask` or `npart` for particles"
            )
        elif len(shape) == 2 or 1 in shape[1:]:
            self._origins[name] = (name, 0)
        else:
            count = shape[1] if shape[2] == self._places else shape[2]
            names = PARTS.get(name, ())
            names = names if len(names) == count else tuple(f"{name}_{i}" for i in range(count))
            self._origins |= {part: (name, i) for i, part in enumerate(names)}

    def chunks(self, names: Sequence[str], entries: int) -> Iterator[Mapping[str, Any]]:
        """Yield these columns, at most `entries` jets at a time."""
        ak = require("awkward", extra="hep")
        needed = {self._origins[name][0] for name in names} | {name for name in (self._mask, self._count) if name}
        needed |= {"vectors"} if self._is_zero_padded else set()
        flat = {name for name in needed if len(self._arrays[name].shape) == 1 and not self._has_rows(name)}
        entries = jets_per_read(sum(8 * math.prod(self._arrays[name].shape[1:]) for name in needed), entries)
        end = 0
        for begin in range(0, self.entries, entries):
            n = min(entries, self.entries - begin)
            taken = {} if self._count is None else {self._count: self._arrays[self._count].take(n)}
            counts = None
            # beside a mask, a count may be one of all particles before padding
            if self._count is not None and (flat or not self._mask):
                given = taken[self._count]
                # JetClass's jet_nparticles is a real number
                is_bad = ~((given >= 0) & (given % 1 == 0) & (given < 2**31))
                place = Place(file=str(self._path), entries=np.arange(begin, begin + n))
                place.refuse(is_bad, f"{self._count} must be the number of particles, and is", given)
                counts = given.astype(np.int64)
                end += int(counts.sum())
            for name in flat:
                size = self._arrays[name].shape[0]
                if end > size or (begin + n == self.entries and end < size):
                    raise SubquadError(
                        f"{self._path}: {self._count!r} does not add up to the {size:,} entries of {name!r}"
                    )
            for name in needed - {self._count}:
                taken[name] = self._arrays[name].take(int(counts.sum()) if name in flat and counts is not None else n)
            is_real = self._real(taken, counts, n)
            yield {name: ak.Array(self._column(name, taken, is_real, counts)) for name in names}

    def _has_rows(self, name: str) -> bool:
        return self._arrays[name].shape[0] == self.entries

    def _real(self, taken: Mapping[str, np.ndarray], counts: np.ndarray | None, n: int) -> np.ndarray | None:
        if self._mask is not None:
            return taken[self._mask].reshape(n, -1) != 0
        if self._is_zero_padded:
            return (taken["vectors"] != 0).any(axis=1)
        return None if counts is None or self._places is None else np.arange(self._places) < counts[:, None]

    def _column(
        self, name: str, taken: Mapping[str, np.ndarray], is_real: np.ndarray | None, counts: np.ndarray | None
    ) -> Any:
        ak = require("awkward", extra="hep")
        origin, part = self._origins[name]
        array = taken[origin]
        if name in JET_SUMS and origin == "vectors":
            assert is_real is not None
            return _jet_sum(name, self._parts(array, is_real), is_real)
        if array.ndim == 1:
            return array if self._has_rows(origin) else ak.unflatten(array, counts)
        # one number per jet; other arrays may have names that begin alike
        if origin in LABELS or (name.startswith("label") and array.size == len(array)):
            return array.reshape(len(array), -1)[:, part]
        assert is_real is not None
        if array.ndim == 3:
            array = self._parts(array, is_real)[:, part]
        if array.shape != is_real.shape:
            raise ValueError(f"array {origin!r} has {array.shape[1]} places for particles, others {is_real.shape[1]}")
        return ak.unflatten(array[is_real], is_real.sum(1))

    def _parts(self, array: np.ndarray, is_real: np.ndarray) -> np.ndarray:
        """Return an array as [n, parts, P]; files may have the last two axes in either order."""
        return array if array.shape[2] == is_real.shape[1] else array.swapaxes(1, 2)


def _jet_sum(name: str, vectors: np.ndarray, is_real: np.ndarray) -> np.ndarray:
    if name in ("n_parts", "jet_nparticles"):
        return is_real.sum(1).astype(np.float32)
    px, py, pz, energy = np.where(is_real[:, None], vectors, 0).sum(-1, dtype=np.float64).T
    pt = np.hypot(px, py)
    with np.errstate(all="ignore"):
        values = {"jet_pt": pt, "jet_eta": np.arcsinh(pz / pt), "jet_phi": np.arctan2(py, px), "jet_energy": energy}
    return values[name].astype(np.float32)
