import json
import shutil

import numpy as np
import pandas as pd
import pytest

from subquad.bio import FitSettings, fit, predict, tasks, training
from subquad.bio.commands import fit as fit_command
from subquad.bio.commands import predict as predict_command
from subquad.bio.report import sections
from subquad.cli import main
from subquad.errors import SubquadError

SHORT = {"epochs": 2.0, "boosting_iterations": 10, "batch": 31}


def table(path, rows=211, length=7, seed=0, columns=("score",)):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (rows, length))
    y = random.normal(size=4)[codes[:, 2]] + random.normal(size=4)[codes[:, 3]]
    frame = pd.DataFrame({"sequence": ["".join("ACGT"[k] for k in row) for row in codes]})
    if "score" in columns:
        frame["score"] = y.round(4)
    if "active" in columns:
        frame["active"] = (y > 0).astype(int)
    if "kind" in columns:
        frame["kind"] = np.array(["low", "mid", "high"])[np.digitize(y, np.quantile(y, [0.3, 0.7]))]
    frame.to_csv(path, index=False)
    return frame


def test_the_commands_fit_and_predict(tmp_path, capsys):
    frame = table(tmp_path / "t.csv")
    fit_command(tmp_path / "t.csv", FitSettings(**SHORT, members=2), out=tmp_path / "run")
    shown = capsys.readouterr()
    assert "alphabet: dna (ACGT) (guessed)" in shown.err
    assert "← wins" in shown.out
    assert "Next: subquad bio predict" in " ".join(shown.out.split())
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics) == {"test", "rows", "seconds", "parameters"}
    assert set(metrics["test"]) == {"net", "ridge", "boosting"}
    assert set(metrics["test"]["net"]) == {"spearman", "pearson", "r2"}
    assert sum(metrics["rows"].values()) == 211
    assert metrics["test"]["net"]["spearman"] > 0.9
    for name in ("config.json", "history.jsonl", "report.html", "README.md", "model.safetensors", "test.csv"):
        assert (tmp_path / "run" / name).is_file(), name
    predict_command(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv.gz")
    got = pd.read_csv(tmp_path / "p.csv.gz")
    assert list(got.columns) == ["sequence", "score", "prediction", "prediction_std"]
    test = pd.read_csv(tmp_path / "run" / "test.csv")
    # what was measured in the fit is what the saved net predicts
    np.testing.assert_allclose(got["prediction"][test["row"] - 1], test["net"], atol=1e-5)
    assert got["sequence"].tolist() == frame["sequence"].tolist()


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("active", ["prediction", "prediction_class"]),
        ("kind", ["prediction", "probability_high", "probability_low", "probability_mid"]),
    ],
)
def test_classes_of_sequences_of_different_lengths(tmp_path, target, names):
    frame = table(tmp_path / "t.csv", columns=(target,))
    frame["sequence"] = [s[: 4 + k % 4] for k, s in enumerate(frame["sequence"])]
    frame.to_csv(tmp_path / "t.csv", index=False)
    metrics = fit(tmp_path / "t.csv", FitSettings(**SHORT), out=tmp_path / "run", quiet=True)
    assert set(metrics["test"]["ridge"]) == {"auroc", "ap", "accuracy", "mcc"}
    got = predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.tsv", quiet=True)
    assert [name for name in got.columns if name not in frame.columns] == names
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "p.tsv", sep="\t")[list(frame.columns)], frame)
    assert sections(tmp_path / "run")[0].title == "Result"


def test_the_paper_preset_is_fitted_alone(tmp_path):
    table(tmp_path / "t.csv")
    metrics = fit(tmp_path / "t.csv", FitSettings(**SHORT, preset="paper"), out=tmp_path / "run", quiet=True)
    assert metrics["parameters"] == 47_169 - 16 * 64
    predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "p.csv", quiet=True)


def test_a_killed_run_goes_on_to_the_same_result(tmp_path, monkeypatch):
    table(tmp_path / "t.csv")
    settings = FitSettings(**SHORT, members=2)
    whole = fit(tmp_path / "t.csv", settings, out=tmp_path / "whole", quiet=True)
    real, calls = training.train, []

    def killed(*arguments, **options):
        calls.append(options["name"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(training, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "t.csv", settings, out=tmp_path / "killed", quiet=True)
    monkeypatch.setattr(training, "train", real)
    monkeypatch.setattr(tasks.baselines, "fit_boosting", None)
    with pytest.raises(SubquadError, match="an unfinished run with other settings \\(seed was 0 and is 1\\)"):
        fit(tmp_path / "t.csv", settings, out=tmp_path / "killed", seed=1, quiet=True)
    again = fit(tmp_path / "t.csv", settings, out=tmp_path / "killed", quiet=True)
    assert again["test"] == whole["test"]
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_mistakes_are_said_before_anything_is_written(tmp_path):
    frame = table(tmp_path / "t.csv")
    frame.loc[[3, 17], "sequence"] = ["ACXTACG", "ACGTAC!"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SubquadError) as error:
        fit(tmp_path / "t.csv", out=tmp_path / "run", quiet=True)
    assert str(error.value).splitlines() == [
        f"{tmp_path}/t.csv: 2 of 211 rows cannot be read; mend or remove them",
        "  row 4: 'X' at position 3 is no letter of the DNA alphabet (ACGT)",
        "  row 18: '!' at position 7 is no letter of the DNA alphabet (ACGT)",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(score=1.5), "all training rows have the same measurement; there is nothing to learn from"),
        (lambda f: f.head(7), "and at least 10 are needed; add rows"),
        (lambda f: f.assign(split="train"), "no row of column 'split' says test; mark some rows so"),
    ],
)
def test_tables_that_teach_nothing_are_refused(tmp_path, change, message):
    change(table(tmp_path / "t.csv")).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SubquadError) as error:
        fit(tmp_path / "t.csv", FitSettings(sequence="sequence"), out=tmp_path / "run", quiet=True)
    assert str(error.value).endswith(message)
    assert not (tmp_path / "run").exists()


def test_predictions_want_the_length_of_the_fit_and_say_what_they_never_saw(tmp_path, capsys):
    frame = table(tmp_path / "t.csv")
    frame["sequence"] = "A" + frame["sequence"].str[1:]
    frame.to_csv(tmp_path / "t.csv", index=False)
    fit(tmp_path / "t.csv", FitSettings(**SHORT), out=tmp_path / "run", quiet=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["length"], config["positions"]) == (7, [1, 2, 3, 4, 5, 6])
    frame["sequence"] = "C" + frame["sequence"].str[1:]
    frame.to_csv(tmp_path / "new.csv", index=False)
    predict(tmp_path / "run", tmp_path / "new.csv", out=tmp_path / "p.csv")
    assert "211 of 211 sequences hold a letter at a position where training had none such" in capsys.readouterr().err
    frame.assign(sequence=frame["sequence"].str[:5]).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(SubquadError, match="row 1: 5 letters, but the model was fitted on sequences of 7"):
        predict(tmp_path / "run", tmp_path / "new.csv", out=tmp_path / "q.csv")
    assert not (tmp_path / "q.csv").exists()
    frame.assign(prediction=1).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(SubquadError, match="has a column 'prediction' already; rename it"):
        predict(tmp_path / "run", tmp_path / "new.csv", out=tmp_path / "q.csv")
    shutil.move(tmp_path / "run" / "model.safetensors", tmp_path / "weights")
    with pytest.raises(SubquadError, match=r"no model\.safetensors in it; the weights are missing"):
        predict(tmp_path / "run", tmp_path / "t.csv", out=tmp_path / "q.csv")


def test_wrong_letters_and_wrong_measurements_are_shown_at_once(tmp_path, capsys):
    table = tmp_path / "a.csv"
    table.write_text("sequence,target\nACDEB1,1.0\nACDEFG,x\nAC?EFG,2\nACDEFK,3\n")
    assert main(["bio", "fit", str(table), "--out", str(tmp_path / "run"), "--quiet"]) == 2
    message = capsys.readouterr().err
    assert "row 2: 'x'" in message
    assert "row 1: 'B' at position 5 is no letter of the protein alphabet" in message
    assert "row 3: '?' at position 3 is no letter of the protein alphabet" in message
    assert not (tmp_path / "run").exists()
