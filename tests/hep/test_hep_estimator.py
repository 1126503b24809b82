"""PCNTagger as scikit-learn's tools use it, on jets of made-up classes that can be learnt."""

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

from subquad.errors import SubquadError
from subquad.hep import FitSettings, PCNTagger, evaluate, fit, predict, read
from subquad.hep.commands import evaluate as evaluate_command
from subquad.runs.storage import read_json


@pytest.fixture
def files(jets):
    return jets


def drawn(random_state):
    return int(np.random.RandomState(random_state).randint(2**31 - 1))


SHORT = {"preset": "standard", "epochs": 3, "batch_size": 16, "random_state": 0}


def test_the_parameters_are_scikit_learn_s():
    estimator = PCNTagger(epochs=7)
    assert is_classifier(estimator)
    assert clone(estimator).get_params() == estimator.get_params()
    assert repr(estimator) == "PCNTagger(epochs=7)"
    with pytest.raises(NotFittedError, match="This PCNTagger instance is not fitted yet"):
        estimator.predict([])


@pytest.mark.long
@pytest.mark.slow
def test_it_is_fitted_equally_on_files_and_from_awkward_arrays(files):
    jets = read(files)
    model = PCNTagger(**SHORT).fit(jets, jets.class_names)
    assert list(model.classes_) == sorted(jets.classes)
    assert model.score(jets, jets.class_names) > 0.6
    probabilities = model.predict_proba(jets)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (model.classes_[probabilities.argmax(1)] == model.predict(jets)).all()
    # what was fitted does not change with a parameter of the next fit
    np.testing.assert_array_equal(model.set_params(preset="paper").predict_proba(jets), probabilities)
    arrays = ak.concatenate([uproot.open(file)["tree"].arrays() for file in files])
    again = PCNTagger(**SHORT).fit(arrays, jets.class_names)
    np.testing.assert_array_equal(again.predict_proba(arrays), probabilities)


@pytest.mark.long
@pytest.mark.slow
def test_cross_validation_and_searches_divide_jets(files):
    jets = read(files)
    found = cross_val_score(PCNTagger(**SHORT), jets, jets.labels, cv=2)
    assert found.shape == (2,)
    assert (found > 1 / 3).all()
    search = GridSearchCV(
        PCNTagger(**{**SHORT, "epochs": 1}), {"inputs": ["particles", "particles+jet"]}, cv=2, refit=False
    ).fit(jets, jets.class_names)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.long
def test_it_is_saved_as_what_the_commands_take(files, tmp_path):
    jets = read(files)
    model = PCNTagger(**SHORT).fit(jets, jets.class_names)
    model.save(tmp_path / "tagger")
    again = PCNTagger.load(tmp_path / "tagger")
    assert again.get_params() == model.get_params()
    assert again.validation_ == model.validation_
    # what was fitted is saved, not what was set afterwards
    for number, one in enumerate((model, again)):
        one.set_params(k=5)
        one.save(tmp_path / str(number))
        assert read_json(tmp_path / str(number) / "config.json")["subquad"]["settings"]["k"] is None
    probabilities = model.predict_proba(jets)
    np.testing.assert_array_equal(again.predict_proba(jets), probabilities)
    predict(tmp_path / "tagger", files, out=tmp_path / "scores.root", quiet=True)
    scores = uproot.open(tmp_path / "scores.root")["Events"].arrays(library="np")
    for i, name in enumerate(model.classes_):
        np.testing.assert_allclose(scores[f"score_{name}"], probabilities[:, i], atol=1e-6)
    with pytest.raises(SubquadError, match="test jets"):
        evaluate([tmp_path / "tagger"], out=tmp_path / "evaluated", quiet=True)
    evaluated = evaluate([tmp_path / "tagger"], files=files, out=tmp_path / "evaluated", quiet=True)
    assert "was trained on jets in memory" in evaluated["notes"][0]
    accuracy = evaluated["models"][0]["trainings"][0]["accuracy"]
    assert accuracy == pytest.approx(model.score(jets, jets.class_names))
    with pytest.raises(SubquadError, match="has a finished run"):
        model.save(tmp_path / "tagger")


@pytest.mark.long
def test_estimators_of_several_seeds_are_trainings_of_one_model(files, tmp_path, monkeypatch):
    # figures take most of the time, and are tested elsewhere
    monkeypatch.setattr(evaluate_command, "draw", lambda _, models, *more: ({}, {model.name: {} for model in models}))
    jets = read(files)
    for seed in (0, 1):
        model = PCNTagger(**{**SHORT, "epochs": 1, "random_state": seed}).fit(jets, jets.class_names)
        model.save(tmp_path / str(seed))
    fit(
        files,
        FitSettings(preset="standard", epochs=1, batch_size=16, no_boosting=True),
        out=tmp_path / "run",
        quiet=True,
    )
    runs = [tmp_path / name for name in ("0", "1", "run")]
    models = evaluate(runs, files=files, out=tmp_path / "evaluated", quiet=True)["models"]
    assert [(model["name"], len(model["trainings"])) for model in models] == [("standard", 3)]


@pytest.mark.long
@pytest.mark.slow
def test_jets_of_weight_0_have_no_effect(files):
    jets = read(files)
    # two of three jets have the name of the next class
    is_wrong = np.random.default_rng(0).random(len(jets)) < 2 / 3
    labels = (jets.labels + is_wrong) % 3
    settings = {**SHORT, "epochs": 8, "validation_fraction": 0.3}
    weighted = PCNTagger(**settings).fit(jets, labels, sample_weight=1.0 - is_wrong)
    fooled = PCNTagger(**settings).fit(jets, labels)
    assert weighted.score(jets, jets.labels) > 0.6
    assert fooled.score(jets, jets.labels) < 0.4


@pytest.mark.long
@pytest.mark.slow
def test_negative_weights_are_kept_with_a_warning_and_cancel_jets_as_in_the_command(files):
    jets = read(files)
    # each jet three times, twice with its own class, and once more with another one, which -1 takes back
    rows = np.tile(np.arange(len(jets)), 3)
    labels = np.concatenate([jets.labels, *[(jets.labels + 1) % 3] * 2])
    weights = np.repeat([1.0, 1.0, -1.0], len(jets))
    with pytest.warns(UserWarning, match="33.3 % of the weights are negative"):
        model = PCNTagger(**{**SHORT, "epochs": 8}).fit(jets[rows], labels, sample_weight=weights)
    assert model.score(jets, jets.labels) > 0.6


@pytest.mark.slow
def test_the_random_numbers_of_others_are_left_alone(files):
    jets = read(files)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    PCNTagger(**{**SHORT, "epochs": 1}).fit(jets, jets.class_names)
    assert torch.equal(torch.rand(3), expected)
