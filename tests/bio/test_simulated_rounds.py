"""Simulated rounds with few seeds, and with too few rows at the minimum distance."""

import numpy as np
import pandas as pd
import pytest

from subquad.bio.commands.rounds import rounds
from subquad.bio.design_search.settings import RoundsSettings
from subquad.bio.design_search.simulation_page import render
from subquad.errors import SubquadError

START, BATCH = 30, 11


def simulated(**settings):
    chosen = {"direction": "maximize", "start_rows": START, "rounds": 1, "propose": BATCH, "strategies": ("ridge",)}
    return RoundsSettings(simulate=True, **chosen | settings)


def assay(path, sequences):
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"sequence": sorted(set(sequences))})
    frame["score"] = [text.count("W") + random.normal(scale=0.1) for text in frame["sequence"]]
    frame.to_csv(path, index=False)
    return path


def test_rows_that_the_minimum_distance_leaves_out_are_reported(tmp_path):
    wild, letters = "MKTAYIAK", "ADKLSWVN"
    single = [wild[:k] + letter + wild[k + 1 :] for k in range(len(wild)) for letter in letters]
    table = assay(tmp_path / "t.csv", single)
    # single mutants of one position differ at one position, so that a batch has at most one of each
    metrics = rounds(table, simulated(min_distance=2, seeds=(0, 1, 2)), out=tmp_path / "out", quiet=True)
    (own,) = metrics["strategies"].values()
    measured = [run["measured"] for run in metrics["replays"]["ridge"]]
    assert START < own["measured"] == np.mean(measured) <= START + len(wild) + 1 < START + BATCH
    text = (
        f"--min-distance 2, so that fewer than {START + BATCH} rows were measured (mean over seeds): additive (ridge)"
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert text in page
    metrics["strategies"]["ridge"]["measured"] = float(START + BATCH)
    assert "--min-distance 2, so that" not in render(metrics, "t.csv")


def test_sequences_of_several_lengths_have_no_minimum_distance(tmp_path):
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("AKLSW"), random.integers(7, 13))) for _ in range(61)]
    table = assay(tmp_path / "t.csv", texts)
    with pytest.raises(SubquadError, match=r"--min-distance counts substitutions, and the sequences have several len"):
        rounds(table, simulated(min_distance=2), out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("count", "few"), [(1, "one seed"), (2, "2 seeds")])
def test_fewer_than_three_seeds_separate_nothing(tmp_path, count, few):
    random = np.random.default_rng(0)
    table = assay(tmp_path / "t.csv", ["".join(random.choice(list("AKLSW"), 7)) for _ in range(61)])
    settings = simulated(strategies=("ridge", "random"), seeds=tuple(range(count)))
    rounds(table, settings, out=tmp_path / "out", quiet=True)
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        f"With {few}, fewer than the 3 that an interval needs, there is no evidence that a strategy is better" in page
    )
    assert "The seeds separate" not in page
