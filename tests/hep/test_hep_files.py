"""Names of files that the commands accept: folders, patterns, trees of a file, and the jets that ship with subquad."""

import numpy as np
import pytest
import uproot
from uproot.interpretation.identify import UnknownInterpretation

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.hep import FitSettings, fit, read
from subquad.hep.data import formats
from subquad.hep.data.examples import example_path
from subquad.hep.data.formats import expand_files, file_of, inspect_file, iterate_columns


def test_a_folder_stands_for_its_files_of_jets(jets, tmp_path):
    assert expand_files(jets[0].parent) == sorted(jets)
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(SubquadError, match=r"the folder has no file that ends in \.root, \.parquet"):
        expand_files(tmp_path)


def test_a_tree_after_the_file_is_read_as_uproot_does(tables, tmp_path):
    columns, write = tables
    path = write(tmp_path / "a.root", columns("QCD"), tree="Jets")
    (found,) = expand_files(f"{path}:Jets")
    assert file_of(found) == path
    assert len(read(f"{path}:Jets")) == len(read(f"{tmp_path}/*.root:Jets")) == 23
    with pytest.raises(SubquadError, match="no tree 'Events' in it; its trees are Jets"):
        read(f"{path}:Events")


def test_a_truncated_file_is_refused_when_it_is_inspected(tmp_path):
    cut = tmp_path / "cut.root"
    content = example_path().read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(SubquadError, match=r"cut\.root: is not a ROOT file, or is damaged or truncated \(.*\); copy"):
        inspect_file(cut, None)


def test_a_file_without_a_tree_names_what_it_has(tmp_path):
    with uproot.recreate(tmp_path / "h.root") as file:
        file["pt"] = np.histogram([1, 2, 3])
    with pytest.raises(SubquadError, match=r"h\.root: no tree in it \(pt\); give files with a TTree or an RNTuple"):
        inspect_file(tmp_path / "h.root", None)


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
    with pytest.raises(SubquadError, match=r"--test: .*jets_small\.root is also among the files to fit on"):
        fit("example:jets", test=[example_path()], out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_damaged_inside_is_refused(tmp_path):
    content = bytearray(example_path().read_bytes())
    content[200_000:400_000] = np.random.default_rng(0).bytes(200_000)
    (tmp_path / "jets.root").write_bytes(content)
    with pytest.raises(SubquadError, match=r"jets\.root: is not a ROOT file, or is damaged or truncated"):
        read(tmp_path / "jets.root")


def test_a_branch_whose_description_is_damaged_is_refused(jets, monkeypatch):
    source = inspect_file(jets[0], None)

    def damaged(_):
        raise UnknownInterpretation("leaf-list with zero leaves", "jets.root", "/tree;1:part_px")

    monkeypatch.setattr(formats, "_root", damaged)
    with pytest.raises(SubquadError, match=r"is damaged or truncated \(leaf-list with zero leaves\)"):
        list(iterate_columns(source, ["part_px"], 10))


def test_a_number_of_threads_that_no_machine_has_is_refused():
    with pytest.raises(SubquadError, match=r"--threads must be from 1 to 1,024, got 100,000"):
        FitSettings(threads=100_000)


def test_a_file_that_is_named_in_two_ways_is_read_once(jets, monkeypatch):
    monkeypatch.chdir(jets[0].parent)
    given = [jets[1].name, *jets, f"../{jets[0].parent.name}/*.root"]
    assert [path.name for path in expand_files(given)] == [jets[1].name, jets[0].name, jets[2].name]
