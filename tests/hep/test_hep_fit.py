"""From ROOT files to a tagger to scores in a ROOT file, in Python and on the command line."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import uproot
from safetensors.torch import load_file
from support.hep_jets import dataset_in_memory

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.hep import FitSettings, fit, predict
from subquad.hep.data.batches import collate
from subquad.hep.data.chunks import chunk_of
from subquad.hep.data.features import JET_FEATURES, RAW_FEATURES, STANDARD_FEATURES, jet_features, particle_features
from subquad.hep.data.jets import PARTICLES, iterate_jets, read
from subquad.hep.data.layout import layout_of
from subquad.hep.metrics.classification import METRICS
from subquad.hep.models.networks import build_network, predict_logits, using_threads
from subquad.hep.models.presets import PRESETS, net_settings
from subquad.hep.plots.fit_page import model_card, sections
from subquad.runs.storage import plain
from subquad.train.bucketing import bucketed_batches

SMALL = FitSettings(epochs=13, batch_size=17)


@pytest.fixture(scope="module")
def fitted(jets, tmp_path_factory):
    out = tmp_path_factory.mktemp("fit") / "run"
    return out, fit(jets, SMALL, out=out, seed=3, quiet=True)


@pytest.mark.long
def test_a_tagger_separates_synthetic_jets_and_writes_all_its_files(fitted):
    out, metrics = fitted
    assert metrics["test"]["net"]["accuracy"] > 0.7
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert set(metrics["test"]) == set(metrics["intervals"]["test"]) == {"net", "boosting"}
    for model in ("net", "boosting"):
        test, intervals = metrics["test"][model], metrics["intervals"]["test"][model]
        # gradient boosting has no temperature
        unknown = {"calibration_error_unscaled"} if model == "boosting" else set()
        assert set(test) == {*METRICS, "rejection"} - unknown
        assert set(test["rejection"]) == {"Hbb", "Tbqq"}
        assert intervals["accuracy"][0] < test["accuracy"] < intervals["accuracy"][1]
    assert metrics["wins"] in {"net", "boosting", None}
    assert metrics["jets"] == {"train": 99, "validation": 15, "test": 27}
    assert set(metrics["jets_per_second"]) == {"train", "predict"}
    assert metrics["seconds"]["total"] > 0
    config = json.loads((out / "config.json").read_text())
    assert config["classes"] == ["QCD", "Hbb", "Tbqq"]
    assert config["background"] == "QCD"
    for name in ("model.safetensors", "README.md", "history.jsonl", "report.html"):
        assert (out / name).stat().st_size > 0
    assert sections(out)[0].title == "Metrics"
    text = (out / "report.html").read_text()
    assert "Tagger against gradient boosting" in text


@pytest.mark.slow
def test_scores_come_back_in_the_order_of_the_entries(fitted, jets, tmp_path):
    out, _ = fitted
    path = predict(out, [jets[2], jets[0]], out=tmp_path / "scores.root", quiet=True)
    with uproot.open(path) as file:
        scores = file["Events"].arrays(library="np")
        records = file["Events"].arrays(library="ak")
    assert len(scores["score_QCD"]) == 94
    # as an awkward analysis takes it: a selection of entries, and a branch of it
    is_top = records.label_Tbqq == 1
    assert records[is_top].score_Tbqq.tolist() == scores["score_Tbqq"][:47].tolist()
    total = sum(scores[f"score_{name}"] for name in ("QCD", "Hbb", "Tbqq"))
    assert total == pytest.approx(np.ones(94), abs=1e-5)
    read_jets = read([jets[2], jets[0]])
    assert scores["jet_sdmass"].tolist() == read_jets.observers[:, 5].tolist()
    assert scores["label_Tbqq"].tolist() == [1] * 47 + [0] * 47
    chosen = np.stack([scores[f"score_{name}"] for name in ("QCD", "Hbb", "Tbqq")]).argmax(0)
    assert (chosen == read_jets.labels).mean() > 0.7


@pytest.mark.long
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_fitted_and_opened_again_with_the_same_scores(preset, jets, tables, tmp_path):
    columns, write = tables
    others = [write(tmp_path / f"{name}.root", columns(name, jets=47, seed=5)) for name in ("QCD", "Hbb", "Tbqq")]
    settings = FitSettings(preset=preset, epochs=1, batch_size=31, no_boosting=True)
    metrics = fit(jets, settings, test=others, out=tmp_path / "run", quiet=True)
    path = predict(tmp_path / "run", others, out=tmp_path / "scores.root", quiet=True)
    with uproot.open(path) as file:
        scores = np.stack([file["Events"][f"score_{name}"].array(library="np") for name in ("QCD", "Hbb", "Tbqq")])
    assert (scores.argmax(0) == np.repeat(range(3), 47)).mean() == pytest.approx(metrics["test"]["net"]["accuracy"])


@pytest.mark.slow
def test_a_jet_scores_the_same_alone_and_among_others(fitted, jets, tmp_path, tables):
    columns, write = tables
    out, _ = fitted
    table = {name: value[5:6] for name, value in columns("Hbb", jets=47).items() if not name.startswith("label_")}
    alone = predict(out, write(tmp_path / "one.root", table), out=tmp_path / "alone.root", quiet=True)
    among = predict(out, jets[1], out=tmp_path / "among.root", quiet=True)
    with uproot.open(alone) as one, uproot.open(among) as other:
        assert "label_Hbb" not in one["Events"]
        for name in ("score_QCD", "score_Hbb", "score_Tbqq"):
            expected = other["Events"][name].array(library="np")[5]
            assert one["Events"][name].array(library="np")[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_bad_jet_leaves_no_half_written_scores(fitted, tmp_path, tables):
    columns, write = tables
    table = columns("QCD")
    table["jet_tau1"][3] = np.nan
    with pytest.raises(SubquadError, match="entry 3: jet_tau1 is nan"):
        predict(fitted[0], write(tmp_path / "bad.root", table), out=tmp_path / "scores.root", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.root"]


@pytest.mark.long
def test_two_fits_with_one_seed_have_the_same_weights_to_the_last_bit(jets, tmp_path):
    settings = FitSettings(epochs=1, width=16, layers=2, batch_size=32, no_boosting=True)
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        fit(jets, settings, out=tmp_path / name, seed=seed, quiet=True)
    one, same, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "same", "other"))
    assert one.keys() == same.keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.long
def test_a_run_that_was_interrupted_is_resumed_to_the_same_weights(jets, tmp_path, monkeypatch):
    settings = FitSettings(epochs=3, batch_size=17, no_boosting=True)
    whole = fit(jets, settings, out=tmp_path / "whole", quiet=True)
    steps = 0

    class StoppedError(Exception):
        pass

    from subquad.hep.models import training

    def stopping(*args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == 9:
            raise StoppedError
        return collate(*args, **kwargs)

    loop = training.LoopSettings
    with monkeypatch.context() as patch:
        patch.setattr(training, "collate", stopping)
        patch.setattr(training, "LoopSettings", lambda **given: loop(**given, save_seconds=0.0))
        with pytest.raises(StoppedError):
            fit(jets, settings, out=tmp_path / "stopped", quiet=True)
    again = fit(jets, settings, out=tmp_path / "stopped", quiet=True)
    assert again["test"] == whole["test"]
    one, other = (tmp_path / name / "model.safetensors" for name in ("whole", "stopped"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.long
def test_test_files_of_their_own_are_used_whole(jets, tables, tmp_path):
    columns, write = tables
    held = [write(tmp_path / f"{label}.root", columns(label, jets=11, seed=5)) for label in ("QCD", "Tbqq")]
    settings = FitSettings(epochs=1, preset="paper", no_boosting=True, background="Tbqq")
    metrics = fit(jets, settings, test=held, out=tmp_path / "run", quiet=True)
    assert metrics["jets"] == {"train": 126, "validation": 15, "test": 22}
    # a class without test jets has no area and no rejection
    assert set(metrics["test"]) == {"net"}
    assert "auc_ovo" not in metrics["test"]["net"]
    assert "Hbb" not in metrics["test"]["net"]["rejection"]
    assert "None of the jets is Hbb: metrics that need such jets are left out." in metrics["notes"]


def test_what_cannot_be_fitted_is_reported_before_anything_is_written(jets, tables, tmp_path):
    columns, write = tables
    with pytest.raises(SubquadError):
        fit(jets[0], SMALL, out=tmp_path / "run", quiet=True)
    few = write(tmp_path / "few.root", columns("Hbb", jets=3))
    with pytest.raises(SubquadError):
        fit([jets[0], few], SMALL, out=tmp_path / "run", quiet=True)
    with pytest.raises(SubquadError):
        fit(jets[:2], SMALL, test=jets[2], out=tmp_path / "run", quiet=True)
    with pytest.raises(SubquadError):
        fit(jets, FitSettings(background="Hb"), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_the_command_line_fits_predicts_and_reports_mistakes(jets, tmp_path, capsys):
    files, run, scores = str(jets[0].parent / "*.root"), str(tmp_path / "run"), str(tmp_path / "s.root")
    assert main(["hep", "fit", files, "--out", run, "--epochs", "1", "--batch-size", "17"]) == 0
    printed = capsys.readouterr().out
    assert "Next: subquad hep predict" in printed
    # on a terminal of 80 columns no figure is cut off
    accuracy = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["net"]["accuracy"]
    assert any(
        line.split()[1:3] == ["top-1", "accuracy"] and f" {accuracy:.3f} " in line for line in printed.splitlines()
    )
    assert "…" not in printed
    assert main(["hep", "predict", run, files, "--out", scores, "--quiet"]) == 0
    assert main(["hep", "predict", run, files, "--out", scores]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["hep", "predict", run, files, "--out", str(tmp_path / "t.txt")]) == 2
    assert "t.txt: must end in .root" in capsys.readouterr().err
    assert main(["hep", "predict", run, files, "--out", run, "--force"]) == 2
    assert "this is a folder" in capsys.readouterr().err
    assert main(["hep", "fit", files, "--out", run]) == 2
    assert "has a finished run" in capsys.readouterr().err
    assert main(["hep", "fit", files, "--seed", "-1", "--out", str(tmp_path / "new")]) == 2
    assert "--seed must be at least 0" in capsys.readouterr().err
    assert main(["hep", "fit", str(tmp_path / "none.root"), "--out", str(tmp_path / "new")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["hep", "predict", str(tmp_path / "none"), files, "--out", str(tmp_path / "t.root")]) == 2
    assert "none: no such folder" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "t.root").exists()


def test_features_are_named_finite_and_as_many_as_their_names(jets):
    read_jets = read(jets)
    assert len(RAW_FEATURES) == 16
    for names in (RAW_FEATURES, STANDARD_FEATURES):
        table = particle_features(read_jets, names)
        assert table.shape == (len(read_jets.particles), len(names))
        assert np.isfinite(table).all()
    observers = jet_features(read_jets)
    assert observers.shape == (141, len(JET_FEATURES))
    assert np.isfinite(observers).all()
    # by hand, for one jet
    j = 60
    rows = read_jets.particles[read_jets.first[j] : read_jets.first[j + 1]].astype(np.float64)
    px, py, pz, energy = (rows[:, PARTICLES.index(f"part_{name}")].sum() for name in ("px", "py", "pz", "energy"))
    mass = np.sqrt(energy**2 - px**2 - py**2 - pz**2)
    assert observers[j, JET_FEATURES.index("log mass")] == pytest.approx(np.log1p(mass), rel=1e-4)
    pt = np.hypot(rows[:, 0], rows[:, 1])
    assert observers[j, JET_FEATURES.index("leading")] == pytest.approx(pt.max() / pt.sum(), rel=1e-5)


def test_an_epoch_holds_every_jet_once_and_is_the_same_when_asked_again(jets):
    inputs = dataset_in_memory(read(jets), PRESETS["paper"].net)
    rows = np.arange(len(inputs))
    plan = bucketed_batches(torch.from_numpy(rows), inputs.lengths, 17, seed=5, epoch=2)
    again = bucketed_batches(torch.from_numpy(rows), inputs.lengths, 17, seed=5, epoch=2)
    assert sorted(torch.cat(plan).tolist()) == rows.tolist()
    assert torch.equal(torch.cat(plan), torch.cat(again))
    padding = sum(len(batch) * int(inputs.lengths[batch].max()) for batch in plan) / int(inputs.lengths.sum())
    assert padding < 1.35
    # what two processes work on at a time is of like length, and everything is still there
    pairs = bucketed_batches(torch.from_numpy(rows), inputs.lengths, 17, seed=5, epoch=2, together=2)
    assert sorted(torch.cat(pairs).tolist()) == rows.tolist()
    longest = torch.tensor([inputs.lengths[batch].max() for batch in pairs[: len(pairs) // 2 * 2]]).view(-1, 2)
    alone = torch.tensor([inputs.lengths[batch].max() for batch in plan[: len(plan) // 2 * 2]]).view(-1, 2)
    assert longest.diff().abs().sum() < alone.diff().abs().sum()
    # the batch that is left over for two is any, so that every jet is used in some epoch
    plans = [bucketed_batches(torch.arange(85), inputs.lengths, 17, seed=5, epoch=i, together=2) for i in range(20)]
    assert len({int(inputs.lengths[plan[-1]].max()) for plan in plans}) > 2
    assert {row for plan in plans for batch in plan[:4] for row in batch.tolist()} == set(range(85))


@pytest.mark.long
def test_the_shape_of_a_preset_can_be_changed(jets, tmp_path):
    settings = FitSettings(
        preset="standard", k=3, graph="features", chebyshev_order=2, width=12, layers=1, epochs=1, no_boosting=True
    )
    fit(jets, settings, out=tmp_path / "run", quiet=True)
    net = json.loads((tmp_path / "run" / "config.json").read_text())["net"]
    assert [net[name] for name in ("k", "graph", "chebyshev_order", "width", "layers", "hidden")] == [
        3,
        "features",
        2,
        12,
        1,
        64,
    ]
    weight = load_file(tmp_path / "run" / "model.safetensors")["filters.0.weight"]
    assert weight.shape == (2, len(STANDARD_FEATURES), 12)
    predict(tmp_path / "run", jets, out=tmp_path / "scores.root", quiet=True)


@pytest.mark.long
def test_particles_alone_are_the_features_of_jetclass_and_sums_over_them(jets, tmp_path):
    settings = FitSettings(inputs="particles", width=12, layers=1, epochs=1)
    metrics = fit(jets, settings, out=tmp_path / "run", quiet=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["particle_features"], config["jet_features"]) == (list(STANDARD_FEATURES[:17]), [])
    assert config["net"]["features"] == "jetclass"
    assert {"net", "boosting"} <= metrics["test"].keys()
    predict(tmp_path / "run", jets, out=tmp_path / "scores.root", quiet=True)
    # what no particle says changes nothing: soft-drop mass and N-subjettiness
    layout, found = layout_of(net_settings(settings)), read(jets)
    assert not {"log sdmass", "log tau1", "tau21"} & set(layout.jet_features)
    others = replace(found, observers=np.where(np.arange(found.observers.shape[1]) > 4, 7.0, found.observers))
    one, other = (chunk_of(given, layout) for given in (found, others))
    np.testing.assert_array_equal(one.jet_features, other.jet_features)
    assert net_settings(FitSettings(preset="paper", inputs="particles")) == PRESETS["paper"].net
    assert net_settings(FitSettings(preset="paper", inputs="particles+jet")).has_jet_features


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"preset": "epcn", "inputs": "particles+jet"}, "E-PCN takes no jet-level features"),
        ({"k": 0}, "--k must be at least 1, got 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be a finite number, got nan"),
        (
            {"preset": "auto-chebyshev", "width": 30},
            "--width must be a multiple of 4 with this preset, got 30",
        ),
        ({"chebyshev_order": 5}, "--chebyshev-order is 5; the preset auto has no Chebyshev filters; omit it"),
        ({"graph": "feature"}, "--graph must be one of features, angles, got 'feature'"),
        ({"preset": "autp"}, "--preset must be one of auto, "),
        ({"graph": "features"}, "--graph is features; this preset finds neighbours by angles only"),
    ],
)
def test_settings_that_no_network_has_are_refused(given, what):
    with pytest.raises(SubquadError):
        net_settings(FitSettings(**given))


def test_the_model_card_names_what_differs_from_the_preset():
    run = Path(__file__).parents[1] / "golden" / "hep_tagger"
    metrics, config = (json.loads((run / name).read_text()) for name in ("metrics.json", "config.json"))
    preset = PRESETS["paper"]
    same = {**config, "preset": "paper", "net": plain(preset.net), "card": None}
    assert model_card(metrics, same).endswith("as published: arXiv:2309.08630.\n")
    other = {**same, "net": {**same["net"], "k": 5, "max_particles": 200}, "card": {"name": "kin.yaml"}}
    expected = "Differences from the preset: `k` is 5 in place of 3, the inputs are those of kin.yaml.\n"
    assert model_card(metrics, other).endswith(expected)


def test_threads_score_jets_as_one_does(jets):
    settings = PRESETS["auto"].net
    dataset = dataset_in_memory(read(jets), settings)
    net = build_network(settings, dataset.layout, 3)
    with using_threads(1):
        alone = predict_logits(net, dataset, 13)
    with using_threads(2):
        together = predict_logits(net, dataset, 13)
        assert torch.get_num_threads() == 2
        with pytest.raises(IndexError):
            predict_logits(net, replace(dataset, particles=dataset.particles[:5]), 13)
        assert torch.get_num_threads() == 2
    assert torch.equal(alone, together)
    assert net.training


@pytest.mark.data
def test_simulated_jets_are_read_and_scored():
    folder = os.environ.get("SUBQUAD_DATA")
    if not folder or not (Path(folder) / "hep" / "sim").is_dir():
        pytest.skip("SUBQUAD_DATA names no folder with hep/sim")
    path = Path(folder) / "hep" / "sim" / "TTBar_000.root"
    read_jets = next(iterate_jets([path]))
    assert read_jets.classes[8] == "Tbqq"
    assert (read_jets.labels == 8).all()
    mass = np.expm1(jet_features(read_jets)[:, JET_FEATURES.index("log mass")])
    assert 160 < np.median(mass) < 185
    settings = PRESETS["standard"].net
    dataset = dataset_in_memory(read_jets, settings)
    assert predict_logits(build_network(settings, dataset.layout, 10), dataset).isfinite().all()
