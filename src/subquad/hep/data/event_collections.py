"""Jets of events, as in CMS's NanoAOD, as a list of jets: flattened over the events, with the particles of each jet.

An event has lists of jets (`FatJet_pt`) and of particles (`PFCands_pt`), and two lists of equal length that link them:
the number of a jet and the number of a particle (`FatJetPFCands_jetIdx`, `FatJetPFCands_pFCandsIdx`).

Axes: E events, J jets of all events, L links of all events.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.errors import require
from subquad.hep.data.columns import Place


@dataclass(frozen=True, kw_only=True)
class Collections:
    """Collections of an event and the links between them, as `collections` of a data card names them."""

    jets: str
    """Collection of jets, such as FatJet; its branches become columns with one number per jet."""
    particles: str
    """Collection of particles, such as PFCands; its branches become columns of the particles of a jet."""
    jet_index: str
    """Branch with the jet of each link; -1 for none."""
    particle_index: str
    """Branch with the particle of each link; -1 for none."""

    def branches(self, columns: Iterable[str]) -> list[str]:
        """Return the branches to read beside the inputs: links, and what the jets and particles are counted by.

        Args:
            columns: Columns of a file.
        """
        counted = [
            next((name for name in columns if name.startswith(f"{collection}_")), f"{collection}_*")
            for collection in (self.jets, self.particles)
        ]
        return [*counted, self.jet_index, self.particle_index]

    def flattened(
        self, columns: Mapping[str, Any], names: Iterable[str], place: Place
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Return columns of jets, and the event [J] of each jet as an index into the events of the chunk.

        A branch that belongs to neither collection nor to the links is one of the event, and repeated for its jets.

        Args:
            columns: Columns of events.
            names: Columns to return.
            place: Where the events are, for errors.
        """
        ak = require("awkward", extra="hep")
        link = f"{self.jet_index.rpartition('_')[0]}_"
        jets, particles = (
            ak.to_numpy(ak.num(next(columns[name] for name in columns if name.startswith(f"{collection}_")), axis=1))
            for collection in (self.jets, self.particles)
        )
        event_of_jet = np.repeat(np.arange(len(jets)), jets)
        jet, particle, order = self._links(columns, jets, particles, place)
        counts = np.bincount(jet, minlength=len(event_of_jet))
        flat = {}
        for name in names:
            column = columns[name]
            if name.startswith(f"{self.jets}_"):
                flat[name] = ak.flatten(column, axis=1)
            elif name.startswith(f"{self.particles}_"):
                flat[name] = ak.unflatten(ak.flatten(column, axis=1)[particle], counts)
            elif name.startswith(link):
                flat[name] = ak.unflatten(ak.flatten(column, axis=1)[order], counts)
            else:
                flat[name] = column[event_of_jet]
        return flat, event_of_jet

    def _links(
        self, columns: Mapping[str, Any], jets: np.ndarray, particles: np.ndarray, place: Place
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return jet, particle and number [L] of the links, sorted by jet; the numbers count through all events."""
        ak = require("awkward", extra="hep")
        links, others = (ak.to_numpy(ak.num(columns[name], axis=1)) for name in (self.jet_index, self.particle_index))
        place.refuse(links != others, f"{self.jet_index} and {self.particle_index} have different lengths")
        event = np.repeat(np.arange(len(links)), links)
        is_used, ends = np.ones(len(event), bool), []
        for branch, sizes in ((self.jet_index, jets), (self.particle_index, particles)):
            index = ak.to_numpy(ak.flatten(columns[branch], axis=1)).astype(np.int64)
            is_bad = (index < -1) | (index >= sizes[event])
            place.refuse(is_bad, f"the event has too few of them for {branch} =", index, lengths=links)
            is_used &= index >= 0
            ends.append(index + (np.cumsum(sizes) - sizes)[event])
        order = np.flatnonzero(is_used)
        order = order[np.argsort(ends[0][order], kind="stable")]
        return ends[0][order], ends[1][order], order
