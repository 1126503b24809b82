import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from support.bio_models import WILD, AdditiveModel

from subquad.bio.analysis import scan_page
from subquad.bio.analysis.scan_page import grid_of, information
from subquad.bio.analysis.settings import ScanSettings
from subquad.bio.analysis.single_mutants import scan_table, single_mutants
from subquad.bio.commands.design import design
from subquad.bio.commands.epistasis import epistasis
from subquad.bio.commands.scan import scan
from subquad.bio.models import scorer as scorer_module
from subquad.bio.models.scorer import open_scorer
from subquad.bio.plots.maps import heat_map, logo, rows_of
from subquad.bio.settings import ALPHABETS
from subquad.errors import SubquadError
from subquad.runs.storage import read_json, write_json


@pytest.fixture
def with_run(tmp_path):
    """Return a function that gives a model a run folder with test rows."""

    def make(model, mutations=None, **columns):
        model.directory = tmp_path / "run"
        model.directory.mkdir()
        rows = columns or {"sequence": ["CCGTACG", "GCGTACG", "ACGTACC"], "measured": [1.0, 2.0, 3.0]}
        pd.DataFrame(rows).to_csv(model.directory / "test.csv", index=False)
        write_json(model.directory / "metrics.json", {"audit": {"mutations": mutations or {"0": 1, "2": 5}}})
        return model

    return make


def test_a_scan_holds_each_single_mutant_with_its_difference_to_the_wild_type():
    frame = scan_table(open_scorer(AdditiveModel()), WILD, measured={"CCGTACG": 5.0})
    assert len(frame) == 7 * 3
    row = frame.set_index("mutant").loc["G3T"]
    # T is letter 3, G is 2, at position 3: one step of 3, and the mean of the members is one and a half times it
    assert row["difference"] == pytest.approx(3 * 1.5)
    assert row["difference_std"] == pytest.approx(np.std([3.0, 6.0], ddof=1))
    assert (row["position"], row["from"], row["to"]) == (3, "G", "T")
    assert frame.set_index("mutant").loc["A1C", "measured"] == 5.0
    assert frame["measured"].notna().sum() == 1
    assert scan_table(open_scorer(AdditiveModel(members=1)), WILD)["difference_std"].isna().all()


def test_sequences_are_scored_the_same_in_batches(monkeypatch):
    sequences = [WILD[:k] + "T" + WILD[k + 1 :] for k in range(7)]
    scorer = open_scorer(AdditiveModel())
    at_once = scorer.scores(sequences)[0]
    monkeypatch.setattr(scorer_module, "BATCH", 2)
    np.testing.assert_array_equal(scorer.scores(sequences)[0], at_once)


def test_only_the_requested_positions_are_mutated():
    assert {position for position, _ in single_mutants("ACGT", "ACGT", [2])} == {2}
    assert len(single_mutants("ACNG", "ACGT")) == 3 + 3 + 4 + 3


def test_the_heat_map_has_each_effect_in_its_cell():
    grid = grid_of(scan_table(open_scorer(AdditiveModel(members=1)), WILD), 7, "ACGT")
    assert np.isnan(grid["ACGT".find("G"), 2])
    assert grid["ACGT".find("T"), 4] == 3 * 5
    assert np.isnan(grid).sum() == 7


def test_letters_of_a_logo_are_as_high_as_their_information():
    grid = np.zeros((4, 2))
    # one position without preference, and one where a letter is far above the others
    grid[1, 1] = 800.0
    grid[[0, 2, 3], 1] = -800.0
    heights = information(grid)
    np.testing.assert_allclose(heights[0], 0, atol=1e-9)
    # the effect is 2 in units of the mean size, which is 400 over 8 cells: shares e^4 and 3 of 1
    share = np.array([1, np.exp(4), 1, 1]) / (3 + np.exp(4))
    np.testing.assert_allclose(heights[1], share * (2 + (share * np.log2(share)).sum()), rtol=1e-6)


def test_scan_writes_table_figures_and_a_page(with_run, tmp_path):
    frame = scan(with_run(AdditiveModel()), out=tmp_path / "scan", quiet=True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "scan" / "scan.csv"), frame)
    assert frame["measured"].notna().sum() == 3
    for name in ("heatmap.png", "heatmap.pdf", "logo.png", "logo.pdf"):
        assert (tmp_path / "scan" / name).stat().st_size > 1000, name
    text = (tmp_path / "scan" / "scan.html").read_text()
    assert "extrapolation" not in text
    assert "21 single mutants of a wild type of 7 letters" in text
    assert text.count("<figure") == 3
    assert "http" not in text
    assert f"All single mutants: {read_json(tmp_path / 'scan' / 'scan.json')['target']}" in text


def test_the_page_warns_if_the_wild_type_is_an_extrapolation(with_run, tmp_path):
    scan(with_run(AdditiveModel(), mutations={"2": 5, "3": 7}), out=tmp_path / "scan", quiet=True)
    assert "all of its variants have 2 or more mutations" in (tmp_path / "scan" / "scan.html").read_text()


@pytest.mark.parametrize(("direction", "best"), [("maximize", "high"), ("minimize", "low")])
def test_the_logo_shows_the_letters_that_are_better(with_run, tmp_path, monkeypatch, direction, best):
    drawn = []
    monkeypatch.setattr(
        scan_page,
        "logo",
        lambda heights, letters, **options: drawn.append(heights) or logo(heights, letters, **options),
    )
    frame = scan(with_run(AdditiveModel()), ScanSettings(direction=direction), out=tmp_path / "scan", quiet=True)
    position = frame.groupby("position")["difference"].apply(lambda own: own.abs().max()).idxmax()
    own = frame[frame["position"] == position].set_index("to")["difference"]
    own = pd.concat([own, pd.Series({WILD[position - 1]: 0.0})])
    expected = own.idxmin() if direction == "minimize" else own.idxmax()
    assert "ACGT"[int(drawn[0][position - 1].argmax())] == expected
    assert f"{best} predictions are preferred" in (tmp_path / "scan" / "scan.html").read_text()


def test_an_existing_scan_is_overwritten_only_with_force(with_run, tmp_path):
    model = with_run(AdditiveModel())
    scan(model, out=tmp_path / "scan", quiet=True)
    with pytest.raises(SubquadError, match="exists already"):
        scan(model, out=tmp_path / "scan", quiet=True)
    scan(model, out=tmp_path / "scan", force=True, quiet=True)


@pytest.mark.parametrize("command", [scan, epistasis, design])
def test_a_folder_of_other_files_is_kept_even_with_force(command, with_run, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    with pytest.raises(SubquadError, match="notes: not empty, and no bio "):
        command(with_run(AdditiveModel()), out=tmp_path / "notes", force=True, quiet=True)
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["thesis.txt"]


def test_positions_that_did_not_vary_in_training_are_skipped(with_run, tmp_path):
    model = with_run(AdditiveModel())
    model.positions = np.array([1, 4])
    frame = scan(model, out=tmp_path / "scan", quiet=True)
    assert sorted(set(frame["position"])) == [2, 5]


@pytest.mark.parametrize(("task_type", "classes"), [("binary", ("no", "yes")), ("multiclass", ("x", "y", "z"))])
def test_classes_are_scanned_by_their_probability(with_run, tmp_path, task_type, classes):
    columns = {"sequence": ["CCGTACG", "ACGTACC"], "measured": [classes[1], classes[0]]}
    model = with_run(AdditiveModel(task_type, classes=classes, members=1), **columns)
    frame = scan(model, ScanSettings(target=classes[1]), out=tmp_path / "scan", quiet=True)
    assert frame["prediction"].between(0, 1).all()
    assert frame.set_index("mutant").loc["A1C", "measured"] == 1
    assert frame.set_index("mutant").loc["G7C", "measured"] == 0
    with pytest.raises(SubquadError, match="no target or class 'none'"):
        scan(model, ScanSettings(target="none"), out=tmp_path / "other", quiet=True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("model", "cells", "expected"),
    [
        (AdditiveModel("binary", classes=("0", "1")), ["1.0", "0.0"], [1, 0]),
        (AdditiveModel("multiclass", classes=("x", "y", "z")), ["y", "x"], [0, 1]),
        (AdditiveModel("multilabel", names=("a", "score")), ["1", "0"], [1, 0]),
        (AdditiveModel(), ["0,25", "\u22121,5"], [0.25, -1.5]),
    ],
)
def test_measurements_of_a_table_are_read_as_the_fit_reads_them(tmp_path, model, cells, expected):
    pd.DataFrame({"sequence": ["CCGTACG", "ACGTACC"], "score": cells}).to_csv(tmp_path / "t.csv", index=False)
    model.names = model.names if "score" in model.names else ["score"]
    target = {"multiclass": "x", "multilabel": "score"}.get(model.task_type)
    settings = ScanSettings(target=target, table=str(tmp_path / "t.csv"))
    frame = scan(model, settings, out=tmp_path / "scan", quiet=True).set_index("mutant")
    assert frame.loc[["A1C", "G7C"], "measured"].tolist() == expected
    assert frame["measured"].notna().sum() == 2


def test_measurements_that_the_fit_would_refuse_are_refused(tmp_path):
    pd.DataFrame({"sequence": ["CCGTACG"], "score": ["w"]}).to_csv(tmp_path / "t.csv", index=False)
    settings = ScanSettings(table=str(tmp_path / "t.csv"))
    with pytest.raises(SubquadError, match=r"classes that the fit does not have \(x, y\):\s+row 1: 'w'"):
        scan(AdditiveModel("binary", classes=("x", "y")), settings, out=tmp_path / "scan", quiet=True)
    with pytest.raises(SubquadError, match="finite numbers"):
        scan(AdditiveModel(), settings, out=tmp_path / "scan", quiet=True)
    assert not (tmp_path / "scan").exists()


def test_one_of_several_targets_is_scanned(with_run, tmp_path):
    columns = {"sequence": ["CCGTACG"], "measured:one": [1.0], "measured:two": [7.0]}
    model = with_run(AdditiveModel(names=("one", "two")), **columns)
    frame = scan(model, ScanSettings(target="two"), out=tmp_path / "scan", quiet=True)
    assert frame.set_index("mutant").loc["A1C", "measured"] == 7.0
    assert frame.set_index("mutant").loc["A1C", "difference"] == pytest.approx(2 * 1.5)


@pytest.mark.parametrize(
    ("task_type", "columns", "result"),
    [
        ("residue_binary", ["position", "letter", "score"], "along the 7 letters of the sequence: score from "),
        ("residue_multiclass", ["position", "letter", "H", "E", "C"], r"H from \S+ at [ACGT]\d to \S+ at [ACGT]\d; E"),
        ("pairs", ["first", "second", "probability"], r"1 likely base pair among .* most probable one is \d–\d"),
    ],
)  # fmt: skip
def test_residues_and_base_pairs_are_shown_along_the_sequence(with_run, tmp_path, task_type, columns, result):
    classes = ("H", "E", "C") if task_type == "residue_multiclass" else ()
    model = with_run(AdditiveModel(task_type, classes=classes))
    frame = scan(model, out=tmp_path / "scan", quiet=True)
    assert list(frame.columns) == columns
    assert len(frame) == (1 if task_type == "pairs" else 7)
    long = scan(model, ScanSettings(sequence=WILD * 61), out=tmp_path / "long", quiet=True)
    assert len(long) == (1 if task_type == "pairs" else 427)
    assert (tmp_path / "scan" / "profile.pdf").is_file()
    page = (tmp_path / "scan" / "scan.html").read_text()
    assert "<figure" in page
    assert re.search(result, page.split("<header>")[1].split("</header>")[0])


@pytest.mark.parametrize(
    ("wild_type", "sequence", "message"),
    [
        (
            None,
            None,
            "the run has no wild type; give the sequence with --sequence",
        ),
        (WILD, "ACXTE", "'X' at position 3"),
        (WILD, "none.fa", "none.fa: no such file"),
    ],
)
def test_a_sequence_that_cannot_be_scanned_is_refused(with_run, tmp_path, wild_type, sequence, message):
    with pytest.raises(SubquadError) as error:
        scan(with_run(AdditiveModel(wild_type=wild_type)), ScanSettings(sequence=sequence), out=tmp_path / "scan")
    assert message in str(error.value)
    assert not (tmp_path / "scan").exists()


def test_a_sequence_of_another_length_is_refused_in_one_sentence(with_run, tmp_path):
    model = with_run(AdditiveModel())
    model.schema = replace(model.schema, length=7, is_aligned=True)
    with pytest.raises(SubquadError) as error:
        scan(model, ScanSettings(sequence="MKV"), out=tmp_path / "scan")
    assert str(error.value) == "--sequence has 3 letters, but the model reads aligned ones of 7"


def test_a_fasta_file_with_one_sequence_is_read(with_run, tmp_path):
    (tmp_path / "one.fa").write_text(">x\nacu\nacg\n")
    model = with_run(AdditiveModel(wild_type=None))
    frame = scan(model, ScanSettings(sequence=str(tmp_path / "one.fa")), out=tmp_path / "scan", quiet=True)
    assert "".join(frame.drop_duplicates("position")["from"]) == "ACTACG"
    (tmp_path / "two.fa").write_text(">x\nACG\n>y\nACG\n")
    with pytest.raises(SubquadError, match="--sequence takes one sequence"):
        scan(model, ScanSettings(sequence=str(tmp_path / "two.fa")), out=tmp_path / "other", quiet=True)


@pytest.mark.parametrize("task_type", ["residue_binary", "pairs"])
@pytest.mark.parametrize("unused", [{"target": "score"}, {"table": "t.csv"}])
def test_settings_of_single_mutants_are_refused_for_residues_and_base_pairs(tmp_path, capsys, task_type, unused):
    what = "base pairs" if task_type == "pairs" else "residues"
    message = f"the model predicts {what} along one sequence; leave out --{next(iter(unused))}"
    with pytest.raises(SubquadError, match=message):
        scan(AdditiveModel(task_type), ScanSettings(**unused), out=tmp_path / "scan", quiet=True)
    assert not (tmp_path / "scan").exists()
    scan(AdditiveModel(task_type), ScanSettings(direction="minimize"), out=tmp_path / "scan")
    assert f"--direction has no effect: the model predicts {what}" in " ".join(capsys.readouterr().err.split())


def test_a_short_map_between_two_tens_has_a_number(tmp_path):
    figure = logo(np.ones((6, 4)), "ACGT", label="bits", offset=41)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["42"]


@pytest.mark.parametrize(("length", "rows"), [(1, 1), (80, 1), (81, 2), (286, 4)])
def test_long_maps_are_wrapped_into_even_rows_that_hold_each_position_once(length, rows):
    found = rows_of(length)
    assert len(found) == rows
    assert [position for row in found for position in row] == list(range(length))
    assert max(map(len, found)) <= 80


def test_a_map_of_all_stops_and_one_of_nothing_are_drawn(tmp_path):
    letters = ALPHABETS["protein_stop"]
    nothing = np.full((21, 11), np.nan)
    for grid in (nothing, np.where(np.isnan(nothing), -1.0, 0.0)):
        figure = heat_map(grid, "ACDEFGHIKLM", letters, label="x")
        figure.savefig(tmp_path / "x.png")
        cells = figure.axes[1].images[0]
        np.testing.assert_array_equal(np.ma.filled(cells.get_array(), np.nan), grid)
        assert cells.get_clim() == (-1, 1)
    figure = logo(information(np.zeros((21, 11))), letters, label="bits")
    figure.savefig(tmp_path / "x.png")
    assert figure.axes[0].get_ylim() == (0, 1.02)
