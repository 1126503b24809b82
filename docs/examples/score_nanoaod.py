"""Score the jets of NanoAOD with a tagger that `subquad hep export` wrote, without subquad and without torch.

    python score_nanoaod.py tagger.onnx nano.root scores.root

Writes an entry per event, with FatJet_<class> [jets]; NaN for jets without particles. JETS, PARTICLES and LINKS are the
collections of the card, whose selection is not applied. Needs uproot, awkward, numpy and onnxruntime, and beside it
score_events.py and score_root_file.py.
"""

import sys

import awkward as ak
import numpy as np
import uproot
from score_events import score_events, session_of
from score_root_file import branches_of

JETS, PARTICLES, LINKS = "FatJet", "PFCands", "FatJetPFCands"
JET_INDEX, PARTICLE_INDEX = f"{LINKS}_jetIdx", f"{LINKS}_pFCandsIdx"


def jets_of(events, branches):
    """Return branches of jets as [events, jets], and all others as [events, jets, particles or entries].

    Args:
        events: Awkward array with the branches of NanoAOD, those of the links too.
        branches: Names of branches: of jets, of particles, of links, or of lists of the event, such as SV_pt.
    """
    jets = ak.num(events[f"{JETS}_pt"])
    first = np.cumsum(jets) - jets
    if ak.any(events[JET_INDEX] >= jets):
        raise ValueError(f"{JET_INDEX} has the number of a jet that its event does not have")
    # links to jets and particles, sorted by jet
    is_used = (events[JET_INDEX] >= 0) & (events[PARTICLE_INDEX] >= 0)
    order = ak.argsort(events[JET_INDEX][is_used], stable=True)
    particles = events[PARTICLE_INDEX][is_used][order]
    per_jet = np.bincount(ak.flatten(events[JET_INDEX][is_used] + first), minlength=ak.sum(jets))

    def by_jet(name):
        prefix = name.partition("_")[0]
        if prefix == JETS:
            return events[name]
        if prefix not in (PARTICLES, LINKS):
            return ak.unflatten(events[name][np.repeat(np.arange(len(jets)), jets)], jets)
        linked = events[name][particles] if prefix == PARTICLES else events[name][is_used][order]
        return ak.unflatten(ak.unflatten(ak.flatten(linked), per_jet), jets)

    return {name: by_jet(name) for name in branches}


def main(model, source, out, step_size=1000):
    """Write one entry per event of a NanoAOD file, in the order of the file."""
    of_jets, masks = branches_of(session_of(model).get_modelmeta().custom_metadata_map)
    branches = sum(masks.values(), of_jets)
    read = {*branches, f"{JETS}_pt", JET_INDEX, PARTICLE_INDEX}
    with uproot.open(f"{source}:Events") as tree, uproot.recreate(out) as file:
        for events in tree.iterate(read, step_size=step_size):
            jets = jets_of(events, branches)
            scores = score_events(model, jets)
            is_empty = ak.num(jets[masks["particle_mask"][0]], axis=2) == 0
            scores = ak.zip({name: ak.where(is_empty, np.nan, scores[name]) for name in scores.fields})
            scores = ak.values_astype(scores, "float32")
            if "Events" not in file:
                file.mktree("Events", {JETS: scores.type})
            file["Events"].extend({JETS: scores})


if __name__ == "__main__":
    main(*sys.argv[1:])
