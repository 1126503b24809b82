"""From a table to a saved model and back: every task type, interrupted runs and errors."""

import gzip
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.bio_tables import SHORT, settings, table

from subquad.bio import BioModel, FitSettings, fit, predict
from subquad.bio.cli import fit as fit_cli
from subquad.bio.cli import predict as predict_cli
from subquad.bio.commands import fit as fit_command
from subquad.bio.commands.report import report
from subquad.bio.models import batches, networks, training
from subquad.bio.models import fit as model_fit
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.runs.options import OutputOptions, RunOptions

DATA = os.environ.get("SUBQUAD_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="SUBQUAD_DATA is not set: the data folder is not here")

CLASS_MODELS = ("ridge", "boosting", "mlp", "lyra-additive", "lyra")
"""Models that are fitted to one class per row if none are named."""
MODELS = ("ridge", "boosting", "gp", "mlp", "lyra-additive", "lyra")
"""Models that are fitted to one measurement per row of a small table if none are named."""
ENSEMBLES = ("ensemble-without-lyra", "ensemble")


@pytest.mark.long
def test_the_commands_fit_and_predict(tmp_path, capsys):
    frame = table(tmp_path / "t.csv")
    options = RunOptions(out=tmp_path / "run")
    models = ("ridge", "boosting", "mlp", "lyra-paper", "lyra")
    fit_cli(str(tmp_path / "t.csv"), settings(ensemble_size=2, models=models), options=options)
    shown = capsys.readouterr()
    assert "alphabet: dna (ACGT) (inferred" in shown.err
    assert "31 test rows" in shown.out
    assert "subquad bio predict" in " ".join(shown.out.split())
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["test"]) == {*models, *ENSEMBLES}
    assert metrics["main_metric"] == "spearman"
    assert metrics["seconds"]["total"] >= metrics["seconds"]["read"] > 0
    assert set(metrics["cpu_seconds"]) == set(metrics["test"])
    assert metrics["cpu_seconds"]["ensemble"] > metrics["cpu_seconds"]["lyra"] > 0
    assert sum(metrics["rows"].values()) <= 211
    assert metrics["test"]["lyra"]["spearman"] > 0.9
    assert metrics["test"]["ensemble"]["spearman"] > 0.9
    for model in ("lyra", "ensemble"):
        assert set(metrics["differences"][model]) == set(metrics["test"]) - {model}
        assert {"low", "high", "value"} <= set(metrics["differences"][model]["ridge"])
    for name in ("config.json", "history.jsonl", "report.html", "README.md", "model.safetensors", "test.csv"):
        assert (tmp_path / "run" / name).is_file(), name
    validation = json.loads((tmp_path / "run" / "validation.json").read_text())
    assert list(validation) == list(models)
    assert validation["lyra"]["validation"] > 0.9
    assert all(own["cpu_seconds"] > 0 for own in validation.values())
    drawn = json.loads((tmp_path / "run" / "bootstrap.json").read_text())
    assert set(drawn) == set(metrics["test"])
    predict_cli(tmp_path / "run", str(tmp_path / "t.csv"), options=OutputOptions(out=tmp_path / "p.csv.gz"))
    got = pd.read_csv(tmp_path / "p.csv.gz")
    added = [name for name in got.columns if name not in frame.columns]
    assert added == ["prediction", "prediction_std", "prediction_low", "prediction_high"]
    assert (got["prediction_low"] <= got["prediction_high"]).all()
    test = pd.read_csv(tmp_path / "run" / "test.csv")
    # what was measured in the fit is what the saved ensemble predicts
    np.testing.assert_allclose(got["prediction"][test["row"] - 1], test["ensemble"], atol=1e-5)
    assert got["sequence"].tolist() == frame["sequence"].tolist()
    # without Lyra in the saved ensemble, predictions change by its weight
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    stacking = config["stacking"]
    weight = metrics["weights"]["ensemble"]["lyra"]
    assert 0 < weight < 1
    stacking["weights"] = {
        name: 0.0 if name == "lyra" else own / (1 - weight) for name, own in stacking["weights"].items()
    }
    path.write_text(json.dumps(config))
    rest = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "rest.csv", quiet=True)["prediction"]
    lyra = stacking["shift"]["lyra"][0] + stacking["scale"]["lyra"][0] * test["lyra"]
    np.testing.assert_allclose(
        test["ensemble"] - rest[test["row"] - 1].to_numpy(),
        weight * (lyra - rest[test["row"] - 1].to_numpy()),
        atol=1e-4,
    )


@pytest.mark.long
def test_each_model_and_the_ensemble_predict_what_they_were_measured_with(tmp_path):
    frame = table(tmp_path / "t.csv")
    # all models, except the network as published, leave out positions that never vary
    frame["sequence"] = "AC" + frame["sequence"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    models = ("ridge", "boosting", "mlp", "cnn", "lyra-paper", "lyra-alone", "lyra-additive", "lyra")
    fit(tmp_path / "t.csv", settings(models=models), out=tmp_path / "run", quiet=True)
    test = pd.read_csv(tmp_path / "run" / "test.csv")
    for model in (*models, "ensemble"):
        got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / f"{model}.csv", model=model, quiet=True)
        np.testing.assert_allclose(got["prediction"][test["row"] - 1], test[model], atol=1e-5)
        assert (got["prediction_low"] < got["prediction_high"]).all()
    with pytest.raises(SubquadError, match=r"no model 'lyr'; did you mean 'lyra'\?.*ridge, boosting, .*ensemble"):
        predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv", model="lyr", quiet=True)


@pytest.mark.long
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
    rows = MODELS if task_type == "regression" else CLASS_MODELS
    fitted = ("ridge", "boosting", "lyra") if task_type.startswith("residue") else rows
    assert set(metrics["test"]) == {*fitted, *ENSEMBLES}
    # of one network there is no standard deviation
    for model, bounds in (("lyra", ("low", "high")), (None, ("low", "high", "std"))):
        out = tmp_path / f"{model}.tsv"
        got = predict(tmp_path / "run", tmp_path / "t.csv", out=out, model=model, quiet=True)
        added = [name for name in got.columns if name not in frame.columns]
        unwanted = tuple(f"prediction_{name}" for name in bounds)
        assert [name for name in added if not name.startswith(unwanted)] == names
        if task_type.startswith("residue"):
            values = [json.loads(text) for text in got["prediction"]]
            assert [len(own) for own in values] == frame["sequence"].str.len().tolist()
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
    assert set(metrics["test"]) == {"vienna", "vienna_bpp", "lyra", *ENSEMBLES}
    assert metrics["test"]["lyra"]["f1"] > 0.5
    for model in ("lyra", None):
        got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / f"{model}.csv", model=model, quiet=True)
        assert set(got["prediction"].str.len()) == {14}


def test_classes_with_hardly_any_test_rows_are_named(tmp_path, capsys):
    frame = pd.DataFrame({"sequence": table(tmp_path / "t.csv")["sequence"]})
    frame["label"] = ["rare" if k % 40 == 0 else "common" for k in range(len(frame))]
    frame["split"] = ["test" if k % 4 == 0 and k < 160 else "train" for k in range(len(frame))]
    frame.to_csv(tmp_path / "t.csv", index=False)
    fit(tmp_path / "t.csv", settings(target=("label",), models=("ridge",)), out=tmp_path / "run")
    assert "of 40 test rows only 4 of class 'rare': metrics of so few rows are mostly chance" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("own", "is_said"),
    [
        ({"target": ("skewed",), "models": ("lyra-alone",)}, True),
        ({"target": ("skewed",), "models": ("lyra-alone",), "transform": "none"}, False),
        ({"target": ("skewed",), "models": ("ridge",)}, False),
        ({"target": ("even",), "models": ("lyra-alone",)}, False),
    ],
)
def test_training_on_ranks_of_a_skewed_target_is_said(tmp_path, capsys, monkeypatch, own, is_said):
    def stop(*_, **__):
        raise SubquadError("stopped before training")

    monkeypatch.setattr(fit_command, "open_shared_run", stop)
    frame = pd.DataFrame({"sequence": table(tmp_path / "t.csv")["sequence"]})
    frame["even"] = np.arange(len(frame)) / 7
    frame["skewed"] = np.exp(frame["even"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SubquadError, match="stopped before training"):
        fit(tmp_path / "t.csv", settings(**own), out=tmp_path / "run")
    remark = "target 'skewed': strongly skewed, so networks are trained on its ranks (--transform none overrides)\n"
    assert (remark in capsys.readouterr().err) == is_said


@pytest.mark.long
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
def test_the_published_network_is_fitted_alone(tmp_path):
    table(tmp_path / "t.csv")
    metrics = fit(tmp_path / "t.csv", settings(models=("lyra-paper",)), out=tmp_path / "run", quiet=True)
    assert metrics["parameters"] == {"lyra-paper": 47_169 - 16 * 64}
    assert set(metrics["test"]) == {"lyra-paper"}
    got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv", quiet=True)
    test = pd.read_csv(tmp_path / "run" / "test.csv")
    np.testing.assert_allclose(got["prediction"][test["row"] - 1], test["lyra-paper"], atol=1e-5)


def test_a_list_of_models_without_a_name_is_refused(tmp_path, capsys):
    table(tmp_path / "t.csv")
    assert main(["bio", "fit", str(tmp_path / "t.csv"), "--models", "--out", str(tmp_path / "run")]) == 2
    assert "--models requires an argument" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_predictions_are_printed_beside_the_first_column(tmp_path, capsys):
    table(tmp_path / "t.csv")
    fit(tmp_path / "t.csv", settings(models=("ridge",)), out=tmp_path / "run", quiet=True)
    frame = pd.read_csv(tmp_path / "t.csv")[["sequence"]].assign(name="a name of more than twenty-four letters")
    frame[["name", "sequence"]].to_csv(tmp_path / "n.csv", index=False)
    assert (
        main(["bio", "predict", str(tmp_path / "run"), str(tmp_path / "n.csv"), "--out", str(tmp_path / "p.csv")]) == 0
    )
    shown = capsys.readouterr().out
    assert "a name of more than twe…" in shown
    assert "90 % interval" in shown


@pytest.mark.slow
def test_ridge_alone_has_no_ensemble_and_predicts(tmp_path):
    table(tmp_path / "t.csv")
    arguments = ["bio", "fit", str(tmp_path / "t.csv"), "--sequence", "sequence", "--target", "score", "--quiet"]
    assert main([*arguments, "--models", "ridge", "--out", str(tmp_path / "run")]) == 0
    metrics, config = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("metrics", "config"))
    assert set(metrics["test"]) == set(metrics["cpu_seconds"]) == {"ridge"}
    assert (metrics["weights"], metrics["parameters"], metrics["wins"]) == ({}, {}, None)
    assert not {"ensemble", "ensemble_versus_best"} & {*metrics, *metrics["differences"]}
    assert (config["models"], config["networks"], config["stacking"]) == (["ridge"], {}, None)
    model = BioModel.load(tmp_path / "run")
    assert (model.default, model.positions) == ("ridge", None)
    got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv", quiet=True)
    assert "prediction_std" not in got
    test = pd.read_csv(tmp_path / "run" / "test.csv")
    np.testing.assert_allclose(got["prediction"][test["row"] - 1], test["ridge"], atol=1e-5)
    for other in ("ensemble", "lyra"):
        with pytest.raises(SubquadError, match=rf"no model '{other}' \(there are: ridge\)"):
            predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "q.csv", model=other, quiet=True)


@pytest.mark.parametrize(("tokens", "seconds"), [(1_000, 40.0), (8_000_000, 96.0)])
def test_boosting_has_the_time_of_lyra_but_at_least_forty_seconds(tmp_path, monkeypatch, tokens, seconds):
    table(tmp_path / "t.csv")
    given = {}

    def stopped(name, dataset, **options):
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(model_fit, "fit_baseline", stopped)
    # so few letters that all passes are affordable
    monkeypatch.setattr(training, "MAX_EPOCHS", np.inf)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "t.csv", settings(tokens=tokens, epochs=None), out=tmp_path / "run", quiet=True)
    assert given["seconds"] == pytest.approx(seconds)


@pytest.mark.long
def test_an_interrupted_run_resumes_to_the_same_result(tmp_path, monkeypatch, capsys):
    table(tmp_path / "t.csv")
    own = settings(ensemble_size=2)
    whole = fit(tmp_path / "t.csv", own, out=tmp_path / "whole", quiet=True)
    real = training.train

    def killed(*arguments, **options):
        # the models before it, and the first of its networks, have been trained
        if options["name"] == "lyra 2":
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(training, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "t.csv", own, out=tmp_path / "killed", quiet=True)
    monkeypatch.setattr(training, "train", real)
    monkeypatch.setattr(model_fit, "fit_baseline", None)
    with pytest.raises(SubquadError, match="an unfinished run with other settings"):
        fit(tmp_path / "t.csv", own, out=tmp_path / "killed", seed=1, quiet=True)
    (tmp_path / "other").mkdir()
    table(tmp_path / "other" / "t.csv", seed=7)
    with pytest.raises(SubquadError, match="the input files changed"):
        fit(tmp_path / "other" / "t.csv", own, out=tmp_path / "killed", quiet=True)
    capsys.readouterr()
    again = fit(tmp_path / "t.csv", own, out=tmp_path / "killed")
    assert "trained already" in capsys.readouterr().err
    assert again["test"] == whole["test"]
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


@pytest.mark.long
def test_a_learning_curve_and_a_stack_of_folds(tmp_path):
    table(tmp_path / "t.csv")
    own = settings(learning_curve=2, stack_folds=2)
    metrics = fit(tmp_path / "t.csv", own, out=tmp_path / "run", quiet=True)
    curve = metrics["learning_curve"]
    assert [point["rows"] for point in curve] == sorted(point["rows"] for point in curve)
    assert len(curve) == 3
    assert set(curve[0]) == {"rows", *MODELS, *ENSEMBLES}
    assert curve[-1]["ensemble"] == metrics["test"]["ensemble"]["spearman"]
    for name in ENSEMBLES:
        assert sum(metrics["weights"][name].values()) == pytest.approx(1)


@pytest.mark.long
@pytest.mark.parametrize(("rows", "stacked"), [(211, "train"), (401, "validation")])
def test_few_validation_rows_leave_the_weights_to_out_of_fold_predictions(tmp_path, rows, stacked):
    table(tmp_path / "t.csv", rows=rows, length=9)
    own = settings(models=("ridge", "lyra-additive", "lyra"), stack_folds=None)
    metrics = fit(tmp_path / "t.csv", own, out=tmp_path / "run", quiet=True)
    stacking = json.loads((tmp_path / "run" / "config.json").read_text())["stacking"]
    assert (metrics["rows"]["validation"] < 30) == (stacked == "train")
    assert stacking["rows"] == metrics["rows"][stacked]
    assert stacking["is_out_of_fold"] == (stacked == "train")
    # the time of the folds of Lyra is no part of the ensemble without it
    seconds = metrics["cpu_seconds"]
    assert seconds["ensemble-without-lyra"] < min(seconds["lyra"], seconds["ensemble"])
    source = {"train": "out-of-fold predictions of the training rows", "validation": "the validation rows"}[stacked]
    assert f"chosen on {source}: ridge" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_class_that_a_fold_would_lack_leaves_the_weights_to_the_validation_rows(tmp_path):
    frame = table(tmp_path / "t.csv")
    frame["active"] = 0
    # one training row of class 1: the fold that holds it out has none to train on
    frame.loc[[3, 50, 90], "active"] = 1
    frame["split"] = np.where(frame.index % 7 == 1, "validation", np.where(frame.index % 7 == 6, "test", "train"))
    assert frame["split"][[3, 50, 90]].tolist() == ["train", "validation", "test"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    own = settings(target=("active",), models=("ridge", "boosting"), stack_folds=None, task_type="binary")
    own = replace(own, split="split")
    fit(tmp_path / "t.csv", own, out=tmp_path / "run", quiet=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["stacking"]["rows"] == config["split"]["rows"]["validation"]
    with pytest.raises(SubquadError, match="no training row of class '1'"):
        fit(tmp_path / "t.csv", replace(own, stack_folds=5), out=tmp_path / "other", quiet=True)


@pytest.mark.long
def test_a_curve_of_few_rows_has_the_spread_of_its_drawings(tmp_path):
    table(tmp_path / "t.csv")
    own = settings(learning_sizes=(48, 12, 5000), learning_repeats=3)
    metrics = fit(tmp_path / "t.csv", own, out=tmp_path / "run", quiet=True)
    few, some, whole = metrics["learning_curve"]
    assert [few["rows"], some["rows"], whole["rows"]] == [12, 48, metrics["rows"]["train"]]
    assert set(few["std"]) == {*MODELS, *ENSEMBLES}
    assert few["std"]["ridge"] > 0
    assert few["ridge"] < some["ridge"] < whole["ridge"]
    assert "std" not in whole


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
        f"{tmp_path}/t.csv: column 'split' must hold train, validation or test (or unused), or numbers of folds",
        "  row 2: 'trian'",
    ]


def test_a_sheet_of_an_excel_file_is_fitted_and_a_huge_number_or_an_empty_group_is_refused(tmp_path):
    frame = table(tmp_path / "t.csv").assign(gene="a")
    book = tmp_path / "b.xlsx"
    with pd.ExcelWriter(book) as writer:
        pd.DataFrame({"about": ["plate 7"]}).to_excel(writer, sheet_name="Notes", index=False)
        frame.to_excel(writer, sheet_name="Data", index=False)
    own = settings(models=("ridge",))
    fit(f"{book}#Data", own, out=tmp_path / "run", quiet=True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["file"].endswith("b.xlsx#Data")
    frame.assign(score=[*frame["score"][:-1], 1e300]).to_csv(tmp_path / "huge.csv", index=False)
    with pytest.raises(SubquadError, match=rf"row {len(frame)}: '1e\+300'"):
        fit(tmp_path / "huge.csv", own, out=tmp_path / "huge", quiet=True)
    frame.assign(gene=["", *frame["gene"][1:]]).to_csv(tmp_path / "groups.csv", index=False)
    with pytest.raises(SubquadError, match="1 row has no group in column 'gene'\n  row 1: ''"):
        fit(tmp_path / "groups.csv", settings(group="gene", split_by="group"), out=tmp_path / "groups", quiet=True)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"models": ("ridge", "vienna")},
            "--models vienna does not suit a task of type regression; choose from",
        ),
        ({"out": "t.csv"}, "t.csv: the output must be a folder"),
        ({"target": ("score", "late")}, "no train row has a value in column 'late'"),
        ({"sequence": "same"}, "all training sequences are the same; there is nothing to learn from"),
    ],
)
def test_data_without_signal_are_refused_before_a_folder_is_written(tmp_path, more, message):
    frame = table(tmp_path / "t.csv")
    frame["split"] = np.resize(["train", "train", "validation", "test"], len(frame))
    frame["late"] = frame["score"].where(frame["split"] != "train")
    frame["same"] = "ACGTAC" + frame["sequence"].str[0].where(frame["split"] != "train", "A")
    frame.to_csv(tmp_path / "t.csv", index=False)
    named = {name: value for name, value in more.items() if name != "out"}
    own = settings(**named, keep_duplicates=True)
    out = tmp_path / more.get("out", "run")
    with pytest.raises(SubquadError, match=re.escape(message)):
        fit(tmp_path / "t.csv", own, out=out, quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]


@pytest.mark.slow
@pytest.mark.long
def test_infinite_intervals_are_null_and_few_test_rows_name_no_winner(tmp_path, capsys):
    table(tmp_path / "t.csv", rows=83)
    fit_cli(str(tmp_path / "t.csv"), settings(), options=RunOptions(out=tmp_path / "run"))
    shown = capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"No model is named best: {metrics['rows']['test']} test rows, fewer than the 20" in " ".join(shown.split())
    assert "←" not in shown
    assert set(metrics["conformal"]) == {*MODELS, *ENSEMBLES}
    for found in metrics["conformal"].values():
        assert found["score"]["0.95"] == {"coverage": None, "width": None}
        assert found["score"]["0.5"]["width"] > 0
    for name in ("metrics.json", "config.json"):
        json.loads((tmp_path / "run" / name).read_text(), parse_constant=pytest.fail)


def test_a_figure_that_cannot_be_drawn_costs_no_results(tmp_path, monkeypatch):
    table(tmp_path / "t.csv")
    with monkeypatch.context() as patch:
        patch.setattr("subquad.bio.commands.fit.render", lambda run: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(tmp_path / "t.csv", settings(models=("ridge",)), out=tmp_path / "run", quiet=True)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["ridge"]["spearman"] > 0.9
    assert BioModel.load(tmp_path / "run").default == "ridge"
    assert "Result" in report(tmp_path / "run").read_text()


@pytest.mark.slow
def test_a_target_column_without_test_measurements_is_reported(tmp_path):
    frame = table(tmp_path / "t.csv")
    frame["other"], frame["split"] = frame["score"], np.array(["train", "train", "validation", "test"])[frame.index % 4]
    frame.loc[frame["split"] == "test", "score"] = np.nan
    frame.drop_duplicates("sequence").to_csv(tmp_path / "t.csv", index=False)
    own = settings(target=("score", "other"), models=("ridge",), split="split")
    metrics = fit(tmp_path / "t.csv", own, out=tmp_path / "run", quiet=True)
    assert metrics["test"]["ridge"]["spearman"] == metrics["test"]["ridge"]["spearman:other"] > 0.9
    text = "The first of 2 target columns that are measured in test rows."
    assert text in (tmp_path / "run" / "report.html").read_text()


def test_a_run_without_an_ensemble_says_which_model_predicts(tmp_path, capsys):
    table(tmp_path / "t.csv", rows=83)
    models = ("ridge", "lyra-paper")
    fit(tmp_path / "t.csv", settings(models=models, epochs=0.1), out=tmp_path / "run", quiet=True)
    capsys.readouterr()
    predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv")
    text = "the run has no ensemble: lyra-paper predicts; --model names another model"
    assert text in " ".join(capsys.readouterr().err.split())
    predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "q.csv", model="ridge")
    assert "no ensemble" not in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("columns", [("score",), ("score", "other")])
def test_each_model_has_intervals_of_its_own_for_each_column(tmp_path, columns):
    frame = table(tmp_path / "t.csv")
    frame["other"] = 10 * frame["score"] + np.random.default_rng(1).normal(size=len(frame))
    frame.to_csv(tmp_path / "t.csv", index=False)
    metrics = fit(tmp_path / "t.csv", settings(target=columns), out=tmp_path / "run", quiet=True)
    for model in (*MODELS, "ensemble"):
        got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / f"{model}.csv", model=model, quiet=True)
        rows = pd.read_csv(tmp_path / "run" / "test.csv")["row"] - 1
        for name in columns:
            end = "" if len(columns) == 1 else f"_{name}"
            low, high = got[f"prediction_low{end}"][rows], got[f"prediction_high{end}"][rows]
            assert (low < got[f"prediction{end}"][rows]).all()
            inside = ((frame[name][rows] >= low) & (frame[name][rows] <= high)).mean()
            assert inside == pytest.approx(metrics["conformal"][model][name]["0.9"]["coverage"])


@pytest.mark.slow
@pytest.mark.long
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
def test_all_networks_read_the_positions_that_vary_also_in_folds(tmp_path, monkeypatch):
    frame = table(tmp_path / "t.csv", rows=101)
    frame["sequence"] = "AAC" + frame["sequence"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    widths, whole = set(), training.raw_outputs

    def raw_outputs(net, inputs, *more, **options):
        widths.add((net.spec.kind, inputs.codes.shape[1]))
        return whole(net, inputs, *more, **options)

    for module in (training, batches):
        monkeypatch.setattr(module, "raw_outputs", raw_outputs)
    own = settings(models=("ridge", "lyra-paper", "lyra"), stack_folds=2)
    fit(tmp_path / "t.csv", own, out=tmp_path / "run", quiet=True)
    assert widths == {("lyra-paper", 7), ("lyra-additive", 7), ("lyra", 7)}
    model = BioModel.load(tmp_path / "run")
    assert model.positions.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert model.networks["lyra-paper"].positions.tolist() == [3, 4, 5, 6, 7, 8, 9]


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
def test_metrics_show_weights_intervals_and_the_winner(run):
    metrics = json.loads((run / "metrics.json").read_text())
    weights = metrics["weights"]
    assert list(weights["ensemble"]) == ["ridge", "boosting", "gp", "mlp", "lyra"]
    assert list(weights["ensemble-without-lyra"]) == ["ridge", "boosting", "gp", "mlp"]
    for own in weights.values():
        assert sum(own.values()) == pytest.approx(1)
        assert min(own.values()) >= 0
    for model, own in metrics["test"].items():
        for name, value in own.items():
            low, high = metrics["intervals"]["test"][model][name]
            assert low <= value + 1e-9
            assert value <= high + 1e-9
    assert metrics["wins"] is None or metrics["wins"] in MODELS


def with_weights(run, folder, weights):
    """Return a copy of a run whose ensemble has other weights, and in which Lyra is calibrated to twice the scale."""
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["stacking"]["weights"] = weights
    config["stacking"]["scale"]["lyra"] = [2.0]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_the_default_prediction_is_the_weighted_mean_of_the_calibrated_members(run, tmp_path):
    weights = {"ridge": 0.1, "boosting": 0.2, "mlp": 0.3, "lyra": 0.4}
    for folder in (run, with_weights(run, tmp_path / "other", weights)):
        stacking = json.loads((folder / "config.json").read_text())["stacking"]
        got = predict(folder, run.parent / "t.csv", out=tmp_path / f"{folder.name}.csv", quiet=True)["prediction"]
        expected = 0.0
        for name, weight in stacking["weights"].items():
            out = tmp_path / f"{folder.name}-{name}.csv"
            own = predict(folder, run.parent / "t.csv", out=out, model=name, quiet=True)["prediction"]
            expected = expected + weight * (stacking["shift"][name][0] + stacking["scale"][name][0] * own)
        np.testing.assert_allclose(got, expected, atol=1e-6)
    assert stacking["weights"] == weights
    model = BioModel.load(tmp_path / "other")
    sequences = pd.read_csv(run.parent / "t.csv")["sequence"].tolist()
    np.testing.assert_allclose(model.predict_sequences(sequences)[:, 0], expected, atol=1e-6)
    members = model.members_of_sequences(sequences)
    # one of ridge, boosting and Lyra each, and four MLPs
    np.testing.assert_allclose(members.weights, [0.1, 0.2, *[0.3 / 4] * 4, 0.4])
    np.testing.assert_allclose(np.tensordot(members.weights, np.stack(members.each), 1), members.mean, atol=1e-9)


@pytest.mark.slow
def test_without_a_weight_lyra_does_not_count_and_does_not_run(run, tmp_path, monkeypatch):
    sequences = pd.read_csv(run.parent / "t.csv")["sequence"].tolist()
    models = {}
    for lyra in (0.0, 0.4, 1.0):
        weights = {"ridge": (1 - lyra) / 2, "boosting": 0.0, "mlp": (1 - lyra) / 2, "lyra": lyra}
        models[lyra] = BioModel.load(with_weights(run, tmp_path / str(lyra), weights))
    without, some, alone = (model.predict_sequences(sequences) for model in models.values())
    assert np.abs(alone - without).max() > 0.1
    np.testing.assert_allclose(some, 0.6 * without + 0.4 * alone, atol=1e-6)
    used = []
    real = networks.predict_net

    def predict_net(net, *arguments, **options):
        used.append(net.spec.kind)
        return real(net, *arguments, **options)

    monkeypatch.setattr(networks, "predict_net", predict_net)
    np.testing.assert_array_equal(models[0.0].predict_sequences(sequences), without)
    assert used == ["mlp"] * 4


@pytest.mark.slow
def test_files_of_baselines_are_read_once(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    model, sequences = BioModel.load(tmp_path / "run"), pd.read_csv(run.parent / "t.csv")["sequence"].tolist()
    inputs = model.inputs_of(sequences)
    first = model.predict(inputs, "boosting")
    (tmp_path / "run" / "boosting.safetensors").unlink()
    np.testing.assert_array_equal(model.predict(inputs, "boosting"), first)
    with pytest.raises(SubquadError, match=r"boosting\.safetensors: no such file"):
        BioModel.load(tmp_path / "run").predict(inputs, "boosting")


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
    config["networks"]["mlp"]["spec"]["hidden"] = 3
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SubquadError, match="cannot be read as a model"):
        BioModel.load(tmp_path / "run")


@pytest.mark.long
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
