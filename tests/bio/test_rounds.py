import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subquad.bio.analysis.single_mutants import scan_table, single_mutants
from subquad.bio.commands.fit import fit
from subquad.bio.commands.rounds import rounds
from subquad.bio.data.table import read_like
from subquad.bio.design_search.batch import pick_batch
from subquad.bio.design_search.measurements import read_measurements, settings_of_run
from subquad.bio.design_search.settings import RoundsSettings
from subquad.bio.models import scorer as scorer_module
from subquad.bio.models.fitted import BioModel
from subquad.bio.models.scorer import open_scorer
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError

WILD = "MKTAYIAKQRQ"
LETTERS = "ADKLSW"


def value(sequence):
    # W is good wherever it stands, and K at the third position
    return sequence.count("W") + 2.0 * (sequence[2] == "K")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Return a folder with a table of variants of one protein, and a run of ridge and a Gaussian process."""
    folder, random = tmp_path_factory.mktemp("rounds"), np.random.default_rng(0)
    rows = set()
    while len(rows) < 137:
        text = list(WILD)
        for place in random.choice(len(WILD), 2, replace=False):
            text[place] = random.choice(list(LETTERS))
        rows.add("".join(text))
    frame = pd.DataFrame({"protein": sorted(rows), "batch": "first"})
    frame["activity"] = [round(value(text) + random.normal(scale=0.1), 4) for text in frame["protein"]]
    frame.to_csv(folder / "assay.csv", index=False)
    settings = FitSettings(models=("ridge", "gp"), target=("activity",), wild_type=WILD)
    fit(folder / "assay.csv", settings, out=folder / "run", quiet=True)
    return folder


def propose(start, out, number=5, **settings):
    chosen = {"direction": "maximize", "generations": 2, "population": 20, "max_mutations": 2, **settings}
    return rounds(start / "run", RoundsSettings(propose=number, **chosen), out=out, quiet=True)


def measure(path, noise=0.0):
    frame = pd.read_csv(path)
    frame["activity"] = [value(text) + noise for text in frame["protein"]]
    frame.to_csv(path, index=False)
    return frame


@pytest.mark.long
def test_two_rounds_propose_new_variants_and_learn_from_their_measurements(start, tmp_path):
    out = tmp_path / "rounds"
    propose(start, out)
    batch = pd.read_csv(out / "round-1" / "batch.csv")
    known = pd.read_csv(start / "assay.csv")
    assert len(batch) == 5
    assert batch["activity"].isna().all()
    assert not set(batch["protein"]) & set(known["protein"])
    assert (batch["prediction_low"] < batch["prediction"]).all()
    measured = measure(out / "round-1" / "batch.csv")
    again = RoundsSettings(measured=(str(out / "round-1" / "batch.csv"),), propose=4, max_mutations=2, generations=2)
    record = rounds(start / "run", again, out=out, quiet=True)
    table = pd.read_csv(out / "round-2" / "table.csv")
    assert table["protein"].tolist() == [*known["protein"], *measured["protein"]]
    assert (table["rounds_split"].tail(5) == "train").all()
    # validation and test rows are those of the first fit
    first, second = (pd.read_csv(own / "test.csv")["row"].tolist() for own in (start / "run", out / "round-2" / "run"))
    assert first == second
    assert read_like(out / "round-2" / "table.csv", BioModel.load(out / "round-2" / "run").schema).wild_type == WILD
    new = pd.read_csv(out / "round-2" / "batch.csv")
    assert not set(new["protein"]) & set(table["protein"])
    step = record["rounds"][1]
    assert (step["new_measurements"], step["proposed"], step["is_finished"]) == (5, 4, True)
    assert step["best_new"] == measured["activity"].max()
    # the direction that the first round stated
    assert record["direction"] == step["settings"]["direction"] == "maximize"
    page = (out / "rounds.html").read_text()
    for text in ("2 rounds, 5 new measurements", "a higher activity is better, as stated", "round-2/batch.html"):
        assert text in page
    with pytest.raises(SubquadError, match="earlier rounds have the direction maximize"):
        propose(start, out, direction="minimize")


@pytest.mark.long
def test_an_interrupted_round_is_resumed_with_the_same_result(start, tmp_path, monkeypatch):
    batches = {}
    for name in ("whole", "killed"):
        out = tmp_path / name
        propose(start, out)
        measure(out / "round-1" / "batch.csv")
        settings = RoundsSettings(measured=(str(out / "round-1" / "batch.csv"),), propose=3, generations=2)
        if name == "killed":
            with monkeypatch.context() as patch:
                patch.setattr("subquad.bio.commands.rounds.propose", lambda *_, **__: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    rounds(start / "run", settings, out=out, quiet=True)
            fitted = (out / "round-2" / "run" / "metrics.json").stat().st_mtime_ns
            other = RoundsSettings(measured=settings.measured, propose=4)
            with pytest.raises(SubquadError, match="round 2 is unfinished"):
                rounds(start / "run", other, out=out, quiet=True)
        rounds(start / "run", settings, out=out, quiet=True)
        batches[name] = (out / "round-2" / "batch.csv").read_text()
    assert batches["whole"] == batches["killed"]
    assert (out / "round-2" / "run" / "metrics.json").stat().st_mtime_ns == fitted


@pytest.mark.long
def test_a_round_that_is_stopped_while_it_is_replaced_begins_anew(start, tmp_path, monkeypatch):
    out = tmp_path / "rounds"
    propose(start, out)
    measure(out / "round-1" / "batch.csv")
    settings, remove = RoundsSettings(measured=(str(out / "round-1" / "batch.csv"),)), shutil.rmtree
    rounds(start / "run", settings, out=out, quiet=True)

    def stop(path, **how):
        if Path(path) == out / "round-2" / "run":
            raise KeyboardInterrupt
        remove(path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            rounds(start / "run", settings, out=out, force=True, quiet=True)
    assert not (out / "round-2" / "run" / "metrics.json").exists()
    (out / "round-2" / "measured.csv").write_text("of the earlier round")
    (out / "round-2" / "run" / "of the earlier round").touch()
    step = rounds(start / "run", settings, out=out, quiet=True)["rounds"][1]
    assert (step["is_finished"], "is_replacing" in step) == (True, False)
    assert (out / "round-2" / "run" / "metrics.json").is_file()
    assert not (out / "round-2" / "run" / "of the earlier round").exists()


@pytest.mark.long
def test_a_first_batch_that_is_interrupted_is_proposed_again(start, tmp_path, monkeypatch):
    propose(start, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("subquad.bio.commands.rounds._write_csv", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            propose(start, tmp_path / "out")
    # as a kill would leave it
    (tmp_path / "out" / "round-1").mkdir(exist_ok=True)
    (tmp_path / "out" / "round-1" / "batch.csv").write_text("half")
    propose(start, tmp_path / "out")
    one, other = (tmp_path / name / "round-1" / "batch.csv" for name in ("whole", "out"))
    assert one.read_text() == other.read_text()


@pytest.mark.long
def test_a_batch_without_measurements_and_other_constraints_are_said(start, tmp_path, capsys):
    out = tmp_path / "rounds"
    propose(start, out)
    frame = measure(out / "round-1" / "batch.csv").iloc[:3].copy()
    frame.loc[3] = {**frame.loc[2], "protein": "W" * len(WILD), "activity": 11.0}
    frame.to_csv(tmp_path / "m.csv", index=False)
    measured = (str(tmp_path / "m.csv"),)
    rounds(start / "run", RoundsSettings(measured=measured, propose=3, generations=1, max_mutations=3), out=out)
    shown = " ".join(capsys.readouterr().err.split())
    assert "--max-mutations (round 1: 2, now: 3)" in shown
    assert "of these, 1 not in the batch of round 1" in shown
    assert "2 of its 5 variants have no new measurement" in shown
    rounds(start / "run", RoundsSettings(propose=3, generations=1, max_mutations=3), out=out)
    shown = " ".join(capsys.readouterr().err.split())
    assert "round 2 is not measured yet; this round does not know of its variants" in shown
    assert "are not taken over" not in shown


@pytest.mark.long
def test_measurements_are_compared_with_the_target_that_the_rounds_are_for(start, tmp_path):
    frame = pd.read_csv(start / "assay.csv")
    frame["binding"] = 100.0 - frame["activity"]
    frame.to_csv(tmp_path / "assay.csv", index=False)
    settings = FitSettings(models=("ridge",), target=("activity", "binding"), wild_type=WILD)
    fit(tmp_path / "assay.csv", settings, out=tmp_path / "run", quiet=True)
    out = tmp_path / "rounds"
    propose(tmp_path, out, target="binding")
    batch = measure(out / "round-1" / "batch.csv").assign(binding=lambda own: 100.0 - own["activity"])
    batch.to_csv(out / "round-1" / "batch.csv", index=False)
    measured = RoundsSettings(measured=(str(out / "round-1" / "batch.csv"),))
    step = rounds(tmp_path / "run", measured, out=out, quiet=True)["rounds"][1]
    assert (step["target"], step["best_new"]) == ("binding", batch["binding"].max())
    with pytest.raises(SubquadError, match="earlier rounds have the target binding, not activity"):
        propose(tmp_path, out, target="activity")


def test_measurements_in_the_folder_of_the_round_that_is_replaced_are_kept(start, tmp_path):
    propose(start, tmp_path / "rounds")
    file = tmp_path / "rounds" / "round-1" / "table.csv"
    pd.read_csv(file.parent / "batch.csv").assign(activity=1.0).to_csv(file, index=False)
    settings = RoundsSettings(propose=2, table=str(file), generations=1)
    with pytest.raises(SubquadError, match=r"table\.csv lies in the output .*round-1, which would be overwritten"):
        rounds(start / "run", settings, out=tmp_path / "rounds", force=True, quiet=True)
    assert file.is_file()


def test_a_round_is_replaced_only_with_force(start, tmp_path):
    propose(start, tmp_path / "rounds")
    with pytest.raises(SubquadError, match="round 1 was made from the same measurements; measure"):
        propose(start, tmp_path / "rounds")
    settings = RoundsSettings(propose=2, generations=1)
    record = rounds(start / "run", settings, out=tmp_path / "rounds", force=True, quiet=True)
    assert [step["proposed"] for step in record["rounds"]] == [2]
    (tmp_path / "rounds" / "round-2").mkdir()
    measured = pd.read_csv(tmp_path / "rounds" / "round-1" / "batch.csv").assign(activity=range(2))
    measured.to_csv(tmp_path / "rounds" / "round-2" / "plate_reader.csv", index=False)
    settings = RoundsSettings(measured=(tmp_path / "rounds" / "round-2" / "plate_reader.csv",))
    with pytest.raises(SubquadError, match=r"round-2: not empty, and is the folder of the next round"):
        rounds(start / "run", settings, out=tmp_path / "rounds", quiet=True)
    assert (tmp_path / "rounds" / "round-2" / "plate_reader.csv").is_file()
    path = tmp_path / "rounds" / "rounds.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "rounds": [{**saved["rounds"][0], "run": "../run", "table": "t.csv"}]}))
    with pytest.raises(SubquadError, match=r"rounds.json: run is '../run', outside"):
        propose(start, tmp_path / "rounds")
    path.write_text("[]")
    with pytest.raises(SubquadError, match=r"rounds.json: cannot be read as the record of rounds"):
        propose(start, tmp_path / "rounds")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    with pytest.raises(SubquadError, match="not empty, and has no rounds"):
        propose(start, tmp_path / "notes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(activity=""), "column 'activity' is empty"),
        (lambda frame: frame.drop(columns="activity"), "no column 'activity'"),
        (lambda frame: frame.assign(activity=["1", "high", "2", "3", "4"]), "row 2: 'high'"),
        (lambda frame: frame.assign(protein=["MKB?", *frame["protein"][1:]]), "row 1"),
        (lambda frame: pd.concat([frame, frame.assign(activity="9")]), "row 6: 9, but"),
    ],
)
def test_wrong_measurements_are_refused_with_their_rows_and_nothing_is_written(start, tmp_path, change, message):
    out = tmp_path / "rounds"
    propose(start, out)
    path = tmp_path / "measured.csv"
    change(measure(out / "round-1" / "batch.csv").astype({"activity": str})).to_csv(path, index=False)
    before = (out / "rounds.json").read_text()
    with pytest.raises(SubquadError) as error:
        rounds(start / "run", RoundsSettings(measured=(str(path),)), out=out, quiet=True)
    assert message in str(error.value)
    assert (out / "rounds.json").read_text() == before
    assert not (out / "round-2").exists()


def test_a_measurement_that_contradicts_the_table_names_both_rows_and_equal_ones_are_left_out(start, tmp_path):
    known = pd.read_csv(start / "assay.csv")
    path = tmp_path / "measured.csv"
    known.iloc[[6]].assign(activity=9.5).to_csv(path, index=False)
    with pytest.raises(SubquadError) as error:
        rounds(start / "run", RoundsSettings(measured=(str(path),)), out=tmp_path / "rounds", quiet=True)
    assert f"{path}, row 1: 9.5, but {start / 'assay.csv'}, row 7, has {known['activity'][6]:g}" in str(error.value)
    known.iloc[[6]].to_csv(path, index=False)
    with pytest.raises(SubquadError, match="no new measurement; all rows are in"):
        rounds(start / "run", RoundsSettings(measured=(str(path),)), out=tmp_path / "rounds", quiet=True)


def test_measurements_far_below_one_are_compared_relatively(start, tmp_path):
    model = BioModel.load(start / "run")
    settings, seed = settings_of_run(model)
    frame = pd.read_csv(start / "assay.csv")
    # dissociation constants in mol/L
    frame["activity"] = 1e-9 * (1 + frame.index)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.iloc[[2]].assign(activity=1.24e-8).to_csv(tmp_path / "measured.csv", index=False)
    with pytest.raises(SubquadError, match="measurements of one sequence differ"):
        read_measurements([tmp_path / "measured.csv"], tmp_path / "t.csv", model, settings, seed=seed)


@pytest.mark.parametrize("acquisition", ["ei", "thompson"])
def test_batches_of_each_acquisition_are_diverse_and_new(start, tmp_path, acquisition):
    propose(start, tmp_path / acquisition, number=7, acquisition=acquisition, min_distance=2)
    frame = pd.read_csv(tmp_path / acquisition / "round-1" / "batch.csv")
    texts = frame["protein"].tolist()
    assert min(sum(a != b for a, b in zip(x, y, strict=True)) for k, x in enumerate(texts) for y in texts[:k]) >= 2
    assert {"ei": "expected_improvement", "thompson": "draw"}[acquisition] in frame


def test_draws_from_the_posterior_have_its_mean_and_standard_deviation(start):
    model = BioModel.load(start / "run")
    inputs = model.inputs_of([WILD, WILD[:2] + "K" + WILD[3:], WILD[:5] + "WW" + WILD[7:]])
    members = model.members(inputs, "gp")
    draws = model._baselines["gp"].draws(inputs, 20_000, seed=0)
    assert draws.shape == (20_000, 3, 1)
    np.testing.assert_allclose(draws.mean(0), members.mean, atol=0.02)
    np.testing.assert_allclose(draws.std(0), members.std(), rtol=0.03)


def test_a_scan_has_the_deviations_of_differences_of_a_posterior_in_an_ensemble(start, monkeypatch):
    model = BioModel.load(start / "run")
    stacking = model.stacking
    # in equal parts, whatever the validation rows of so small a table say
    model = replace(model, stacking=stacking.with_weights(np.full(len(stacking.weights), 0.5)))
    monkeypatch.setattr(scorer_module, "BATCH", 31)
    frame = scan_table(open_scorer(model), WILD)
    sequences = [WILD, *(WILD[:p] + letter + WILD[p + 1 :] for p, letter in single_mutants(WILD, model.alphabet))]
    inputs = model.inputs_of(sequences)
    draws = model._baselines["gp"].draws(inputs, 10_000, seed=0)[..., 0]
    deviation = stacking.scale["gp"][0] * (draws - draws[:, :1]).std(0)
    both = [stacking.calibrate(name, model.predict(inputs, name))[:, 0] for name in ("ridge", "gp")]
    gap = np.subtract(*(own - own[0] for own in both))
    # weights of 1/2, 1/4 and 1/4, of which the last two are the Gaussian process
    expected = np.sqrt((gap**2 / 4 + deviation**2 / 4) / (1 - 6 / 16))
    np.testing.assert_allclose(frame["difference_std"], expected[1:], rtol=0.03)
    single = scan_table(open_scorer(replace(model, config={**model.config, "models": ["gp"]})), WILD)
    np.testing.assert_allclose(single["difference_std"], (draws - draws[:, :1]).std(0)[1:], rtol=0.03)
    np.testing.assert_allclose(single["prediction"], model.predict(inputs, "gp")[1:, 0], rtol=1e-6)


def test_a_batch_prefers_high_values_and_keeps_its_distance():
    codes = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=np.int8)
    values = np.array([0.0, 3.0, 2.9, 1.0])
    options = {"reference": codes[0], "number": 3, "scale": 0.0}
    assert pick_batch(values, codes, **options).tolist() == [1, 2, 3]
    assert pick_batch(values, codes, **options, min_distance=2).tolist() == [1, 3]
    each = np.array([[0, 0, 0, 1.0], [0, 0, 5, 0], [0, 0, 5, 1]])
    assert pick_batch(each, codes, **options).tolist() == [3, 2, 0]
