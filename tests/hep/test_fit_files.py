"""The files of a fit by part, from folders such as JetClass's train_100M, val_5M and test_20M."""

import shutil
import subprocess
import sys

import pytest

from subquad.errors import SubquadError
from subquad.hep import FitSettings, fit
from subquad.hep.data.fit_files import fit_files
from subquad.runs.examples import run_folder
from subquad.runs.storage import read_json


@pytest.fixture
def folder(jets, tables, tmp_path):
    """A folder in the layout of JetClass, with files of three classes for each part."""
    columns, write = tables
    for part, count in (("train_100M", 31), ("val_5M", 11), ("test_20M", 13)):
        (tmp_path / "JetClass" / part).mkdir(parents=True)
        for i, label in enumerate(("QCD", "Hbb", "Tbqq")):
            path = tmp_path / "JetClass" / part / f"{('ZJetsToNuNu', 'HToBB', 'TTBar')[i]}_000.root"
            write(path, columns(label, jets=count, seed=count))
    return tmp_path / "JetClass"


def names(paths):
    return [f"{path.parent.name}/{path.name}" for path in paths]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fit", "no.root", "--out", "run"], "no such file"),
        (["fit", "example:jets", "--card", "no.yaml", "--out", "run"], "no.yaml: no such file"),
        (["fit", "example:jets", "--out", str(run_folder("example:tagger"))], "has a finished run"),
        (["predict", "example:tagger", "no.root", "--out", "a.root"], "no such file"),
        (["evaluate", "run=no_run", "--out", "a"], "no_run: no such folder"),
        (["explain", "example:tagger", "--files", "no.root", "--out", "a"], "no such file"),
        (["export", "no_run", "--out", "a.onnx"], "no_run: no such folder"),
    ],
)
def test_what_does_not_exist_is_reported_before_torch_is_imported(given, message, tmp_path):
    code = f"""
import sys
from subquad.cli import main
assert main({["hep", *given]!r}) == 2
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert message in " ".join(done.stderr.split())


def test_folders_for_the_parts_are_found_by_their_names(folder):
    found = fit_files(folder)
    assert names(found.train) == [f"train_100M/{name}_000.root" for name in ("HToBB", "TTBar", "ZJetsToNuNu")]
    assert names(found.validation)[0] == "val_5M/HToBB_000.root"
    assert len(found.test) == 3
    assert found.folders.endswith("test_20M")


def test_a_folder_that_is_named_is_fitted_on_and_tested_on(folder):
    found = fit_files(folder / "train_100M", folder / "test_20M")
    assert (len(found.train), len(found.validation), len(found.test)) == (3, 0, 3)
    assert not found.folders
    other = fit_files(folder, folder / "val_5M" / "*.root")
    assert names(other.test) == [f"val_5M/{path.name}" for path in found.train]


def test_files_to_test_on_may_come_from_an_iterator(folder):
    found = fit_files(folder, (folder / "val_5M").glob("*.root"))
    assert {path.parent.name for path in found.test} == {"val_5M"}
    assert len(found.test) == 3


def test_a_folder_without_training_jets_is_refused(folder):
    shutil.rmtree(folder / "train_100M")
    with pytest.raises(SubquadError):
        fit_files(folder)


@pytest.mark.long
def test_the_folders_are_the_parts_of_the_fit(folder, tmp_path, capsys):
    settings = FitSettings(preset="standard", epochs=1, no_boosting=True)
    metrics = fit(folder, settings, out=tmp_path / "run")
    assert metrics["jets"] == {"train": 93, "validation": 33, "test": 39}
    config = read_json(tmp_path / "run" / "config.json")
    assert config["classes"] == ["QCD", "Hbb", "Tbqq"]
    assert config["split"] == "Test jets are from files of their own; validation jets are from files of their own"
    printed = capsys.readouterr().err
    assert f"folders: train {folder / 'train_100M'}, validation {folder / 'val_5M'}, test" in printed.replace("\n", " ")
