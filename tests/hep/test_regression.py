"""Regression targets beside the classes: metrics, data cards, and a fit that predicts a mass."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import uproot
import yaml
from support.hep_jets import dataset_in_memory

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.hep import (
    ExplainSettings,
    ExportSettings,
    FitSettings,
    TrainedTagger,
    evaluate,
    explain,
    export,
    fit,
    predict,
)
from subquad.hep.commands import evaluate as evaluate_command
from subquad.hep.commands import fit as fit_command
from subquad.hep.data.batches import collate
from subquad.hep.data.card import card_of
from subquad.hep.data.fit_files import FitFiles
from subquad.hep.data.jets import read
from subquad.hep.data.layout import layout_of, with_targets
from subquad.hep.data.preparation import source_of, temporary_store
from subquad.hep.data.splits import with_present_classes
from subquad.hep.metrics.predictions import Predictions
from subquad.hep.metrics.regression import regression_metrics
from subquad.hep.models.branch_inputs import MASK, padded_branches
from subquad.hep.models.dense import DenseTagger
from subquad.hep.models.networks import build_network, forward, outputs_of
from subquad.hep.models.presets import net_settings
from subquad.hep.models.targets import Targets, targets_of
from subquad.hep.models.temperature import divide_logits
from subquad.hep.plots.regression import regression_figure
from subquad.hep.settings import NetSettings
from subquad.runs.storage import read_tensors

CLASSES = ("QCD", "Hbb", "Tbqq")
CARDS = Path(__file__).parent / "cards"


def test_targets_and_weights_of_the_command_line_keep_their_columns_when_a_card_is_standardized(tables, tmp_path):
    columns, write = tables
    files = []
    for label in CLASSES:
        table = columns(label, jets=23)
        table |= {"genweight": np.full(23, 2.0, np.float32), "gen_mass": np.linspace(100, 101, 23, dtype=np.float32)}
        files.append(write(tmp_path / f"{label}.root", table))
    content = yaml.safe_load((CARDS / "JetClass_kin.yaml").read_text())
    content["preprocess"] = {"method": "auto"}
    content["inputs"]["pf_features"]["vars"][0] = "part_pt_log"
    content["labels"] = {"type": "simple", "value": [f"label_{name}" for name in CLASSES]}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(content))
    settings = FitSettings(card=str(tmp_path / "card.yaml"), event_weights="genweight", target=("gen_mass",))
    net = net_settings(settings)
    source = source_of(FitFiles(train=files), net, settings)
    with temporary_store(source, tmp_path / "run", force=False, quiet=True) as folder:
        dataset = with_present_classes(source.open(folder), "files")
        parts = fit_command._split(dataset, source, net=net, settings=settings, seed=0)
        assert not parts["train"].layout.card.has_automatic
        assert set(parts["test"].observer("event_weight")) == {2.0}
        assert targets_of(parts["train"]).center == pytest.approx([100.5], abs=0.2)


def test_the_metrics_are_those_of_their_definitions_and_weights_repeat_jets():
    generator = np.random.default_rng(0)
    true = generator.uniform(-10, 100, 501)
    predicted = 1.1 * true + generator.normal(0, 5, 501)
    found, ratio = regression_metrics(predicted, true), (predicted / true)[true > 0]
    assert found["jets"] == (true > 0).sum()
    assert found["bias"] == pytest.approx(np.median(ratio) - 1, abs=0.01)
    low, high = np.quantile(ratio, [0.16, 0.84], method="inverted_cdf")
    assert found["resolution"] == pytest.approx((high - low) / 2)
    assert found["pearson"] == pytest.approx(np.corrcoef(true, predicted)[0, 1])
    for name in ("bias", "resolution", "pearson"):
        assert found["intervals"][name][0] < found[name] < found["intervals"][name][1]
    counts = generator.integers(0, 3, 501)
    weighted, repeated = regression_metrics(predicted, true, counts), np.repeat(np.arange(501), counts)
    expected = regression_metrics(predicted[repeated], true[repeated])
    assert [weighted[name] for name in ("bias", "resolution")] == [expected[name] for name in ("bias", "resolution")]
    assert weighted["pearson"] == pytest.approx(expected["pearson"])
    # nothing to divide by, and nothing that varies
    assert regression_metrics(np.ones(7), np.zeros(7)) == {
        **dict.fromkeys(("bias", "resolution", "pearson")),
        **{"jets": 0, "intervals": {}},
    }


CARD = {
    "inputs": {
        "pf_points": {"length": 9, "vars": [["part_deta", None], ["part_dphi", None]]},
        "pf_features": {"length": 9, "vars": [["part_deta", None]]},
    },
    "labels": {
        "type": "hybrid",
        "value": ["label_QCD", "label_Hbb"],
        "value_custom": {"target_mass": "np.where(label_QCD, jet_sdmass, gen_mass)"},
    },
}


def test_targets_of_a_card_are_read_and_errors_name_them():
    layout = layout_of(NetSettings(), card_of(CARD, "a.yaml"))
    assert layout.targets == ("target_mass",)
    assert {"gen_mass", "jet_sdmass"} <= layout.card.branches(is_training=True).keys()
    assert layout.card.branches(is_training=True)["gen_mass"] == "regression target target_mass"
    assert "gen_mass" not in layout.card.branches(is_training=False, has_labels=False)
    assert with_targets(layout, ["jet_pt"]).targets == ("target_mass", "jet_pt")
    for labels, _ in (
        ({"value_custom": {"m": "__import__(1)"}}, "regression target m"),
        (
            {"type": "custom", "value": {"a": "x", "b": "y"}, "value_custom": {}},
            "list regression targets under value_cust",
        ),
    ):
        with pytest.raises(SubquadError):
            card_of({**CARD, "labels": {**CARD["labels"], **labels}}, "a.yaml")
    with pytest.raises(SubquadError):
        card_of(
            {**CARD, "observers": ["jet_pt"], "labels": {**CARD["labels"], "value_custom": {"jet_pt": "gen_pt"}}}, "a"
        )


def test_classes_and_their_temperature_do_not_depend_on_the_outputs_of_targets(jets):
    settings = NetSettings(k=2)
    dataset = dataset_in_memory(read(jets), settings)
    batch = collate(dataset, torch.arange(11))
    torch.manual_seed(0)
    net = build_network(settings, dataset.layout, 3, targets=2).eval()
    with torch.no_grad():
        outputs, logits = outputs_of(net, batch), forward(net, batch)
        assert torch.equal(outputs[:, :3], logits)
        vectors = {"pf_points": batch.points.mT, "jet_features": batch.jet_features}
        dense = DenseTagger(net)(batch.x.mT, batch.mask[:, None].float(), **vectors)
        torch.testing.assert_close(dense, logits.softmax(-1))
        divide_logits(net.head, 2.0, targets=2)
        torch.testing.assert_close(outputs_of(net, batch), torch.cat([logits / 2, outputs[:, 3:]], 1))
    targets = Targets(names=("a", "b"), center=(1.0, 5.0), scale=(2.0, 0.5))
    assert Targets.of_config(json.loads(json.dumps(targets.as_config()))) == targets
    values = np.array([[3.0, 4.0], [1.0, 5.0]])
    assert np.stack(
        list(targets.predicted(torch.from_numpy(targets.standardized(values))).values()), 1
    ) == pytest.approx(values)


@pytest.fixture(scope="module")
def files(tables, tmp_path_factory):
    """Jets with a mass that their class determines, which the particles show."""
    columns, write = tables
    folder, found = tmp_path_factory.mktemp("targets"), []
    for kind, name in enumerate(CLASSES):
        table = columns(name, jets=67)
        table["gen_mass"] = (80.0 + 40 * kind + np.arange(67) % 3).astype(np.float32)
        found.append(write(folder / f"{name}.root", table))
    return found


@pytest.mark.long
def test_a_mass_is_predicted_from_the_fit_to_files_and_reports(files, jets, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate_command, "draw", lambda _, models, *more: ({}, {model.name: {} for model in models}))
    run = tmp_path / "run"
    given = ["hep", "fit", *map(str, files), "--out", str(run)]
    assert main([*given, "--target", "gen_mas"]) == 2
    assert "no branch 'gen_mas'; did you mean 'gen_mass'" in capsys.readouterr().err
    settings = FitSettings(
        preset="standard", epochs=8, batch_size=16, no_boosting=True, target=("gen_mass",), inputs="particles"
    )
    metrics = fit(files, settings, out=run, quiet=True)
    test = metrics["test"]["net"]
    assert test["pearson"]["gen_mass"] > 0.6
    assert abs(test["bias"]["gen_mass"]) < 0.15
    low, high = metrics["intervals"]["test"]["net"]["resolution"]["gen_mass"]
    assert low < test["resolution"]["gen_mass"] < high
    assert test["accuracy"] > 0.6
    assert "Regression targets" in (run / "report.html").read_text()
    # the same numbers for the run's own jets, and for files
    own = evaluate(run, out=tmp_path / "own", quiet=True)
    assert own["test"]["standard"]["pearson"] == test["pearson"]
    evaluated = evaluate(run, files=files, out=tmp_path / "files", quiet=True)
    scores = predict(run, files, out=tmp_path / "scores.root", quiet=True)
    with uproot.open(scores) as file:
        predicted = file["Events"]["predicted_gen_mass"].array(library="np")
    true = np.concatenate([uproot.open(path)["tree"]["gen_mass"].array(library="np") for path in files])
    expected = regression_metrics(predicted, true)
    assert evaluated["test"]["standard"]["pearson"]["gen_mass"] == pytest.approx(expected["pearson"], abs=1e-5)
    stored = {name: tensor.numpy() for name, tensor in read_tensors(run / "test_scores.safetensors").items()}
    assert set(stored["true.gen_mass"]) <= set(true)
    # files without the target can be predicted and explained, but not evaluated
    predict(run, jets, out=tmp_path / "other.root", quiet=True)
    explain(run, ExplainSettings(jets=30, repeats=1, displays=0), files=jets, out=tmp_path / "explained", quiet=True)
    with pytest.raises(SubquadError, match="no branch 'gen_mass'"):
        evaluate(run, files=jets, out=tmp_path / "none", quiet=True)
    tagger = TrainedTagger.load(run)
    assert tagger.layout.targets == tagger.targets.names == ("gen_mass",)
    # the exported graph predicts what `predict` writes
    found = export(run, files=files, out=tmp_path / "tagger.onnx", quiet=True)
    assert found["target_names"] == json.loads(json.dumps(found["metadata"]["targets"])) == ["gen_mass"]
    session = onnxruntime.InferenceSession(tmp_path / "tagger.onnx")
    assert [(one.name, one.shape[1]) for one in session.get_outputs()] == [("softmax", 3), ("targets", 1)]
    (of_particles,) = found["metadata"]["masks"].values()
    arrays = uproot.open(files[0])["tree"].arrays([*of_particles, *found["metadata"]["jet_branches"]], library="ak")
    masks = dict.fromkeys(of_particles, MASK)
    padded = padded_branches({name: arrays[name] for name in arrays.fields}, masks)
    (graph,) = session.run(["targets"], {one.name: padded[one.name].numpy() for one in session.get_inputs()})
    assert graph[:, 0] == pytest.approx(predicted[: len(graph)], rel=1e-4)
    preprocessing = export(run, ExportSettings(inputs="weaver"), out=tmp_path / "weaver.onnx", quiet=True)
    assert preprocessing["subquad"]["targets"] == ["gen_mass"]


@pytest.mark.long
def test_a_card_with_hybrid_labels_is_fitted_and_its_report_shows_the_target(files, tmp_path):
    options = {**CARD, "labels": {**CARD["labels"], "value": [f"label_{name}" for name in CLASSES]}}
    options["selection"] = "jet_nparticles > 1"
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(options))
    settings = FitSettings(preset="standard", epochs=1, no_boosting=True, card=str(tmp_path / "a.yaml"))
    metrics = fit(files, settings, out=tmp_path / "run", quiet=True)
    assert set(metrics["test"]["net"]["resolution"]) == {"target_mass"}
    assert "target_mass. Left: predicted against true value" in (tmp_path / "run" / "report.html").read_text()


def test_the_figure_of_a_target_shows_every_class_with_jets():
    generator = np.random.default_rng(0)
    true = generator.uniform(50, 200, 100)
    one = Predictions(
        model="net",
        source="run",
        probabilities=np.full((100, 3), 1 / 3),
        labels=np.arange(100) % 2,
        predicted={"mass": true * generator.normal(1, 0.1, 100)},
        true={"mass": true},
    )
    figure = regression_figure(one, "mass", CLASSES, "QCD")
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == ["q/g", r"$H\to b\bar{b}$"]
