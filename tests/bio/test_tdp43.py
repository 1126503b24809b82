"""Quality of scan, design and epistasis on the deep mutational scan that ships with the package, TDP-43.

An ensemble is fitted to double mutants, and evaluated on single mutants and on other double mutants. Each floor must
fail for the same ensemble with shuffled weights.
"""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from support.weights import shuffle

from subquad.bio import (
    BioModel,
    DesignSettings,
    EpistasisSettings,
    FitSettings,
    design,
    epistasis,
    fit,
    resolve_table,
    scan,
)
from subquad.bio.data.dataset import Target
from subquad.bio.metrics.scores import score
from subquad.bio.models.baselines import Baseline, baseline_file
from subquad.runs.storage import read_json

pytestmark = pytest.mark.long

WILD = "GNSRGGGAGLGNNQGSNMGGGMNFGAFSINPAMMAAAQAALQSSWGMMGMLASQQNQSGPSGNNQNQGNMQREPNQAFGSGNNS"
FLOOR = 0.5
"""Spearman correlation on single mutants."""
HELIX = range(31, 43)
"""Positions of residues 320 to 331, a helix with epistasis between its residues (Bolognesi et al. 2019)."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Return a table to fit on, whose test rows are the single mutants, and one of other double mutants."""
    folder = tmp_path_factory.mktemp("tdp43")
    rows = pd.read_csv(resolve_table("example:tdp43"))
    mutations = rows["sequence"].map(lambda text: sum(a != b for a, b in zip(text, WILD, strict=True)))
    doubles = rows[mutations == 2].sample(4500, random_state=0)
    singles = rows[mutations == 1].assign(split="test")
    training = doubles[:4000].assign(split=np.where(np.arange(4000) % 10, "train", "validation"))
    pd.concat([training, singles]).to_csv(folder / "fit.csv", index=False)
    pd.concat([singles, doubles[4000:]]).drop(columns="split").to_csv(folder / "other.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def runs(tables):
    """Return the folders of a fitted ensemble and of the same one with shuffled weights."""
    models = ("ridge", "mlp", "lyra")
    settings = FitSettings(wild_type=WILD, models=models, epochs=1.0, ensemble_size=1, leak_distance=0)
    fit(tables / "fit.csv", settings, out=tables / "fitted", quiet=True)
    shutil.copytree(tables / "fitted", tables / "shuffled")
    shuffle(tables / "shuffled")
    file = baseline_file(tables / "shuffled", "ridge")
    ridge = Baseline.load(file)
    weight = np.random.default_rng(0).permuted(ridge.model.weight, axis=1)
    replace(ridge, model=replace(ridge.model, weight=weight)).save(file)
    return tables / "fitted", tables / "shuffled"


def test_the_metrics_of_a_fit_are_those_of_the_saved_models(runs):
    fitted, shuffled = runs
    metrics, test = read_json(fitted / "metrics.json")["test"], pd.read_csv(fitted / "test.csv")
    truth = Target(task_type="regression", y=test[["measured"]].to_numpy())

    def spearman(run, name=None):
        model = BioModel.load(run)
        return score(truth, model.predict(model.inputs_of(test["sequence"]), name))["spearman"]

    assert spearman(fitted) == pytest.approx(metrics["ensemble"]["spearman"], abs=1e-6)
    assert spearman(shuffled) < FLOOR / 2
    for name in ("ridge", "mlp", "lyra", "ensemble"):
        assert metrics[name]["spearman"] > FLOOR
        assert spearman(fitted, name) == pytest.approx(metrics[name]["spearman"], abs=1e-6)
        assert spearman(shuffled, name) < FLOOR / 2


def test_a_scan_predicts_the_measured_single_mutants(runs, tmp_path):
    def correlation(run):
        frame = scan(run, out=tmp_path / run.name, quiet=True).dropna(subset="measured")
        assert len(frame) > 1000
        return spearmanr(frame["measured"], frame["difference"]).statistic

    fitted, shuffled = map(correlation, runs)
    assert fitted > 0.45
    assert shuffled < 0.45


def test_designed_single_mutants_have_high_measurements(runs, tables, tmp_path):
    rows = pd.read_csv(tables / "fit.csv")
    measured = rows[rows["split"] == "test"].set_index("sequence")["toxicity"]

    def rank(run):
        settings = DesignSettings(max_mutations=1, number=50, diversity=0.0, allow_measured=True)
        frame = design(run, settings, out=tmp_path / run.name, quiet=True)
        return measured.rank(pct=True)[frame["sequence"][frame["sequence"].isin(measured.index)]].mean()

    fitted, shuffled = map(rank, runs)
    assert fitted > 0.75
    assert shuffled < 0.75


def test_a_model_predicts_double_mutants_that_it_was_not_trained_on(runs, tables, tmp_path):
    def correlation(run):
        settings = EpistasisSettings(table=str(tables / "other.csv"))
        epistasis(run, settings, out=tmp_path / run.name, quiet=True)
        cycles = pd.read_csv(tmp_path / run.name / "cycles.csv.gz")
        return spearmanr(cycles["f_ij"], cycles["predicted_f_ij"]).statistic

    fitted, shuffled = map(correlation, runs)
    assert fitted > 0.7
    assert shuffled < 0.7


def test_the_strongest_epistasis_is_in_the_helix(tables, tmp_path):
    rows = pd.read_csv(resolve_table("example:tdp43")).drop(columns="split")
    shuffled = rows.assign(toxicity=rows["toxicity"].sample(frac=1, random_state=0).to_numpy())

    def in_helix(name, frame):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        settings = EpistasisSettings(wild_type=WILD, target="toxicity")
        pairs = epistasis(tmp_path / f"{name}.csv", settings, out=tmp_path / name, quiet=True)
        strongest = pairs[pairs["double_mutants"] >= 20].head(20)
        return (strongest["i"].isin(HELIX) & strongest["j"].isin(HELIX)).mean()

    # 4 % of all pairs are
    assert in_helix("measured", rows) > 0.4
    assert in_helix("shuffled", shuffled) < 0.2
