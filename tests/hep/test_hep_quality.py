"""Floors on the quality of fit, predict, evaluate, explain and export, on the jets that ship with subquad.

A run with shuffled weights fails each of them. 1,050 training jets of ten classes: random guessing has 0.10.
"""

import shutil

import numpy as np
import pytest
import torch
import uproot

from subquad.hep import (
    EvaluateSettings,
    ExplainSettings,
    FitSettings,
    TrainedTagger,
    evaluate,
    explain,
    export,
    fit,
    predict,
    read,
)
from subquad.hep.commands import evaluate as evaluate_command
from subquad.hep.data.batches import collate
from subquad.hep.data.chunks import chunk_of
from subquad.runs.folder import WEIGHTS
from subquad.runs.storage import read_json, read_tensors, write_tensors

pytestmark = pytest.mark.slow

FLOOR = 0.5
"""Top-1 accuracy of the test jets; `standard` reaches 0.63 in 12 epochs, gradient boosting 0.66."""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    out = tmp_path_factory.mktemp("quality") / "run"
    fit("example:jets", FitSettings(preset="standard", epochs=12), out=out, quiet=True)
    return out


@pytest.fixture(scope="module")
def shuffled(fitted, tmp_path_factory):
    """A copy of the run whose weights are shuffled within each tensor."""
    out = tmp_path_factory.mktemp("shuffled") / "run"
    shutil.copytree(fitted, out)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor)
        for name, tensor in read_tensors(out / WEIGHTS).items()
    }
    write_tensors(out / WEIGHTS, tensors, {"format": "pt"})
    return out


def test_network_and_baseline_exceed_the_floor_on_test_jets(fitted):
    metrics = read_json(fitted / "metrics.json")
    assert metrics["jets"] == {"train": 1050, "validation": 150, "test": 300}
    for model in ("net", "boosting"):
        assert metrics["test"][model]["accuracy"] > FLOOR
        assert metrics["test"][model]["auc_ovo"] > 0.85
        low, high = metrics["intervals"]["test"][model]["accuracy"]
        assert low < metrics["test"][model]["accuracy"] < high


def test_predictions_exceed_the_floor_and_shuffled_weights_do_not(fitted, shuffled, tmp_path):
    classes = read("example:jets").classes

    def accuracy(run):
        path = predict(run, "example:jets", out=tmp_path / f"{run.parent.name}.root", quiet=True)
        with uproot.open(path) as file:
            table = file["Events"].arrays(library="np")
        scores = np.stack([table[f"score_{name}"] for name in classes])
        labels = np.stack([table[f"label_{name}"] for name in classes])
        return (scores.argmax(0) == labels.argmax(0)).mean()

    assert accuracy(fitted) > FLOOR
    assert accuracy(shuffled) < FLOOR / 2


def test_evaluate_exceeds_the_floor_and_shuffled_weights_do_not(fitted, shuffled, tmp_path, monkeypatch):
    # figures take most of the time, and are tested elsewhere
    monkeypatch.setattr(evaluate_command, "draw", lambda _, models: ([], {model.name: {} for model in models}))
    own = evaluate(fitted, out=tmp_path / "own", quiet=True)
    assert own["test"]["standard"]["accuracy"] > FLOOR
    # no or few of 30 background jets pass
    assert own["intervals"]["test"]["standard"]["rejection"]["Tbqq"][0] > 4
    settings = EvaluateSettings(batch_size=256)
    again = evaluate(fitted, settings, files="example:jets", out=tmp_path / "files", quiet=True)
    assert again["test"]["standard"]["accuracy"] > FLOOR
    assert any("was trained on jets of 1 of the 1 files" in note for note in again["notes"])
    broken = evaluate(shuffled, settings, files="example:jets", out=tmp_path / "broken", quiet=True)
    assert broken["test"]["standard"]["accuracy"] < FLOOR / 2


def test_explain_finds_the_importance_of_kinematics_and_shuffled_weights_have_none(fitted, shuffled, tmp_path):
    settings = ExplainSettings(jets=150, repeats=2, displays=0)
    found = explain(fitted, settings, files="example:jets", out=tmp_path / "own", quiet=True)
    assert found["accuracy"] > FLOOR
    importance = {name: group["permutation"]["auc"] for name, group in found["groups"].items()}
    assert set(importance) == {"kinematics", "particle types", "impact parameters", "jet-level features"}
    assert max(importance.values()) > 0.05
    broken = explain(shuffled, settings, files="example:jets", out=tmp_path / "broken", quiet=True)
    assert broken["accuracy"] < FLOOR / 2
    assert max(group["permutation"]["auc"] for group in broken["groups"].values()) < 0.05


def test_the_exported_model_exceeds_the_floor_and_shuffled_weights_do_not(fitted, tmp_path):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    jets = read("example:jets")
    out = tmp_path / "tagger.onnx"
    export(fitted, out=out, quiet=True)
    tagger = TrainedTagger.load(fitted)
    batch = collate(tagger.dataset(chunk_of(jets, tagger.layout)), torch.arange(300))
    inputs = {
        "pf_points": batch.points.mT,
        "pf_features": batch.x.mT,
        "pf_mask": batch.mask[:, None].float(),
        "jet_features": batch.jet_features,
    }

    def accuracy(model):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (probabilities,) = session.run(None, {name: tensor.contiguous().numpy() for name, tensor in inputs.items()})
        return (np.array(tagger.classes)[probabilities.argmax(1)] == jets.class_names[:300]).mean()

    model, random = onnx.load(out), np.random.default_rng(0)
    assert accuracy(model) > FLOOR
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32:
            order = random.permutation(values.size)
            weight.CopyFrom(onnx.numpy_helper.from_array(values.ravel()[order].reshape(values.shape), weight.name))
    assert accuracy(model) < FLOOR / 2
