"""Which runs are trainings of one model, and which of them share a baseline."""

from pathlib import Path

import numpy as np
import pytest
import torch

from subquad.errors import SubquadError
from subquad.hep.evaluation.compared_runs import model_names, read_runs
from subquad.hep.evaluation.scoring import stored_predictions
from subquad.hep.metrics.predictions import TEST_SCORES
from subquad.hep.settings import FitSettings
from subquad.runs.folder import open_run
from subquad.runs.storage import plain, write_tensors

CLASSES = ("QCD", "Hbb")


def config(preset="auto", *, seed=0, has_jet_features=True, without=(), **settings):
    saved = {**plain(FitSettings(preset=preset, **settings)), "seed": seed, "data": "abc", "files": ["a.root"]}
    return {
        "classes": list(CLASSES),
        "seed": seed,
        "net": {"has_jet_features": has_jet_features, "features": "standard"},
        "subquad": {"settings": {name: value for name, value in saved.items() if name not in without}},
    }


def names(*configs):
    return list(model_names({Path(str(i)): one for i, one in enumerate(configs)}).values())


def test_what_only_changes_the_output_or_where_jets_lie_makes_no_other_model():
    assert names(config(), config(seed=1, tree="Events", threads=2)) == ["auto", "auto"]


def test_a_setting_that_an_older_run_lacks_had_its_default():
    old = config(without=["patience"])
    assert names(old, config(seed=1)) == ["auto", "auto"]
    assert names(old, config(patience=3)) == ["auto", "auto, patience 3"]
    with pytest.raises(SubquadError):
        names(old, config())


def test_a_name_may_be_given(tmp_path):
    folders = [tmp_path / "first", tmp_path / "second=2"]
    for seed, folder in enumerate(folders):
        run = open_run(folder, kind="hep", settings={**plain(FitSettings(epochs=9)), "seed": seed})
        run.finish(config={"classes": list(CLASSES)}, tensors={"weight": torch.zeros(1)}, metrics={})
    compared = read_runs([f"base line={folders[0]}", folders[1]])
    assert dict(compared.names) == {folders[0]: "base line", folders[1]: "auto"}
    with pytest.raises(SubquadError):
        read_runs([f"boosting={folders[0]}"])
    with pytest.raises(SubquadError):
        read_runs([f"a={folders[0]}", folders[1], f"b={folders[0]}"])
    described = compared.described()
    assert [run["run"] for run in described] == list(map(str, folders))
    assert {run["settings"] for run in described} == {"epochs 9"}


@pytest.fixture
def stored(tmp_path):
    """Return the models and seeds of the predictions that runs stored."""

    def found(*configs):
        by_folder = {tmp_path / str(i): one for i, one in enumerate(configs)}
        for folder in by_folder:
            folder.mkdir()
            scores = {name: torch.full((4, 2), 0.5) for name in ("probabilities", "probabilities_boosting")}
            jets = {"labels": torch.tensor([0, 1, 0, 1]), "particles": torch.ones(4)}
            write_tensors(folder / TEST_SCORES, {**scores, **jets})
        predictions = stored_predictions(by_folder, model_names(by_folder), CLASSES[::-1])
        assert all(np.array_equal(one.labels, [1, 0, 1, 0]) for one in predictions)
        return [(one.model, one.seed) for one in predictions]

    return found


def test_a_baseline_that_runs_share_is_counted_once(stored):
    found = stored(config(), config("standard"), config(seed=1))
    assert found == [("auto", 0), ("boosting", 0), ("standard", 0), ("auto", 1), ("boosting", 1)]


@pytest.mark.parametrize("other", [{"has_jet_features": False}, {"reweight": "class"}])
def test_baselines_of_other_inputs_or_weights_are_models_of_their_own(stored, other):
    found = [model for model, _ in stored(config(), config("standard", **other))]
    assert found == ["auto", "boosting of auto", "standard", "boosting of standard"]
