"""Score the jets of a ROOT file with a tagger that `subquad hep export` wrote, without subquad and without torch.

    python score_root_file.py tagger.onnx jets.root scores.root [tree]

The tree of the jets can be left out if the file has only one, or one named `tree`. Needs uproot, awkward, numpy and
onnxruntime.
"""

import json
import sys

import awkward as ak
import numpy as np
import onnxruntime
import uproot


def padded(column, places):
    """Return a branch of particles as [jets, places] float32, with 0 after the particles of a jet."""
    return ak.to_numpy(ak.fill_none(ak.pad_none(column, places), 0)).astype(np.float32)


def branches_of(about):
    """Return the branches of jets, and for each mask the branches of particles (or vertices) that it belongs to."""
    return json.loads(about["jet_branches"]), json.loads(about["masks"])


def score(session, jets):
    """Return the probabilities [jets, classes] of an awkward array of jets with the branches of the tagger."""
    of_jets, masks = branches_of(session.get_modelmeta().custom_metadata_map)
    inputs = {name: ak.to_numpy(jets[name]).astype(np.float32) for name in of_jets}
    for mask, names in masks.items():
        lengths = ak.to_numpy(ak.num(jets[names[0]]))
        places = max(1, int(lengths.max()))
        inputs |= {name: padded(jets[name], places) for name in names}
        inputs[mask] = (np.arange(places) < lengths[:, None]).astype(np.float32)
    return session.run(["softmax"], inputs)[0]


def tree_of(source):
    """Return the name of the only tree of a ROOT file, or `tree` if it has several."""
    with uproot.open(source) as file:
        kinds = {name.split(";")[0]: kind for name, kind in file.classnames().items()}
    trees = [name for name, kind in kinds.items() if kind in ("TTree", "ROOT::RNTuple")]
    if len(trees) != 1 and "tree" not in trees:
        sys.exit(
            f"{source}: has no tree of jets" if not trees else f"{source}: name one of {', '.join(trees)} at the end"
        )
    return trees[0] if len(trees) == 1 else "tree"


def main(model, source, out, tree=None, batch_size=256):
    """Write one entry per jet, in the order of the file, with a branch score_<class> for each class."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    of_jets, masks = branches_of(about)
    branches = sum(masks.values(), of_jets)
    names = [f"score_{name}" for name in json.loads(about["classes"])]
    with uproot.open(f"{source}:{tree or tree_of(source)}") as jets_of_file:
        # fails here, before `out` is replaced, if a branch is missing
        jets_of_file.arrays(branches, entry_stop=1)
        with uproot.recreate(out) as target:
            scores = target.mktree("Events", dict.fromkeys(names, "float32"))
            for jets in jets_of_file.iterate(branches, step_size=batch_size):
                scores.extend(dict(zip(names, score(session, jets).T, strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
