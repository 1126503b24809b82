"""Taggers of several collections of inputs have the same scores from branches, in torch and in onnxruntime."""

import importlib
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
from support.hep_vertices import CARD

from subquad.errors import SubquadError
from subquad.hep.data.card import card_of
from subquad.hep.data.chunks import first_jets
from subquad.hep.data.layout import fit_standardization, layout_of
from subquad.hep.models import branch_export
from subquad.hep.models.branch_inputs import MASK, branches_read, mask_names, masks_of_branches, padded_branches
from subquad.hep.models.branch_tagger import BranchTagger
from subquad.hep.models.networks import build_network, predict_logits
from subquad.hep.models.presets import PRESETS
from subquad.hep.models.trained import TrainedTagger

SMALL = {"k": 3, "chebyshev_order": 3, "layers": 2, "width": 8, "graphs": 2, "pool_heads": 1, "max_particles": 131}
SV_MASK = "sv_entry_mask"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def changed(**inputs):
    return {**CARD, "inputs": {**CARD["inputs"], **inputs}}


WITHOUT_MOMENTA = {**CARD, "inputs": {name: group for name, group in CARD["inputs"].items() if "vectors" not in name}}
ACROSS = {
    **changed(pf_features={"length": 128, "vars": ["share_of_vertices", "excess"]}),
    "new_variables": {
        **CARD["new_variables"],
        "share_of_vertices": "np.hypot(part_px, part_py) / (1 + ak.sum(sv_pt, axis=1) + ak.num(sv_ratio))",
        "excess": "part_charge - ak.mean(sv_ratio + 1, axis=1) * ak.max(part_deta, axis=1)",
    },
}
"""Features of the particles are computed from the vertices of their jet."""


def small_tagger(preset, content, path):
    """A small tagger with random weights, the branches of some jets, and their scores by `predict`."""
    torch.manual_seed(4)
    settings = replace(PRESETS[preset].net, **SMALL)
    layout = layout_of(settings, card_of(content, "card.yaml"))
    columns, chunk = first_jets([path], layout, 40)
    tables = (torch.from_numpy(table) for table in (chunk.particles, chunk.jet_features))
    layout = fit_standardization(layout, settings, *tables)
    net = build_network(settings, layout, 3).eval()
    tagger = TrainedTagger(path="run", config={}, net=net, settings=settings, layout=layout, classes=tuple("abc"))
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2)
    return tagger, columns, predict_logits(net, tagger.dataset(chunk)).softmax(-1)


@pytest.mark.parametrize(
    ("preset", "content"),
    [("standard", CARD), ("auto", CARD), ("epcn", CARD), ("standard", WITHOUT_MOMENTA), ("standard", ACROSS)],
)
def test_branches_give_the_scores_of_predict_with_any_padding(preset, content, vertex_files):
    tagger, columns, expected = small_tagger(preset, content, vertex_files[1])
    assert expected.std(0).mean() > 1e-3
    masks = masks_of_branches(columns, tagger.layout.card)
    module, jets = BranchTagger(tagger, masks), padded_branches(columns, masks)
    assert jets[SV_MASK].shape[1] == 4
    assert not jets[SV_MASK].sum(1).min()
    with torch.no_grad():
        torch.testing.assert_close(module(jets), expected, atol=5e-5, rtol=0)
        for mask, places in ((MASK, 6), (SV_MASK, 2)):
            more = {name: torch.nn.functional.pad(jets[name], (0, places)) for name in [mask]}
            for name in (name for name, own in masks.items() if own == mask):
                more[name] = torch.nn.functional.pad(jets[name], (0, places), value=torch.nan)
            torch.testing.assert_close(module({**jets, **more}), expected, atol=5e-5, rtol=0)
        alone = {name: x[7:8] for name, x in jets.items()}
        torch.testing.assert_close(module(alone), expected[7:8], atol=5e-5, rtol=0)
    names = branches_read(module, jets, mask_names(tagger.layout.card))
    assert names[-2:] == [MASK, SV_MASK]
    assert "sv_mass" in names
    assert "label_Hbb" not in names


def test_a_branch_that_belongs_to_no_collection_or_to_several_is_named(vertex_files):
    tagger, columns, _ = small_tagger("standard", CARD, vertex_files[1])
    card = tagger.layout.card
    others = {**columns, "muon_pt": ak.unflatten(np.ones(40 * 7), 7)}
    with pytest.raises(SubquadError, match=r"card\.yaml: branch muon_pt has other numbers of entries"):
        masks_of_branches(others, card)
    first = {name: column[:, :1] if column.ndim == 2 else column for name, column in columns.items()}
    has_vertex = ak.num(first["sv_pt"]) > 0
    with pytest.raises(SubquadError, match=r"pf and sv have the same numbers of entries in the first .* give a file"):
        masks_of_branches({name: column[has_vertex] for name, column in first.items()}, card)


@pytest.mark.long
def test_particles_and_vertices_are_inputs_of_the_exported_file(vertex_files, tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.setattr(branch_export, "COMPARED", 20)
    tagger, columns, expected = small_tagger("auto", CARD, vertex_files[1])
    found = branch_export.export_branches(tagger, tmp_path / "tagger.onnx", [vertex_files[1]])
    assert found["checked"]["largest_difference"] < 1e-5
    masks = found["metadata"]["masks"]
    assert list(masks) == [MASK, SV_MASK]
    assert all(name.startswith("sv_") for name in masks[SV_MASK])
    assert found["input_names"][-2:] == [MASK, SV_MASK]
    monkeypatch.syspath_prepend(EXAMPLES)
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "tagger.onnx")
    scores = importlib.import_module("score_root_file").score(session, ak.zip(columns, depth_limit=1))
    np.testing.assert_allclose(scores, expected, atol=1e-5)
