"""Names of files that the commands accept: folders, patterns, trees of a file, and the jets that ship with subquad."""

import pytest

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.hep import fit, read
from subquad.hep.data.examples import example_path
from subquad.hep.data.formats import expand_files, file_of


def test_a_tree_after_the_file_is_read_as_uproot_does(tables, tmp_path):
    columns, write = tables
    path = write(tmp_path / "a.root", columns("QCD"), tree="Jets")
    (found,) = expand_files(f"{path}:Jets")
    assert file_of(found) == path
    assert len(read(f"{path}:Jets")) == len(read(f"{tmp_path}/*.root:Jets")) == 23
    with pytest.raises(SubquadError):
        read(f"{path}:Events")


def test_the_jets_that_ship_with_subquad_have_a_name():
    assert expand_files("example:jets") == [example_path()]
    jets = read("example:jets")
    assert len(jets) == 1500
    assert len(jets.classes) == 10


@pytest.mark.long
def test_a_fit_takes_a_folder_and_a_tree(jets, tables, tmp_path, capsys):
    columns, write = tables
    for label in ("QCD", "Hbb"):
        write(tmp_path / f"test_{label}.root", columns(label, seed=1), tree="Jets")
    test = tmp_path / "test_*.root"
    flags = ["--preset", "standard", "--epochs", "1", "--no-boosting", "--quiet", "--out", str(tmp_path / "run")]
    assert main(["hep", "fit", str(jets[0].parent), "--test", f"{test}:Jets", *flags]) == 0
    scores = str(tmp_path / "scores.root")
    capsys.readouterr()
    assert main(["hep", "predict", str(tmp_path / "run"), f"{test}:Jets", "--out", scores]) == 0
    assert "Warning" not in capsys.readouterr().err
    assert main(["hep", "predict", str(tmp_path / "run"), str(jets[0]), "--out", scores, "--force"]) == 0
    assert "was trained on jets of QCD.root, so results are" in " ".join(capsys.readouterr().err.split())


def test_a_misspelt_example_is_answered_with_its_name():
    with pytest.raises(SubquadError, match=r"no example 'example:jet'; did you mean 'example:jets'\?"):
        expand_files("example:jet")


def test_jets_to_fit_on_are_not_tested_on(tmp_path):
    with pytest.raises(SubquadError):
        fit("example:jets", test=[example_path()], out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_named_in_two_ways_is_read_once(jets, monkeypatch):
    monkeypatch.chdir(jets[0].parent)
    given = [jets[1].name, *jets, f"../{jets[0].parent.name}/*.root"]
    assert [path.name for path in expand_files(given)] == [jets[1].name, jets[0].name, jets[2].name]
