"""From a table to a saved model and back: every task type, interrupted runs and errors."""

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.bio_tables import SHORT, settings, table

from subquad.bio import BioModel, FitSettings, fit, predict
from subquad.bio.cli import fit as fit_cli
from subquad.bio.cli import predict as predict_cli
from subquad.bio.models import ensemble, training
from subquad.bio.models import fit as model_fit
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.runs.loading import load_run
from subquad.runs.options import OutputOptions, RunOptions

DATA = os.environ.get("SUBQUAD_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="SUBQUAD_DATA is not set: the data folder is not here")


@pytest.mark.slow
def test_the_commands_fit_and_predict(tmp_path, capsys):
    frame = table(tmp_path / "t.csv")
    options = RunOptions(out=tmp_path / "run")
    fit_cli(str(tmp_path / "t.csv"), settings(ensemble_size=2), presets=("paper",), options=options)
    shown = capsys.readouterr()
    assert "alphabet: dna (ACGT) (inferred" in shown.err
    assert "31 test rows" in shown.out
    assert "subquad bio predict" in " ".join(shown.out.split())
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["test"]) == {"net", "paper", "ridge", "boosting", "stack"}
    assert metrics["main_metric"] == "spearman"
    assert metrics["seconds"]["total"] >= metrics["seconds"]["net"] > 0
    assert sum(metrics["rows"].values()) <= 211
    assert metrics["test"]["net"]["spearman"] > 0.9
    assert {"low", "high", "value"} <= set(metrics["differences"]["ridge"])
    for name in ("config.json", "history.jsonl", "report.html", "README.md", "model.safetensors", "test.csv"):
        assert (tmp_path / "run" / name).is_file(), name
    predict_cli(tmp_path / "run", str(tmp_path / "t.csv"), options=OutputOptions(out=tmp_path / "p.csv.gz"))
    got = pd.read_csv(tmp_path / "p.csv.gz")
    added = [name for name in got.columns if name not in frame.columns]
    assert added == ["prediction", "prediction_std", "prediction_low", "prediction_high"]
    assert (got["prediction_low"] <= got["prediction_high"]).all()
    test = pd.read_csv(tmp_path / "run" / "test.csv")
    # what was measured in the fit is what the saved net predicts
    np.testing.assert_allclose(got["prediction"][test["row"] - 1], test["net"], atol=1e-5)
    assert got["sequence"].tolist() == frame["sequence"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_a_baseline_or_the_stack_predicts_what_it_was_measured_with(tmp_path, preset):
    frame = table(tmp_path / "t.csv")
    # the baselines, and not the network as published, leave out positions that never vary
    frame["sequence"] = "AC" + frame["sequence"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    fit(tmp_path / "t.csv", settings(preset=preset), out=tmp_path / "run", quiet=True)
    test = pd.read_csv(tmp_path / "run" / "test.csv")
    for model in ("net", "ridge", "boosting", "stack"):
        got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / f"{model}.csv", model=model, quiet=True)
        np.testing.assert_allclose(got["prediction"][test["row"] - 1], test[model], atol=1e-5)
        assert (got["prediction_low"] < got["prediction_high"]).all()
    with pytest.raises(SubquadError, match=r"no model 'lyra'.*net, ridge, boosting, stack"):
        predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv", model="lyra", quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "task_type", "names"),
    [
        (("active",), "binary", ["prediction", "prediction_class"]),
        (("class",), "multiclass", ["prediction", "probability_high", "probability_low", "probability_mid"]),
        (("score", "active"), "regression", ["prediction_score", "prediction_active"]),
        (("residues",), "residue_binary", ["prediction"]),
        (("profile",), "residue_regression", ["prediction"]),
    ],
)
@pytest.mark.parametrize("is_aligned", [True, False])
def test_every_task_type_from_a_table_and_back(tmp_path, target, task_type, names, is_aligned):
    frame = table(tmp_path / "t.csv")
    if not is_aligned:
        lengths = [4 + row % 4 for row in range(len(frame))]
        for column in ("sequence", "residues"):
            frame[column] = [text[:length] for text, length in zip(frame[column], lengths, strict=True)]
        frame["profile"] = [
            json.dumps(json.loads(text)[:length]) for text, length in zip(frame["profile"], lengths, strict=True)
        ]
        frame.to_csv(tmp_path / "t.csv", index=False)
    metrics = fit(tmp_path / "t.csv", settings(target=target, task_type=task_type), out=tmp_path / "run", quiet=True)
    assert set(metrics["test"]) == {"net", "ridge", "boosting", "stack"}
    got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.tsv", quiet=True)
    added = [name for name in got.columns if name not in frame.columns]
    assert [name for name in added if not name.startswith(("prediction_low", "prediction_high"))] == names
    if task_type.startswith("residue"):
        values = [json.loads(text) for text in got["prediction"]]
        assert [len(own) for own in values] == frame["sequence"].str.len().tolist()
        stacked = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "s.tsv", model="stack", quiet=True)
        assert [len(json.loads(own)) for own in stacked["prediction"]] == [len(own) for own in values]
    assert (tmp_path / "run" / ("test.json" if task_type.startswith("residue") else "test.csv")).is_file()


@pytest.mark.slow
def test_base_pairs_from_a_table_and_back(tmp_path):
    pytest.importorskip("RNA")
    random = np.random.default_rng(2)
    stem = ["".join(random.choice(list("ACGU"), 5)) for _ in range(41)]
    other = {"A": "U", "U": "A", "C": "G", "G": "C"}
    frame = pd.DataFrame({"sequence": [s + "GAAA" + "".join(other[x] for x in s[::-1]) for s in stem]})
    frame["structure"] = "(((((....)))))"
    frame.to_csv(tmp_path / "t.csv", index=False)
    metrics = fit(tmp_path / "t.csv", FitSettings(**SHORT), out=tmp_path / "run", quiet=True)
    assert set(metrics["test"]) == {"net", "vienna", "vienna_bpp", "stack"}
    assert metrics["test"]["net"]["f1"] > 0.5
    got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv", quiet=True)
    assert set(got["prediction"].str.len()) == {14}
    got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "s.csv", model="stack", quiet=True)
    assert set(got["prediction"].str.len()) == {14}


@pytest.mark.slow
def test_variants_of_a_wild_type_are_learned_without_sequences(tmp_path):
    random = np.random.default_rng(7)
    wild = "".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), 23))
    rows = []
    for _ in range(157):
        place = random.integers(23)
        new = random.choice([x for x in "ACDEFGHIKLMNPQRSTVWY" if x != wild[place]])
        rows.append((f"{wild[place]}{place + 101}{new}", place + 0.1 * random.normal()))
    pd.DataFrame(rows, columns=["mutant", "score"]).to_csv(tmp_path / "t.csv", index=False)
    own = FitSettings(**SHORT, wild_type=wild, split_by="position")
    metrics = fit(tmp_path / "t.csv", own, out=tmp_path / "run", quiet=True)
    assert metrics["rows"]["test"] > 5
    model = BioModel.load(tmp_path / "run")
    assert model.wild_type == wild
    assert model.predict_sequences([wild, wild]).shape == (2, 1)
    got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv", quiet=True)
    assert got["prediction"].notna().all()


@pytest.mark.slow
def test_the_paper_preset_is_fitted_alone(tmp_path):
    table(tmp_path / "t.csv")
    metrics = fit(tmp_path / "t.csv", settings(preset="paper"), out=tmp_path / "run", quiet=True)
    assert metrics["parameters"] == 47_169 - 16 * 64
    predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv", quiet=True)


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_result(tmp_path, monkeypatch):
    table(tmp_path / "t.csv")
    own = settings(ensemble_size=2)
    whole = fit(tmp_path / "t.csv", own, out=tmp_path / "whole", quiet=True)
    real, calls = training.train, []

    def killed(*arguments, **options):
        calls.append(options["name"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(training, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "t.csv", own, out=tmp_path / "killed", quiet=True)
    monkeypatch.setattr(training, "train", real)
    monkeypatch.setattr(model_fit, "fit_baseline", None)
    with pytest.raises(SubquadError, match="an unfinished run with other settings \\(seed was 0 and is 1\\)"):
        fit(tmp_path / "t.csv", own, out=tmp_path / "killed", seed=1, quiet=True)
    (tmp_path / "other").mkdir()
    table(tmp_path / "other" / "t.csv", seed=7)
    with pytest.raises(SubquadError, match="other settings \\(the contents of an input file have changed\\)"):
        fit(tmp_path / "other" / "t.csv", own, out=tmp_path / "killed", quiet=True)
    again = fit(tmp_path / "t.csv", own, out=tmp_path / "killed", quiet=True)
    assert again["test"] == whole["test"]
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_a_learning_curve_and_a_stack_of_folds(tmp_path):
    table(tmp_path / "t.csv")
    own = settings(learning_curve=2, stack_folds=2)
    metrics = fit(tmp_path / "t.csv", own, out=tmp_path / "run", quiet=True)
    curve = metrics["learning_curve"]
    assert [point["rows"] for point in curve] == sorted(point["rows"] for point in curve)
    assert len(curve) == 3
    assert set(curve[0]) == {"rows", "net", "ridge", "boosting"}
    assert sum(metrics["stacking"]["weights"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_a_curve_of_few_rows_has_the_spread_of_its_drawings(tmp_path):
    table(tmp_path / "t.csv")
    own = settings(learning_sizes=(48, 12, 5000), learning_repeats=3)
    metrics = fit(tmp_path / "t.csv", own, out=tmp_path / "run", quiet=True)
    few, some, whole = metrics["learning_curve"]
    assert [few["rows"], some["rows"], whole["rows"]] == [12, 48, metrics["rows"]["train"]]
    assert set(few["std"]) == {"net", "ridge", "boosting"}
    assert few["std"]["ridge"] > 0
    assert few["ridge"] < some["ridge"] < whole["ridge"]
    assert "std" not in whole
    assert "Means over random subsets" in (tmp_path / "run" / "report.html").read_text()


def test_errors_are_reported_before_anything_is_written(tmp_path):
    frame = table(tmp_path / "t.csv")
    frame.loc[[3, 17], "sequence"] = ["AC1TACG", "ACGTAC!"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SubquadError) as error:
        fit(tmp_path / "t.csv", settings(), out=tmp_path / "run", quiet=True)
    text = str(error.value)
    assert "row 4: '1' at position 3" in text
    assert "row 18: '!' at position 7" in text
    assert not (tmp_path / "run").exists()


def test_invalid_values_of_the_split_are_reported_with_all_other_errors(tmp_path):
    frame = table(tmp_path / "t.csv", rows=31)
    frame["split"] = ["train", "trian", *["test"] * 29]
    frame.loc[4, "sequence"] = "ACG1ACG"
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SubquadError) as error:
        fit(tmp_path / "t.csv", settings(), out=tmp_path / "run", quiet=True)
    assert str(error.value).splitlines() == [
        f"{tmp_path}/t.csv: 1 of 31 rows cannot be read; correct or remove them",
        "  row 5: '1' at position 4 is not in the DNA alphabet (ACGT)",
        f"{tmp_path}/t.csv: column 'split' must hold train, validation or test (or unused)",
        "  row 2: 'trian'",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"presets": ("papr",)}, "no preset 'papr'; did you mean 'paper'?"),
        ({"out": "t.csv"}, "t.csv: --out must be a folder, and this is a file"),
        ({"target": ("score", "late")}, "no training row has a value in column 'late'; leave it out"),
        ({"sequence": "same"}, "all training sequences are the same; there is nothing to learn from"),
    ],
)
def test_data_without_signal_are_refused_before_a_folder_is_written(tmp_path, more, message):
    frame = table(tmp_path / "t.csv")
    frame["split"] = np.resize(["train", "train", "validation", "test"], len(frame))
    frame["late"] = frame["score"].where(frame["split"] != "train")
    frame["same"] = "ACGTAC" + frame["sequence"].str[0].where(frame["split"] != "train", "A")
    frame.to_csv(tmp_path / "t.csv", index=False)
    named = {name: value for name, value in more.items() if name in ("target", "sequence")}
    own = settings(**named, keep_duplicates=True)
    out = tmp_path / more.get("out", "run")
    with pytest.raises(SubquadError, match=re.escape(message)):
        fit(tmp_path / "t.csv", own, out=out, presets=more.get("presets", ()), quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]


@pytest.mark.slow
def test_infinite_intervals_are_null_and_few_test_rows_name_no_winner(tmp_path, capsys):
    table(tmp_path / "t.csv", rows=83)
    fit_cli(str(tmp_path / "t.csv"), settings(), options=RunOptions(out=tmp_path / "run"))
    shown = capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"No model is named best: {metrics['rows']['test']} test rows, fewer than the 20" in " ".join(shown.split())
    assert "←" not in shown
    assert set(metrics["conformal"]) == {"net", "ridge", "boosting", "stack"}
    for found in metrics["conformal"].values():
        assert found["score"]["0.95"] == {"coverage": 1.0, "width": None}
        assert found["score"]["0.5"]["width"] > 0
    for name in ("metrics.json", "config.json"):
        json.loads((tmp_path / "run" / name).read_text(), parse_constant=pytest.fail)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [("score",), ("score", "other")])
def test_each_model_has_intervals_of_its_own_for_each_column(tmp_path, columns):
    frame = table(tmp_path / "t.csv")
    frame["other"] = 10 * frame["score"] + np.random.default_rng(1).normal(size=len(frame))
    frame.to_csv(tmp_path / "t.csv", index=False)
    metrics = fit(tmp_path / "t.csv", settings(target=columns), out=tmp_path / "run", quiet=True)
    for model in ("net", "ridge", "boosting", "stack"):
        got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / f"{model}.csv", model=model, quiet=True)
        rows = pd.read_csv(tmp_path / "run" / "test.csv")["row"] - 1
        for name in columns:
            end = "" if len(columns) == 1 else f"_{name}"
            low, high = got[f"prediction_low{end}"][rows], got[f"prediction_high{end}"][rows]
            assert (low < got[f"prediction{end}"][rows]).all()
            inside = ((frame[name][rows] >= low) & (frame[name][rows] <= high)).mean()
            assert inside == pytest.approx(metrics["conformal"][model][name]["0.9"]["coverage"])


@pytest.mark.slow
def test_too_few_validation_rows_leave_intervals_empty_with_a_remark(tmp_path, capsys):
    frame = table(tmp_path / "t.csv", rows=83)
    frame["split"] = ["train"] * 60 + ["validation"] * 8 + ["test"] * 15
    frame.to_csv(tmp_path / "t.csv", index=False)
    fit(tmp_path / "t.csv", settings(keep_duplicates=True), out=tmp_path / "run", quiet=True)
    got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv")
    assert got["prediction_low"].isna().all()
    assert "no 90 % intervals: they need nine validation rows" in capsys.readouterr().err
    assert "inf" not in (tmp_path / "p.csv").read_text()


@pytest.mark.slow
def test_the_published_network_uses_all_positions_in_the_folds_of_a_stack(tmp_path, monkeypatch):
    frame = table(tmp_path / "t.csv", rows=101)
    frame["sequence"] = "AAC" + frame["sequence"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    widths, whole = [], training.predict_net

    def predict_net(net, inputs, *more, **options):
        widths.append(inputs.codes.shape[1])
        return whole(net, inputs, *more, **options)

    for module in (training, ensemble):
        monkeypatch.setattr(module, "predict_net", predict_net)
    fit(tmp_path / "t.csv", settings(preset="paper", stack_folds=2), out=tmp_path / "run", quiet=True)
    assert set(widths) == {10}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a finished run, beside its table `t.csv`."""
    folder = tmp_path_factory.mktemp("fit")
    table(folder / "t.csv")
    fit(folder / "t.csv", settings(), out=folder / "run", quiet=True)
    return folder / "run"


@pytest.mark.slow
def test_a_table_that_has_predictions_already_is_refused(run, tmp_path):
    pd.read_csv(run.parent / "t.csv").assign(prediction=1.0).to_csv(tmp_path / "again.csv", index=False)
    with pytest.raises(SubquadError, match="already has a column 'prediction'"):
        predict(run, tmp_path / "again.csv", out=tmp_path / "p.csv", quiet=True)


@pytest.mark.slow
def test_predict_overwrites_its_output_only_with_force(run, tmp_path):
    (tmp_path / "p.csv").write_text("precious")
    with pytest.raises(SubquadError, match=r"p\.csv: exists already; .* overwrite it with --force"):
        predict(run, run.parent / "t.csv", out=tmp_path / "p.csv", quiet=True)
    assert (tmp_path / "p.csv").read_text() == "precious"
    predict(run, run.parent / "t.csv", out=tmp_path / "p.csv", force=True, quiet=True)
    assert pd.read_csv(tmp_path / "p.csv")["prediction"].notna().all()


@pytest.mark.slow
def test_metrics_show_blending_weights_intervals_and_the_winner(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["blending"]["net"]) == {"linear", "mlp_1", "mlp_2", "mlp_3", "mlp_4", "lyra"}
    assert sum(metrics["blending"]["net"].values()) == pytest.approx(1, abs=1e-3)
    for model, own in metrics["test"].items():
        for name, value in own.items():
            low, high = metrics["intervals"]["test"][model][name]
            assert low <= value + 1e-9
            assert value <= high + 1e-9
    assert metrics["wins"] is None or metrics["wins"] in metrics["test"]


@pytest.mark.slow
def test_the_loader_of_all_fields_opens_a_fitted_model(run):
    model = load_run(run)
    assert isinstance(model, BioModel)
    assert model.models == ("net", "ridge", "boosting", "stack")


@pytest.mark.slow
def test_the_loop_does_not_validate_twice_at_its_end(run):
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for part in {line["part"] for line in lines}:
        steps = [line["step"] for line in lines if line["part"] == part and "validation_spearman" in line]
        gaps = np.diff(steps)
        assert len(set(steps)) == len(steps)
        # the last interval is at least half of the others
        assert len(gaps) < 2 or 2 * gaps[-1] >= gaps[0]


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["model"]["spec"]["hidden"] = 3
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SubquadError, match=r"the weights do not fit its config\.json; fit again"):
        BioModel.load(tmp_path / "run")


@pytest.mark.slow
@needs_data
@pytest.mark.data
def test_real_files_are_fitted_from_the_command_line(tmp_path, capsys):
    raw = Path(DATA) / "bio" / "raw"
    short = ["--epochs", "1", "--train-rows", "300", "--ensemble-size", "1", "--boosting-iterations", "5", "--quiet"]
    syua = raw / "proteingym_SYUA_HUMAN_Newberry_2020.csv.gz"
    extra = ["--target", "DMS_score", "--covariates", "EVE_single", "ESM1v_*", "--split-by", "modulo", "--fold", "1"]
    assert main(["bio", "fit", str(syua), *extra, *short, "--out", str(tmp_path / "syua")]) == 0
    assert json.loads((tmp_path / "syua" / "config.json").read_text())["inputs"]["covariates"].keys() >= {"EVE_single"}
    # a table of variants with its wild type in a FASTA file
    with gzip.open(raw / "ecnet_RRM.fasta.gz") as source, (tmp_path / "rrm.fasta").open("wb") as target:
        shutil.copyfileobj(source, target)
    with gzip.open(raw / "ecnet_RRM_double.tsv.gz", "rt") as source:
        lines = [next(source) for _ in range(1500)]
    (tmp_path / "rrm.tsv").write_text("".join(lines))
    wild = ["--wild-type", str(tmp_path / "rrm.fasta")]
    assert main(["bio", "fit", str(tmp_path / "rrm.tsv"), *wild, *short, "--out", str(tmp_path / "rrm")]) == 0
    assert capsys.readouterr().err == ""
