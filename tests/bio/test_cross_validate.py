"""Cross-validation: every row predicted once, means and pooled metrics, interrupted runs, and tables without folds."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from support.bio_tables import settings, table

from subquad.bio.cli import cross_validate as cross_validate_cli
from subquad.bio.commands import cross_validate as cross_validate_command
from subquad.bio.commands import cross_validate as cross_validate_module
from subquad.bio.commands import fit as fit_command
from subquad.bio.commands.cross_validate import cross_validate
from subquad.bio.data.dataset import Target
from subquad.bio.metrics.scores import difference
from subquad.bio.splits import split as split_module
from subquad.errors import SubquadError
from subquad.runs.options import RunOptions
from subquad.runs.storage import read_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def genes(tmp_path_factory):
    """Return a table with a gene for each row."""
    path = tmp_path_factory.mktemp("genes") / "genes.csv"
    frame = table(path, rows=331)
    frame["gene"] = np.array(["brca", "egfr", "tp53"])[np.arange(len(frame)) % 3]
    frame.drop_duplicates("sequence").to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def done(genes):
    """Return the folder of a finished run over the genes, and its figures."""
    out = genes.parent / "out"
    return out, cross_validate(genes, by_gene(), out=out, quiet=True)


def by_gene(**more):
    models = ("ridge", "boosting", "lyra")
    return settings(**{"split_by": "group", "group": "gene", "folds": 3, "models": models, **more})


def test_each_row_is_predicted_once_by_models_of_the_other_genes(done, genes):
    out, _ = done
    predicted, given = pd.read_csv(out / "predictions.csv"), pd.read_csv(genes)
    assert predicted["row"].tolist() == list(range(1, len(given) + 1))
    assert predicted["measured"].tolist() == given["score"].tolist()
    assert predicted.groupby("fold")["group"].nunique().tolist() == [1, 1, 1]
    assert predicted["group"].tolist() == given["gene"].tolist()


def test_the_metrics_are_those_of_the_folds_and_of_all_rows(done):
    out, metrics = done
    predicted = pd.read_csv(out / "predictions.csv")
    models = {"ridge", "boosting", "lyra", "ensemble-without-lyra", "ensemble"}
    for name in ("folds", "test", "std", "best_folds", "pooled"):
        assert metrics[name].keys() == models
    for model in models:
        own = [spearmanr(rows["measured"], rows[model]).statistic for _, rows in predicted.groupby("fold")]
        assert metrics["folds"][model] == pytest.approx(own)
        assert metrics["test"][model]["spearman"] == pytest.approx(np.mean(own))
        assert metrics["std"][model]["spearman"] == pytest.approx(np.std(own, ddof=1))
        whole = spearmanr(predicted["measured"], predicted[model]).statistic
        assert metrics["pooled"][model]["spearman"] == pytest.approx(whole)
    assert sum(metrics["best_folds"].values()) == 3
    # the ensemble is compared with every other model, on all rows
    assert list(metrics["differences"]) == ["ensemble"]
    gaps = metrics["differences"]["ensemble"]
    assert gaps.keys() == models - {"ensemble"}
    for model, gap in gaps.items():
        pooled = metrics["pooled"]
        assert gap["value"] == pytest.approx(pooled["ensemble"]["spearman"] - pooled[model]["spearman"])
        assert gap["low"] <= gap["value"] <= gap["high"]
    page = (out / "report.html").read_text()
    assert "ensemble minus model, 95 % interval" in page
    assert "Best on average over 3 folds" in page
    assert "fold-2/report.html" in page


@pytest.mark.long
def test_an_interrupted_run_resumes_at_its_fold(done, genes, tmp_path, monkeypatch):
    whole, calls = cross_validate_command.fit_table, []

    def stop(*arguments, **more):
        calls.append(more["out"].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **more)

    monkeypatch.setattr(cross_validate_command, "fit_table", stop)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(genes, by_gene(), out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "metrics.json").exists()
    with pytest.raises(SubquadError, match="folds was 3 and is 2"):
        cross_validate(genes, by_gene(folds=2), out=tmp_path / "out", quiet=True)
    with pytest.raises(SubquadError, match="models was"):
        cross_validate(genes, by_gene(models=("ridge",)), out=tmp_path / "out", quiet=True)
    metrics = cross_validate(genes, by_gene(), out=tmp_path / "out", quiet=True)
    assert calls == ["fold-0", "fold-1", "fold-1", "fold-2"]
    assert metrics["folds"] == done[1]["folds"]


@pytest.mark.long
def test_the_table_is_read_and_its_units_are_found_once_for_all_folds(genes, tmp_path, monkeypatch):
    whole, calls, units_of, found = cross_validate_command.read_table, [], split_module.units_of, []

    def read_table(*arguments, **more):
        calls.append(arguments[0])
        return whole(*arguments, **more)

    monkeypatch.setattr(split_module, "units_of", lambda *given: found.append(given) or units_of(*given))
    for module in (cross_validate_command, fit_command):
        monkeypatch.setattr(module, "read_table", read_table)
    metrics = cross_validate(genes, by_gene(models=("ridge",)), out=tmp_path / "out", quiet=True)
    assert calls == [genes]
    assert len(found) == 1
    # a single model has no ensemble, and nothing to be compared with
    assert metrics["differences"] == {"ridge": {}}
    assert metrics["best_folds"] == {"ridge": 3}


@pytest.mark.long
def test_a_column_of_numbers_says_the_folds_and_the_command_shows_them(tmp_path, capsys):
    frame = table(tmp_path / "t.csv", rows=101).drop_duplicates("sequence")
    frame["part"] = np.arange(len(frame)) % 2 + 5
    frame.to_csv(tmp_path / "t.csv", index=False)
    own = settings(split="part", target=("active",), models=("ridge", "lyra"))
    cross_validate_cli(str(tmp_path / "t.csv"), own, options=RunOptions(out=tmp_path / "out"))
    shown = capsys.readouterr().out
    assert "mean and standard deviation over 2 folds" in shown
    assert "±" in shown
    predicted = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert (predicted["fold"] + 5).tolist() == frame["part"].tolist()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["main_metric"] == "auroc"


@pytest.mark.long
def test_a_column_may_have_more_folds_than_are_made_by_default(tmp_path):
    frame = table(tmp_path / "t.csv", rows=101).drop_duplicates("sequence")
    frame["part"] = np.arange(len(frame)) % 7
    frame.to_csv(tmp_path / "t.csv", index=False)
    own = settings(split="part", target=("score",), models=("ridge",))
    cross_validate(tmp_path / "t.csv", own, out=tmp_path / "out", quiet=True)
    assert pd.read_csv(tmp_path / "out" / "predictions.csv")["fold"].tolist() == frame["part"].tolist()
    with pytest.raises(SubquadError, match="column 'part' has 7 folds with measured rows, no fold 7"):
        fit_command.fit(tmp_path / "t.csv", replace(own, fold=7), out=tmp_path / "fit", quiet=True)


def test_classes_and_groups_keep_their_names_as_text(tmp_path):
    frame = table(tmp_path / "t.csv", rows=101).drop_duplicates("sequence")
    frame["bound"], frame["batch"] = np.where(frame["active"] == 1, "TRUE", "FALSE"), "01"
    frame.loc[frame.index % 3 > 0, "batch"] = "02"
    # replicates, which bootstrap samples keep together
    frame = pd.concat([frame] * 3)
    frame.to_csv(tmp_path / "t.csv", index=False)
    own = settings(target=("bound",), group="batch", models=("ridge", "boosting"), folds=2)
    metrics = cross_validate(tmp_path / "t.csv", own, out=tmp_path / "out", quiet=True)
    assert metrics["pooled"]["ridge"]["auroc"] > 0.9
    predicted = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str)
    frame = frame.iloc[predicted["row"].astype(int) - 1]
    assert predicted["measured"].tolist() == frame["bound"].tolist()
    assert predicted["group"].tolist() == frame["batch"].tolist()
    truth = Target(task_type="binary", y=(frame["bound"] == "TRUE").to_numpy(dtype=np.int64), classes=("FALSE", "TRUE"))
    own, other = (predicted[[name]].to_numpy(dtype=float) for name in ("ensemble", "ridge"))
    expected = difference(truth, own, other, units=predicted["sequence"].to_numpy())
    assert metrics["differences"]["ensemble"]["ridge"] == pytest.approx(expected)
    assert expected != pytest.approx(difference(truth, own, other))


@pytest.mark.long
def test_clusters_stay_together_in_the_intervals_of_pooled_differences(tmp_path):
    random = np.random.default_rng(5)
    centres = random.integers(0, 20, (20, 12))
    cluster = np.repeat(np.arange(20), 10)
    codes = centres[cluster]
    # a row is its centre with another letter at one place, and its value mostly that of the centre
    codes[np.arange(200), np.tile(np.arange(10), 20)] = random.integers(0, 20, 200)
    frame = pd.DataFrame({"sequence": ["".join("ACDEFGHIKLMNPQRSTVWY"[code] for code in row) for row in codes]})
    frame["score"] = random.normal(size=20)[cluster] + 0.1 * random.normal(size=200)
    frame.to_csv(tmp_path / "t.csv", index=False)
    own = settings(split_by="homology", identity=0.6, models=("ridge", "boosting"), folds=2)
    metrics = cross_validate(tmp_path / "t.csv", own, out=tmp_path / "out", quiet=True)
    predicted = pd.read_csv(tmp_path / "out" / "predictions.csv")
    truth = Target(task_type="regression", y=predicted[["measured"]].to_numpy())
    first, other = (predicted[[name]].to_numpy(dtype=float) for name in ("ensemble", "ridge"))
    units = cluster[predicted["row"] - 1]
    expected, narrow = difference(truth, first, other, units=units), difference(truth, first, other)
    assert metrics["differences"]["ensemble"]["ridge"] == pytest.approx(expected)
    assert expected["high"] - expected["low"] > 1.5 * (narrow["high"] - narrow["low"])


def test_folds_of_a_column_have_the_units_of_each_split():
    equal, groups = np.array([0, 0, 1, 2, 3, 3]), np.array([0, 0, 0, 1, 1, 1])
    frame = pd.DataFrame({"row": [1, 2, 3, 4, 5, 6], "fold": [0, 2, 0, 1, 1, 2]})
    # rows 1 and 2 are one sequence, rows 4 and 5 one group, and row 6 is tested among sequences
    assert cross_validate_module._units(frame, [equal, groups, equal]).tolist() == [0, 0, 1, 3, 3, 2]


@pytest.mark.long
def test_residues_have_means_over_the_folds_only(tmp_path):
    table(tmp_path / "t.csv", rows=41)
    metrics = cross_validate(
        tmp_path / "t.csv", settings(target=("residues",), folds=2), out=tmp_path / "out", quiet=True
    )
    assert "pooled" not in metrics
    assert not (tmp_path / "out" / "predictions.csv").exists()
    assert len(metrics["folds"]["lyra"]) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"fold": 1}, "leave out --fold"),
        ({"split": "words"}, "column 'words' has no fold numbers"),
        ({"split": "word"}, "no column 'word'; did you mean 'words'"),
    ],
)
def test_tables_without_folds_are_refused(tmp_path, more, message):
    frame = table(tmp_path / "t.csv", rows=41)
    frame["words"] = np.where(np.arange(41) % 2, "test", "train")
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SubquadError, match=message):
        cross_validate(tmp_path / "t.csv", settings(**more), out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_fitted_in_each_fold_is_left_out(done):
    folds = [read_json(path) for path in sorted(done[0].glob("fold-*/metrics.json"))]
    models = list(folds[0]["test"])
    for place in (0, 1):
        some = [{**fold, "test": dict(fold["test"])} for fold in folds]
        del some[place]["test"][models[-1]]
        found = cross_validate_module._metrics(some, None, {}, None)
        assert list(found["test"]) == models[:-1]


def test_a_later_fold_that_cannot_be_trained_is_refused_before_anything_is_written(tmp_path):
    frame = table(tmp_path / "t.csv", rows=61).drop_duplicates("sequence").reset_index(drop=True)
    frame["class"], frame["part"] = np.where(frame.index % 2, "one", "two"), frame.index % 3
    # only the last fold has the third class
    frame.loc[frame["part"] == 2, "class"] = "three"
    frame.to_csv(tmp_path / "t.csv", index=False)
    own = settings(target=("class",), split="part", models=("ridge",))
    with pytest.raises(SubquadError, match=r"t\.csv: fold 2: no training row of class 'three'"):
        cross_validate(tmp_path / "t.csv", own, out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_more_folds_than_groups_are_refused_before_anything_is_written(genes, tmp_path):
    with pytest.raises(SubquadError, match="groups: 3, but 7 parts are needed"):
        cross_validate(genes, by_gene(folds=7), out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
