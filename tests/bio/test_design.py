import json
import re
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bio_models import AMINO, Landscape, constraints_of, run_design

from subquad.bio.commands.design import design
from subquad.bio.design_search.acquisition import Acquisition
from subquad.bio.design_search.batch import choose_batch, plate_map
from subquad.bio.design_search.proposal import COLUMNS, measured_sequences
from subquad.bio.design_search.search import EXHAUSTIVE, ScoredVariants, search
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.models.scorer import open_scorer
from subquad.cli import main
from subquad.errors import SubquadError

MEAN = Acquisition(kind="ucb", sign=1, beta=0.0)


def test_the_best_variant_of_an_additive_landscape_is_found(tmp_path):
    model = Landscape()
    frame = run_design(model, tmp_path, number=7, max_mutations=4)
    own = model.members_of_sequences([model.wild_type]).mean[0, 0]
    assert frame["prediction"][0] == pytest.approx(own + model.best_gain(4))
    assert tuple(frame.columns) == COLUMNS
    assert frame["name"].tolist() == [f"D{k}" for k in range(1, 8)]
    for row in frame.to_dict("records"):
        text = list(model.wild_type)
        for mutant in row["mutants"].split(":"):
            place = int(mutant[1:-1]) - 1
            assert text[place] == mutant[0]
            text[place] = mutant[-1]
        assert "".join(text) == row["sequence"]
        assert row["mutations"] == len(row["mutants"].split(":")) <= 4
    assert frame["ucb"].is_monotonic_decreasing


def test_the_best_of_a_rugged_landscape_that_is_too_large_to_try_all_is_found(tmp_path):
    model = Landscape(length=9, letters="ACGT", coupling=1.0, seed=5)
    settings = {"number": 5, "max_mutations": 6, "diversity": 0.0, "generations": 30, "population": 200}
    rules = constraints_of(model, **settings)
    assert rules.count_variants(10**9) == 27 + 324 + 2268 + 10206 + 30618 + 61236
    codes = np.stack(np.meshgrid(*[np.arange(4)] * 9, indexing="ij"), -1).reshape(-1, 9).astype(np.int8)
    own = np.array([model.alphabet.index(letter) for letter in model.wild_type])
    codes = codes[(codes != own).sum(1) <= 6]
    place = np.arange(9)
    values = model.effects[place, codes].sum(1) + model.pairs[place[:-1], codes[:, :-1], codes[:, 1:]].sum(1)
    frame = run_design(model, tmp_path, **settings)
    assert frame["prediction"][0] == pytest.approx(values.max())
    assert frame["prediction"].tolist() == pytest.approx(np.sort(values)[::-1][:5].tolist())


@given(st.integers(2, 7), st.integers(1, 4), st.integers(0, 99))
def test_variants_are_counted_as_they_are_enumerated(length, most, seed):
    model = Landscape(length=length, letters="ACGT", members=1, seed=seed)
    rules = constraints_of(model, max_mutations=most, forbid_letters="C")
    scored = search(rules, open_scorer(model), MEAN, DesignSettings(), number=92, seed=0)
    assert len(scored) == constraints_of(model, max_mutations=most, forbid_letters="C").count_variants(EXHAUSTIVE)
    assert len({row.tobytes() for row in scored.codes}) == len(scored)


@pytest.mark.long
def test_the_bound_is_the_mean_and_beta_times_the_spread(tmp_path):
    model = Landscape(spread=0.5)
    for direction, sign in (("maximize", 1), ("minimize", -1)):
        frame = run_design(model, tmp_path, direction, direction=direction, number=11, beta=2.0)
        np.testing.assert_allclose(frame["ucb"], frame["prediction"] + sign * 2 * frame["prediction_std"])
        members = np.stack(model.members_of_sequences(frame["sequence"].tolist()).each)[..., 0]
        np.testing.assert_allclose(frame["prediction"], members.mean(0))
        np.testing.assert_allclose(frame["prediction_std"], members.std(0, ddof=1))
        assert (sign * frame["ucb"]).is_monotonic_decreasing
    alone = run_design(Landscape(members=1), tmp_path, "alone", number=3)
    assert alone["prediction_std"].isna().all()
    np.testing.assert_allclose(alone["ucb"], alone["prediction"])


@pytest.mark.long
def test_the_same_seed_gives_the_same_designs(tmp_path):
    model = Landscape(coupling=0.5, spread=0.3)
    first, second = (run_design(model, tmp_path, name, seed=3, number=17) for name in ("a", "b"))
    pd.testing.assert_frame_equal(first, second)
    for name in ("designs.csv", "designs.fasta", "plates.csv", "design.html", "design.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.long
def test_more_diversity_makes_designs_share_less(tmp_path):
    def likeness(diversity):
        frame = run_design(Landscape(), tmp_path, str(diversity), number=23, diversity=diversity)
        sets = [set(text.split(":")) for text in frame["mutants"]]
        return np.mean([len(a & b) / len(a | b) for k, a in enumerate(sets) for b in sets[:k]])

    values = [likeness(diversity) for diversity in (0.0, 0.2, 0.5)]
    assert all(high > low for high, low in pairwise(values))


@pytest.mark.long
def test_all_constraints_on_letters_hold(tmp_path):
    model = Landscape()
    settings = {
        "fixed": ("1-5", "9"),
        "allow": ("11=AG", "12=KR"),
        "forbid_letters": "CM",
        "max_mutations": 3,
    }
    frame = run_design(model, tmp_path, number=41, **settings)
    for mutants in frame["mutants"]:
        for mutant in mutants.split(":"):
            place, letter = int(mutant[1:-1]), mutant[-1]
            assert place not in (1, 2, 3, 4, 5, 9)
            assert letter not in "CM"
            assert place != 11 or letter in "AG"
            assert place != 12 or letter in "KR"
    only = run_design(model, tmp_path, "only", only=("7-8",), number=400)
    assert len(only) == 19 + 19 + 19 * 19 == 399
    assert {mutant[1:-1] for text in only["mutants"] for mutant in text.split(":")} == {"7", "8"}


def test_a_stop_is_designed_only_where_it_is_asked_for():
    model = Landscape(letters=AMINO + "*")
    assert not constraints_of(model).allowed[:, -1].any()
    assert np.flatnonzero(constraints_of(model, allow=("7=*A",)).allowed[:, -1]).tolist() == [6]


@pytest.mark.long
def test_gc_and_forbidden_sites_hold_on_both_strands(tmp_path):
    model = Landscape(length=43, letters="ACGT")
    settings = {"gc": (0.4, 0.5), "forbid_sites": ("BsaI", "GAATTC", "ggncc"), "max_mutations": 9, "number": 53}
    frame = run_design(model, tmp_path, **settings)
    assert len(frame) == 53
    for text in frame["sequence"]:
        assert 0.4 <= sum(letter in "GC" for letter in text) / 43 <= 0.5
        assert not re.search("GGTCTC|GAGACC|GAATTC|GG.CC", text)
    free = run_design(model, tmp_path, "free", max_mutations=9, number=53)
    assert not all(0.4 <= sum(letter in "GC" for letter in text) / 43 <= 0.5 for text in free["sequence"])


def test_a_site_of_the_start_is_designed_away(tmp_path):
    model = Landscape(length=29, letters="ACGU")
    model.wild_type = "AAAA" + "GAAUUC" + "A" * 19
    # all gains lie elsewhere
    model.effects[:] = model.members[:] = 0
    model.members[:, 20:] = np.arange(4)
    frame = run_design(model, tmp_path, forbid_sites=("EcoRI",), max_mutations=3, number=13)
    assert not frame["sequence"].str.contains("GAAUUC").any()
    assert frame["prediction"][0] == pytest.approx(6.0)


def test_only_letters_that_training_had_are_proposed(tmp_path, capsys):
    model = Landscape()
    model.config = {"observed_letters": [[0, -2, 1, 2] if place % 2 else [k] for place, k in enumerate([3] * 31)]}
    frame = run_design(model, tmp_path, number=29)
    for text in frame["mutants"]:
        for mutant in text.split(":"):
            assert mutant[-1] in ("ACD" if int(mutant[1:-1]) % 2 == 0 else "E")
    design(model, DesignSettings(allow_unobserved=True, number=3), out=tmp_path / "all")
    assert "their effects are extrapolations" in capsys.readouterr().err
    with pytest.raises(SubquadError, match="--allow: no training sequence has KR at position 2"):
        run_design(model, tmp_path, "none", allow=("2=KR",))


@pytest.mark.long
def test_measured_variants_are_not_designed_again_unless_asked(tmp_path, monkeypatch):
    model = Landscape()
    first = run_design(model, tmp_path, "first", number=19)
    measured = [*first["sequence"][:11], model.wild_type]
    # and one that waits for its measurement
    frame = pd.DataFrame({model.names[0]: [*["0.5"] * 12, ""]})
    read = SimpleNamespace(sequences=[*measured, first["sequence"][12]], frame=frame)
    monkeypatch.setattr("subquad.bio.data.table.read_like", lambda path, schema: read)
    settings = DesignSettings(generations=7, population=61, number=19, table="t.csv")
    second = design(model, settings, out=tmp_path / "second", quiet=True)
    assert not set(second["sequence"]) & set(measured)
    scorer = SimpleNamespace(model=model, schema=None, partner=None, normalized=str.upper)
    assert measured_sequences(None, scorer, "t.csv", quiet=True).sequences == measured
    for row in second.to_dict("records"):
        far = min(sum(a != b for a, b in zip(row["sequence"], text, strict=True)) for text in measured)
        assert row["distance"] == far
    settings = DesignSettings(generations=7, population=61, number=19, table="t.csv", allow_measured=True)
    third = design(model, settings, out=tmp_path / "third", quiet=True)
    assert third["sequence"].tolist() == first["sequence"].tolist()
    assert third["distance"][0] == 0


def test_all_errors_in_the_constraints_are_reported_at_once(tmp_path):
    settings = {
        "fixed": ("3-5", "40", "b"),
        "allow": ("4=AC", "7=XA", "7=G", "9"),
        "forbid_letters": "C?",
        "gc": (0.4, 0.6),
        "forbid_sites": ("EcoRI",),
    }
    with pytest.raises(SubquadError) as error:
        run_design(Landscape(), tmp_path, **settings)
    assert str(error.value).splitlines() == [
        "the constraints are not valid:",
        "  --fixed: 40 is outside the sequence, which has positions 1 to 31",
        "  --fixed: 'b' is not a position or a range such as 1-10",
        "  --forbid-letters: '?' is not in the model's alphabet (ACDEFGHIKLMNPQRSTVWY)",
        "  --allow 7=XA: 'X' is not in the model's alphabet (ACDEFGHIKLMNPQRSTVWY)",
        "  --allow: position 7 is listed twice",
        "  --allow: '9' has no letters; write POSITION=LETTERS, such as 24=AGS",
        "  --allow: position 4 is in --fixed",
        "  --allow: C at position 4 is in --forbid-letters",
        "  --forbid-sites applies to DNA and RNA, but the model reads proteins",
        "  --gc applies to DNA and RNA, but the model reads proteins",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gc": (0.7, 0.6)}, "--gc must be a lowest and a highest fraction, such as 0.4 0.6, got (0.7, 0.6)"),
        ({"forbid_sites": ("EcoRX",)}, "--forbid-sites: 'EcoRX' is neither an IUPAC sequence nor a restriction enzyme"),
        ({"forbid_sites": ("NNN",)}, "--forbid-sites: 'NNN' matches every sequence"),
        # letters that were not observed would not help
        ({"fixed": ("1-23",)}, "no variant satisfies the constraints: no position may mutate"),
        ({"gc": (1.0, 1.0)}, "satisfy GC content and sites"),
        ({"start": "ACGT"}, "--start has 4 letters, but the model reads aligned ones of 23"),
    ],
)
def test_constraints_that_no_variant_satisfies_are_refused(tmp_path, settings, message):
    with pytest.raises(SubquadError) as error:
        run_design(Landscape(length=23, letters="ACGT"), tmp_path, **{"generations": 2, "max_mutations": 3, **settings})
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_type": "pairs"}, "the model predicts pairs, not one value per sequence"),
        ({"task_type": "multiclass", "classes": ["a", "b", "c"]}, "select one with --target (a, b, c)"),
        ({"wild_type": None}, "the run has no wild type; give the sequence with --start"),
        ({"schema": replace(Landscape().schema, partner="guide")}, "the model reads pairs of sequences"),
        (
            {"schema": replace(Landscape().schema, covariates={"ESM1": 0.1, "EVE": 0.2})},
            "the model also reads ESM1, EVE",
        ),
    ],
)
def test_models_without_one_value_per_sequence_are_refused(tmp_path, change, message):
    model = Landscape()
    for name, value in change.items():
        setattr(model, name, value)
    with pytest.raises(SubquadError) as error:
        run_design(model, tmp_path)
    assert message in str(error.value)


def test_one_of_several_targets_is_designed_for():
    model = Landscape()
    model.names = ["binding", "expression"]
    assert open_scorer(model, target="expression").column == 1
    with pytest.raises(SubquadError, match="no target or class 'expresion'; did you mean 'expression'"):
        open_scorer(model, target="expresion")
    model.task_type, model.classes = "binary", ["dead", "alive"]
    assert open_scorer(model).title == open_scorer(model, target="alive").title == "probability of alive"
    with pytest.raises(SubquadError, match=r"no target or class 'dead' \(there are: alive\)"):
        open_scorer(model, target="dead")


def test_a_diverse_batch_has_the_best_first_and_similar_variants_last():
    model = Landscape(length=11, members=1)
    scored = ScoredVariants(constraints_of(model), open_scorer(model), MEAN)
    rules = constraints_of(model, max_mutations=2)
    scored.add(search(rules, open_scorer(model), MEAN, DesignSettings(), number=92, seed=0).codes)
    rows = np.arange(len(scored))
    alone = choose_batch(scored, rows, DesignSettings(diversity=9.0), number=1, start=0.0)
    assert alone.tolist() == [scored.value.argmax()]
    wide = choose_batch(scored, rows, DesignSettings(diversity=9.0), number=11, start=0.0)
    changes = [set(own) for own in scored.constraints.mutants(scored.codes[wide])]
    # eleven places are free, so that no two need to share a change
    assert not any(a & b for k, a in enumerate(changes) for b in changes[:k])
    top = choose_batch(scored, rows, DesignSettings(diversity=0.0), number=29, start=0.0)
    assert top.tolist() == np.argsort(-scored.value)[:29].tolist()


@pytest.mark.parametrize(("count", "wells", "controls"), [(92, 96, 4), (101, 96, 4), (7, 384, 1), (13, 96, 0)])
def test_plates_are_filled_by_rows_with_controls_spread_over_them(count, wells, controls):
    names = [f"D{k}" for k in range(count)]
    plates = plate_map(names, wells=wells, controls=controls)
    assert plates.loc[~plates["is_control"], "name"].tolist() == names
    assert not plates.duplicated(["plate", "well"]).any()
    columns = {96: 12, 384: 24}[wells]
    for _, own in plates.groupby("plate"):
        assert len(own) <= wells
        assert own["is_control"].sum() == controls
        place = (own["row"] - 1) * columns + own["column"] - 1
        assert place.tolist() == list(range(len(own)))
        assert own["well"].tolist() == [f"{chr(64 + r)}{c:02d}" for r, c in zip(own["row"], own["column"], strict=True)]
    if controls == 4:
        assert plates.loc[plates["is_control"], "well"].head(4).tolist() == ["A01", "C09", "F04", "H12"]
    with pytest.raises(SubquadError, match="plates have 96 or 384 wells and fewer controls, got 48 wells"):
        plate_map(names, wells=48)


@pytest.mark.long
def test_what_is_written_fits_together_and_is_not_overwritten(tmp_path):
    model = Landscape(spread=0.2)
    frame = run_design(model, tmp_path, number=103)
    folder = tmp_path / "out"
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "designs.csv")[["name", "sequence"]], frame[["name", "sequence"]]
    )
    plates = pd.read_csv(folder / "plates.csv", keep_default_na=False)
    assert plates["plate"].max() == 2
    controls = plates[plates["is_control"]]
    assert set(controls["sequence"]) == {model.wild_type}
    assert len(controls) == 8
    merged = frame.merge(plates, on=["plate", "well"])
    assert (merged["sequence_x"] == merged["sequence_y"]).all()
    assert (folder / "designs.fasta").read_text().startswith(f">D001 {frame['mutants'][0]}\n{frame['sequence'][0]}\n")
    record = json.loads((folder / "design.json").read_text())
    assert (record["designs"], record["subquad"]["settings"]["number"], record["start"]) == (103, 103, model.wild_type)
    page = (folder / "design.html").read_text()
    assert page.count("<figure") == 4
    with pytest.raises(SubquadError, match="exists already"):
        run_design(model, tmp_path)
    design(model, DesignSettings(generations=1, number=3), out=folder, force=True, quiet=True)
    assert len(pd.read_csv(folder / "designs.csv")) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"number": 0}, "--number must be at least 1, got 0"),
        ({"max_mutations": 0}, "--max-mutations must be at least 1, got 0"),
        ({"controls": 96}, "--controls must be below the number of wells, 96, got 96"),
        ({"fixed": ("1",), "only": ("2",)}, "--fixed and --only exclude each other; give one of them"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(SubquadError) as error:
        DesignSettings(**settings)
    assert str(error.value) == message


@pytest.mark.long
def test_the_command_designs_from_a_fitted_run(tmp_path, capsys):
    from subquad.bio import FitSettings, fit

    random = np.random.default_rng(0)
    wild = "MKTAYIAKQRQ"
    rows = []
    for _ in range(211):
        text = list(wild)
        for place in random.choice(len(wild), 2, replace=False):
            text[place] = random.choice(list("ACDW"))
        rows.append("".join(text))
    frame = pd.DataFrame({"sequence": rows})
    # W is good wherever it stands
    frame["score"] = frame["sequence"].str.count("W") + random.normal(scale=0.05, size=len(rows))
    frame.to_csv(tmp_path / "t.csv", index=False)
    fit(
        tmp_path / "t.csv",
        FitSettings(epochs=3.0, boosting_iterations=7, wild_type=wild),
        out=tmp_path / "run",
        quiet=True,
    )
    out = tmp_path / "designs"
    arguments = ["bio", "design", str(tmp_path / "run"), "--out", str(out), "--number", "11", "--forbid-letters", "C"]
    assert main([*arguments, "--max-mutations", "3", "--fixed", "1"]) == 0
    assert f"Next: open {out}/design.html" in capsys.readouterr().out
    designs = pd.read_csv(out / "designs.csv")
    assert len(designs) == 11
    assert not set(designs["sequence"]) & set(rows)
    assert designs["distance"].min() >= 1
    assert designs["sequence"].str.startswith("M").all()
    letters = {mutant[-1] for text in designs["mutants"] for mutant in text.split(":")}
    assert "W" in letters
    assert letters <= set("ADW") | set(wild)
    assert main(["bio", "design", str(tmp_path / "run"), "--out", str(out), "--gc", "0.1", "0.2", "--force"]) == 2
    assert "--gc applies to DNA and RNA, but the model reads proteins" in capsys.readouterr().err
