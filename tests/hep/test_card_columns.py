"""What the expressions of a card give: missing values, shapes, and numbers that depend on how files are read."""

import awkward as ak
import numpy as np
import pytest
import torch

from subquad.errors import SubquadError
from subquad.hep.data.card import card_of
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.layout import fit_standardization, layout_of
from subquad.hep.data.store import write_store
from subquad.hep.settings import NetSettings

CLASSES = ("QCD", "Hbb", "Tbqq")
VECTORS = ["part_px", "part_py", "part_pz", "part_energy"]


def chunks_of(files, *, variables=(), feature="part_pt", mask="", is_training=True, needs_labels=True, **keys):
    """Chunks of files by a small card with further variables and keys."""
    groups = {"points": ["part_deta", "part_dphi"], "features": [[feature, None]], "vectors": VECTORS}
    groups |= {"mask": [mask]} if mask else {}
    options = {
        "new_variables": {"part_pt": "np.hypot(part_px, part_py)", **dict(variables)},
        "inputs": {f"pf_{name}": {"length": 16, "vars": variables} for name, variables in groups.items()},
        "labels": {"type": "simple", "value": [f"label_{name}" for name in CLASSES]},
        **keys,
    }
    layout = layout_of(NetSettings(has_jet_features=False), card_of(options, "card.yaml"))
    return list(read_chunks(files, layout, is_training=is_training, needs_labels=needs_labels))


def pts_of(table):
    return np.hypot(table["part_px"], table["part_py"])


@pytest.fixture
def one(tables, tmp_path):
    columns, write = tables
    table = columns("Hbb")
    return write(tmp_path / "Hbb.root", table), table


def test_the_largest_value_of_a_jet_is_a_number_like_others(one):
    path, table = one
    expected = ak.to_numpy(ak.max(pts_of(table), axis=1))
    variables = {"largest": "ak.max(part_pt, axis=1)", "relative": "part_pt / np.max(part_pt, axis=1)"}
    (chunk,) = chunks_of(
        [path], variables=variables, feature="relative", observers=["largest"], event_weights="largest"
    )
    assert chunk.observers["largest"] == pytest.approx(expected)
    assert chunk.observers["event_weight"] == pytest.approx(expected)
    assert chunk.particles[:, 0].max() == pytest.approx(1)


def test_the_class_is_the_index_of_the_label_that_is_1(jets):
    stacked = "np.stack([label_QCD, label_Hbb, label_Tbqq], axis=1)"
    for text in (f"np.argmax({stacked}, axis=1)", f"{stacked}.argmax(1)"):
        chunks = chunks_of(jets, labels={"type": "custom", "value": {"truth": text}})
        assert [{*chunk.labels.tolist()} for chunk in chunks] == [{0}, {1}, {2}]


def test_a_missing_value_is_selected_away_or_reported(one):
    path, table = one
    is_hard = ak.any(pts_of(table) > 30, axis=1)
    variables = {"hard": "ak.firsts(part_pt[part_pt > 30])"}
    with pytest.raises(SubquadError):
        chunks_of([path], variables=variables, observers=["hard"])
    selection = "ak.any(part_pt > 30, axis=1)"
    (chunk,) = chunks_of([path], variables=variables, observers=["hard"], selection=selection)
    assert len(chunk) == ak.sum(is_hard)
    with pytest.raises(SubquadError):
        chunks_of([path], variables=variables, selection="hard > 40")
    (chunk,) = chunks_of([path], variables=variables, selection="ak.fill_none(hard > 40, False)")
    assert len(chunk) == ak.sum(ak.fill_none(ak.firsts(pts_of(table)[pts_of(table) > 30]) > 40, False))


def test_four_vectors_are_no_feature(one):
    variables = {"momentum": "_p4_from_pxpypze(part_px, part_py, part_pz, part_energy)"}
    with pytest.raises(SubquadError, match=r"momentum is of type .*; it must be a list of numbers per jet"):
        chunks_of([one[0]], variables=variables, feature="momentum")


def test_a_particle_whose_mask_is_undefined_is_dropped(one):
    path, table = one
    variables = {"is_used": "np.where(part_pt > 2, 1, np.nan)"}
    selection = "ak.any(part_pt > 2, axis=1)"
    (chunk,) = chunks_of([path], variables=variables, mask="is_used", selection=selection)
    is_used = pts_of(table) > 2
    assert chunk.lengths.tolist() == ak.sum(is_used, axis=1)[ak.any(is_used, axis=1)].to_list()


def test_labels_that_not_all_files_have_are_not_read(tables, one, tmp_path):
    columns, write = tables
    data = {name: column for name, column in columns("QCD").items() if not name.startswith("label_")}
    files = [one[0], write(tmp_path / "data.root", data)]
    for chunk in chunks_of(files, is_training=False, needs_labels=False):
        assert chunk.classes == ()
        assert (chunk.labels == -1).all()


def test_a_variable_without_a_finite_value_cannot_be_standardized(one):
    options = {
        "preprocess": {"method": "auto"},
        "new_variables": {"far": "np.log(part_isMuon)"},
        "inputs": {
            "pf_features": {"length": 16, "vars": ["far"]},
            "pf_vectors": {"length": 16, "vars": VECTORS},
        },
        "labels": {"type": "simple", "value": [f"label_{name}" for name in CLASSES]},
    }
    settings = NetSettings(has_jet_features=False)
    layout = layout_of(settings, card_of(options, "card.yaml"))
    (chunk,) = read_chunks([one[0]], layout, is_training=True)
    particles, features = torch.from_numpy(chunk.particles), torch.from_numpy(chunk.jet_features)
    with pytest.raises(SubquadError, match=r"card\.yaml: inputs: far has no finite value in the training jets"):
        fit_standardization(layout, settings, particles, features)


def test_vectors_in_another_order_or_in_mev_are_refused_with_the_remedy(tables, tmp_path):
    columns, write = tables
    turned = {name: {"length": 16, "vars": [*VECTORS[1:], VECTORS[0]]} for name in ("pf_vectors",)}
    turned["pf_features"] = {"length": 16, "vars": [["part_pt", None]]}
    table = columns("Hbb")
    table["part_px"] = -table["part_px"]
    path = write(tmp_path / "a.root", table)
    with pytest.raises(SubquadError):
        chunks_of([path], inputs=turned)
    table = columns("Hbb")
    path = write(tmp_path / "mev.root", {**table, **{name: table[name] * np.float32(1e6) for name in VECTORS}})
    with pytest.raises(SubquadError):
        chunks_of([path])


def test_a_selection_that_leaves_no_jet_is_named(jets, tmp_path):
    options = {
        "selection": "jet_pt > 1e9",
        "inputs": {
            "pf_features": {"length": 16, "vars": [["part_energy", 0, 1]]},
            "pf_vectors": {"length": 16, "vars": VECTORS},
        },
        "labels": {"type": "simple", "value": [f"label_{name}" for name in CLASSES]},
    }
    layout = layout_of(NetSettings(has_jet_features=False), card_of(options, "card.yaml"))
    with pytest.raises(SubquadError):
        write_store(tmp_path / "jets", layout, {"train": read_chunks(jets, layout, is_training=True)}, key="a")
