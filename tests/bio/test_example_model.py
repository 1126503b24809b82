"""The model that ships with the package is used like any other run."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from subquad import bio
from subquad.bio.design_search.settings import DesignSettings
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.runs.examples import run_folder

NAME = "example:tdp43-model"


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """Some test rows of the table that the model was fitted on."""
    table = pd.read_csv(bio.resolve_table("example:tdp43"))
    path = tmp_path_factory.mktemp("variants") / "variants.csv"
    table[table["split"] == "test"].drop(columns="split").iloc[::9].to_csv(path, index=False)
    return path


def test_it_predicts_by_its_name(variants, tmp_path):
    table = bio.predict(NAME, variants, out=tmp_path / "predictions.csv", quiet=True)
    # 0.958 on all test rows
    assert table["prediction"].corr(pd.read_csv(variants)["toxicity"], method="spearman") > 0.93


def test_a_table_before_the_model_is_refused(variants, tmp_path):
    with pytest.raises(SubquadError, match=r"variants\.csv: no run of `subquad bio`"):
        bio.predict(variants, NAME, out=tmp_path / "predictions.csv")
    with pytest.raises(SubquadError, match="no example run 'example:tdp43'; did you mean 'example:tdp43-model'"):
        bio.predict("example:tdp43", NAME, out=tmp_path / "predictions.csv")


def test_a_run_of_another_field_is_refused_as_it_was_named(tmp_path, capsys):
    for command in (["predict", "example:tagger", "example:tdp43"], ["scan", "example:tagger"]):
        assert main(["bio", *command, "--out", str(tmp_path / "p.csv")]) == 2
        message = "example:tagger: is a run of `subquad hep`, not of `subquad bio`"
        assert capsys.readouterr().err == f"subquad: {message}\n"


def test_a_damaged_file_of_a_model_is_not_reported_as_one_of_the_table(tmp_path):
    golden = Path(__file__).parent.parent / "golden" / "bio_model"
    run = shutil.copytree(golden, tmp_path / "run")
    (run / "ridge.safetensors").write_bytes(b"damaged")
    with pytest.raises(SubquadError) as error:
        bio.predict(run, golden / "input.csv", out=tmp_path / "predictions.csv", model="ridge", quiet=True)
    assert str(error.value).startswith(f"{run}/ridge.safetensors: ")


def test_it_is_opened_by_its_name():
    assert bio.BioModel.load(NAME).directory == run_folder(NAME)


@pytest.mark.long
def test_it_is_reported_scanned_and_used_for_designs(tmp_path):
    page = bio.report(NAME, out=tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Lyra" in page
    with pytest.raises(SubquadError, match="needs an output file"):
        bio.report(NAME)
    bio.scan(NAME, out=tmp_path / "scan", quiet=True)
    scan = pd.read_csv(tmp_path / "scan" / "scan.csv")
    assert len(scan) >= 84 * 19
    assert scan["position"].min() == 1
    designs = bio.design(NAME, DesignSettings(direction="minimize", number=5), out=tmp_path / "designs", quiet=True)
    assert len(designs) == 5


def test_its_files_name_no_folder_of_the_machine_that_made_it():
    for path in run_folder(NAME).iterdir():
        assert b"/root/" not in path.read_bytes()
