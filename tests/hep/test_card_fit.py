"""Weaver's cards run unchanged: from files to a tagger to scores, and the errors of files that do not fit a card."""

import json
import os
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from support.hep_cards import CARDS, NET, chunks_of, options, written
from support.hep_jets import columns, write

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.hep import FitSettings, fit, predict
from subquad.hep.data.batches import collate
from subquad.hep.data.card import card_of, read_card
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.features import JET_FEATURES, MOMENTUM_FEATURES
from subquad.hep.data.layout import layout_of
from subquad.hep.data.store import dataset_of
from subquad.runs.folder import WORK, open_run

JETCLASS = ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl")


@pytest.fixture(scope="module")
def files(jetclass):
    """Files of three of JetClass's ten classes."""
    return jetclass


def batch_of(files, card, rows=slice(None)):
    """All jets of one file as a network takes them."""
    (chunk,) = chunks_of(files, card)
    return collate(dataset_of(chunk, layout_of(NET, card)), torch.arange(len(chunk))[rows])


def test_a_card_in_the_run_that_is_replaced_is_kept(files, tmp_path):
    card = tmp_path / "run" / "card.yaml"
    open_run(card.parent, kind="hep", settings={}).finish(config={}, tensors=None, metrics={})
    card.write_text((CARDS / "JetClass_kin.yaml").read_text())
    with pytest.raises(SubquadError):
        fit(files, FitSettings(card=str(card)), out=card.parent, force=True, quiet=True)
    assert card.is_file()


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "observers"), [("kin", MOMENTUM_FEATURES), ("kinpid", MOMENTUM_FEATURES), ("full", JET_FEATURES)]
)
def test_a_card_of_jetclass_is_fitted_and_predicts_from_the_model_alone(kind, observers, files, tmp_path):
    card = tmp_path / "card.yaml"
    card.write_text((CARDS / f"JetClass_{kind}.yaml").read_text())
    run = tmp_path / "run"
    metrics = fit(files, FitSettings(card=str(card), epochs=2, batch_size=17), out=run, quiet=True)
    assert metrics["test"]["net"]["accuracy"] > 0.3
    assert metrics["test"]["boosting"]["accuracy"] > 0.5
    config = json.loads((run / "config.json").read_text())
    assert config["classes"] == ["QCD", "Hbb", "Hcc"]
    assert tuple(config["jet_features"]) == observers
    assert not (run / WORK).exists()
    card.unlink()
    with uproot.open(predict(run, files[1], out=tmp_path / "scores.root", quiet=True)) as file:
        scores = file["Events"].arrays(library="np")
    with uproot.open(files[1]) as file:
        mass = file["tree"]["jet_sdmass"].array(library="np")
    assert scores["jet_sdmass"].tolist() == mass.tolist()
    assert scores["label_Hbb"].tolist() == [1] * 47
    assert sum(scores[f"score_{name}"] for name in config["classes"]) == pytest.approx(np.ones(47), abs=1e-5)


def test_a_network_takes_the_inputs_of_the_card(files):
    batch = batch_of(files[:1], read_card(CARDS / "JetClass_full.yaml"))
    with uproot.open(files[0]) as file:
        jets = file["tree"].arrays()
    assert batch.mask.sum(1).tolist() == ak.num(jets["part_px"]).to_list()
    j, particles = 3, len(jets["part_px"][3])
    px, py = (np.asarray(jets[name][j], np.float64) for name in ("part_px", "part_py"))
    expected = {
        0: ((np.log(np.hypot(px, py)) - 1.7) * 0.7).clip(-5, 5),
        2: ((np.log(np.hypot(px, py) / jets["jet_pt"][j]) + 4.7) * 0.7).clip(-5, 5),
        11: np.tanh(np.asarray(jets["part_d0val"][j], np.float64)),
        15: np.asarray(jets["part_deta"][j]),
    }
    for column, values in expected.items():
        np.testing.assert_allclose(batch.x[j, :particles, column], values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.points[j, :particles, 1], jets["part_dphi"][j])
    np.testing.assert_allclose(batch.vectors[j, :particles, 3], jets["part_energy"][j])
    assert not batch.x[j, particles:].any()
    assert not batch.vectors[j, particles:].any()


def test_the_length_cuts_and_the_mask_drops(files):
    given = options()
    for group in given["inputs"].values():
        group["length"] = 3
    given["new_variables"]["part_mask"] = "part_px > 0.5"
    batch = batch_of(files[:1], card_of(given, "card.yaml"))
    with uproot.open(files[0]) as file:
        px = file["tree"]["part_px"].array()
    assert batch.mask.sum(1).tolist() == ak.sum(px[:, :3] > 0.5, axis=1).to_list()


def test_selections_choose_jets_by_their_entry(files):
    given = {
        **options(),
        "selection": "jet_sdmass > 80",
        "test_time_selection": "(jet_sdmass < 80) & (ak.num(part_px) > 2)",
    }
    card = card_of(given, "card.yaml")
    with uproot.open(files[0]) as file:
        jets = file["tree"].arrays(["jet_sdmass", "part_px"])
    (learnt,) = chunks_of(files[:1], card)
    (measured,) = chunks_of(files[:1], card, is_training=False)
    assert learnt.observers["jet_sdmass"].tolist() == jets["jet_sdmass"][jets["jet_sdmass"] > 80].to_list()
    assert len(measured) == ak.sum((jets["jet_sdmass"] < 80) & (ak.num(jets["part_px"]) > 2))
    nothing = card_of({**options(), "selection": "jet_pt < 0"}, "card.yaml")
    assert [len(chunk) for chunk in chunks_of(files[:1], nothing)] == [0]


def test_without_points_the_graph_takes_the_angles_of_the_momenta(files):
    given = options()
    del given["inputs"]["pf_points"]
    batch = batch_of(files[:1], card_of(given, "card.yaml"))
    px, py, pz, energy = batch.vectors.double().sum(1).T
    eta, phi = (pz / px.hypot(py)).asinh(), py.atan2(px)
    p = batch.vectors[:, 0].double()
    np.testing.assert_allclose(batch.points[:, 0, 0], (p[:, 2] / p[:, 0].hypot(p[:, 1])).asinh() - eta, atol=1e-5)
    turn = torch.remainder(p[:, 1].atan2(p[:, 0]) - phi + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(batch.points[:, 0, 1], turn, atol=1e-5)
    assert (energy > 0).all()


@pytest.mark.long
def test_automatic_variables_are_standardized_by_the_training_jets(files, tmp_path):
    given = options("kin")
    given["preprocess"] = {"method": "auto"}
    given["inputs"]["pf_features"]["vars"] = ["part_pt_log", ["part_deta", None]]
    settings = FitSettings(card=written(tmp_path / "auto.yaml", given), epochs=1, no_boosting=True)
    fit(files, settings, out=tmp_path / "run", quiet=True)
    found = json.loads((tmp_path / "run" / "config.json").read_text())["card"]["options"]["preprocess"]["params"]
    with uproot.open(files[0]) as file:
        assert found["part_pt_log"]["center"] == pytest.approx(2.0, abs=0.2), file
    assert found["part_pt_log"]["scale"] == pytest.approx(1.0, abs=0.15)
    assert found["part_deta"]["center"] is None
    predict(tmp_path / "run", files, out=tmp_path / "scores.root", quiet=True)


@pytest.mark.long
def test_custom_labels_count_the_classes(files, tmp_path):
    given = options("kin")
    given["labels"] = {"type": "custom", "value": {"truth": "label_Hbb + 2 * label_Hcc"}}
    given |= {"selection": "jet_pt > 0", "test_time_selection": "jet_sdmass < 1e6"}
    settings = FitSettings(card=written(tmp_path / "custom.yaml", given), epochs=1, no_boosting=True)
    fit(files, settings, out=tmp_path / "run", quiet=True)
    with uproot.open(predict(tmp_path / "run", files[2], out=tmp_path / "s.root", quiet=True)) as file:
        scores = file["Events"].arrays(library="np")
    assert scores["label_2"].tolist() == [1] * 47
    names = {name for name in scores if name.startswith("score_")}
    assert names == {"score_0", "score_1", "score_2"}
    # a file of which the card selects nothing has no entries
    heavy = columns("QCD", jets=11, classes=JETCLASS)
    heavy["jet_sdmass"] = np.full_like(heavy["jet_sdmass"], 2e6)
    none = write(tmp_path / "heavy.root", heavy)
    for paths, count in ((none, 0), ([none, files[2]], 47)):
        out = predict(tmp_path / "run", paths, out=tmp_path / f"{count}.root", quiet=True)
        with uproot.open(out) as file:
            assert file["Events"].num_entries == count
            assert names <= {*file["Events"].keys()}
    given["labels"]["value"] = {"truth": "label_Hbb * 0.5"}
    with pytest.raises(SubquadError, match=r"Hbb\.root: entry 0: .*label_Hbb \* 0\.5 is 0\.5"):
        fit(files, replace(settings, card=written(tmp_path / "half.yaml", given)), out=tmp_path / "half", quiet=True)


def test_columns_may_depend_on_the_file_name_and_branches_may_be_renamed(files):
    given = options("kin")
    given["file_magic"] = {"is_higgs": {"Hbb|Hcc": 1, "QCD": 0}, "process": {r".*/H(bb|gg)\.r\w+$": 2, "/[A-Z]{3}": 1}}
    given["branch_magic"] = {"hardness": "pt"}
    given["observers"] = ["is_higgs", "process", "jet_hardness"]
    found = chunks_of(files, card_of(given, "card.yaml"))
    assert [chunk.observers["is_higgs"].mean() for chunk in found] == [0, 1, 1]
    assert [chunk.observers["process"].mean() for chunk in found] == [1, 2, 0]
    assert (found[0].observers["jet_hardness"] > 1).all()


def test_the_only_tree_of_a_file_is_taken_whatever_the_treename_of_the_card(tables, tmp_path):
    columns, write = tables
    path = write(tmp_path / "a.root", columns("QCD", classes=JETCLASS), tree="Jets")
    card = card_of({**options(), "treename": "Events"}, "card.yaml")
    (found,) = chunks_of([path], card)
    assert len(found) == 23
    with pytest.raises(SubquadError):
        chunks_of([Path(f"{path}:Events")], card)


def test_bad_jets_are_reported_by_file_and_entry_and_selected_away(tables, tmp_path):
    columns, write = tables
    table = columns("QCD", classes=JETCLASS)
    table["jet_tau1"][4] = np.nan
    lists = ak.to_list(table["part_px"])
    lists[6][-1] = np.inf
    table["part_px"] = ak.values_astype(ak.Array(lists), "float32")
    table["label_Hbb"][9] = True
    path = write(tmp_path / "bad.root", table)
    with pytest.raises(SubquadError) as caught:
        chunks_of([path], card_of(options(), "card.yaml"))
    assert "bad.root: entry " in str(caught.value)
    chosen = {**options(), "selection": "(jet_tau1 > 0) & ak.all(part_px < 1e9, axis=1)"}
    with pytest.raises(SubquadError, match=r"entry 9: exactly one label of a jet must be 1"):
        chunks_of([path], card_of(chosen, "card.yaml"))
    chosen["selection"] += " & ~(label_QCD & label_Hbb)"
    (found,) = chunks_of([path], card_of(chosen, "card.yaml"))
    assert len(found) == 20


def test_a_variable_without_a_value_counts_as_0_and_is_logged(files, capsys):
    given = options()
    given["new_variables"]["part_sig"] = "part_d0val / part_d0err"
    given["inputs"]["pf_features"]["vars"].append(["part_sig", 0, 1])
    card = card_of(given, "card.yaml")
    list(read_chunks(files[:1], layout_of(NET, card), is_training=True, quiet=False))
    assert "card.yaml: part_sig has " in capsys.readouterr().err
    assert batch_of(files[:1], card).x.isfinite().all()
    given["inputs"]["pf_features"]["vars"][-1] = ["part_sig", None]
    given["new_variables"]["part_sig"] = "1 / part_d0err"
    with pytest.raises(SubquadError):
        chunks_of(files[:1], card_of(given, "card.yaml"))


@pytest.mark.long
def test_the_command_line_takes_a_card(files, tmp_path, capsys):
    names = [str(path) for path in files]
    card = str(CARDS / "JetClass_kin.yaml")
    flags = ["--out", str(tmp_path / "run"), "--epochs", "1", "--no-boosting", "--reweight", "class", "--quiet"]
    assert main(["hep", "fit", *names, "--card", card, "--reweight-vars", "jet_sdmass", "0", "100", "500", *flags]) == 0
    assert main(["hep", "fit", *names, "--card", str(tmp_path / "no.yaml"), "--out", str(tmp_path / "x")]) == 2
    assert "no.yaml: no such file" in capsys.readouterr().err
    assert main(["hep", "fit", *names, "--reweight-vars", "jet_sdmas", "0", "9", "--out", str(tmp_path / "x")]) == 2
    assert "no observer 'jet_sdmas'; did you mean 'jet_sdmass'?" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.data
@pytest.mark.parametrize("kind", ["kin", "kinpid", "full"])
def test_a_card_of_jetclass_runs_unchanged_on_simulated_jets(kind):
    folder = os.environ.get("SUBQUAD_DATA")
    if not folder or not (Path(folder) / "hep" / "sim").is_dir():
        pytest.skip("SUBQUAD_DATA names no folder with hep/sim")
    card = read_card(CARDS / f"JetClass_{kind}.yaml")
    (chunk,) = chunks_of([Path(folder) / "hep" / "sim" / "TTBar_000.root"], card)
    assert len(chunk) == 3000
    assert (chunk.labels == JETCLASS.index("Tbqq")).all()
    assert np.isfinite(chunk.particles).all()


@pytest.mark.data
@pytest.mark.parametrize("name", ["top_landscape", "quark_gluon"])
def test_a_card_of_public_jets_reads_their_arrays(name):
    folder = os.environ.get("SUBQUAD_DATA")
    if not folder or not (Path(folder) / "hep" / "real").is_dir():
        pytest.skip("SUBQUAD_DATA names no folder with hep/real")
    given = options("kin")
    given["new_variables"] |= {"jet_is1": "label", "jet_is0": "1-label"}
    given["labels"]["value"] = ["jet_is1", "jet_is0"]
    given["observers"] = ["jet_pt", "jet_eta", "n_parts"]
    (chunk,) = chunks_of([Path(folder) / "hep" / "real" / f"{name}.npz"], card_of(given, "card.yaml"))
    assert len(chunk) == 2000
    assert chunk.classes == ("jet_is1", "jet_is0")
    assert 900 < chunk.labels.sum() < 1100
    np.testing.assert_allclose(
        np.log(chunk.observers["jet_pt"]), chunk.jet_features[:, MOMENTUM_FEATURES.index("log pt")], rtol=1e-4
    )
