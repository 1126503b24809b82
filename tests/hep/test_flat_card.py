"""The first card of the documentation reads flat trees with branches of any names; wrong jet axes are refused."""

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml
from support.hep_layouts import FLAT_CARD, write_flat

from subquad.hep import FitSettings, fit, predict
from subquad.hep.data.card import card_of
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.layout import layout_of
from subquad.hep.settings import NetSettings

WRAPPED = "(cand_phi - jet_phi + np.pi) % (2 * np.pi) - np.pi"


def options_of(variables=None, **groups):
    """The card with other new variables and other groups of inputs; None removes a group."""
    options = yaml.safe_load(FLAT_CARD)
    assert options["new_variables"]["dphi"] == WRAPPED
    options["new_variables"] |= variables or {}
    for name, names in groups.items():
        options["inputs"].pop(f"pf_{name}")
        if names is not None:
            options["inputs"][f"pf_{name}"] = {"length": 128, "vars": names}
    return options


def chunks_of(path, options, *, is_training=True):
    layout = layout_of(NetSettings(has_jet_features=False), card_of(options, "mine.yaml"))
    return [*read_chunks([path], layout, is_training=is_training, quiet=False)]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flat")
    (folder / "mine.yaml").write_text(FLAT_CARD)
    settings = FitSettings(
        card=str(folder / "mine.yaml"), preset="standard", width=7, layers=1, epochs=6, no_boosting=True
    )
    metrics = fit([write_flat(folder / "train.root", 211)], settings, out=folder / "tagger", quiet=True)
    return folder / "tagger", metrics


def test_own_branches_and_a_number_as_label_are_fitted_by_the_first_card(fitted, tmp_path):
    tagger, metrics = fitted
    # the jets of the second class are wider
    assert metrics["test"]["net"]["accuracy"] > 0.7
    assert metrics["notes"] == []
    new = write_flat(tmp_path / "new.root", 13, seed=1)
    predict(tagger, [new], out=tmp_path / "scores.root", quiet=True)
    with uproot.open(tmp_path / "scores.root") as file:
        assert {"score_qcd", "score_top", *yaml.safe_load(FLAT_CARD)["observers"]} <= {*file["Events"].keys()}


def test_the_first_card_has_the_inputs_that_a_tagger_wants(tmp_path):
    features = yaml.safe_load(FLAT_CARD)["inputs"]["pf_features"]["vars"]
    assert {"deta", "dphi", "dr", "log_pt", "log_pt_rel", "cand_charge"} <= {*features}
    path = write_flat(tmp_path / "a.root", 61)
    (chunk,) = chunks_of(path, yaml.safe_load(FLAT_CARD))
    with uproot.open(path) as file:
        table = file["JetTree"].arrays()
    layout = layout_of(NetSettings(has_jet_features=False), card_of(yaml.safe_load(FLAT_CARD), "mine.yaml"))
    found = {name: chunk.particles[:, layout.particles.index(name)] for name in features}
    turned = np.asarray(ak.flatten(table["cand_phi"] - table["jet_phi"]))
    # the jets lie across φ = ±π
    assert np.abs(turned).max() > 5
    np.testing.assert_allclose(found["dphi"], np.arctan2(np.sin(turned), np.cos(turned)), atol=1e-5)
    np.testing.assert_allclose(found["dr"], np.hypot(found["deta"], found["dphi"]), rtol=1e-5)
    relative = np.asarray(ak.flatten(np.log(table["cand_pt"] / table["jet_pt"])))
    np.testing.assert_allclose(found["log_pt_rel"], relative, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_label_among_the_features_is_named_in_the_terminal_and_the_report(tmp_path, capsys):
    (tmp_path / "leak.yaml").write_text(
        FLAT_CARD.replace("log_e: ", "leak: truth + 0 * cand_pt\n  log_e: ").replace("log_e,", "log_e, leak,")
    )
    settings = FitSettings(
        **{"card": str(tmp_path / "leak.yaml"), "preset": "standard", "width": 7, "layers": 1, "epochs": 8},
        **{"no_boosting": True, "learning_rate": 0.02, "test_fraction": 0.25},
    )
    found = fit([write_flat(tmp_path / "train.root", 431)], settings, out=tmp_path / "tagger")["notes"]
    feature = (
        "Warning: the input feature leak alone separates qcd and top from all other jets (431 jets were compared); "
        "check that it does not contain the label."
    )
    flawless = "Warning: almost no jet is wrong (0 of 108 test jets); check that no input contains the label."
    assert found == [feature, flawless]
    text, report = " ".join(capsys.readouterr().err.split()), (tmp_path / "tagger" / "report.html").read_text()
    for note in found:
        assert note in text
        assert note in report
