import numpy as np
import pandas as pd
import pytest
from support.bio_models import WILD, Fake

from subquad.bio.commands import scan as explain
from subquad.bio.commands.scan import scan, scan_table, single_mutants, values_of
from subquad.bio.plots import maps as pictures
from subquad.bio.plots.scan_page import grid_of, preferences
from subquad.bio.settings import ALPHABETS
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.runs.storage import write_json


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Give `scan` a fake in place of a saved model, and a run's test rows."""

    def make(model, places=None, **columns):
        monkeypatch.setattr(explain, "fitted", lambda run: (model, places))
        folder = tmp_path / "run"
        folder.mkdir()
        pd.DataFrame(columns or {"sequence": ["CCGTACG", "GCGTACG", "ACGTACC"], "measured": [1.0, 2.0, 3.0]}).to_csv(
            folder / "test.csv", index=False
        )
        write_json(folder / "metrics.json", {"audit": {"mutations": {"0": 1, "2": 5}}})
        return folder

    return make


def test_a_scan_holds_each_single_mutant_with_its_difference_to_the_wild_type():
    frame = scan_table(Fake(), WILD, measured={"CCGTACG": 5.0})
    assert len(frame) == 7 * 3
    row = frame.set_index("mutant").loc["G3T"]
    # T is letter 3, G is 2, at position 3: one step of 3, and the mean of the nets doubles it by half
    assert row["difference"] == pytest.approx(3 * 1.5)
    assert row["spread"] == pytest.approx(np.std([3.0, 6.0], ddof=1))
    assert (row["position"], row["from"], row["to"]) == (3, "G", "T")
    assert frame.set_index("mutant").loc["A1C", "measured"] == 5.0
    assert frame["measured"].notna().sum() == 1
    assert scan_table(Fake(nets=1), WILD)["spread"].isna().all()


def test_many_sequences_are_predicted_in_parts_as_at_once(monkeypatch):
    sequences = [WILD[:k] + "T" + WILD[k + 1 :] for k in range(7)]
    once = values_of(Fake(), sequences)[0]
    monkeypatch.setattr(explain, "AT_ONCE", 2)
    np.testing.assert_array_equal(values_of(Fake(), sequences)[0], once)


def test_a_separator_is_no_place_and_only_asked_places_are_changed():
    assert {place for place, _ in single_mutants("AC|G", "ACGT")} == {0, 1, 3}
    assert {place for place, _ in single_mutants("ACGT", "ACGT", [2])} == {2}
    assert len(single_mutants("ACNG", "ACGT")) == 3 + 3 + 4 + 3


def test_effects_stand_where_they_belong():
    grid = grid_of(scan_table(Fake(nets=1), WILD), 7, "ACGT")
    assert np.isnan(grid["ACGT".find("G"), 2])
    assert grid["ACGT".find("T"), 4] == 3 * 5
    assert np.isnan(grid).sum() == 7


def test_letters_of_a_logo_are_as_high_as_their_information():
    grid = np.zeros((4, 2))
    # one position without preference, and one where a letter is far above the others
    grid[1, 1] = 800.0
    grid[[0, 2, 3], 1] = -800.0
    heights = preferences(grid)
    np.testing.assert_allclose(heights[0], 0, atol=1e-9)
    # the effect is 2 in units of the mean size, which is 400 over 8 cells: shares e^4 and 3 of 1
    share = np.array([1, np.exp(4), 1, 1]) / (3 + np.exp(4))
    np.testing.assert_allclose(heights[1], share * (2 + (share * np.log2(share)).sum()), rtol=1e-6)


def test_scan_writes_table_pictures_and_a_page(run, tmp_path):
    frame = scan(run(Fake()), out=tmp_path / "scan", quiet=True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "scan" / "scan.csv"), frame)
    assert frame["measured"].notna().sum() == 3
    for name in ("heatmap.png", "heatmap.pdf", "logo.png", "logo.pdf"):
        assert (tmp_path / "scan" / name).stat().st_size > 1000, name
    text = (tmp_path / "scan" / "scan.html").read_text()
    assert "extrapolated" not in text
    assert "21 single mutants of 7 letters" in text
    assert text.count("data:image/png") == 3
    assert "http" not in text


def test_a_wild_type_far_from_all_that_was_learned_from_is_said_to_be(run, tmp_path):
    folder = run(Fake())
    write_json(folder / "metrics.json", {"audit": {"mutations": {"2": 5, "3": 7}}})
    scan(folder, out=tmp_path / "scan", quiet=True)
    text = (tmp_path / "scan" / "scan.html").read_text()
    assert "its variants have 2 changes or more" in text


def test_positions_that_never_varied_are_left_out(run, tmp_path):
    frame = scan(run(Fake(), places=[1, 4]), out=tmp_path / "scan", quiet=True)
    assert sorted(set(frame["position"])) == [2, 5]


@pytest.mark.parametrize(("task_type", "classes"), [("binary", ("no", "yes")), ("multiclass", ("x", "y", "z"))])
def test_classes_are_scanned_by_their_probability(run, tmp_path, task_type, classes):
    columns = {"sequence": ["CCGTACG", "ACGTACC"], "measured": [classes[1], classes[0]]}
    folder = run(Fake(task_type, classes=classes, nets=1), **columns)
    frame = scan(folder, out=tmp_path / "scan", of=classes[1], quiet=True)
    assert frame["prediction"].between(0, 1).all()
    assert frame.set_index("mutant").loc["A1C", "measured"] == 1
    assert frame.set_index("mutant").loc["G7C", "measured"] == 0
    with pytest.raises(SubquadError, match="no target or class 'none'"):
        scan(folder, out=tmp_path / "other", of="none", quiet=True)
    assert not (tmp_path / "other").exists()


def test_several_targets_are_scanned_one_at_a_time(run, tmp_path):
    columns = {"sequence": ["CCGTACG"], "measured:one": [1.0], "measured:two": [7.0]}
    frame = scan(run(Fake(names=("one", "two")), **columns), out=tmp_path / "scan", of="two", quiet=True)
    assert frame.set_index("mutant").loc["A1C", "measured"] == 7.0
    assert frame.set_index("mutant").loc["A1C", "difference"] == pytest.approx(2 * 1.5)


@pytest.mark.parametrize(
    ("task_type", "columns"),
    [
        ("residue_binary", ["position", "letter", "score"]),
        ("residue_multiclass", ["position", "letter", "H", "E", "C"]),
        ("pairs", ["first", "second", "probability"]),
    ],
)
def test_residues_and_pairs_are_shown_along_the_sequence(run, tmp_path, task_type, columns):
    classes = ("H", "E", "C") if task_type == "residue_multiclass" else ()
    frame = scan(run(Fake(task_type, classes=classes)), out=tmp_path / "scan", quiet=True)
    assert list(frame.columns) == columns
    assert len(frame) == (1 if task_type == "pairs" else 7)
    long = scan(tmp_path / "run", out=tmp_path / "long", sequence=WILD * 61, quiet=True)
    assert len(long) == (1 if task_type == "pairs" else 427)
    assert (tmp_path / "scan" / "profile.pdf").is_file()
    assert "data:image/png" in (tmp_path / "scan" / "scan.html").read_text()


@pytest.mark.parametrize(
    ("wild_type", "sequence", "said"),
    [
        (None, None, "this run knows no wild type; name the sequence with --sequence"),
        (WILD, "ACXTE", "'X' at position 3"),
        (WILD, "none.fa", "none.fa: no such file (--sequence takes letters, a FASTA file or a text file with one sequence)"),
    ],
)
def test_a_sequence_that_cannot_be_scanned_is_refused(run, tmp_path, wild_type, sequence, said):
    with pytest.raises(SubquadError) as error:
        scan(run(Fake(wild_type=wild_type)), out=tmp_path / "scan", sequence=sequence, quiet=True)
    assert said in str(error.value)
    assert not (tmp_path / "scan").exists()


def test_a_fasta_file_with_one_sequence_is_taken(run, tmp_path):
    (tmp_path / "one.fa").write_text(">x\nacu\nacg\n")
    folder = run(Fake(wild_type=None))
    frame = scan(folder, out=tmp_path / "scan", sequence=str(tmp_path / "one.fa"), quiet=True)
    assert "".join(frame.drop_duplicates("position")["from"]) == "ACTACG"
    (tmp_path / "two.fa").write_text(">x\nACG\n>y\nACG\n")
    with pytest.raises(SubquadError, match="holds 2 sequences, and --sequence takes one"):
        scan(folder, out=tmp_path / "scan", sequence=str(tmp_path / "two.fa"), quiet=True)


@pytest.mark.parametrize(("length", "rows"), [(1, 1), (80, 1), (81, 2), (286, 4)])
def test_long_maps_are_wrapped_into_even_rows_that_hold_each_position_once(length, rows):
    found = pictures.rows_of(length)
    assert len(found) == rows
    assert [place for row in found for place in row] == list(range(length))
    assert max(map(len, found)) <= 80


def test_a_map_of_all_stops_and_one_of_nothing_are_drawn(tmp_path):
    letters = ALPHABETS["protein_stop"]
    nothing = np.full((21, 11), np.nan)
    for grid in (nothing, np.where(np.isnan(nothing), -1.0, 0.0)):
        pictures.heat_map(grid, "ACDEFGHIKLM", letters, label="x").savefig(tmp_path / "x.png")
    pictures.logo(preferences(np.zeros((21, 11))), letters, label="bits").savefig(tmp_path / "x.png")


def test_the_commands_scan_map_and_report_a_fitted_run(tmp_path, capsys):
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, (211, 7))
    # one row is a single mutant of the first, the wild type
    codes[1] = codes[0]
    codes[1, 2] = (codes[0, 2] + 1) % 4
    y = random.normal(size=4)[codes[:, 2]] * random.normal(size=4)[codes[:, 3]]
    sequences = ["".join("ACGT"[k] for k in row) for row in codes]
    pd.DataFrame({"sequence": sequences, "score": y}).to_csv(tmp_path / "t.csv", index=False)
    run, table = str(tmp_path / "run"), str(tmp_path / "t.csv")
    said = ["--epochs", "2", "--boosting-iterations", "10", "--wild-type", sequences[0], "--out", run, "--quiet"]
    assert main(["bio", "fit", table, *said]) == 0
    assert main(["bio", "scan", run, "--table", table, "--out", str(tmp_path / "scan")]) == 0
    assert main(["bio", "epistasis", run, "--out", str(tmp_path / "epistasis")]) == 0
    assert main(["bio", "report", run, "--out", str(tmp_path / "page.html")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("scan/scan.html", "epistasis/epistasis.html"):
        assert f"Next: open {tmp_path / name}" in shown
    assert (tmp_path / "page.html").read_text() == (tmp_path / "run" / "report.html").read_text()
    frame = pd.read_csv(tmp_path / "scan" / "scan.csv")
    assert len(frame) == 21
    assert frame["measured"].notna().sum() == 1
    assert len(pd.read_csv(tmp_path / "epistasis" / "pairs.csv")) == 21
