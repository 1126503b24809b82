"""Two calorimeters: the tower that a particle hits, and the energy that the tower measures.

Axes: P particles, N towers. Units: GeV. Granularity and resolutions are those of a detector like CMS.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True, eq=False)
class Calorimeter:
    """A calorimeter as rings of towers."""

    edges: Float[np.ndarray, " edges"]
    """The edges of the rings in η."""
    around: Int[np.ndarray, " rings"]
    """Number of towers in each ring."""
    resolution: Callable[[Float[np.ndarray, " N"], Float[np.ndarray, " N"]], Float[np.ndarray, " N"]]
    """Standard deviation of the measured energy by energy and η."""
    significance: float
    """Significance, in standard deviations, that the energy of a tower or an excess must have."""

    @property
    def reach(self) -> float:
        """The largest |η|."""
        return float(self.edges[-1])

    @property
    def count(self) -> int:
        """An upper bound on the number of towers."""
        return len(self.around) * int(self.around.max())

    def cells(
        self, position: Float[np.ndarray, "P 2"], random: np.random.Generator
    ) -> tuple[Int[np.ndarray, " P"], Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
        """Return the index of the tower that each particle hits, and a random η and φ inside it."""
        ring = np.clip(np.searchsorted(self.edges, position[:, 0], side="right") - 1, 0, len(self.around) - 1)
        around = self.around[ring]
        column = np.clip(np.floor((position[:, 1] / (2 * np.pi) + 0.5) * around).astype(np.int64), 0, around - 1)
        low, high = self.edges[ring], self.edges[ring + 1]
        eta = low + (high - low) * random.random(len(ring))
        phi = ((column + random.random(len(ring))) / around - 0.5) * 2 * np.pi
        return ring * int(self.around.max()) + column, eta, phi

    def measure(
        self, energy: Float[np.ndarray, " N"], eta: Float[np.ndarray, " N"], random: np.random.Generator
    ) -> Float[np.ndarray, " N"]:
        """Return the measured energy: log-normal, and 0 if it is not significant."""
        width = self.resolution(energy, eta)
        # the log-normal with mean `energy` and standard deviation `width`
        variance = np.log1p((width / energy) ** 2)
        measured = energy * np.exp(np.sqrt(variance) * random.standard_normal(len(energy)) - 0.5 * variance)
        return np.where(measured > self.significance * self.resolution(measured, eta), measured, 0.0)


def _rings(*parts: tuple[float, float, float, int]) -> tuple[Float[np.ndarray, " edges"], Int[np.ndarray, " rings"]]:
    """Return edges and tower numbers of both sides from (from |η|, to |η|, step, towers per ring)."""
    edges, around = [0.0], []
    for low, high, step, towers in parts:
        rings = round((high - low) / step)
        edges += [low + (high - low) * (ring + 1) / rings for ring in range(rings)]
        around += [towers] * rings
    return np.array([-edge for edge in edges[:0:-1]] + edges), np.array(around[::-1] + around)


def _ecal_resolution(energy: Float[np.ndarray, " N"], eta: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    eta = np.abs(eta)
    material = np.where(eta < 1.5, 1 + 0.64 * eta**2, 2.16 + 5.6 * (eta - 2) ** 2)
    central = material * np.sqrt((0.008 * energy) ** 2 + 0.11**2 * energy + 0.40**2)
    return np.where(eta < 2.5, central, np.sqrt((0.107 * energy) ** 2 + 2.08**2 * energy))


def _hcal_resolution(energy: Float[np.ndarray, " N"], eta: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    central = np.sqrt((0.05 * energy) ** 2 + 1.5**2 * energy)
    return np.where(np.abs(eta) < 3, central, np.sqrt((0.13 * energy) ** 2 + 2.7**2 * energy))


_ECAL_EDGES, _ECAL_AROUND = _rings((0.0, 3.0, 0.0174, 360), (3.0, 5.0, 0.175, 36))
_HCAL_EDGES, _HCAL_AROUND = _rings((0.0, 1.653, 0.087, 72), (1.653, 3.0, 0.135, 36), (3.0, 5.0, 0.175, 36))

ECAL = Calorimeter(edges=_ECAL_EDGES, around=_ECAL_AROUND, resolution=_ecal_resolution, significance=2.0)
"""Electromagnetic calorimeter."""
HCAL = Calorimeter(edges=_HCAL_EDGES, around=_HCAL_AROUND, resolution=_hcal_resolution, significance=1.0)
"""Hadronic calorimeter."""
