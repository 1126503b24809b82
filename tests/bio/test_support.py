"""What training does not support is marked by scan, epistasis and design, and the direction is stated."""

import numpy as np
import pandas as pd
import pytest
from support.bio_models import WILD, AdditiveModel, Landscape, run_design

from subquad.bio.analysis.settings import EpistasisSettings, ScanSettings
from subquad.bio.analysis.single_mutants import scan_table
from subquad.bio.commands.design import design
from subquad.bio.commands.epistasis import epistasis
from subquad.bio.commands.scan import scan
from subquad.bio.design_search.acquisition import Acquisition, draws_of_members, make_acquisition
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.metrics.conformal import fit_conformal
from subquad.bio.models.scorer import open_scorer
from subquad.bio.models.support import describe_quality
from subquad.bio.plots.maps import heat_map
from subquad.errors import SubquadError
from subquad.runs.storage import write_json

OBSERVED = [[0, 1, 2, 3]] * 3 + [[3]] + [[0, 1, 2, 3]] * 2 + [[2, -2]]
"""Letters of seven positions of DNA; the fourth and the last one were never mutated."""


def aligned(**config):
    model = AdditiveModel()
    model.schema = Landscape(7, "ACGT").schema
    model.config = config
    return model


def intervals():
    random = np.random.default_rng(0)
    truth = random.normal(size=97)
    return fit_conformal(truth, truth + random.normal(size=97), np.full(97, 0.5)).as_dict()


@pytest.mark.long
def test_letters_without_training_data_are_marked_in_the_scan_and_hatched_in_its_map(tmp_path, capsys):
    frame = scan(aligned(observed_letters=OBSERVED), ScanSettings(), out=tmp_path / "scan")
    unobserved = frame[frame["observed"] == "no"]
    assert sorted(unobserved["mutant"]) == ["G7A", "G7C", "G7T", "T4A", "T4C", "T4G"]
    text = (tmp_path / "scan" / "scan.html").read_text()
    warning = "6 of 21 single mutants have a letter that no training sequence had"
    assert warning in text
    assert warning in capsys.readouterr().err
    assert "Hatched: no training sequence had the letter" in text
    nothing = scan(aligned(), out=tmp_path / "unknown", quiet=True)
    assert nothing["observed"].isna().all()
    assert "Hatched" not in (tmp_path / "unknown" / "scan.html").read_text()


def test_the_heat_map_hatches_exactly_the_given_cells():
    cells = np.zeros((4, 7), dtype=bool)
    cells[[1, 3], [0, 5]] = True
    figure = heat_map(np.ones((4, 7)), WILD, "ACGT", label="x", unobserved=cells)
    axes = figure.axes[1]
    (hatched,) = [own for own in axes.patches if own.get_hatch()]
    places = {tuple(polygon.min(0) + 0.5) for polygon in hatched.get_path().to_polygons()}
    assert places == {(0.0, 1.0), (5.0, 3.0)}
    assert "not observed" in figure.legends[0].get_texts()[0].get_text()
    assert not heat_map(np.ones((4, 7)), WILD, "ACGT", label="x").legends


def test_the_cells_of_the_heat_map_say_mutation_effect_and_note():
    effects, notes = np.arange(28.0).reshape(4, 7), np.full((4, 7), "", dtype=object)
    notes[2, 5] = "not measured"
    effects[3, 0] = np.nan
    figure = heat_map(effects, "ACGTACG", "ACGT", label="x", offset=10, notes=notes)
    (texts,) = figure.cell_texts.values()
    assert texts[0][0] == "A11: wild type"
    assert texts[1][2] == "G13C: +9.000"
    assert texts[2][5] == "C16G: +19.000\nnot measured"
    assert texts[3][0] == "A11T: no value"


@pytest.mark.parametrize(
    ("direction", "side", "beyond"),
    [(None, "above the highest", "prediction > 75"), ("minimize", "below the lowest", "prediction < 60")],
)
def test_predictions_better_than_any_measurement_are_warned_about(tmp_path, capsys, direction, side, beyond):
    model = aligned(measured_range=[[60.0, 75.0]])
    frame = scan(model, ScanSettings(direction=direction), out=tmp_path / "scan")
    marked = frame[frame["beyond_measured"] == "yes"]
    assert marked["mutant"].tolist() == frame.query(beyond)["mutant"].tolist() != []
    text, printed = (tmp_path / "scan" / "scan.html").read_text(), capsys.readouterr().err
    for place in (text, printed):
        assert f"Warning: {len(marked)} of 21 single mutants are predicted {side} measurement" in place


@pytest.mark.parametrize("direction", [None, "maximize", "minimize"])
def test_the_direction_is_stated_or_called_an_assumption(tmp_path, capsys, direction):
    stated = {
        None: "assumed that a higher fitness is better, because --direction was not given",
        "maximize": "a higher fitness is better, as stated",
        "minimize": "a lower fitness is better, as stated",
    }[direction]
    model = Landscape(7, "ACGT")
    design(model, DesignSettings(direction=direction, number=3, generations=1), out=tmp_path / "designs")
    scan(model, ScanSettings(direction=direction), out=tmp_path / "scan")
    assert capsys.readouterr().err.count(stated) == 2
    assert stated in (tmp_path / "designs" / "design.html").read_text()
    assert stated in (tmp_path / "scan" / "scan.html").read_text()


def test_designs_and_single_mutants_have_the_interval_that_was_calibrated(tmp_path):
    model = Landscape(spread=0.5)
    saved = intervals()
    model.config |= {"selected": {"conformal": {"lyra": [saved]}}}
    width = saved["quantiles"][saved["levels"].index(0.9)]
    frame = run_design(model, tmp_path, number=5)
    half = width * (frame["prediction_std"] + saved["offset"])
    np.testing.assert_allclose(frame["prediction_low"], frame["prediction"] - half)
    np.testing.assert_allclose(frame["prediction_high"], frame["prediction"] + half)
    assert "90 % interval" in (tmp_path / "out" / "design.html").read_text()
    scanned = scan_table(open_scorer(model), model.wild_type)
    assert (scanned["prediction_low"] < scanned["prediction"]).all()
    assert run_design(Landscape(), tmp_path, "none", number=5)["prediction_low"].isna().all()


def test_designs_with_unobserved_letters_or_beyond_the_measurements_are_marked(tmp_path, capsys):
    model = Landscape(11)
    model.config = {"observed_letters": [[0, 1, 2]] * 11, "measured_range": [[-3.0, 4.0]]}
    settings = DesignSettings(number=13, generations=3, allow_unobserved=True)
    frame = design(model, settings, out=tmp_path / "all")
    unobserved = [any(mutant[-1] not in "ACD" for mutant in text.split(":")) for text in frame["mutants"]]
    assert (frame["observed"] == "no").tolist() == unobserved
    assert (frame["beyond_measured"] == "yes").tolist() == (frame["prediction"] > 4).tolist()
    printed, text = capsys.readouterr().err, (tmp_path / "all" / "design.html").read_text()
    for place in (printed, text):
        assert "designs have a letter that no training sequence had at the position" in place
        assert "designs are predicted above the highest measurement, 4" in place


@pytest.mark.long
def test_beta_of_a_model_with_a_single_member_is_refused_and_its_absence_is_stated(tmp_path, capsys):
    model = Landscape(members=1)
    with pytest.raises(SubquadError, match=r"which beta 0\.5 needs"):
        run_design(model, tmp_path, number=3, beta=0.5)
    assert not (tmp_path / "out").exists()
    design(model, DesignSettings(number=3, generations=1), out=tmp_path / "designs")
    assert "ranked by the prediction alone" in capsys.readouterr().err
    assert "ranked by the prediction alone" in (tmp_path / "designs" / "design.html").read_text()
    run_design(model, tmp_path, "mean", number=3, beta=0.0)
    assert "ranked by the prediction alone" not in (tmp_path / "mean" / "design.html").read_text()


@pytest.mark.long
def test_designs_keep_the_minimum_distance(tmp_path):
    frame = run_design(Landscape(), tmp_path, number=23, diversity=0.0, min_distance=3, max_mutations=3)
    texts = frame["sequence"].tolist()
    distances = [sum(a != b for a, b in zip(x, y, strict=True)) for k, x in enumerate(texts) for y in texts[:k]]
    assert min(distances) == 3
    free = run_design(Landscape(), tmp_path, "free", number=23, diversity=0.0, max_mutations=3)["sequence"].tolist()
    assert min(sum(a != b for a, b in zip(x, y, strict=True)) for k, x in enumerate(free) for y in free[:k]) < 3


@pytest.mark.long
def test_double_mutants_with_unobserved_letters_are_marked_in_epistasis(tmp_path, capsys):
    model = aligned(observed_letters=OBSERVED, measured_range=[[-1.0, 70.0]])
    pairs = epistasis(model, EpistasisSettings(), out=tmp_path / "epistasis")
    cycles = pd.read_csv(tmp_path / "epistasis" / "cycles.csv.gz")
    is_no = cycles["i"].isin([4, 7]) | cycles["j"].isin([4, 7])
    assert (cycles["observed"] == "no").tolist() == is_no.tolist()
    assert set(pairs.loc[pairs["observed_double_mutants"] == 0, ["i", "j"]].to_numpy().ravel()) == set(range(1, 8))
    assert (pairs.query("i in (4, 7) or j in (4, 7)")["observed_double_mutants"] == 0).all()
    text, printed = (tmp_path / "epistasis" / "epistasis.html").read_text(), capsys.readouterr().err
    for place in (text, printed):
        assert f"{int(is_no.sum())} of 189 predicted double mutants have a letter" in place
        assert f"{int((cycles['f_ij'] > 70).sum())} of 189 double mutants are predicted outside the measured" in place


def test_expected_improvement_is_the_mean_of_the_improvement():
    random = np.random.default_rng(0)
    mean, std = np.array([0.3, -0.5, 1.0]), np.array([0.4, 1.1, 0.0])
    for sign, best in ((1, 0.4), (-1, -0.1)):
        found = Acquisition(kind="ei", sign=sign, beta=1.0, best=best).value(mean, std)
        samples = mean + std * random.normal(size=(400_000, 3))
        np.testing.assert_allclose(found, np.maximum(sign * (samples - best), 0).mean(0), atol=5e-3)


def test_draws_are_members_in_proportion_to_their_weights():
    each = np.arange(3.0)[:, None] * np.ones((3, 5))
    found = draws_of_members(each, np.array([0.2, 0.0, 0.8]), 5000, np.random.default_rng(0))
    assert found.shape == (5000, 5)
    counts = np.bincount(found[:, 0].astype(int), minlength=3) / 5000
    np.testing.assert_allclose(counts, [0.2, 0, 0.8], atol=0.02)


@pytest.mark.parametrize("kind", ["ei", "thompson"])
def test_acquisitions_that_need_a_spread_refuse_a_single_member(kind):
    with pytest.raises(SubquadError, match=f"which acquisition {kind} needs"):
        make_acquisition(kind, None, beta=None, members=1, best=1.0)


def test_pages_say_how_good_the_model_is_and_where_it_places_the_wild_type(tmp_path):
    model = aligned(observed_letters=OBSERVED, selected={"conformal": {"lyra": [intervals()]}})
    assert "is unknown" in describe_quality(open_scorer(model))
    metrics = {"main_metric": "spearman", "rows": {"test": 1234}, "test": {"lyra": {"spearman": 0.5}}, "undefined": {}}
    model.directory = tmp_path
    write_json(tmp_path / "metrics.json", metrics)
    assert describe_quality(open_scorer(model)).endswith(
        "1,234 test rows of its fit the model (Lyra) reached Spearman 0.500."
    )
    metrics["test"]["lyra"]["spearman:score"] = 0.25
    metrics["intervals"] = {"test": {"lyra": {"spearman:score": [0.125, 0.375]}}}
    write_json(tmp_path / "metrics.json", metrics)
    quality = describe_quality(open_scorer(model))
    assert "Spearman, score 0.250 (95 % interval 0.125 to 0.375)" in quality
    scan(model, ScanSettings(), out=tmp_path / "scan")
    page = (tmp_path / "scan" / "scan.html").read_text()
    mean = open_scorer(model).scores([WILD])[0][0]
    assert quality in page
    assert f"The wild type is predicted at {mean:.3g} (90 % interval" in page
    metrics["undefined"] = {"spearman:score": "constant values"}
    write_json(tmp_path / "metrics.json", metrics)
    assert "is unknown" in describe_quality(open_scorer(model))
