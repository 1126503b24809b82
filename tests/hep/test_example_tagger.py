"""The tagger that ships with the package is used like any other run."""

import numpy as np
import pytest
import uproot

from subquad import hep
from subquad.hep.data import layout
from subquad.hep.data.jets import read
from subquad.hep.models.trained import TrainedTagger
from subquad.hep.settings import NetSettings
from subquad.runs.examples import EXAMPLE_RUNS, run_folder


def test_it_scores_jets_by_its_name(tmp_path):
    out = hep.predict("example:tagger", "example:jets", out=tmp_path / "scores.root", quiet=True)
    jets, scores = read("example:jets"), uproot.open(out)["Events"]
    probabilities = np.stack([scores[f"score_{name}"].array(library="np") for name in jets.classes], axis=1)
    assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)
    # 0.817 on its own test jets
    assert (probabilities.argmax(1) == jets.labels).mean() > 0.78


def test_it_is_opened_by_its_name():
    tagger = TrainedTagger.load("example:tagger")
    assert tagger.path == run_folder("example:tagger")
    assert tagger.config["preset"] == "auto"
    assert all(run_folder(name).is_dir() for name in EXAMPLE_RUNS)


def test_it_is_opened_by_a_version_with_more_features(monkeypatch):
    features = {name: (*own, "new") for name, own in layout.FEATURES.items()}
    monkeypatch.setattr(layout, "FEATURES", features)
    monkeypatch.setattr(layout, "JET_FEATURES", (*layout.JET_FEATURES, "new"))
    saved, new = TrainedTagger.load("example:tagger"), layout.layout_of(NetSettings())
    assert (new.features.names[-1], new.jet_features[-1]) == ("new", "new")
    assert (saved.layout.features.names, saved.layout.jet_features) == (new.features.names[:-1], new.jet_features[:-1])
    assert saved.layout.has_jetclass_features


@pytest.mark.long
def test_its_test_jets_are_evaluated_and_it_is_fine_tuned(tmp_path):
    found = hep.evaluate("example:tagger", out=tmp_path / "evaluation", quiet=True)
    assert found["test"]["auto"]["accuracy"] == pytest.approx(0.817, abs=0.001)
    sample = read("example:jets")[:200]
    tuned = hep.PCNTagger(from_="example:tagger", epochs=1, random_state=0).fit(sample, sample.class_names)
    assert tuned.origin_["run"] == "example:tagger"


def test_its_files_name_no_folder_of_the_machine_that_made_it():
    for path in run_folder("example:tagger").iterdir():
        assert b"/root/" not in path.read_bytes()
