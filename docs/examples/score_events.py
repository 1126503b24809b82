"""Score the jets of chunks of events, such as those of a coffea processor, with an exported tagger.

Needs awkward, numpy and onnxruntime. In `process` of a coffea processor:

    scores = score_events("tagger.onnx", jets)
    selected = events[ak.any(scores.Hbb > 0.9, axis=1)]
"""

import json
from functools import cache

import awkward as ak
import numpy as np
import onnxruntime
from score_root_file import branches_of, score


@cache
def session_of(model):
    """Return the session of a model, opened once per process: sessions cannot be sent to the workers."""
    options = onnxruntime.SessionOptions()
    # one thread per worker
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def score_events(model, jets, batch_size=256):
    """Return records [events, jets] with the probability of each class.

    Args:
        model: The ONNX file.
        jets: Array or mapping with a field for each branch: [events, jets] for branches of jets, and [events, jets,
            particles] for branches of particles or of entries of another collection, such as secondary vertices.
        batch_size: Jets that are scored together; those with similar numbers of particles.
    """
    session = session_of(model)
    about = session.get_modelmeta().custom_metadata_map
    of_jets, masks = branches_of(about)
    names = sum(masks.values(), of_jets)
    jets_per_event = ak.num(jets[names[0]], axis=1)
    flat = ak.zip({name: ak.flatten(jets[name], axis=1) for name in names}, depth_limit=1)
    classes = json.loads(about["classes"])
    scores = np.zeros((len(flat), len(classes)), np.float32)
    particles = masks["particle_mask"][0]
    by_length = np.argsort(ak.to_numpy(ak.num(flat[particles])), kind="stable")
    for begin in range(0, len(flat), batch_size):
        rows = by_length[begin : begin + batch_size]
        scores[rows] = score(session, flat[rows])
    return ak.unflatten(ak.zip(dict(zip(classes, scores.T, strict=True))), jets_per_event)
