"""The guides docs/hep-*.md and the tutorial: commands of a page run in order, on jets that ship with subquad.

The first command of three pages trains a tagger on 1,050 jets of ten classes. It is run once. What it and the commands
after it give has quality floors, which shuffled weights must not reach; random guessing has an accuracy of 0.10.
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
from subquad.hep import EvaluateSettings, ExplainSettings, TrainedTagger, evaluate, explain, predict, read
from subquad.hep.commands import evaluate as evaluate_command
from subquad.hep.data.batches import collate
from subquad.hep.data.chunks import chunk_of
from subquad.runs.storage import read_json

uproot = pytest.importorskip("uproot")

DOCS = Path(__file__).parents[2] / "docs"
CARDS = Path(__file__).parent / "cards"
FIT = ["hep", "fit", "example:jets", "--preset", "standard", "--epochs", "12", "--out", "tagger"]
SHORT = {
    "fit": {"--epochs": "1", "--preset": "standard"},
    "explain": {"--jets": "120", "--repeats": "1", "--displays": "1"},
    "simulate": {"--jets-per-class": "2", "--classes": "HToBB"},
}
"""Flags that make a command short."""

FLOOR = 0.5
"""Top-1 accuracy of the test jets; `standard` reaches 0.63 in 12 epochs, gradient boosting 0.66."""

HAS_PYTHIA = importlib.util.find_spec("pythia8mc") is not None

pytestmark = pytest.mark.long


def commands_of(page):
    """Return the commands of `subquad hep` in the shell blocks of a page, as words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(re.match(r"subquad hep |pip install |SUBQUAD_DATA=", line) for line in lines), lines
    return [shlex.split(line)[1:] for line in lines if line.startswith("subquad hep ")]


def shortened(words):
    """Return a command with the flags of `SHORT` in place of its own."""
    flags = SHORT.get(words[1], {})
    kept, is_value = [], False
    for word in words:
        if word not in flags and not is_value:
            kept.append(word)
        is_value = word in flags
    return [*kept, *(word for flag in flags.items() for word in flag)]


def run(words):
    # a report prints one line, with the next step
    assert main([*words, *(["--quiet"] if words[1] != "report" else [])]) == 0, " ".join(words)


def run_page(page):
    """Run the commands of a page; its tagger is there already."""
    first, *rest = commands_of(page)
    assert first == FIT
    for words in rest:
        run(shortened(words))


def without_figures(monkeypatch):
    """Leave out the figures of evaluations: they take most of the time, and are tested elsewhere."""
    monkeypatch.setattr(evaluate_command, "draw", lambda _, models, *more: ({}, {model.name: {} for model in models}))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The tagger of the first command of the pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fitted"))
        run(FIT)
        yield Path("tagger").resolve()


@pytest.fixture(scope="module")
def shuffled(fitted, tmp_path_factory):
    """A copy of the tagger whose weights are shuffled within each tensor."""
    out = tmp_path_factory.mktemp("shuffled") / "run"
    shutil.copytree(fitted, out)
    shuffle(out)
    return out


@pytest.fixture
def folder(jetclass, fitted, tmp_path, monkeypatch):
    """A folder with the tagger, and the files that the pages name beside the shipped jets."""
    for name in ("jets", "more", "test"):
        (tmp_path / name).mkdir()
        for path in jetclass:
            shutil.copy(path, tmp_path / name)
    shutil.copy(CARDS / "JetClass_kin.yaml", tmp_path)
    for seed, part in enumerate(("train_100M", "val_5M", "test_20M", "nlo", "nlo_test")):
        target = tmp_path / part if part.startswith("nlo") else tmp_path / "JetClass" / "Pythia" / part
        write_jets(target, seed=seed)
    write_public_data_sets(tmp_path)
    (tmp_path / "mine").mkdir()
    write_flat(tmp_path / "mine" / "jets.root", jets=211)
    (tmp_path / "mine.yaml").write_text(FLAT_CARD)
    shutil.copytree(fitted, tmp_path / "tagger")
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


def test_network_and_baseline_exceed_the_floor_on_test_jets(fitted):
    metrics = read_json(fitted / "metrics.json")
    assert metrics["jets"] == {"train": 1050, "validation": 150, "test": 300}
    for model in ("net", "boosting"):
        assert metrics["test"][model]["accuracy"] > FLOOR
        assert metrics["test"][model]["auc_ovo"] > 0.85
        low, high = metrics["intervals"]["test"][model]["accuracy"]
        assert low < metrics["test"][model]["accuracy"] < high


def test_the_python_of_the_tutorial_runs(capsys):
    """Its commands are those of other pages (tests/test_site.py)."""
    text = (DOCS / "tutorial-jets.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        exec(compile(block.replace("epochs=12", "epochs=2"), "tutorial-jets.md", "exec"), names)
    assert float(capsys.readouterr().out.split()[-1]) > 0.15


def test_the_commands_about_files_and_cards_run(folder, shuffled):
    first, *rest = commands_of("hep-data.md")
    # test_hep_fit.py fits the default preset; the tagger of the other pages takes its place here
    assert first == ["hep", "fit", "example:jets", "--out", "auto_tagger"]
    (folder / "tagger").rename(folder / "auto_tagger")
    for words in rest:
        run(shortened(words))
    assert (folder / "kin_scores.root").is_file()
    predict(shuffled, "example:jets", out=folder / "shuffled.root", quiet=True)
    classes = read("example:jets").classes

    def accuracy(path):
        with uproot.open(path) as file:
            table = file["Events"].arrays(library="np")
        scores = np.stack([table[f"score_{name}"] for name in classes])
        labels = np.stack([table[f"label_{name}"] for name in classes])
        return (scores.argmax(0) == labels.argmax(0)).mean()

    assert accuracy("auto_scores.root") > FLOOR
    assert accuracy("shuffled.root") < FLOOR / 2


def test_the_commands_about_comparisons_run(folder, monkeypatch):
    without_figures(monkeypatch)
    for seed in (1, 2, 3):
        run(shortened(["hep", "fit", "jets", "--no-boosting", "--seed", str(seed), "--out", f"seed_{seed}"]))
    run(["hep", "fit", "jets", "--no-boosting", "--epochs", "1", "--preset", "paper", "--out", "paper"])
    run(["hep", "predict", "seed_1", "test", "--out", "part.root"])
    run_page("hep-evaluate.md")
    for name in ("evaluation", "comparison"):
        assert {path.name for path in (folder / name).iterdir()} == {
            *("figures", "metrics.json", "report.html", "report.pdf")
        }
    own = read_json(folder / "evaluation" / "metrics.json")
    assert own["test"]["standard"]["accuracy"] > FLOOR
    # no or few of 30 background jets pass
    assert own["intervals"]["test"]["standard"]["rejection"]["Tbqq"][0] > 4


def test_jets_of_other_files_are_evaluated_and_shuffled_weights_fall_below_the_floor(
    fitted, shuffled, tmp_path, monkeypatch
):
    without_figures(monkeypatch)
    settings = EvaluateSettings(batch_size=256)
    found = evaluate(fitted, settings, files="example:jets", out=tmp_path / "files", quiet=True)
    assert found["test"]["standard"]["accuracy"] > FLOOR
    assert any("was trained on jets of jets_small.root, so" in note for note in found["notes"])
    broken = evaluate(shuffled, settings, files="example:jets", out=tmp_path / "broken", quiet=True)
    assert broken["test"]["standard"]["accuracy"] < FLOOR / 2


def test_the_commands_about_explanation_run(folder, shuffled):
    run_page("hep-explain.md")
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


def test_the_commands_about_deployment_run(folder, fitted):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run_page("hep-deploy.md")
    assert (folder / "tagger.onnx").is_file()
    assert read_json(folder / "preprocess.json")["checked"]["largest_difference"] < 1e-4
    jets, tagger = read("example:jets"), TrainedTagger.load(fitted)
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
    for words in commands_of("hep-simulation.md"):
        run(shortened(words))
    assert (tmp_path / "jets" / "HToBB_000.root").is_file()
    assert (tmp_path / "hbb" / "HToBB_000.root").is_file()
