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
from subquad.hep.data.columns import ChunkErrors

__all__ = ["Collections"]


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

    def branches(self, columns: Iterable[str]) -> dict[str, str | None]:
        """Return by key of the card the branches to read beside the inputs: links, and what jets and particles count.

        Args:
            columns: Columns of a file; None stands for a collection that has none among them.
        """
        columns = list(columns)
        counted = {
            key: next((name for name in columns if name.startswith(f"{getattr(self, key)}_")), None)
            for key in ("jets", "particles")
        }
        return {**counted, "jet_index": self.jet_index, "particle_index": self.particle_index}

    def flattened(
        self, columns: Mapping[str, Any], names: Iterable[str], errors: ChunkErrors
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Return columns of jets, and the event [J] of each jet as an index into the events of the chunk.

        A branch that belongs to neither collection nor to the links is one of the event, and repeated for its jets.

        Args:
            columns: Columns of events.
            names: Columns to return.
            errors: Receives the errors of links.
        """
        ak = require("awkward", extra="hep")
        link = f"{self.jet_index.rpartition('_')[0]}_"
        lists = [name for name in columns if name.startswith((f"{self.jets}_", f"{self.particles}_", link))]
        wrong = [name for name in lists if columns[name].ndim != 2]
        for name in wrong:
            errors.add_type(name, str(ak.type(columns[name]).content), "a list of numbers per event")
        if wrong:
            return {}, np.zeros(0, np.int64)
        jets, particles = (_lengths(columns, f"{kind}_") for kind in (self.jets, self.particles))
        event_of_jet = np.repeat(np.arange(len(jets)), jets)
        jet, particle, order = self._links(columns, jets, particles, errors)
        counts = np.bincount(jet, minlength=len(event_of_jet))
        found = {}
        for name in names:
            column = columns[name]
            if name.startswith(f"{self.jets}_"):
                found[name] = ak.flatten(column, axis=1)
            elif name.startswith(f"{self.particles}_"):
                found[name] = ak.unflatten(ak.flatten(column, axis=1)[particle], counts)
            elif name.startswith(link):
                found[name] = ak.unflatten(ak.flatten(column, axis=1)[order], counts)
            else:
                found[name] = column[event_of_jet]
        return found, event_of_jet

    def _links(
        self, columns: Mapping[str, Any], jets: np.ndarray, particles: np.ndarray, errors: ChunkErrors
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return jet, particle and number [L] of the links, sorted by jet; the numbers count through all events."""
        ak = require("awkward", extra="hep")
        links = ak.to_numpy(ak.num(columns[self.jet_index], axis=1))
        differs = links != ak.to_numpy(ak.num(columns[self.particle_index], axis=1))
        if differs.any():
            what = f"{self.jet_index} and {self.particle_index} have different lengths"
            errors.add(differs, what, advice="they must be links of one collection")
            none = np.zeros(0, np.int64)
            return none, none, none
        event = np.repeat(np.arange(len(links)), links)
        is_used = np.ones(len(event), bool)
        ends = []
        for branch, sizes in ((self.jet_index, jets), (self.particle_index, particles)):
            index = ak.to_numpy(ak.flatten(columns[branch], axis=1)).astype(np.int64)
            is_bad = (index < -1) | (index >= sizes[event])
            if is_bad.any():
                i, is_bad_event = int(np.argmax(is_bad)), np.zeros(len(links), bool)
                is_bad_event[event[is_bad]] = True
                what = f"{branch} has the value {index[i]}, and the event has {sizes[event[i]]} of them"
                errors.add(is_bad_event, what, advice="drop such events, or correct `collections` in the card")
            is_used &= (index >= 0) & ~is_bad
            ends.append(index + (np.cumsum(sizes) - sizes)[event])
        order = np.flatnonzero(is_used)
        order = order[np.argsort(ends[0][order], kind="stable")]
        return ends[0][order], ends[1][order], order


def _lengths(columns: Mapping[str, Any], prefix: str) -> np.ndarray:
    """Return [E]: the length of the collection of each event."""
    ak = require("awkward", extra="hep")
    return ak.to_numpy(ak.num(next(columns[name] for name in columns if name.startswith(prefix)), axis=1))
