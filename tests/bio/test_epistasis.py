import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.bio_models import AdditiveModel

from subquad.bio.analysis.cycles import (
    additive_fit,
    by_pair,
    letters_of,
    measured_cycles,
    predicted_cycles,
    specific_epistasis,
)
from subquad.bio.analysis.landscape import measured_landscape, pair_tables, predicted_landscape
from subquad.bio.analysis.settings import EpistasisSettings
from subquad.bio.commands.epistasis import epistasis
from subquad.bio.models.scorer import open_scorer
from subquad.bio.plots.pair_maps import pair_map, pair_stems
from subquad.errors import SubquadError

DATA = os.environ.get("SUBQUAD_DATA")
WILD = "ACGTACG"


def codes_of(sequences, wild_type=WILD):
    return letters_of(sequences), np.frombuffer(wild_type.encode(), np.uint8)


def change(*changes, wild_type=WILD):
    letters = list(wild_type)
    for place, letter in changes:
        letters[place - 1] = letter
    return "".join(letters)


def all_doubles(effect, extra=lambda a, b: 0.0, wild_type=WILD):
    """Return all single and double mutants with their values, effects added up, and what pairs add."""
    singles = [(t + 1, c) for t, own in enumerate(wild_type) for c in "ACGT" if c != own]
    rows = {wild_type: 0.0}
    rows |= {change(a, wild_type=wild_type): effect(*a) for a in singles}
    for a, b in itertools.combinations(singles, 2):
        if a[0] != b[0]:
            rows[change(a, b, wild_type=wild_type)] = effect(*a) + effect(*b) + extra(a, b)
    return list(rows), np.array(list(rows.values()))


def test_a_cycle_is_the_value_of_the_double_less_the_sum_of_both_singles():
    rows = {WILD: 10.0, change((1, "C")): 9.0, change((3, "T")): 8.0, change((1, "C"), (3, "T")): 4.0}
    found = measured_cycles(*codes_of(list(rows)), np.array(list(rows.values())))
    assert len(found.frame) == 1
    row = found.frame.iloc[0]
    assert (row["first"], row["second"], row["i"], row["j"]) == ("A1C", "G3T", 1, 3)
    # 4 - 9 - 8 + 10
    assert row["epistasis"] == -3
    assert found.single_effects == "measured single mutants and wild type"


def test_repeated_rows_are_averaged():
    names = [WILD, change((1, "C")), change((3, "T")), change((1, "C"), (3, "T")), change((1, "C"), (3, "T"))]
    found = measured_cycles(*codes_of(names), np.array([0.0, 1.0, 2.0, 5.0, 7.0]))
    assert found.frame["epistasis"].tolist() == [3.0]


def test_without_the_wild_type_its_value_closes_half_of_the_cycles():
    names, y = all_doubles(lambda place, letter: place)
    found = measured_cycles(*codes_of(names[1:]), y[1:] + 2.0)
    np.testing.assert_allclose(found.frame["epistasis"], 0, atol=1e-9)
    assert "the wild type is missing from the table" in found.single_effects


def test_without_singles_an_additive_fit_finds_the_pair_that_does_not_add_up():
    pair = {(2, "G"), (5, "T")}
    names, y = all_doubles(lambda place, letter: -place / 5, lambda a, b: 3.0 * ({a, b} == pair))
    letters, own = codes_of(names)
    is_double_stranded = (letters != own).sum(1) == 2
    found = measured_cycles(letters[is_double_stranded], own, y[is_double_stranded])
    assert "a least-squares additive model" in found.single_effects
    first = found.frame.loc[found.frame["epistasis"].idxmax()]
    assert (first["first"], first["second"]) == ("C2G", "A5T")
    assert first["epistasis"] > 2
    assert by_pair(found.frame).iloc[0][["i", "j"]].tolist() == [2, 5]


def test_the_additive_fit_takes_rows_of_few_changes_and_predicts_all():
    names, y = all_doubles(lambda place, letter: place)
    letters, own = codes_of([*names, change((1, "C"), (2, "A"), (3, "A"))])
    fitted = additive_fit(letters, own, np.append(y, 1e6))
    # the row of three changes, which is far off, is not learned from
    assert np.abs(fitted[:-1] - y).max() < 0.5
    assert fitted[-1] == pytest.approx(6, abs=0.5)


def test_a_curve_takes_what_comes_from_the_scale_and_leaves_what_belongs_to_a_pair():
    random = np.random.default_rng(0)
    value = random.normal(size=701)
    frame = pd.DataFrame({"expected": value, "f_ij": np.maximum(value, -0.5), "i": 1, "j": 2})
    frame["epistasis"] = frame["f_ij"] - frame["expected"]
    left, _ = specific_epistasis(frame)
    assert frame["epistasis"].abs().max() > 1
    assert np.abs(left).max() < 1e-9
    frame.loc[7, "f_ij"] += 5
    assert np.abs(specific_epistasis(frame)[0]).argmax() == 7


def cycles_of(model, *, wild_type=WILD, doubles=None, max_double_mutants=50_000):
    options = {"doubles": doubles, "max_double_mutants": max_double_mutants, "seed": 0, "quiet": True}
    return predicted_cycles(open_scorer(model), wild_type, **options)


def test_an_additive_model_has_no_epistasis_and_a_product_has_its_own():
    class Product(AdditiveModel):
        def value(self, sequence):
            # letters 2 and 5 count only together
            return (sequence[1] == "G") * (sequence[4] == "T") + 0.25 * (sequence[0] == "C")

    plain = cycles_of(AdditiveModel(members=1)).frame
    assert len(plain) == 21 * 9
    np.testing.assert_allclose(plain["epistasis"], 0, atol=1e-9)
    found = cycles_of(Product(members=1)).frame
    assert found["epistasis"].sum() == 1
    assert found.loc[found["epistasis"].idxmax(), "first"] == "C2G"


def test_the_epistasis_of_a_class_is_in_log_odds():
    model = AdditiveModel("binary", classes=("no", "yes"), members=1)
    found = cycles_of(model)
    np.testing.assert_allclose(found.frame["epistasis"], 0, atol=1e-6)


def test_double_mutants_are_subsampled_evenly_and_the_page_states_it():
    found = cycles_of(AdditiveModel(members=1), max_double_mutants=43)
    assert found.frame.groupby(["i", "j"]).size().tolist() == [2] * 21
    assert "42 of 189 double mutants were sampled" in found.single_effects
    # fewer than there are pairs of positions: those with the largest effects, which are the last ones
    few = cycles_of(AdditiveModel(members=1), wild_type="AAAAAAA", max_double_mutants=3)
    assert set(few.frame["i"]) | set(few.frame["j"]) == {5, 6, 7}
    assert "only the 3 of 7 positions with the largest single-mutant effects were paired" in few.single_effects
    assert "3 of 189 double mutants were sampled" in few.single_effects


def test_only_the_requested_double_mutants_are_predicted():
    doubles = [((0, "C"), (2, "T")), ((1, "G"), (4, "T"))]
    found = cycles_of(AdditiveModel(members=1), doubles=doubles).frame
    assert found["second"].tolist() == ["G3T", "A5T"]


def landscape(S, terms, letters="AC"):
    """Return all combinations of two letters at S sites, and the sum of products of signs, +1 for the first letter."""
    choices = np.array(list(itertools.product((0, 1), repeat=S)))
    signs = 1 - 2 * choices
    y = sum(weight * signs[:, list(sites)].prod(1) for sites, weight in terms.items())
    return ["".join(letters[k] for k in row) for row in choices], np.asarray(y, dtype=float)


def test_rows_without_doubles_or_combinations_are_refused():
    names = [WILD, change((1, "C")), change((2, "T"))]
    with pytest.raises(SubquadError, match="no double mutants of the wild type"):
        measured_landscape(names, np.arange(3.0), WILD)


def test_a_table_without_a_row_of_the_wild_types_length_is_refused():
    with pytest.raises(SubquadError, match=r"no measured row of the table has 4 letters, as the wild type has"):
        measured_landscape(["ACG", "ACT"], np.arange(2.0), "ACGT")


def test_sequences_of_other_lengths_are_skipped_with_a_remark():
    names, y = all_doubles(lambda place, letter: place)
    found, remarks = measured_landscape([*names, "ACG"], np.append(y, 1.0), None)
    assert found.wild_type == WILD
    assert remarks[0] == "skipped 1 rows of another length or without a measurement"
    assert remarks[1].startswith("wild type: inferred as the most frequent letter at each position")


@pytest.mark.long
def test_measured_and_predicted_stand_beside_each_other_on_the_page(tmp_path):
    names, y = landscape(5, {(): 5.0, (0,): 2.0, (1, 2): 1.0, (0, 3, 4): 1.0})
    pd.DataFrame({"sequence": names, "score": y}).to_csv(tmp_path / "t.csv", index=False)
    model = AdditiveModel(members=1, wild_type="AAAAA")
    settings = EpistasisSettings(table=str(tmp_path / "t.csv"))
    pairs = epistasis(model, settings, out=tmp_path / "out", quiet=True)
    assert len(pairs) == 10
    assert {"rms", "predicted_rms"} <= set(pairs)
    cycles = pd.read_csv(tmp_path / "out" / "cycles.csv.gz")
    assert {"epistasis", "predicted_epistasis"} <= set(cycles)
    np.testing.assert_allclose(cycles["predicted_epistasis"], 0, atol=1e-9)
    text = (tmp_path / "out" / "epistasis.html").read_text()
    assert "http" not in text
    for name in ("pairs.png", "pairs.pdf"):
        assert (tmp_path / "out" / name).stat().st_size > 1000, name


def predicted(model, **options):
    scorer = open_scorer(model)
    return predicted_landscape(
        scorer, model.wild_type, measured=None, max_double_mutants=1000, seed=0, quiet=True, **options
    )


def test_pairs_are_sorted_by_specific_epistasis_where_a_curve_was_fitted():
    wild_type = "ACGTACGTACGT"
    # saturation bends all sums, and one pair of positions has an effect of its own
    sequences, values = all_doubles(
        lambda place, letter: 0.1 * place * "ACGT".index(letter),
        lambda a, b: 3.0 if (a[0], b[0]) == (1, 2) else 0.0,
        wild_type=wild_type,
    )
    bent, _ = measured_landscape(sequences, 5 * np.tanh(values / 3), wild_type)
    pairs, _ = pair_tables(bent)
    assert (pairs["i"].iloc[0], pairs["j"].iloc[0]) == (1, 2)
    assert pairs["rms_specific"].is_monotonic_decreasing
    assert not pairs["rms"].is_monotonic_decreasing


@pytest.mark.long
def test_predictions_of_a_class_are_in_log_odds_and_its_measurements_have_no_detection_limit(tmp_path):
    names, y = landscape(5, {(): 0.0, (0,): 1.0, (1, 2): 0.5})
    pd.DataFrame({"sequence": names, "score": np.where(y > 0, "yes", "no")}).to_csv(tmp_path / "t.csv", index=False)
    model = AdditiveModel("binary", classes=("no", "yes"), members=1, wild_type="AAAAA")
    epistasis(model, EpistasisSettings(table=str(tmp_path / "t.csv")), out=tmp_path / "out", quiet=True)
    # the effects of the model add up in log odds only
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out" / "cycles.csv.gz")["predicted_epistasis"], 0, atol=1e-9)
    text = (tmp_path / "out" / "epistasis.html").read_text()
    assert "Predictions are in log odds; measurements are 0 or 1." in text
    assert "predicted epistasis (log odds)" in text
    assert "equal the lowest value" not in text
    epistasis(tmp_path / "t.csv", out=tmp_path / "table", quiet=True)
    text = (tmp_path / "table" / "epistasis.html").read_text()
    assert "log odds" not in text
    assert "equal the lowest value" not in text


def test_signed_values_have_diverging_colours_also_if_all_are_positive():
    values = np.array([[np.nan, 0.5], [0.5, np.nan]])
    for signed, name in (((), "magma_r"), (("cycles",), "RdBu")):
        figure = pair_map({"cycles": values}, labels=["A1", "C2"], axis="site", signed=signed)
        assert figure.axes[0].images[0].get_cmap().name == name


def test_stems_between_the_rows_of_a_long_sequence_are_drawn_once():
    positions = np.array([1.0, 150.0, 150.5, 151.0, 300.0]) + 7
    figure = pair_stems(positions, {"measured": np.ones(5)}, length=300, label="rms", offset=7)
    drawn = [[segment[0, 0] for segment in axes.collections[0].get_segments()] for axes in figure.axes]
    assert drawn == [[8.0, 157.0, 157.5], [158.0, 307.0]]


@pytest.mark.parametrize(
    ("is_table", "unused", "message"),
    [
        (True, {"table": "t.csv"}, "a table has measurements and no model that predicts; leave out --table"),
        (True, {"max_double_mutants": 7}, "leave out --max-double-mutants"),
        (
            False,
            {"sequence": "s"},
            "reads sequences, variants and positions as in the table of its fit; leave out --seq",
        ),
        (False, {"mutant": "m"}, "leave out --mutant"),
        (False, {"offset": 0}, "leave out --offset"),
    ],
)
def test_settings_without_an_effect_are_refused(tmp_path, is_table, unused, message):
    (tmp_path / "t.csv").write_text("sequence,score\nACGT,1\n")
    source = tmp_path / "t.csv" if is_table else AdditiveModel()
    with pytest.raises(SubquadError, match=message):
        epistasis(source, EpistasisSettings(**unused), out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_the_epistasis_of_a_table_is_found_and_written(tmp_path):
    names, y = all_doubles(lambda place, letter: place / 7, lambda a, b: float(a[0] == 1 and b[0] == 7))
    pd.DataFrame({"sequence": names, "score": y}).to_csv(tmp_path / "t.csv", index=False)
    pairs = epistasis(tmp_path / "t.csv", out=tmp_path / "out", quiet=True)
    assert pairs.iloc[0][["i", "j"]].tolist() == [1, 7]
    assert pairs.iloc[0]["rms"] == pytest.approx(1)
    assert pairs.iloc[1]["rms"] == pytest.approx(0, abs=1e-9)
    with pytest.raises(SubquadError, match="exists already"):
        epistasis(tmp_path / "t.csv", out=tmp_path / "out", quiet=True)


@pytest.mark.long
@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="SUBQUAD_DATA is not set")
def test_half_a_million_double_mutants_of_gb1_show_a_contact(tmp_path):
    table = Path(DATA) / "bio" / "dms" / "gb1_double_olson2014.csv.gz"
    pairs = epistasis(table, out=tmp_path / "out", quiet=True)
    assert len(pairs) == 55 * 54 / 2
    # Gly41 and Val54 of the protein, whose first residue is not in the construct
    top = pairs.sort_values("rms_specific", ascending=False).head(10)
    assert [40, 53] in top[["i", "j"]].to_numpy().tolist()
