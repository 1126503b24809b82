"""Systematic variations: features follow the varied momenta, seeds decide, and fixed inputs are refused."""

from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import yaml
from subquad.hep.data.variations import fixed_inputs, parse_variation
from subquad.hep.evaluation.systematics import varied_metrics

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.hep import EvaluateSettings, FitSettings, evaluate, fit
from subquad.hep.commands import evaluate as evaluate_command
from subquad.hep.commands import fit as fit_command
from subquad.hep.data.card import card_of, read_card
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.features import JET_FEATURES, STANDARD_FEATURES, jet_features, particle_features
from subquad.hep.data.jets import OBSERVERS, iterate_jets
from subquad.hep.data.layout import Standardizer, layout_of
from subquad.hep.data.substructure import substructure
from subquad.hep.evaluation import scoring
from subquad.hep.metrics.predictions import ModelPredictions, Predictions
from subquad.hep.metrics.summary import measure, summarize
from subquad.hep.models.trained import TrainedTagger
from subquad.hep.plots.tables import shifts_table
from subquad.hep.settings import NetSettings

GOLDEN = Path(__file__).parents[1] / "golden" / "hep_tagger"
CARD = Path(__file__).parent / "cards" / "JetClass_kin.yaml"


def chunk(files, text=None, seed=0):
    """The jets of files, varied or not."""
    (found,) = iterate_jets(files[:1], variation=None if text is None else parse_variation(text, seed))
    return found


def observer(jets, name):
    return jets.observers[:, OBSERVERS.index(name)]


def test_a_scale_multiplies_momenta_and_leaves_angles_and_ratios(jets):
    before, after = chunk(jets), chunk(jets, "pt_scale=1.02")
    np.testing.assert_allclose(after.particles[:, :4], 1.02 * before.particles[:, :4], rtol=1e-5)
    np.testing.assert_allclose(after.particles[:, 4:], before.particles[:, 4:], atol=1e-6)
    for name in ("jet_pt", "jet_energy", "jet_sdmass"):
        np.testing.assert_allclose(observer(after, name), 1.02 * observer(before, name), rtol=1e-5)
    np.testing.assert_allclose(observer(after, "jet_tau1"), observer(before, "jet_tau1"))
    index = STANDARD_FEATURES.index("log pt/jet")
    tables = [particle_features(one, STANDARD_FEATURES)[:, index] for one in (before, after)]
    np.testing.assert_allclose(*tables, atol=1e-4)


def test_turned_jets_have_the_same_features(jets):
    before, after = chunk(jets), chunk(jets, "rotate=2.5")
    assert np.abs(after.particles[:, 0] - before.particles[:, 0]).max() > 1
    for features in (lambda one: particle_features(one, STANDARD_FEATURES), jet_features):
        np.testing.assert_allclose(features(after), features(before), rtol=1e-3, atol=2e-4)


def test_dropped_particles_leave_the_hardest_one_and_move_the_axis(jets):
    before, after = chunk(jets), chunk(jets, "drop=0.6")
    assert 0.2 < len(after.particles) / len(before.particles) < 0.6
    # the particles of each jet are ordered by pT
    np.testing.assert_array_equal(after.particles[after.first[:-1], 0], before.particles[before.first[:-1], 0])
    np.testing.assert_array_equal(
        observer(after, "jet_nparticles") - observer(before, "jet_nparticles"), after.lengths - before.lengths
    )
    rows = np.flatnonzero((after.lengths > 1) & (after.lengths < before.lengths))
    for j in rows:
        own, its = (one.particles[one.first[j] : one.first[j + 1]] for one in (after, before))
        kept = its[np.isin(its[:, 0], own[:, 0])]
        # the axis moves all particles of a jet alike
        shift = own[:, 4:6] - kept[:, 4:6]
        np.testing.assert_allclose(shift, shift[:1].repeat(len(shift), 0), atol=1e-5)
    assert len(rows) > 10
    assert np.abs(after[rows].particles[:, 4] - 0).max() > 0


def test_smearing_is_drawn_by_seed_file_and_entry(jets):
    first, again, other = (chunk(jets, "pt_smear=0.1", seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.particles, again.particles)
    before = chunk(jets)
    # momenta keep their directions
    order = [
        np.lexsort((one.particles[:, 2] / one.particles[:, 3], np.repeat(np.arange(47), one.lengths)))
        for one in (first, before)
    ]
    ratio = first.particles[order[0], 3] / before.particles[order[1], 3]
    assert ratio.std() == pytest.approx(0.1, rel=0.2)
    assert ratio.mean() == pytest.approx(1, abs=0.03)
    assert not np.array_equal(first.particles, other.particles)


@pytest.mark.parametrize("has_card", [False, True])
def test_varied_jets_are_those_of_a_file_with_varied_branches(has_card, tables, tmp_path):
    columns, write = tables
    table = columns("Hbb", jets=23)
    nominal = write(tmp_path / "a.root", table)
    for name in ("part_px", "part_py", "part_pz", "part_energy", "jet_pt", "jet_energy", "jet_sdmass"):
        table[name] = table[name] * np.float32(0.9)
    varied = write(tmp_path / "b.root", table)
    layout = layout_of(NetSettings(), kin_card() if has_card else None)
    (expected,), (got,) = (
        list(read_chunks([path], layout, variation=variation))
        for path, variation in ((varied, None), (nominal, parse_variation("pt_scale=0.9")))
    )
    np.testing.assert_allclose(got.particles, expected.particles, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.jet_features, expected.jet_features, rtol=1e-4, atol=1e-4)
    assert (got.labels == expected.labels).all()


@pytest.mark.parametrize("text", ["pt_scale=0.9", "rotate=1", "pt_smear=0.3", "drop=0.4"])
def test_substructure_is_that_of_the_varied_particles(text, tables, tmp_path):
    columns, write = tables
    table = columns("Hbb", jets=23)
    names = ("jet_sdmass", *(f"jet_tau{number}" for number in (1, 2, 3, 4)))

    def shapes(particles, lengths):
        mass, tau = substructure(particles[:, :4].astype(np.float64), lengths)
        return np.column_stack([mass, tau])

    # massive particles, so that jets of one have a mass too
    momenta = np.sqrt(table["part_px"] ** 2 + table["part_py"] ** 2 + table["part_pz"] ** 2 + 0.5**2)
    table["part_energy"] = ak.values_astype(momenta, "float32")
    (before,) = iterate_jets([write(tmp_path / "a.root", table)])
    for name, values in zip(names, shapes(before.particles, before.lengths).T, strict=True):
        # the file may define them otherwise by a factor
        table[name] = (2 * values).astype(np.float32)
    path, variation = write(tmp_path / "b.root", table), parse_variation(text)
    (after,) = read_chunks([path], layout_of(NetSettings()), variation=variation)
    (jets,) = iterate_jets([path], variation=variation)
    found = np.column_stack([after.observers[name] for name in names])
    np.testing.assert_allclose(found, 2 * shapes(jets.particles, jets.lengths), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("has_card", [False, True])
def test_an_evaluation_recomputes_substructure_whatever_the_taggers_take(has_card, tables, tmp_path):
    columns, write = tables
    path = write(tmp_path / "a.root", columns("Hbb", jets=23))
    card = label_card("JetClass_full") if has_card else None
    layout, drop = layout_of(NetSettings(), card), parse_variation("drop=0.5")
    taking = replace(layout, jet_standardizer=Standardizer.of(torch.zeros(41), torch.ones(41)))
    # the first one takes particles alone
    taggers = [
        TrainedTagger(path=tmp_path, config={}, net=None, settings=NetSettings(), layout=one, classes=("Hbb",))
        for one in (layout, taking)
    ]
    assert scoring._reader_key(taggers[0]) == scoring._reader_key(taggers[1])
    (before,), (after,), (alone,) = (
        list(scoring._chunks(own, [path], variation=variation, tree="tree", quiet=True))
        for own, variation in ((taggers, None), (taggers, drop), (taggers[:1], drop))
    )
    # by which mass decorrelation is measured
    np.testing.assert_array_equal(alone[0].observers["jet_sdmass"], after[0].observers["jet_sdmass"])
    assert (alone[0].observers["jet_sdmass"] != before[0].observers["jet_sdmass"]).sum() > 5
    for name in ("log sdmass", "log tau1", "log tau2"):
        index = JET_FEATURES.index(name)
        assert (before[1].jet_features[:, index] != after[1].jet_features[:, index]).sum() > 5, name


def test_taggers_of_one_card_with_other_jet_level_features_do_not_share_chunks(tmp_path):
    card = label_card("JetClass_full")
    taggers = [
        TrainedTagger(path=tmp_path, config={}, net=None, settings=net, layout=layout_of(net, card), classes=("Hbb",))
        for net in (NetSettings(), NetSettings(features="jetclass"))
    ]
    assert len({scoring._reader_key(tagger) for tagger in taggers}) == 2


def label_card(name, **changes):
    options = yaml.safe_load((CARD.parent / f"{name}.yaml").read_text())
    options["labels"] = {"type": "simple", "value": ["label_QCD", "label_Hbb", "label_Tbqq"]}
    return card_of({**options, **changes}, "kin.yaml")


def kin_card(**changes):
    return label_card(CARD.stem, **changes)


def test_branches_that_momenta_do_not_determine_are_named():
    jets = ["jet_pt", "jet_sdmass", "FatJet_msoftdrop", "FatJet_tau3", "FatJet_btag"]
    assert fixed_inputs(["part_px", "part_d0val", "part_isMuon", "PFCands_btag"], jets) == [
        "PFCands_btag",
        "FatJet_btag",
    ]
    assert not fixed_inputs(["PFCands_pt", "PFCands_eta", "PFCands_phi", "PFCands_mass", "part_charge"], ["jet_energy"])
    assert {"part_px", "jet_energy"} <= read_card(CARD).input_branches()


def test_what_cannot_be_varied_is_refused(jets, tables, tmp_path, capsys):
    given = ["hep", "evaluate", str(GOLDEN), "--out", str(tmp_path / "out")]
    assert main([*given, "--vary", "rotate=1"]) == 2
    assert "--vary rotate=1: give --files with the jets to vary" in capsys.readouterr().err
    for text, message in (
        ("pt_scal=1", "did you mean 'pt_scale'"),
        ("drop=x", "'x' is not a number; write it as drop=0.02"),
        ("pt_scale", "has no value; write it as pt_scale=1.02"),
        ("drop=1.5", "give a number from 0 to less than 1"),
        ("pt_scale=0", "give a factor above 0, such as 1.02"),
        ("rotate=nan", "give a finite number"),
    ):
        with pytest.raises(SubquadError, match=message):
            parse_variation(text)
    # a card of precomputed inputs
    columns, write = tables
    table = columns("Hbb", jets=7)
    table["part_btag"] = ak.values_astype(table["part_px"], "float32")
    inputs = yaml.safe_load(CARD.read_text())["inputs"]
    inputs["pf_features"]["vars"].append(["part_btag", None])
    layout = layout_of(NetSettings(), kin_card(inputs=inputs))
    path = write(tmp_path / "a.root", table)
    with pytest.raises(SubquadError, match=r"--vary drop=0.1: kin\.yaml takes part_btag from the files, which"):
        list(read_chunks([path], layout, variation=parse_variation("drop=0.1")))
    assert len(list(read_chunks([path], layout, variation=parse_variation("rotate=0.1")))) == 1


def predictions(name, scale=1.0):
    """A model whose predicted masses are multiplied by `scale`, and whose signals are recognised worse for it."""
    generator, labels = np.random.default_rng(5), np.arange(600) % 3
    scores = np.exp(generator.normal(0, 1, (600, 3)) + 0.4 / scale * np.eye(3)[labels])
    mass = generator.uniform(20, 300, 600)
    one = Predictions(
        model=name,
        source=name,
        probabilities=scores / scores.sum(1, keepdims=True),
        labels=labels,
        sdmass=mass,
        predicted={"gen_mass": scale * (mass + generator.normal(0, 5, 600)), "gen_pt": generator.normal(500, 9, 600)},
        true={"gen_mass": mass, "gen_pt": np.full(600, 500.0)},
    )
    return ModelPredictions(name=name, trainings=[one])


def test_shifts_have_the_metrics_of_each_target_and_of_each_signal():
    nominal, varied, classes = [predictions("pcn")], [predictions("pcn", 1.1)], ("QCD", "Hbb", "Tbqq")
    found = varied_metrics(nominal, varied, classes, "QCD")
    before = summarize(measure(nominal, classes, "QCD"), nominal)["test"]["pcn"]
    after, shift = found["test"]["pcn"], found["shifts"]["pcn"]
    assert shift["bias"]["gen_mass"] == pytest.approx(0.1, abs=0.01)
    assert shift["bias"]["gen_pt"] == 0
    assert set(shift["inverse_jsd_50"]) == {"Hbb", "Tbqq"}
    for name in ("bias", "resolution", "inverse_jsd_50", "inverse_jsd_30"):
        for key, value in shift[name].items():
            assert value == pytest.approx(after[name][key] - before[name][key]), name
    # the predictions of gen_pt have no correlation with a constant
    assert set(shift["pearson"]) == {"gen_mass"}
    assert shift["rejection"]["Hbb"] == pytest.approx(after["rejection"]["Hbb"] / before["rejection"]["Hbb"] - 1)


def test_the_table_of_shifts_has_a_row_for_each_metric_and_target():
    shift = {
        **{"accuracy": -0.0123, "accuracy_error": 0.002, "auc_ovo": -0.001, "rejection": {"Hbb": -0.2, "Tbqq": 0.1}},
        **{"bias": {"gen_mass": 0.02, "gen_pt": -0.001}, "resolution": {"gen_mass": 0.0123}},
        **{"pearson": {"gen_mass": -0.05}, "inverse_jsd_50": {"Hbb": -3.21, "Tbqq": 140.0}},
    }
    other = {"accuracy": 0.01, "accuracy_error": None, "rejection": {}}
    table = shifts_table({"drop=0.1": {"shifts": {"pcn": shift, "boosting": other}}, "rotate=1": {"shifts": {}}})
    assert table.header == ["variation", "metric", "pcn", "boosting"]
    assert table.rows == [
        ["drop=0.1", "top-1 accuracy [points]", "-1.23 ± 0.20", "+1.00"],
        ["drop=0.1", "AUC, ovo [points]", "-0.100", "–"],
        ["drop=0.1", "rejection, largest shift", "-20.0 % (Hbb)", "–"],
        ["drop=0.1", "1/JSD at 50 %, largest shift", "+140 (Tbqq)", "–"],
        ["drop=0.1", "bias of gen_mass", "+0.0200", "–"],
        ["drop=0.1", "resolution of gen_mass", "+0.0123", "–"],
        ["drop=0.1", "Pearson of gen_mass", "-0.0500", "–"],
        ["drop=0.1", "bias of gen_pt", "-0.0010", "–"],
    ]
    assert shifts_table({}) is None


@pytest.mark.long
def test_an_evaluation_has_shifts_envelopes_and_seeds(jets, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_command, "write_pdfs", lambda *_: None)
    monkeypatch.setattr(fit_command, "sections_of", lambda *_: [])
    settings = FitSettings(preset="standard", epochs=2, no_boosting=True, inputs="particles", batch_size=32)
    fit(jets, settings, out=tmp_path / "run", quiet=True)
    settings = EvaluateSettings(vary=("rotate=1", "pt_smear=0.5"), seed=3)
    found = evaluate(tmp_path / "run", settings, files=jets, out=tmp_path / "out", quiet=True)
    (model,) = found["test"]
    none, some = (found["variations"][name]["shifts"][model] for name in ("rotate=1", "pt_smear=0.5"))
    assert none["accuracy"] == pytest.approx(0, abs=1e-9)
    assert none["auc_ovo"] == pytest.approx(0, abs=1e-3)
    assert none["accuracy_error"] == 0
    varied = found["variations"]["pt_smear=0.5"]["test"][model]
    assert some["auc_ovo"] == pytest.approx(varied["auc_ovo"] - found["test"][model]["auc_ovo"])
    assert some["auc_ovo"] != 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "rotate=1, pt_smear=0.5, with seed 3" in text
    assert "Hatched: envelope of the systematic variations." in text
    assert "Shifts against the same jets without the variation" in text
