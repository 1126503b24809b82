"""Positions have the numbers that the user's table gave them, in all that is written and asked for."""

import json
import random
import re
from dataclasses import replace

import pandas as pd
import pytest
from support.bio_models import AdditiveModel, Landscape, constraints_of, run_design

from subquad import bio
from subquad.bio.analysis.cycles import predicted_cycles
from subquad.bio.analysis.landscape import measured_landscape, predicted_landscape
from subquad.bio.analysis.scan_page import grid_of
from subquad.bio.analysis.settings import EpistasisSettings, ScanSettings
from subquad.bio.analysis.single_mutants import scan_table
from subquad.bio.commands.epistasis import epistasis
from subquad.bio.commands.scan import scan
from subquad.bio.data.variants import renumbered
from subquad.bio.models.scorer import open_scorer
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError

WILD, OFFSET = "MKVLASGDTWEYHRNQ", 23


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return a table of single and double mutants, numbered from 24 on."""
    draw, rows = random.Random(3), []
    singles = [(i, b) for i, own in enumerate(WILD) for b in draw.sample(sorted(set(WILD) - {own}), 3)]
    for changes in [[single] for single in singles] + [draw.sample(singles, 2) for _ in range(31)]:
        if len({i for i, _ in changes}) == len(changes):
            mutant = ":".join(f"{WILD[i]}{i + 1 + OFFSET}{b}" for i, b in sorted(changes))
            rows.append((mutant, sum(0.1 * i for i, _ in changes) + draw.gauss(0, 0.1)))
    path = tmp_path_factory.mktemp("numbering") / "assay.csv"
    pd.DataFrame(rows, columns=["mutant", "score"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(table):
    """Return the folder of a fit on it."""
    out = table.parent / "run"
    settings = FitSettings(wild_type=WILD, models=("ridge", "lyra"), epochs=0.5, ensemble_size=1, tokens=500)
    bio.fit(table, settings, out=out, quiet=True)
    return out


def numbers(mutants):
    return {int(number) for mutant in mutants.dropna() for number in re.findall(r"\d+", mutant)}


def test_the_test_rows_name_the_variants_of_the_table(run, table):
    written, given = pd.read_csv(run / "test.csv"), pd.read_csv(table)
    assert set(written["mutant"]) <= set(given["mutant"])


@pytest.mark.long
def test_a_scan_numbers_positions_as_the_table_does(run, table, tmp_path):
    frame = scan(run, ScanSettings(table=str(table)), out=tmp_path / "scan", quiet=True)
    assert frame["mutant"].iloc[0].startswith("M24")
    assert frame["position"].min() == 24
    assert frame["position"].max() == 39
    measured = frame.dropna(subset="measured").set_index("mutant")["measured"]
    given = pd.read_csv(table).set_index("mutant")["score"]
    assert len(measured) == 48
    assert measured.to_dict() == pytest.approx(given[measured.index].to_dict())
    assert "the first letter is position 24" in (tmp_path / "scan" / "scan.html").read_text()
    assert grid_of(frame, 16, "ACDEFGHIKLMNPQRSTVWY", offset=OFFSET).shape == (20, 16)


@pytest.mark.long
def test_epistasis_of_a_table_and_of_a_model_numbers_positions_as_the_table_does(run, table, tmp_path):
    of_table = epistasis(table, EpistasisSettings(wild_type=WILD), out=tmp_path / "table", quiet=True)
    of_run = epistasis(run, EpistasisSettings(table=str(table)), out=tmp_path / "run", quiet=True)
    assert {*of_table["i"], *of_table["j"]} <= set(range(24, 40))
    given = {m for m in pd.read_csv(table)["mutant"] if ":" in m}
    for folder in ("table", "run"):
        cycles = pd.read_csv(tmp_path / folder / "cycles.csv.gz")
        assert set(cycles["first"] + ":" + cycles["second"]) == given
        page = (tmp_path / folder / "epistasis.html").read_text()
        strongest = of_table.iloc[0]
        i, j = int(strongest["i"]), int(strongest["j"])
        assert f"{WILD[i - 24]}{i} – {WILD[j - 24]}{j}" in page
    assert set(of_run["i"]) == set(of_table["i"])


def test_predicted_cycles_of_the_measured_doubles_are_those_of_the_same_places():
    model, options = AdditiveModel(), {"max_double_mutants": 50_000, "seed": 0, "quiet": True}
    plain = predicted_cycles(open_scorer(model), model.wild_type, doubles=None, **options).frame
    model.schema = replace(model.schema, offset=30)
    numbered = predicted_cycles(open_scorer(model), model.wild_type, doubles=None, **options).frame
    assert (numbered["i"] - plain["i"]).unique().tolist() == [30]
    assert numbered["epistasis"].tolist() == plain["epistasis"].tolist()
    measured, _ = measured_landscape(
        ["ACGTACG", "CCGTACG", "ACTTACG", "CCTTACG"],
        pd.Series([0.0, 1.0, 2.0, 5.0]).to_numpy(),
        "ACGTACG",
        offset=30,
    )
    found = predicted_landscape(open_scorer(model), model.wild_type, measured=measured, **options)
    assert found.cycles["predicted"].frame[["first", "second"]].astype(str).to_numpy().tolist() == [["A31C", "G33T"]]
    assert scan_table(open_scorer(model), model.wild_type)["mutant"].iloc[0] == "A31C"


def test_designs_and_their_constraints_have_the_numbers_of_the_table(tmp_path):
    model = Landscape(length=13, offset=40)
    frame = run_design(model, tmp_path, number=5, max_mutations=3, fixed=("41-45", "53"), allow=("47=AC",))
    assert numbers(frame["mutants"]) <= set(range(46, 53))
    assert all(mutant[-1] in "AC" for row in frame["mutants"] for mutant in row.split(":") if mutant[1:-1] == "47")
    for row in frame.to_dict("records"):
        for mutant in row["mutants"].split(":"):
            place = int(mutant[1:-1]) - 41
            assert (model.wild_type[place], row["sequence"][place]) == (mutant[0], mutant[-1])
    assert json.loads((tmp_path / "out" / "design.json").read_text())["start"] == model.wild_type
    with pytest.raises(SubquadError, match="--fixed: 5 is outside the sequence, which has positions 41 to 53"):
        constraints_of(model, fixed=("5",))


def test_numbers_below_the_first_letter_can_be_asked_for():
    constraints = constraints_of(Landscape(length=13, offset=-3), only=("-2-0",))
    assert constraints.positions.tolist() == [0, 1, 2]


def test_variants_are_renumbered_one_by_one():
    assert renumbered("A1G:K9R", 0) == "A1G:K9R"
    assert renumbered("A1G:K9R", 23) == "A24G:K32R"
    assert renumbered("", 23) == ""
