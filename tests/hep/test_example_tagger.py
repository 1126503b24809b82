"""The tagger that ships with the package is used like any other run."""

import numpy as np
import pytest
import uproot

from subquad import hep
from subquad.errors import SubquadError
from subquad.hep.data.jets import read
from subquad.hep.models.trained import TrainedTagger
from subquad.runs.examples import EXAMPLE_RUNS, run_folder
from subquad.runs.loading import load_run


def test_it_scores_jets_by_its_name(tmp_path):
    out = hep.predict("example:tagger", "example:jets", out=tmp_path / "scores.root", quiet=True)
    jets, scores = read("example:jets"), uproot.open(out)["Events"]
    probabilities = np.stack([scores[f"score_{name}"].array(library="np") for name in jets.classes], axis=1)
    assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)
    # 0.817 on its own test jets
    assert (probabilities.argmax(1) == jets.labels).mean() > 0.78


def test_it_is_opened_by_every_loader():
    for tagger in (load_run("example:tagger"), TrainedTagger.load("example:tagger")):
        assert tagger.path == run_folder("example:tagger")
        assert tagger.config["preset"] == "auto"
    assert all(run_folder(name).is_dir() for name in EXAMPLE_RUNS)


def test_other_names_are_folders():
    with pytest.raises(SubquadError, match="example:taggers: no such model folder"):
        TrainedTagger.load("example:taggers")


def test_its_files_name_no_folder_of_the_machine_that_made_it():
    for path in run_folder("example:tagger").iterdir():
        assert b"/root/" not in path.read_bytes()
