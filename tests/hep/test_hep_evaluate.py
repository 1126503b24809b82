"""Comparison of taggers: from runs and ROOT files of scores to metrics, a page."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.hep import EvaluateSettings, ExplainSettings, FitSettings, evaluate, explain, fit, predict
from subquad.hep.commands import evaluate as evaluate_command
from subquad.hep.data.jets import iterate_jets, read
from subquad.hep.evaluation import scoring
from subquad.hep.evaluation.external_scores import read_external_scores
from subquad.hep.models.trained import TrainedTagger
from subquad.runs.storage import read_tensors

uproot = pytest.importorskip("uproot")

CLASSES = ("QCD", "Hbb", "Tbqq")


@pytest.fixture(scope="module")
def runs(jets, tmp_path_factory):
    """Two trainings of one model, and one of another with boosting beside it."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed, given in (
        ("one", 1, {"preset": "standard", "no_boosting": True}),
        ("two", 2, {"preset": "standard", "no_boosting": True}),
        ("paper", 1, {"preset": "paper"}),
    ):
        fit(
            jets,
            FitSettings(**{"preset": "standard", **given}, epochs=1, batch_size=37),
            out=folder / name,
            seed=seed,
            quiet=True,
        )
    return folder


@pytest.fixture(scope="module")
def holdout(tables, tmp_path_factory):
    columns, write = tables
    folder = tmp_path_factory.mktemp("holdout")
    return [write(folder / f"{label}.root", columns(label, jets=41, seed=7)) for label in CLASSES]


@pytest.fixture
def no_figures(monkeypatch):
    """Omit the figures, which take most of the time; the title page is drawn."""
    monkeypatch.setattr(evaluate_command, "draw", lambda _, models, *more: ({}, {model.name: {} for model in models}))


def external_scores(path, labels, order=(2, 0, 1), *, prefix="score_", without=(), tree="Events"):
    """A file whose branches stand in another order than the classes: right about every jet but the first."""
    table = {}
    for i in order:
        wrong = np.where(np.arange(len(labels)) == 0, (labels + 1) % 3, labels)
        table[prefix + CLASSES[i]] = np.where(wrong == i, 0.8, 0.1).astype(np.float32)
        table[f"label_{CLASSES[i]}"] = labels == i
    table = {name: column for name, column in table.items() if name not in without}
    with uproot.recreate(path) as file:
        file.mktree(tree, {name: column.dtype for name, column in table.items()}).extend(table)
    return path


@pytest.mark.long
def test_event_weights_count_from_the_fit_to_evaluation_and_explanation(tables, holdout, no_figures, tmp_path, capsys):
    columns, write = tables
    files = []
    for label in CLASSES:
        table = columns(label, jets=47)
        table["genweight"] = np.where(np.arange(47) % 5 == 0, -0.5, 2.0).astype(np.float32)
        files.append(write(tmp_path / f"{label}.root", table))
    run = tmp_path / "run"
    settings = FitSettings(preset="standard", epochs=1, event_weights="genweight")
    metrics = fit(files, settings, out=run)
    assert (
        "Warning: jets (genweight) count with their event weights; 21.3 % of the weights are" in capsys.readouterr().err
    )
    stored = {name: tensor.numpy() for name, tensor in read_tensors(run / "test_scores.safetensors").items()}
    assert set(np.unique(stored["weights"])) == {-0.5, 2.0}
    is_right = stored["probabilities"].argmax(1) == stored["labels"]
    expected = (is_right * stored["weights"]).sum() / stored["weights"].sum()
    assert metrics["test"]["net"]["accuracy"] == pytest.approx(expected)
    assert "of the weights are negative" in (run / "report.html").read_text()
    assert json.loads((run / "config.json").read_text())["event_weights"] == "genweight"
    # the same weights count for the run's own jets, and for files
    got = evaluate([run], out=tmp_path / "own", quiet=True)
    assert got["test"]["standard"]["accuracy"] == pytest.approx(expected)
    scores = predict(run, files, out=tmp_path / "scores.root", quiet=True)
    given = {"files": files, "scores": [f"copy={scores}"]}
    got = evaluate([run], **given, out=tmp_path / "files", quiet=True)
    assert got["test"]["copy"]["accuracy"] == pytest.approx(got["test"]["standard"]["accuracy"], abs=1e-6)
    effective = got["models"][0]["trainings"][0]["effective_jets"]["all"]
    weights = np.tile(np.where(np.arange(47) % 5 == 0, -0.5, 2.0), 3)
    assert effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert any("of the weights are negative" in note for note in got["notes"])
    other = evaluate([run], EvaluateSettings(event_weights="jet_tau1"), files=files, out=tmp_path / "tau", quiet=True)
    assert other["models"][0]["trainings"][0]["negative_weights"] == 0
    settings = ExplainSettings(repeats=1, displays=0)
    found = explain(run, settings, files=files, out=tmp_path / "explained", quiet=True)
    assert found["accuracy"] == pytest.approx(got["test"]["standard"]["accuracy"])
    assert found["auc"] == pytest.approx(got["test"]["standard"]["auc_ovr"])
    assert found["event_weights"] in (tmp_path / "explained" / "report.html").read_text()
    with pytest.raises(SubquadError, match="no branch 'none'"):
        explain(run, replace(settings, event_weights="none"), files=files, out=tmp_path / "no", quiet=True)
    with pytest.raises(SubquadError, match="no branch 'genweight'"):
        evaluate([run], files=holdout, out=tmp_path / "none", quiet=True)
    # scores need no weights
    predict(run, holdout, out=tmp_path / "plain.root", quiet=True)


@pytest.mark.long
def test_trainings_of_one_model_are_summarized_beside_external_scores(runs, holdout, tmp_path):
    labels = read(holdout).labels
    other = external_scores(tmp_path / "other.root", labels)
    out = tmp_path / "evaluation"
    got = evaluate([runs / "one", runs / "two"], files=holdout, scores=[f"ParT={other}"], out=out, quiet=True)
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(got))
    ours, theirs = got["models"]
    assert [ours["name"], theirs["name"]] == ["standard", "ParT"]
    accuracies = [training["accuracy"] for training in ours["trainings"]]
    assert [training["seed"] for training in ours["trainings"]] == [1, 2]
    assert ours["spread"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert ours["spread"]["accuracy"]["deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert ours["trainings"][0]["jets"] == dict.fromkeys(CLASSES, 41)
    assert ours["trainings"][0]["milliseconds_per_jet"] > 0
    assert ours["trainings"][0]["latency_milliseconds"] > 0
    # right about all jets but one, whatever the order of the branches
    assert theirs["trainings"][0]["accuracy"] == pytest.approx(122 / 123)
    assert theirs["trainings"][0]["milliseconds_per_jet"] is None
    # one schema of metrics: the trainings' mean, with an interval over jets and trainings
    assert got["test"].keys() == got["intervals"]["test"].keys() == {"standard", "ParT"}
    assert got["test"]["standard"]["accuracy"] == pytest.approx(np.mean(accuracies))
    low, high = got["intervals"]["test"]["standard"]["accuracy"]
    assert low < np.mean(accuracies) < high
    # of two trainings the mean is hardly known
    gap = got["differences"]["ParT"]["standard"]
    assert gap["low"] < gap["value"] < gap["high"]
    assert gap["high"] - gap["low"] > 4 * np.ptp(accuracies)
    assert got["wins"] == ("ParT" if gap["low"] > 0 else None)
    # the observers of the jets are those of the files, since the jets are the same
    assert set(theirs["against_pt"]) == {"Hbb", "Tbqq"}
    assert got["notes"] == []
    # ROC and pT of two signals; confusion, scores and mass of two models; calibration, time and jets
    text = (out / "report.html").read_text()
    assert "average precision" in text
    assert text.count("<figure") == 2 * 2 + 2 * 3 + 3
    assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "report.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation", "other.root"]


@pytest.mark.long
def test_without_files_each_run_is_evaluated_on_its_own_test_jets_beside_its_baseline(runs, tmp_path, no_figures):
    out = tmp_path / "evaluation"
    got = evaluate([runs / "one", runs / "paper"], EvaluateSettings(reference="boosting", efficiency=0.3), out=out)
    assert {entry["efficiency"] for entry in got["models"][0]["trainings"][0]["rejection"].values()} == {0.3}
    assert [model["name"] for model in got["models"]] == ["standard", "paper", "boosting"]
    kept = read_tensors(runs / "one" / "test_scores.safetensors")
    expected = (kept["probabilities"].argmax(-1) == kept["labels"]).float().mean().item()
    assert got["models"][0]["trainings"][0]["accuracy"] == pytest.approx(expected)
    metrics = json.loads((runs / "paper" / "metrics.json").read_text())
    assert got["models"][2]["trainings"][0]["accuracy"] == metrics["test"]["boosting"]["accuracy"]
    assert got["reference"] == "boosting"


@pytest.mark.long
@pytest.mark.slow
def test_the_files_are_read_once_for_all_taggers(runs, holdout, tmp_path, monkeypatch, no_figures):
    read_from = []

    def counted(files, **options):
        read_from.append(list(files))
        return iterate_jets(files, **options)

    monkeypatch.setattr(scoring, "iterate_jets", counted)
    # presets of raw and of standardized features
    got = evaluate([runs / "one", runs / "two", runs / "paper"], files=iter(holdout), out=tmp_path / "out", quiet=True)
    assert read_from == [holdout]
    assert [len(model["trainings"]) for model in got["models"]] == [2, 1]


@pytest.mark.slow
def test_a_note_warns_of_training_jets(runs, jets, tmp_path, no_figures):
    got = evaluate(runs / "one", files=jets[0], out=tmp_path / "evaluation", quiet=True)
    assert got["notes"][1:] == ["None of the jets is Hbb, Tbqq: metrics that need such jets are left out."]
    assert "was trained on jets of QCD.root, so results are biased upwards" in got["notes"][0]
    # a background alone has no rejection and no area
    assert got["models"][0]["spread"]["rejection"] == {}
    assert got["models"][0]["trainings"][0]["auc_ovo"] is None


@pytest.mark.slow
def test_external_scores_are_read_in_any_order_and_under_weavers_names(tmp_path, no_figures):
    labels = np.array([0, 1, 2, 2])
    ours = external_scores(tmp_path / "ours.root", labels)
    weavers = external_scores(tmp_path / "weaver.root", labels, (1, 2, 0), prefix="score_label_", tree="tree")
    expected = np.array([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.1, 0.1, 0.8]])
    for path in (ours, weavers):
        scored, classes = read_external_scores(path, "other", classes=CLASSES)
        assert classes == CLASSES
        assert scored.labels.tolist() == [0, 1, 2, 2]
        assert scored.probabilities == pytest.approx(expected, abs=1e-6)
    # without runs the order is the file's
    assert read_external_scores(ours, "other")[1] == ("Tbqq", "QCD", "Hbb")
    got = evaluate(scores=[str(ours)], out=tmp_path / "evaluation", quiet=True)
    assert got["background"] == "QCD"
    assert got["models"][0]["name"] == "ours"


def test_external_scores_may_lack_classes_without_jets(tmp_path, no_figures):
    path = external_scores(tmp_path / "two.root", np.array([0, 1, 1]), without=("score_Tbqq",))
    scored, classes = read_external_scores(path, "other")
    assert classes == ("QCD", "Hbb")
    assert scored.labels.tolist() == [0, 1, 1]
    path = external_scores(tmp_path / "three.root", np.array([0, 1, 2, 2]), without=("score_Tbqq",))
    with pytest.raises(SubquadError):
        read_external_scores(path, "other")
    path = external_scores(tmp_path / "one.root", np.array([0, 2, 2]))
    notes = evaluate(scores=[str(path)], out=tmp_path / "evaluation", quiet=True)["notes"]
    assert notes == ["None of the jets is Hbb: metrics that need such jets are left out."]


def test_the_name_of_scores_ends_at_the_first_equals_sign(tmp_path, no_figures):
    (tmp_path / "epochs=3").mkdir()
    path = external_scores(tmp_path / "epochs=3" / "part.root", np.array([0, 1, 2, 2]))
    got = evaluate(scores=[f"ParT={path}"], out=tmp_path / "evaluation", quiet=True)
    assert [model["name"] for model in got["models"]] == ["ParT"]


def test_files_of_one_name_must_hold_the_same_jets(tmp_path, no_figures):
    labels = np.array([0, 1, 2, 2])
    for name in ("part_0", "part_1"):
        external_scores(tmp_path / f"{name}.root", labels)
    scores = [f"ParT={tmp_path}/part_*.root"]
    got = evaluate(scores=scores, out=tmp_path / "evaluation", quiet=True)
    assert len(got["models"][0]["trainings"]) == 2
    external_scores(tmp_path / "part_2.root", np.array([2, 1, 0]))
    with pytest.raises(SubquadError):
        evaluate(scores=scores, out=tmp_path / "other", quiet=True)
    # shards that are named one by one are no trainings either
    with pytest.raises(SubquadError):
        evaluate(scores=[f"ParT={tmp_path}/part_{i}.root" for i in (0, 2)], out=tmp_path / "other", quiet=True)


def test_invalid_external_scores_are_refused(tmp_path):
    labels = np.array([0, 1, 2, 2])
    path = external_scores(tmp_path / "missing.root", labels, without=("score_Hbb", "label_Tbqq"))
    with pytest.raises(SubquadError):
        read_external_scores(path, "other", classes=CLASSES)
    with pytest.raises(SubquadError):
        evaluate(scores=[f"ParT={tmp_path}/none.root"], out=tmp_path / "evaluation")
    text = tmp_path / "text.root"
    text.write_text("no jets")
    with pytest.raises(SubquadError):
        read_external_scores(text, "other")
    bad = external_scores(tmp_path / "bad.root", np.array([0, 7, 2]))
    with pytest.raises(SubquadError):
        read_external_scores(bad, "other", classes=CLASSES)
    names = external_scores(tmp_path / "names.root", labels, without=[f"label_{name}" for name in CLASSES])
    with pytest.raises(SubquadError):
        read_external_scores(names, "other")


@pytest.mark.long
@pytest.mark.slow
def test_invalid_input_is_refused_before_anything_is_written(runs, holdout, jets, tmp_path):
    out = tmp_path / "evaluation"
    with pytest.raises(SubquadError):
        evaluate(out=out)
    with pytest.raises(SubquadError):
        evaluate(files=holdout, scores=["a=b.root"], out=out)
    with pytest.raises(SubquadError):
        evaluate(runs / "one", EvaluateSettings(reference="ParT"), out=out, quiet=True)
    other = fit(
        jets[:2], FitSettings(preset="standard", epochs=1, no_boosting=True), out=tmp_path / "two classes", quiet=True
    )
    assert other["jets"]["test"] == 18
    with pytest.raises(SubquadError):
        evaluate([runs / "one", tmp_path / "two classes"], out=out)
    with pytest.raises(SubquadError):
        evaluate(tmp_path / "two classes", files=holdout, out=out, quiet=True)
    scores = external_scores(tmp_path / "standard.root", np.array([0, 1, 2, 2]))
    with pytest.raises(SubquadError):
        evaluate(runs / "one", scores=[str(scores)], out=out)
    assert not out.exists()
    with pytest.raises(SubquadError):
        evaluate(runs / "one", out=runs / "two", force=True)


def test_scores_in_the_evaluation_that_is_replaced_are_kept(tmp_path):
    out = tmp_path / "earlier"
    out.mkdir()
    (out / "metrics.json").write_text(json.dumps({"subquad": {"kind": "hep evaluation"}}))
    own = external_scores(out / "own.root", np.array([0, 1, 2, 2]))
    for given in (f"mine={own}", str(own)):
        with pytest.raises(SubquadError):
            evaluate(scores=[given], out=out, force=True, quiet=True)
    assert own.is_file()


@pytest.mark.slow
def test_a_training_that_is_given_twice_is_refused(runs, tmp_path):
    shutil.copytree(runs / "one", tmp_path / "copy")
    with pytest.raises(SubquadError):
        evaluate([runs / "one", tmp_path / "copy"], out=tmp_path / "evaluation")


def test_numeric_labels_are_matched_to_the_names_of_the_classes():
    def indices(classes, labels, names=()):
        chunk = SimpleNamespace(classes=names, labels=np.array(labels))
        return TrainedTagger.class_indices(SimpleNamespace(classes=classes), chunk).tolist()

    # class 1 has no jets in the training files
    assert indices(("0", "2"), [2, 0, 1, -1]) == [1, 0, -1, -1]
    assert indices(("QCD", "Hbb"), [1, 0, 2], ("Hbb", "QCD", "Tbl")) == [0, 1, -1]


def test_help_shows_names_in_angle_brackets(capsys):
    assert main(["hep", "evaluate", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "score_<class>" in text
    assert all(f"─ {group} ─" in text for group in ("Input", "Model", "Output"))
