import numpy as np
import pytest
import torch

from subquad import hep
from subquad.hep.data.batches import collate
from subquad.hep.data.chunks import chunk_of
from subquad.hep.data.layout import fit_standardization, layout_of
from subquad.hep.data.store import dataset_of
from subquad.hep.models.networks import build_network, forward
from subquad.hep.models.presets import PRESETS

TOLERANCES = {"float32": 1e-5, "bfloat16": 0.03}
"""Largest differences of a probability. bfloat16 has two to three digits; rounding can also change a neighbour."""


@pytest.fixture(scope="module")
def jets():
    shipped = hep.read("example:jets")
    return shipped[np.arange(0, len(shipped), 61)]


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_the_score_of_a_jet_does_not_depend_on_batch_padding_and_order(preset, precision, jets):
    settings = PRESETS[preset].net
    layout = layout_of(settings)
    chunk = chunk_of(jets, layout)
    raw = dataset_of(chunk, layout)
    layout = fit_standardization(layout, settings, raw.particles, raw.jet_features)
    dataset = dataset_of(chunk, layout)
    torch.manual_seed(0)
    net = build_network(settings, layout, len(jets.classes)).eval()

    def logits(rows):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            return forward(net, collate(dataset, torch.as_tensor(rows))).float()

    rows = list(range(len(jets)))
    together = logits(rows)
    few = rows[::5]
    # untrained logits hardly differ between jets: as in a trained network their spread is 2
    center, scale = together.mean(0), 2 / (together - together.mean(0)).std()
    expected = ((together - center) * scale).softmax(-1)
    for of, same in ((few, torch.cat([logits([row]) for row in few])), (rows[::-1], logits(rows[::-1]))):
        assert (((same - center) * scale).softmax(-1) - expected[of]).abs().max() < TOLERANCES[precision]
