"""Taggers of several collections of inputs have the same scores from branches, in torch and in onnxruntime."""

import importlib
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
import yaml
from support.hep_layouts import VERTEX_CARD, write_nano
from support.hep_vertices import CARD

from subquad.errors import SubquadError
from subquad.hep.data.card import card_of
from subquad.hep.data.chunks import first_jets
from subquad.hep.data.features import JET_FEATURES
from subquad.hep.data.jets import OBSERVERS, PARTICLES
from subquad.hep.data.layout import fit_standardization, layout_of
from subquad.hep.models import branch_export
from subquad.hep.models.branch_inputs import MASK, branches_read, masks_of_branches, padded_branches
from subquad.hep.models.branch_tagger import BranchTagger
from subquad.hep.models.networks import build_network, predict_logits
from subquad.hep.models.presets import PRESETS
from subquad.hep.models.trained import TrainedTagger

SMALL = {"k": 3, "chebyshev_order": 3, "layers": 2, "width": 8, "graphs": 2, "pool_heads": 1, "max_particles": 131}
SV_MASK = "sv_entry_mask"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def changed(variables=None, **inputs):
    """The card of particles and vertices with other new variables and inputs; None omits a group."""
    groups = {**CARD["inputs"], **inputs}
    return {
        **CARD,
        "new_variables": {**CARD["new_variables"], **(variables or {})},
        "inputs": {name: group for name, group in groups.items() if group is not None},
    }


def group(*variables, length=128):
    return {"length": length, "vars": list(variables)}


WITHOUT_MOMENTA = changed(pf_vectors=None, sv_vectors=None)
ACROSS = changed(
    {
        "share_of_vertices": "np.hypot(part_px, part_py) / (1 + ak.sum(sv_pt, axis=1) + ak.num(sv_ratio))",
        "excess": "part_charge - ak.mean(sv_ratio + 1, axis=1) * ak.max(part_deta, axis=1)",
    },
    pf_features=group("share_of_vertices", "excess"),
)
"""Features of the particles are computed from the vertices of their jet."""
CHARGED = changed(
    {
        **{"is_charged": "part_charge != 0", "is_neutral": "part_charge == 0", "softened": "np.log1p(part_energy)"},
        **{f"neutral_{name}": f"1 * part_{name}" for name in ("deta", "dphi", "px", "py", "pz", "energy")},
    },
    pf_mask=group("is_charged"),
    neutral_points=group("neutral_deta", "neutral_dphi", length=64),
    neutral_features=group("softened", "neutral_deta", length=64),
    neutral_vectors=group("neutral_px", "neutral_py", "neutral_pz", "neutral_energy", length=64),
    neutral_mask=group("is_neutral", length=64),
)
"""Charged particles, neutral ones, which are computed from the same branches, and vertices."""
VERTICES_FIRST = {
    **CARD,
    "selection": "ak.num(sv_pt) > 0",
    "inputs": {name: CARD["inputs"][name] for name in sorted(CARD["inputs"], reverse=True) if name != "sv_mask"},
    "observers": list(OBSERVERS),
}
VERTICES_FIRST["inputs"]["pf_features"] = group(*(name for name in PARTICLES if name != "part_phi"))
"""Vertices before particles, of which all branches of JetClass are read."""
RENAMED = {**changed(sv_features=group("sv_ratio", "vertex_mass", length=3)), "branch_magic": {"vertex": "sv"}}


def small_tagger(preset, content, path, **settings):
    """A small tagger with random weights, the branches of some jets, and their scores by `predict`."""
    torch.manual_seed(4)
    net_settings = replace(PRESETS[preset].net, **SMALL, **settings)
    layout = layout_of(net_settings, card_of(content, "card.yaml"))
    columns, chunk = first_jets([path], layout, 40)
    tables = (torch.from_numpy(table) for table in (chunk.particles, chunk.jet_features))
    layout = fit_standardization(layout, net_settings, *tables)
    net = build_network(net_settings, layout, 3).eval()
    tagger = TrainedTagger(path="run", config={}, net=net, settings=net_settings, layout=layout, classes=tuple("abc"))
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2)
    return tagger, columns, predict_logits(net, tagger.dataset(chunk)).softmax(-1)


@pytest.mark.parametrize(
    ("preset", "content"),
    [
        *(("standard", CARD), ("auto", CARD), ("epcn", CARD), ("auto-chebyshev", CHARGED), ("paper", CARD)),
        *(("standard", WITHOUT_MOMENTA), ("standard", ACROSS), ("standard", CHARGED), ("standard", RENAMED)),
        ("standard", VERTICES_FIRST),
    ],
)
def test_branches_give_the_scores_of_predict_with_any_padding(preset, content, vertex_files):
    tagger, columns, expected = small_tagger(preset, content, vertex_files[1])
    assert expected.std(0).mean() > 1e-3
    masks = masks_of_branches(columns, tagger.layout)
    names = list(dict.fromkeys(masks.values()))
    module, jets = BranchTagger(tagger, masks), padded_branches(columns, masks)
    if content is VERTICES_FIRST:
        assert tagger.layout.jet_features == JET_FEATURES
        assert masks["sv_pt"] == MASK
        assert masks["part_px"] == "pf_entry_mask"
    else:
        assert names == [MASK, SV_MASK]
        assert jets[SV_MASK].shape[1] == 4
        assert not jets[SV_MASK].sum(1).min()
    with torch.no_grad():
        torch.testing.assert_close(module(jets), expected, atol=5e-5, rtol=0)
        for mask in names:
            # padding within and beyond what the network takes
            more = {mask: torch.nn.functional.pad(jets[mask], (0, 2))}
            for name in (name for name, own in masks.items() if own == mask):
                more[name] = torch.nn.functional.pad(jets[name], (0, 2)).masked_fill(more[mask] == 0, torch.nan)
            torch.testing.assert_close(module({**jets, **more}), expected, atol=5e-5, rtol=0)
        alone = {name: x[7:8] for name, x in jets.items()}
        torch.testing.assert_close(module(alone), expected[7:8], atol=5e-5, rtol=0)


def test_only_what_the_network_reads_is_an_input(vertex_files):
    card = {**changed({"n_muon": "ak.num(muon_pt)"}), "observers": ["jet_pt", "n_muon"]}
    tagger, columns, _ = small_tagger("standard", CARD, vertex_files[1])
    columns["muon_pt"] = ak.unflatten(np.ones(40 * 7, np.float32), 7)
    tagger = replace(tagger, layout=replace(tagger.layout, card=card_of(card, "card.yaml")))
    masks = masks_of_branches(columns, tagger.layout)
    names = branches_read(BranchTagger(tagger, masks), padded_branches(columns, masks), masks)
    particles = ("px", "py", "pz", "energy", "deta", "dphi", "charge")
    vertices = ("pt", "mass", "deta", "dphi")
    expected = {*(f"part_{name}" for name in particles), *(f"sv_{name}" for name in vertices), "jet_pt"}
    assert {*names[:-2]} == expected
    assert names[-2:] == [MASK, SV_MASK]


@pytest.mark.parametrize(
    ("variables", "changes", "message"),
    [
        (
            {"share": "part_charge / ak.sum(muon_pt, axis=1)"},
            {"pf_features": group("share")},
            r"card\.yaml: it is unknown to which collection of inputs the branch muon_pt belongs, since its first "
            r"40 jets have other numbers than pf and sv; fit with a card that does without it",
        ),
        (
            {name: f"part_{name}[part_charge > 0]" for name in ("pt_log", "deta", "dphi")},
            {"pf_features": group("pt_log")},
            r"'part_pt_log\[part_charge > 0\]' is not translated to ONNX",
        ),
        (
            {"flag": "ak.ones_like(part_charge) * is_data"},
            {"pf_features": group("flag")},
            "card.yaml: file_magic: is_data depends on the name of the file",
        ),
    ],
)
def test_what_cannot_be_exported_is_named(variables, changes, message, vertex_files):
    content = {**changed(variables, **changes), "file_magic": {"is_data": {"data": 1}}}
    tagger, columns, _ = small_tagger("standard", CARD, vertex_files[1])
    columns["muon_pt"] = ak.unflatten(np.ones(40 * 7, np.float32), 7)
    card = card_of(content, "card.yaml")
    layout = replace(layout_of(tagger.settings, card), jet_standardizer=tagger.layout.jet_standardizer)

    def scores():
        masks = masks_of_branches(columns, layout)
        return BranchTagger(replace(tagger, layout=layout), masks)(padded_branches(columns, masks))

    with pytest.raises(SubquadError):
        scores()


def test_a_branch_with_the_name_of_a_mask_is_an_input_beside_it(vertex_files):
    tagger, columns, expected = small_tagger("standard", CARD, vertex_files[1])
    columns |= {"particle_mask": ak.ones_like(columns["part_px"]), SV_MASK: columns["jet_pt"]}
    masks = masks_of_branches(columns, tagger.layout)
    assert {*masks.values()} == {"particle_mask_", "sv_entry_mask_"}
    with torch.no_grad():
        torch.testing.assert_close(
            BranchTagger(tagger, masks)(padded_branches(columns, masks)), expected, atol=5e-5, rtol=0
        )


def test_jets_that_the_card_does_not_select_are_not_compared(tmp_path):
    content = yaml.safe_load(VERTEX_CARD)
    path = write_nano(tmp_path / "nano.root", SV_eta=None)
    content["selection"] = "ak.num(PFCands_pt) > 8"
    inputs = {name: one for name, one in content["inputs"].items() if name.startswith("pf_")}
    card = card_of({**content, "inputs": inputs}, "card.yaml")
    columns, chunk = first_jets([path], layout_of(PRESETS["standard"].net, card), 100)
    assert len(columns["PFCands_pt"]) == len(chunk)
    assert ak.num(columns["PFCands_pt"]).to_list() == chunk.lengths.tolist()
    assert 0 < len(chunk) < 29
    assert chunk.lengths.min() > 8


@pytest.mark.long
def test_particles_and_vertices_are_inputs_of_the_exported_file(vertex_files, tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.setattr(branch_export, "COMPARED", 20)
    tagger, columns, expected = small_tagger("auto", CHARGED, vertex_files[1])
    found = branch_export.export_branches(tagger, tmp_path / "tagger.onnx", [vertex_files[1]])
    assert found["checked"]["largest_difference"] < 1e-5
    masks = found["metadata"]["masks"]
    assert {mask: {name.partition("_")[0] for name in names} for mask, names in masks.items()} == {
        MASK: {"part"},
        SV_MASK: {"sv"},
    }
    monkeypatch.syspath_prepend(EXAMPLES)
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "tagger.onnx")
    scores = importlib.import_module("score_root_file").score(session, ak.zip(columns, depth_limit=1))
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    events = {name: ak.unflatten(columns[name], [20, 0, 20]) for name in columns}
    by_event = importlib.import_module("score_events").score_events(tmp_path / "tagger.onnx", events, batch_size=7)
    found = np.stack([ak.to_numpy(ak.flatten(by_event[name])) for name in by_event.fields], 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.long
def test_the_jets_of_nanoaod_are_scored_event_by_event(tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.syspath_prepend(EXAMPLES)
    example, path = importlib.import_module("score_nanoaod"), tmp_path / "nano.root"
    with uproot.open(write_nano(path)) as file:
        events = file["Events"].arrays()
    # a jet whose links are gone, and lists of vertices of the whole event
    is_gone, jet = ak.broadcast_arrays(events["event"] == 1002, events["FatJetPFCands_jetIdx"])
    jet = ak.where(is_gone, -1, jet)
    lengths = np.arange(len(events)) % 3
    vertices = {
        f"SV_{name}": ak.unflatten(np.linspace(low, high, lengths.sum()), lengths)
        for name, low, high in (("eta", 0, 0.5), ("phi", 2.8, 3.3), ("pt", 1, 9), ("mass", 0, 4), ("ntracks", 2, 7))
    }
    axis = {f"FatJet_{name}": 0 * events["FatJet_pt"] + value for name, value in (("eta", 0.4), ("phi", 3.1))}
    write_nano(path, FatJetPFCands_jetIdx=jet, **axis, **vertices)
    tagger, _, expected = small_tagger("standard", yaml.safe_load(VERTEX_CARD), path)
    monkeypatch.setattr(branch_export, "COMPARED", 20)
    branch_export.export_branches(tagger, tmp_path / "tagger.onnx", [path])
    example.main(tmp_path / "tagger.onnx", path, tmp_path / "scores.root", step_size=5)
    with uproot.open(tmp_path / "scores.root") as file:
        scores = file["Events"].arrays()
    assert ak.num(scores["FatJet_a"]).to_list() == ak.num(events["FatJet_pt"]).to_list()
    found = np.stack([ak.to_numpy(ak.flatten(scores[f"FatJet_{name}"])) for name in "ab"], 1)
    is_empty = ak.to_numpy(ak.flatten(ak.broadcast_arrays(events["event"], events["FatJet_pt"])[0])) == 1002
    assert is_empty.sum() == 1
    assert np.isnan(found[is_empty]).all()
    np.testing.assert_allclose(found[~is_empty], expected[:, :2], atol=1e-5)
