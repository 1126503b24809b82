"""README, the tutorial and the guides to jets: each command runs once, in order, on jets that ship with subquad.

The tutorial trains a tagger on 1,050 jets of ten classes. What it and the commands after it give has quality floors,
which shuffled weights must not reach; random guessing has an accuracy of 0.10.
"""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.hep_jets import JETCLASS, columns, write
from support.hep_layouts import (
    FLAT_CARD,
    FLAVOUR_CARD,
    NANO_CARD,
    momenta,
    write_energyflow,
    write_flat,
    write_flavour_tagging,
    write_nano,
    write_top,
)
from support.weights import shuffle

from subquad.cli import main
from subquad.hep import ExplainSettings, TrainedTagger, explain, predict, read
from subquad.hep.data.batches import collate
from subquad.hep.data.chunks import chunk_of
from subquad.runs.storage import read_json

uproot, onnx = pytest.importorskip("uproot"), pytest.importorskip("onnx")
onnxruntime, _ = pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")

DOCS = Path(__file__).parents[2] / "docs"
CARDS = Path(__file__).parent / "cards"
PAGES = ("../README", "tutorial-jets", "hep-data", "hep-evaluate", "hep-explain", "hep-deploy")
FIT = ["hep", "fit", "example:jets", "--preset", "standard", "--epochs", "12", "--out", "tagger"]
DEFAULT_FIT = ["hep", "fit", "example:jets", "--out", "auto_tagger"]
"""test_hep_fit.py fits the default preset; the tagger of the tutorial takes its place here."""
SHORT = {
    "fit": {"--epochs": "1", "--preset": "standard", "--no-boosting": ""},
    "explain": {"--jets": "120", "--repeats": "1", "--displays": "1"},
    "simulate": {"--jets-per-class": "2", "--classes": "HToBB"},
}
"""Flags that make a command short."""

FLOOR = 0.5
"""Top-1 accuracy of the test jets; `standard` reaches 0.63 in 12 epochs, gradient boosting 0.66."""

HAS_PYTHIA = importlib.util.find_spec("pythia8mc") is not None

pytestmark = pytest.mark.long


def blocks(page, language):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands_of(page):
    """Return the commands of `subquad hep` in the shell blocks of a page, as words."""
    lines = [line.split("  #")[0] for block in blocks(page, "sh") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("subquad hep ")]


def shortened(words):
    """Return a command with the flags of `SHORT` in place of its own."""
    if words == FIT:
        return words
    flags = SHORT.get(words[1], {})
    kept, is_value = [], False
    for word in words:
        if word not in flags and not is_value:
            kept.append(word)
        is_value = word in flags
    return [*kept, *filter(None, (word for flag in flags.items() for word in flag))]


def run(words):
    # a report prints one line, with the next step
    assert main([*words, *(["--quiet"] if words[1] != "report" else [])]) == 0, " ".join(words)


@pytest.fixture(scope="module")
def folder(jetclass, tmp_path_factory):
    """The folder after each command of the pages has run once."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("jets", "more", "test"):
        (folder / name).mkdir()
        for path in jetclass:
            shutil.copy(path, folder / name)
    shutil.copy(CARDS / "JetClass_kin.yaml", folder)
    for seed, part in enumerate(("train_100M", "val_5M", "test_20M", "nlo", "nlo_test")):
        write_jets(folder / part if part.startswith("nlo") else folder / "JetClass" / "Pythia" / part, seed=seed)
    write_public_data_sets(folder)
    (folder / "mine").mkdir()
    write_flat(folder / "mine" / "jets.root", jets=211)
    (folder / "mine.yaml").write_text(FLAT_CARD)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # runs that the page about comparisons names, and scores as another program writes them
        for number in (1, 2, 3):
            run(shortened(["hep", "fit", "jets", "--seed", str(number), "--out", f"seed_{number}"]))
        run(["hep", "fit", "jets", "--no-boosting", "--epochs", "1", "--preset", "paper", "--out", "paper"])
        run(["hep", "predict", "seed_1", "test", "--out", "part.root"])
        ran = []
        for page in PAGES:
            for words in commands_of(page):
                if words == DEFAULT_FIT:
                    shutil.copytree("tagger", "auto_tagger")
                elif words not in ran:
                    run(shortened(words))
                ran.append(words)
        yield folder


@pytest.fixture(scope="module")
def shuffled(folder, tmp_path_factory):
    """A copy of the tagger whose weights are shuffled within each tensor."""
    out = tmp_path_factory.mktemp("shuffled") / "run"
    shutil.copytree(folder / "tagger", out)
    shuffle(out)
    return out


def write_jets(folder, seed):
    """Write jets with event weights in JetClass's branches; those of each seed are others."""
    folder.mkdir(parents=True)
    for label in JETCLASS[:3]:
        table = columns(label, jets=23, seed=seed, classes=JETCLASS)
        table["genweight"] = np.where(np.arange(23) % 5 == 0, -1.0, 1.0).astype(np.float32)
        write(folder / f"{label}.root", table)


def write_public_data_sets(folder):
    """Write the files that the page on files names."""
    for ttv, part in enumerate(("train", "test", "val")):
        labels, vectors = momenta(jets=41, seed=ttv)
        write_top(folder / f"{part}.h5", vectors, labels, ttv)
    for name in ("QG_jets", "top_jets"):
        write_energyflow(folder / f"{name}.npz", jets=61)
    for name, text in (("flavour", FLAVOUR_CARD), ("nano", NANO_CARD)):
        (folder / name).mkdir()
        (folder / f"{name}.yaml").write_text(text)
    write_flavour_tagging(folder / "flavour" / "a.h5", jets=61)
    write_nano(folder / "nano" / "a.root", jets=61)


def test_network_and_baseline_exceed_the_floor_on_test_jets(folder):
    metrics = read_json(folder / "tagger" / "metrics.json")
    assert metrics["jets"] == {"train": 1050, "validation": 150, "test": 300}
    for model in ("net", "boosting"):
        assert metrics["test"][model]["accuracy"] > FLOOR
        assert metrics["test"][model]["auc_ovo"] > 0.85
        low, high = metrics["intervals"]["test"][model]["accuracy"]
        assert low < metrics["test"][model]["accuracy"] < high


def test_the_python_of_the_tutorial_runs(capsys):
    names = {}
    for block in blocks("tutorial-jets", "python"):
        exec(compile(block.replace("epochs=12", "epochs=2"), "tutorial-jets.md", "exec"), names)
    assert float(capsys.readouterr().out.split()[-1]) > 0.15


def test_scores_exceed_the_floor_which_shuffled_weights_do_not_reach(folder, shuffled):
    predict(shuffled, "example:jets", out=folder / "shuffled.root", quiet=True)
    classes = read("example:jets").classes

    def accuracy(path):
        with uproot.open(folder / path) as file:
            table = file["Events"].arrays(library="np")
        scores = np.stack([table[f"score_{name}"] for name in classes])
        labels = np.stack([table[f"label_{name}"] for name in classes])
        return (scores.argmax(0) == labels.argmax(0)).mean()

    assert accuracy("auto_scores.root") > FLOOR
    assert accuracy("example_scores.root") > FLOOR
    assert accuracy("shuffled.root") < FLOOR / 2


def test_evaluations_have_a_report_and_metrics(folder):
    for name in ("evaluation", "comparison", "weighted_evaluation"):
        assert {path.name for path in (folder / name).iterdir()} == {"metrics.json", "report.html"}
    metrics = read_json(folder / "evaluation" / "metrics.json")
    assert metrics["test"]["standard"]["accuracy"] > FLOOR
    # no or few of 30 background jets pass
    assert metrics["intervals"]["test"]["standard"]["rejection"]["Tbqq"][0] > 4


def test_explanations_exceed_the_floor_which_shuffled_weights_do_not_reach(folder, shuffled):
    assert (folder / "explained" / "report.html").is_file()
    found = read_json(folder / "explained" / "explain.json")
    assert found["accuracy"] > FLOOR
    importance = {name: group["permutation"]["auc"] for name, group in found["groups"].items()}
    assert set(importance) == {"kinematics", "particle types", "impact parameters", "jet-level features"}
    assert max(importance.values()) > 0.05
    settings = ExplainSettings(jets=120, repeats=1, displays=0)
    broken = explain(shuffled, settings, files="example:jets", out=folder / "broken", quiet=True)
    assert broken["accuracy"] < FLOOR / 2
    assert max(group["permutation"]["auc"] for group in broken["groups"].values()) < 0.05
    assert "was trained on jets of jets_small.root, so" in broken["note"]
    assert broken["note"] in (folder / "broken" / "report.html").read_text()


def test_exported_taggers_exceed_the_floor_which_shuffled_weights_do_not_reach(folder):
    assert (folder / "tagger.onnx").is_file()
    assert read_json(folder / "preprocess.json")["checked"]["largest_difference"] < 1e-4
    jets, tagger = read("example:jets"), TrainedTagger.load(folder / "tagger")
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

    model, random = onnx.load(folder / "network.onnx"), np.random.default_rng(0)
    assert accuracy(model) > FLOOR
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32:
            order = random.permutation(values.size)
            weight.CopyFrom(onnx.numpy_helper.from_array(values.ravel()[order].reshape(values.shape), weight.name))
    assert accuracy(model) < FLOOR / 2


@pytest.mark.skipif(not HAS_PYTHIA, reason="pythia8mc is not installed")
def test_the_commands_about_simulation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in commands_of("hep-simulation"):
        run(shortened(words))
    assert (tmp_path / "jets" / "HToBB_000.root").is_file()
    assert (tmp_path / "hbb" / "HToBB_000.root").is_file()
