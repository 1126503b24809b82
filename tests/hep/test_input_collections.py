"""Cards with several collections of inputs: particles and secondary vertices as one set of points."""

import json
from dataclasses import replace
from types import SimpleNamespace

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
import yaml
from support.hep_layouts import VERTEX_CARD, particles, write_nano
from support.hep_vertices import CARD

from subquad.errors import SubquadError
from subquad.hep import FitSettings, evaluate, explain, fit, predict
from subquad.hep.commands.export import export
from subquad.hep.data.batches import collate
from subquad.hep.data.card import card_of
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.layout import fit_standardization, layout_of
from subquad.hep.data.store import dataset_of
from subquad.hep.evaluation.scoring import _reader_key
from subquad.hep.explanation.permutation import _permuted
from subquad.hep.models.fine_tuning import Origin
from subquad.hep.models.networks import build_network, forward
from subquad.hep.models.presets import PRESETS
from subquad.hep.settings import ExportSettings

NET = replace(PRESETS["standard"].net, has_jet_features=False)
FEATURES = ("part_pt_log", "part_deta", "part_charge", "sv_ratio", "sv_mass", "sv_deta", "is pf", "is sv")


def write_lists(file, jets):
    """Write jets that were read; the counts of lists are written with them."""
    file["tree"] = {name: jets[name] for name in jets.fields if name.removeprefix("n") not in {*jets.fields} - {name}}


def batch_of(path, layout, rows=slice(None)):
    (chunk,) = read_chunks([path], layout, is_training=True)
    return collate(dataset_of(chunk, layout), torch.arange(len(chunk))[rows])


def standardized(vertex_files):
    """The layout with the standardization of the jets of the files, and these jets."""
    layout = layout_of(NET, card_of(CARD, "card.yaml"))
    (chunk,) = read_chunks([vertex_files[1]], layout, is_training=True)
    return fit_standardization(layout, NET, torch.from_numpy(chunk.particles), torch.from_numpy(chunk.jet_features))


def test_particles_and_vertices_of_a_jet_are_one_set(vertex_files):
    layout = standardized(vertex_files)
    assert layout.features.names == FEATURES
    batch = batch_of(vertex_files[1], layout)
    with uproot.open(vertex_files[1]) as file:
        jets = file["tree"].arrays()
    near = (np.hypot(jets["sv_deta"], jets["sv_dphi"]) < 0.8)[:, :3]
    kept = {name: jets[name][:, :3][near] for name in jets.fields if name.startswith("sv_")}
    assert batch.mask.sum(1).tolist() == (ak.num(jets["part_px"]) + ak.num(kept["sv_pt"])).to_list()
    j = int(np.argmax(ak.num(kept["sv_pt"])))
    P, V = len(jets["part_px"][j]), len(kept["sv_pt"][j])
    assert V >= 2
    x = batch.x[j]
    assert x[:, 6:].tolist() == [[1, 0]] * P + [[0, 1]] * V + [[0, 0]] * (len(x) - P - V)
    # the features of one collection are 0 for the other, also those that are coordinates
    assert not x[P:, :3].any()
    assert not x[:P, 3:6].any()
    np.testing.assert_allclose(x[P : P + V, 5], kept["sv_deta"][j], rtol=1e-5)
    np.testing.assert_allclose(x[:P, 1], jets["part_deta"][j], rtol=1e-5)
    np.testing.assert_allclose(batch.points[j, : P + V, 1], [*jets["part_dphi"][j], *kept["sv_dphi"][j]], rtol=1e-5)
    pt = torch.hypot(*batch.vectors[j, P : P + V, :2].T)
    np.testing.assert_allclose(pt, kept["sv_pt"][j], rtol=1e-4)


def test_undefined_vertices_can_be_repaired_by_the_card(vertex_files, tmp_path):
    with uproot.open(vertex_files[0]) as file:
        jets = file["tree"].arrays()
    flat = np.asarray(ak.flatten(jets["sv_mass"])).copy()
    flat[0], flat[3:9] = np.nan, np.inf
    jets["sv_mass"] = ak.unflatten(flat, ak.num(jets["sv_mass"]))
    path = tmp_path / "undefined.root"
    with uproot.recreate(path) as file:
        write_lists(file, jets)
    repaired = {"sv_known": "np.nan_to_num(sv_mass, nan=-1, posinf=7)"}
    energy = {"sv_energy": "np.hypot(sv_pt * np.cosh(sv_eta), np.nan_to_num(sv_mass, posinf=0))"}
    features = {"sv_features": {"length": 3, "vars": ["sv_ratio", ["sv_known", None], ["sv_deta", None]]}}
    card = {**CARD, "inputs": {**CARD["inputs"], **features}}
    card["new_variables"] = {**CARD["new_variables"], **repaired, **energy}
    layout = layout_of(NET, card_of(card, "card.yaml"))
    (chunk,) = read_chunks([path], layout, is_training=True)
    found = chunk.particles[:, layout.particles.index("sv_known")]
    assert {-1, 7} <= {*found.tolist()}
    card["new_variables"]["sv_energy"] = CARD["new_variables"]["sv_energy"]
    layout = layout_of(NET, card_of(card, "card.yaml"))
    with pytest.raises(SubquadError):
        list(read_chunks([path], layout, is_training=True))


def test_the_number_of_particles_does_not_count_vertices(vertex_files):
    layout = standardized(vertex_files)
    (chunk,) = read_chunks([vertex_files[1]], layout, is_training=True)
    dataset = dataset_of(chunk, layout)
    with uproot.open(vertex_files[1]) as file:
        expected = ak.num(file["tree"]["part_px"].array())
    assert dataset.multiplicities().tolist() == expected.to_list()
    assert dataset.subset(torch.tensor([5, 2])).multiplicities().tolist() == [expected[5], expected[2]]


def test_fine_tuning_needs_the_same_collections(vertex_files):
    own = standardized(vertex_files)
    origin = Origin(tagger=SimpleNamespace(layout=own, path="run", net=SimpleNamespace(), settings=NET), fingerprint="")
    lengths = {"pf": 127, "sv": 4}
    inputs = {name: {**group, "length": lengths[name[:2]]} for name, group in CARD["inputs"].items()}
    given = layout_of(NET, card_of({**CARD, "inputs": inputs}, "card.yaml"))
    assert given.max_particles == own.max_particles
    with pytest.raises(SubquadError, match=r"collections: pf \(length 128, 3 features\), .* of the run missing"):
        origin.layout(given)


def test_cards_with_collections_in_another_order_are_read_apart():
    inputs = {name: group for name, group in CARD["inputs"].items() if "mask" not in name}
    cards = [{**CARD, "inputs": dict(order)} for order in (inputs.items(), reversed(inputs.items()))]
    # all standardized, so that nothing but the order differs
    for card in cards:
        card["preprocess"] = {"params": {name: {"center": 0, "scale": 1} for name in FEATURES[:6]}}
    layouts = [layout_of(NET, card_of(card, "card.yaml")) for card in cards]
    keys = {_reader_key(SimpleNamespace(layout=layout)) for layout in layouts}
    assert len(keys) == 2


def test_automatic_standardization_is_of_the_vertices_alone(vertex_files):
    layout = standardized(vertex_files)
    with uproot.open(vertex_files[1]) as file:
        jets = file["tree"].arrays()
    near = (np.hypot(jets["sv_deta"], jets["sv_dphi"]) < 0.8)[:, :3]
    low, center, high = np.percentile(ak.flatten(jets["sv_mass"][:, :3][near]), [16, 50, 84])
    (found,) = (variable for variable in layout.card.features if variable.name == "sv_mass")
    assert found.center == pytest.approx(center, rel=1e-5)
    assert found.scale == pytest.approx(1 / max(high - center, center - low), rel=1e-5)


def test_jet_level_features_do_not_count_momenta_twice(vertex_files):
    alone = {name: group for name, group in CARD["inputs"].items() if name.startswith("pf_")}
    layouts = [layout_of(NET, card_of({**CARD, "inputs": inputs}, "card.yaml")) for inputs in (alone, CARD["inputs"])]
    first, second = (next(iter(read_chunks([vertex_files[1]], layout, is_training=True))) for layout in layouts)
    assert first.jet_features.any()
    assert np.array_equal(first.jet_features, second.jet_features)


def test_without_momenta_the_means_count_vertices(vertex_files):
    inputs = {name: group for name, group in CARD["inputs"].items() if "vectors" not in name}
    layout = layout_of(NET, card_of({**CARD, "inputs": inputs}, "card.yaml"))
    (chunk,) = read_chunks([vertex_files[1]], layout, is_training=True)
    table, lengths = chunk.particles, chunk.lengths
    is_vertex = table[:, layout.particles.index("is sv")]
    jet = np.repeat(np.arange(len(lengths)), lengths)
    means = dict(zip(layout.jet_features, chunk.jet_features.T, strict=True))
    np.testing.assert_allclose(means["mean is sv"], np.bincount(jet, is_vertex) / lengths, rtol=1e-5)
    vertices = np.bincount(jet, is_vertex)
    angles = table[:, layout.particles.index("part_deta")] * (1 - is_vertex)
    own = np.bincount(jet, angles) / (lengths - vertices)
    np.testing.assert_allclose(means["mean part_deta"], own, rtol=1e-4, atol=1e-6)
    masses = np.bincount(jet, table[:, layout.particles.index("sv_mass")]) / vertices.clip(1)
    np.testing.assert_allclose(means["mean sv_mass"], masses, rtol=1e-4)


@pytest.mark.parametrize("preset", ["standard", "auto", "epcn"])
def test_scores_do_not_depend_on_padding_or_batch(preset, vertex_files):
    settings = replace(PRESETS[preset].net, has_jet_features=False)
    layout = replace(standardized(vertex_files), neighbours=settings.k)
    net = build_network(settings, layout, 3).eval()
    with torch.no_grad():
        together = forward(net, batch_of(vertex_files[0], layout))
        alone = torch.cat([forward(net, batch_of(vertex_files[0], layout, [row])) for row in range(5)])
    assert torch.allclose(together[:5], alone, atol=1e-5)
    assert together.std(0).min() > 0


def test_a_vertex_that_is_wrong_is_an_error_and_none_is_not(vertex_files, tmp_path):
    layout = layout_of(NET, card_of(CARD, "card.yaml"))
    with uproot.open(vertex_files[0]) as file:
        jets = file["tree"].arrays()
    counts = ak.num(jets["sv_pt"])
    assert 0 in counts.to_list()
    flat = np.asarray(ak.flatten(jets["sv_mass"])).copy()
    flat[0] = np.nan
    jets["sv_mass"] = ak.unflatten(flat, counts)
    path = tmp_path / "bad.root"
    with uproot.recreate(path) as file:
        write_lists(file, jets)
    with pytest.raises(SubquadError):
        list(read_chunks([path], layout, is_training=True))


def test_the_documented_card_takes_the_vertices_within_each_jet_of_an_event(tmp_path):
    with uproot.open(write_nano(tmp_path / "plain.root")) as file:
        events = file["Events"].arrays()
    given = {name: events[name] for name in events.fields if not name.startswith("n")}
    # the n-th jet of an event lies at η = n; of two vertices per event one lies in the first jet, across φ = π
    eta = ak.values_astype(ak.local_index(given["FatJet_pt"]), "f4")
    given |= {"FatJet_eta": eta, "FatJet_phi": 0 * eta + 3.1}
    vertices = ak.Array([[0.1, 9.0]] * len(events))
    given |= {"SV_eta": vertices, "SV_phi": 0 * vertices - 3.1, "SV_pt": vertices + 20}
    given |= {"SV_mass": vertices + 1, "SV_ntracks": ak.values_astype(10 * vertices, "i4")}
    with uproot.recreate(tmp_path / "nano.root") as file:
        file["Events"] = given
    layout = layout_of(NET, card_of(yaml.safe_load(VERTEX_CARD), "card.yaml"))
    (chunk,) = read_chunks([tmp_path / "nano.root"], layout, is_training=True)
    is_vertex = chunk.particles[:, layout.particles.index("is sv")] == 1
    jet = np.repeat(np.arange(len(chunk)), chunk.lengths)
    _, pt, *_ = particles()
    assert np.array_equal(np.bincount(jet[~is_vertex]), (pt > 0).sum(1))
    is_first = np.diff(chunk.observers["event"], prepend=-1) != 0
    assert np.bincount(jet, is_vertex).tolist() == is_first.astype(int).tolist()
    assert set(chunk.particles[is_vertex, layout.particles.index("SV_ntracks")]) == {1}


def test_a_feature_is_permuted_among_the_entries_of_its_collection():
    is_vertex = torch.arange(60) % 4 == 0
    value = torch.arange(60) + 100.0
    table = torch.stack([value * ~is_vertex, value * is_vertex, ~is_vertex, is_vertex], 1).float()
    permuted = _permuted(table, [0, 1], (2, 3, 2, 3), torch.Generator().manual_seed(0))
    assert torch.equal(permuted[:, 2:], table[:, 2:])
    for column, own in enumerate((~is_vertex, is_vertex)):
        assert not permuted[~own, column].any()
        assert not torch.equal(permuted[own, column], table[own, column])
        assert torch.equal(permuted[own, column].sort().values, table[own, column])


@pytest.mark.long
def test_a_tagger_learns_from_vertices_and_is_used(vertex_files, tmp_path):
    for name in ("both", "alone"):
        inputs = {key: group for key, group in CARD["inputs"].items() if name == "both" or "pf" in key}
        given = {**CARD, "inputs": inputs}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(given))
    settings = FitSettings(card=str(tmp_path / "both.yaml"), epochs=8, batch_size=16, preset="standard")
    metrics = fit(vertex_files, settings, out=tmp_path / "both", quiet=True)
    alone = fit(vertex_files, replace(settings, card=str(tmp_path / "alone.yaml")), out=tmp_path / "alone", quiet=True)
    assert metrics["test"]["net"]["auc_ovo"] > alone["test"]["net"]["auc_ovo"]
    with uproot.open(predict(tmp_path / "both", vertex_files, out=tmp_path / "scores.root", quiet=True)) as file:
        scores = file["Events"].arrays()
    assert len(scores) == sum(uproot.open(one)["tree"].num_entries for one in vertex_files)
    evaluate([tmp_path / "both", tmp_path / "alone"], files=vertex_files, out=tmp_path / "evaluation", quiet=True)
    explained = explain(tmp_path / "both", files=vertex_files, out=tmp_path / "explained", quiet=True)
    assert sum(entry["attribution"] for entry in explained["features"].values()) == pytest.approx(1)
    assert {"pf", "sv"} < {*explained["groups"]}
    assert "is sv" not in json.dumps(explained)
    assert "sv_mass" in explained["features"]
    weaver = ExportSettings(inputs="weaver")
    with pytest.raises(SubquadError, match=r"both\.yaml has the collections pf and sv, and --inputs weaver takes tagg"):
        export(tmp_path / "both", weaver, out=tmp_path / "network.onnx")
