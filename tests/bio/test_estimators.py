import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from subquad.bio.commands.predict import predict
from subquad.bio.commands.report import report
from subquad.bio.data.dataset import Dataset, Inputs, Target
from subquad.bio.data.table import read_table
from subquad.bio.models.estimator_data import holdout_mask, read_X
from subquad.bio.models.estimators import LyraClassifier, LyraPairing, LyraRegressor, LyraTagger
from subquad.bio.models.fit import fit_network
from subquad.bio.models.fitted import BioModel
from subquad.bio.models.training_data import prepare
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError

SHORT = {"epochs": 3.0, "ensemble_size": 1, "random_state": 0}

EXCEPTIONS = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a weight scales the loss of a row, while repeated rows fall into other batches and may be held out; "
        "weight 0 is tested below"
    )
}


@pytest.mark.long
@parametrize_with_checks(
    [LyraRegressor(**SHORT), LyraClassifier(**SHORT)], expected_failed_checks=lambda estimator: EXCEPTIONS
)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LyraTagger, LyraPairing])
def test_parameters_follow_the_contract_for_other_targets(kind):
    # `check_estimator` fits numbers on one value a row, which these two do not learn
    estimator = kind(ensemble_size=2, random_state=3)
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params()
    assert repr(estimator) == f"{kind.__name__}(ensemble_size=2, random_state=3)"
    assert copy.set_params(batch_size=7).batch_size == 7
    with pytest.raises(NotFittedError, match=f"This {kind.__name__} instance is not fitted yet"):
        estimator.predict(["ACGU"])
    with pytest.raises(SubquadError, match="this estimator needs sequences"):
        estimator.fit(np.ones((3, 2)), ["((", "..", ".."])


def assay(rows=211, length=7, seed=0, letters="ACGT"):
    random = np.random.default_rng(seed)
    codes = random.integers(0, len(letters), (rows, length))
    y = random.normal(size=len(letters))[codes[:, 2]] + random.normal(size=len(letters))[codes[:, 3]]
    return ["".join(letters[k] for k in row) for row in codes], y + 0.1 * random.normal(size=rows)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 2])
def test_a_regressor_predicts_intervals(columns, tmp_path):
    X, y = assay(rows=401)
    y = y if columns == 1 else np.stack([y, 10 * y], axis=1)
    model = LyraRegressor(**SHORT, validation_fraction=0.4).fit(X[:300], y[:300])
    low, high = model.predict_interval(X[300:], level=0.8)
    assert low.shape == high.shape == y[300:].shape
    assert 0.65 < ((low <= y[300:]) & (y[300:] <= high)).mean() < 0.95
    assert (model.predict_interval(X[300:], level=0.95)[1] > high).all()
    model.save(tmp_path / "saved")
    again = LyraRegressor.load(tmp_path / "saved").predict_interval(X[300:], level=0.8)
    np.testing.assert_array_equal(again, (low, high))
    with pytest.raises(ValueError, match="level must be one of"):
        model.predict_interval(X, level=0.7)


@pytest.mark.slow
def test_without_held_out_rows_there_are_no_intervals():
    X, y = assay(rows=7)
    with pytest.raises(SubquadError, match="no rows were held out to calibrate intervals"):
        LyraRegressor(**SHORT).fit(X, y).predict_interval(X)


@pytest.mark.slow
def test_a_list_a_series_an_array_and_a_table_of_sequences_are_the_same():
    X, y = assay()
    expected = LyraRegressor(**SHORT).fit(X, y).predict(X)
    assert np.corrcoef(expected, y)[0, 1] ** 2 > 0.9
    forms = [
        pd.Series(X, index=range(5, 5 + len(X))),
        np.array(X),
        np.array(X, dtype=object),
        np.array(X, dtype=object)[:, None],
        pd.DataFrame({"guide": X}),
    ]
    for form in forms:
        model = LyraRegressor(**SHORT).fit(form, y)
        assert model.n_features_in_ == 1
        np.testing.assert_array_equal(model.predict(form), expected)
        # what it was fitted with does not bind what it predicts for
        np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.slow
def test_covariates_and_partner_sequences_are_columns_of_a_table():
    X, y = assay(rows=101, length=13)
    random = np.random.default_rng(1)
    covariates = random.normal(size=101)
    frame = pd.DataFrame({"score": covariates, "guide": [x[3:8] for x in X], "context": X})
    model = LyraRegressor(**SHORT).fit(frame, y + 2 * covariates)
    assert model.feature_names_in_.tolist() == ["score", "guide", "context"]
    assert model._schema.sequence == "context"
    assert model._schema.partner == "guide"
    assert model.score(frame, y + 2 * covariates) > 0.7
    np.testing.assert_array_equal(model.predict(frame[["context", "guide", "score"]]), model.predict(frame))
    with pytest.raises(
        SubquadError, match="the model was trained on columns that X does not have; add them\n  no column 'guide'"
    ):
        model.predict(frame[["context", "score"]])
    with pytest.raises(
        SubquadError, match=r"not finite numbers; correct or empty them\n  row 3: inf in column 'score'"
    ):
        model.predict(frame.assign(score=frame["score"].where(frame.index != 2, np.inf)))
    # a number that is finite in float64 only
    with pytest.raises(
        SubquadError,
        match=r"X: predictions of 1 of 101 rows are not finite: .* too large .*\n  row 3: score is 1e\+60",
    ):
        model.predict(frame.assign(score=frame["score"].where(frame.index != 2, 1e60)))


@pytest.mark.slow
def test_missing_covariates_are_replaced_by_the_median_of_the_fit():
    X, y = assay(rows=41)
    frame = pd.DataFrame({"guide": X, "score": np.r_[np.nan, np.arange(40.0)], "other": [None, *range(40)]})
    estimator = LyraRegressor(**SHORT)
    inputs, schema = read_X(estimator, frame, None, alphabet="auto", ambiguity="any")
    assert inputs.covariates[:2].tolist() == [[19.5, 19.5], [0, 0]]
    assert schema.covariates == {"score": 19.5, "other": 19.5}
    again, _ = read_X(estimator, frame[:1], schema, alphabet="auto", ambiguity="any")
    assert again.covariates.tolist() == [[19.5, 19.5]]
    frame["none"] = np.nan
    with pytest.raises(SubquadError, match=r"X: covariates without any number; remove them from X\n  'none'"):
        estimator.fit(frame, y)


@pytest.mark.slow
def test_blanks_inside_sequences_are_left_out():
    X, y = assay(rows=41)
    model = LyraRegressor(**SHORT).fit([f" {x[:3]} {x[3:].lower()}\n" for x in X], y)
    np.testing.assert_array_equal(model.predict(X), LyraRegressor(**SHORT).fit(X, y).predict(X))


def test_truncated_proteins_are_read_as_by_the_command_line(tmp_path):
    random, wild = np.random.default_rng(0), "MKTAYIAKQRQISFVKSHFSRQ"
    variants = [wild[:k] + str(random.choice(list("ACDEFG"))) + wild[k + 1 :] for k in random.integers(22, size=120)]
    sequences = [*variants, wild[:9]]
    pd.DataFrame({"sequence": sequences, "y": random.normal(size=len(sequences))}).to_csv(tmp_path / "t.csv")
    expected = read_table(tmp_path / "t.csv", FitSettings(sequence="sequence", target=("y",)))
    inputs, schema = read_X(LyraRegressor(), pd.Series(sequences), None, alphabet="auto", ambiguity="refuse")
    np.testing.assert_array_equal(inputs.codes, expected.inputs.codes)
    assert (schema.alphabet, schema.is_aligned) == (expected.schema.alphabet, expected.schema.is_aligned)
    # a single row is read in the same way
    again, _ = read_X(LyraRegressor(), sequences[-1:], schema, alphabet="auto", ambiguity="refuse")
    np.testing.assert_array_equal(again.codes[0], inputs.codes[-1][: again.codes.shape[1]])


def test_errors_name_rows_and_classes():
    X, y = assay(rows=41, length=23)
    with pytest.raises(SubquadError, match="look like proteins; keep one type\n  row 41: 'MKVLIFEQPW'"):
        LyraRegressor().fit([*X[:40], "MKVLIFEQPW"], y)
    with pytest.raises(SubquadError, match="X: 1 of 41 rows cannot be read"):
        LyraRegressor(ambiguity="refuse").fit(["N" + X[0][1:], *X[1:]], y)
    with pytest.raises(ValueError, match=r"y has one class only \('a'\)"):
        LyraClassifier().fit(X, ["a"] * 41)
    with pytest.raises(ValueError, match=r"y has one class only \('H'\)"):
        LyraTagger().fit(X, ["H" * 23] * 41)


@pytest.mark.slow
def test_inputs_of_the_library_are_taken_as_they_are():
    X, y = assay(rows=61)
    codes = np.array([["ACGT".index(letter) for letter in x] for x in X], dtype=np.int8)
    inputs = Inputs(codes=codes, letters=4, covariates=np.zeros((61, 0)), is_aligned=True)
    model = LyraRegressor(**SHORT).fit(inputs, y)
    np.testing.assert_array_equal(model.predict(inputs), LyraRegressor(**SHORT).fit(X, y).predict(X))
    with pytest.raises(ValueError, match="5 positions, but the fit had"):
        model.predict(Inputs(codes=codes[:, :5], letters=4, covariates=np.zeros((61, 0)), is_aligned=True))


@pytest.mark.slow
def test_sequences_of_several_lengths_are_learned_from():
    random = np.random.default_rng(0)
    X = ["".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), random.integers(5, 17))) for _ in range(307)]
    y = [x.count("K") + x.count("R") for x in X]
    model = LyraRegressor(**SHORT).fit(X, y)
    assert model.score(X, y) > 0.6
    assert model.predict(["KKKKK", "EEEEEEE"]).tolist() == sorted(model.predict(["KKKKK", "EEEEEEE"]), reverse=True)


@pytest.mark.slow
def test_a_prediction_does_not_depend_on_the_other_rows():
    X, y = assay(rows=83)
    model = LyraRegressor(**SHORT).fit(X, y)
    # not the linear model at which it started
    torch.nn.init.normal_(model.ensemble_.nets[0].lyra.head[-1].weight)
    alone = np.concatenate([model.predict([x]) for x in X])
    np.testing.assert_allclose(alone, model.predict(X), atol=1e-5)


@pytest.mark.slow
def test_an_ensemble_has_a_standard_deviation_and_a_single_network_has_none():
    X, y = assay(rows=61)
    model = LyraRegressor(epochs=1.0, ensemble_size=2, random_state=0).fit(X, y)
    mean, spread = model.predict(X, return_std=True)
    assert mean.shape == spread.shape == (61,)
    assert (spread >= 0).all()
    with pytest.raises(SubquadError, match="a single network has no standard deviation; fit with ensemble_size=2"):
        LyraRegressor(**SHORT).fit(X, y).predict(X, return_std=True)


@pytest.mark.slow
def test_predictions_have_the_shape_of_y():
    X, y = assay(rows=61)
    for form in (y, y.tolist(), y[:, None], np.stack([y, -y], axis=1)):
        assert LyraRegressor(**SHORT).fit(X, form).predict(X).shape == np.shape(form)
    # of several measurements some may be missing
    two = np.stack([y, -y], axis=1)
    two[::3, 1] = np.nan
    model = LyraRegressor(**SHORT).fit(X, pd.DataFrame(two, columns=["up", "down"]))
    assert model._target["names"] == ["up", "down"]
    assert np.corrcoef(model.predict(X)[:, 1], -y)[0, 1] > 0.9
    two[4] = np.nan
    with pytest.raises(ValueError, match="contains NaN in all of row 5; leave the row out"):
        LyraRegressor().fit(X, two)


@pytest.mark.slow
def test_predictions_have_the_scale_of_the_measurements():
    X, y = assay(rows=307, length=11, seed=5)
    y = 3 * y + np.random.default_rng(2).normal(size=307)
    model = LyraRegressor(**SHORT).fit(X[:200], y[:200])
    assert 0.7 < np.polyfit(model.predict(X[200:]), y[200:], 1)[0] < 1.4


@pytest.mark.slow
def test_classes_and_labels_are_predicted():
    X, y = assay()
    names = np.array(["low", "mid", "high"])[np.digitize(y, np.quantile(y, [0.3, 0.7]))]
    model = LyraClassifier(**SHORT).fit(X, names)
    assert model.classes_.tolist() == ["high", "low", "mid"]
    assert model.score(X, names) > 0.8
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    two = LyraClassifier(**SHORT).fit(X, y > 0)
    assert two.predict(X).dtype == bool
    assert two.predict_proba(X).shape == (211, 2)
    assert two.score(X, y > 0) > 0.8
    labels = np.stack([y > 0, y > 1, y < 0.5], axis=1).astype(int)
    expected = LyraClassifier(**SHORT).fit(X, labels)
    assert expected.predict_proba(X).shape == (211, 3)
    assert (expected.predict(X) == labels).mean() > 0.8
    sparse = LyraClassifier(**SHORT).fit(X, csr_matrix(labels))
    np.testing.assert_array_equal(sparse.predict(X), expected.predict(X))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LyraRegressor, LyraClassifier])
def test_a_row_of_weight_zero_is_left_out(kind):
    X, y = assay(rows=67)
    y = y if kind is LyraRegressor else (y > 0).astype(int)
    weight = np.random.default_rng(0).integers(0, 3, 67).astype(float)
    kept = np.flatnonzero(weight)
    expected = kind(**SHORT).fit([X[row] for row in kept], y[kept], sample_weight=weight[kept]).predict(X)
    np.testing.assert_array_equal(kind(**SHORT).fit(X, y, sample_weight=weight).predict(X), expected)
    with pytest.raises(ValueError, match="sample_weight must not be negative"):
        kind(**SHORT).fit(X, y, sample_weight=-weight)


@pytest.mark.slow
def test_a_fit_is_repeatable_and_leaves_the_generators_alone():
    X, y = assay(rows=61)
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = LyraRegressor(epochs=5.0, ensemble_size=1, random_state=7).fit(X, y).predict(X)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    torch.rand(3)
    np.testing.assert_array_equal(
        LyraRegressor(epochs=5.0, ensemble_size=1, random_state=7).fit(X, y).predict(X), first
    )
    assert not np.array_equal(LyraRegressor(epochs=5.0, ensemble_size=1, random_state=8).fit(X, y).predict(X), first)


@pytest.mark.long
def test_it_works_in_searches_cross_validation_and_pipelines():
    X, y = assay(rows=97)
    assert cross_val_score(LyraRegressor(**SHORT), X, y, cv=3).mean() > 0.5
    groups = np.arange(97) // 10
    scores = cross_val_score(LyraClassifier(**SHORT), X, y > 0, groups=groups, cv=GroupKFold(2))
    assert scores.mean() > 0.6
    search = GridSearchCV(LyraRegressor(**SHORT), {"learning_rate": [1e-3, 3e-3]}, cv=2).fit(pd.Series(X), y)
    assert search.best_score_ > 0.5
    numbers = np.random.default_rng(0).normal(size=(53, 3))
    scaled = make_pipeline(StandardScaler(), LyraRegressor(**SHORT)).fit(numbers, numbers[:, 1])
    assert scaled.score(numbers, numbers[:, 1]) > 0.8
    tags = ["".join("H" if letter in "AC" else "C" for letter in x) for x in X]
    assert cross_val_score(LyraTagger(**SHORT), X, tags, cv=2).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "lists", "arrays"])
def test_residues_are_predicted_in_the_form_of_y(form):
    X, _ = assay(rows=61, length=11, letters="ACDEFGHIKLMNPQRSTVWY")
    X[0] = X[0][:7]
    y = ["".join("H" if letter < "G" else "E" if letter < "P" else "C" for letter in x) for x in X]
    y[1] = "-?" + y[1][2:]
    if form == "lists":
        y = [[None if label in "-?" else label for label in own] for own in y]
    if form == "arrays":
        y = [np.array([np.nan if label in "-?" else "CEH".index(label) for label in own]) for own in y]
    model = LyraTagger(**SHORT).fit(X, y)
    assert model.classes_.tolist() == ([0, 1, 2] if form == "arrays" else ["C", "E", "H"])
    assert model.score(X, y) > 0.9
    predicted = model.predict(X)
    assert [len(own) for own in predicted] == [len(x) for x in X]
    assert isinstance(predicted[0], str if form == "text" else np.ndarray)
    assert model.predict_proba(X)[0].shape == (7, 3)
    np.testing.assert_allclose(model.predict_proba(X)[0].sum(1), 1)


@pytest.mark.slow
def test_numbers_of_residues_are_predicted():
    X, _ = assay(rows=61, length=11, letters="ACDEFGHIKLMNPQRSTVWY")
    y = [[0.5 * "ACDEFGHIKLMNPQRSTVWY".index(letter) for letter in x] for x in X]
    y[0][3] = None
    model = LyraTagger(**SHORT).fit(X, y)
    assert model.score(X, y) > 0.9
    assert model.predict(X)[0].shape == (11,)
    with pytest.raises(SubquadError, match="predicts numbers, which have no probabilities"):
        model.predict_proba(X)
    whole = [[float(round(value or 0)) for value in own] for own in y]
    assert LyraTagger(values="numbers", **SHORT).fit(X, whole)._target["task_type"] == "residue_regression"
    with pytest.raises(ValueError, match="values must be auto, classes or numbers"):
        LyraTagger(values="number").fit(X, y)
    with pytest.raises(
        SubquadError, match="each row must have one value per letter\n  row 2: 10 values for 11 letters"
    ):
        LyraTagger().fit(X, [y[0], y[1][:10], *y[2:]])


def hairpins(rows=23, seed=0):
    random = np.random.default_rng(seed)
    stems = ["".join(random.choice(list("ACGU"), 5)) for _ in range(rows)]
    pair = str.maketrans("ACGU", "UGCA")
    loops = ["".join(random.choice(list("AC"), random.integers(4, 7))) for _ in range(rows)]
    X = [stem + loop + stem.translate(pair)[::-1] for stem, loop in zip(stems, loops, strict=True)]
    return X, ["(((((" + "." * len(loop) + ")))))" for loop in loops]


@pytest.mark.slow
def test_base_pairs_are_predicted_in_the_form_of_y():
    pytest.importorskip("RNA")
    X, y = hairpins()
    model = LyraPairing(**SHORT).fit(X, y)
    assert model.score(X, y) > 0.8
    predicted = model.predict(X)
    assert {len(own) for own in predicted} == {len(x) for x in X}
    assert set("".join(predicted)) == set("(.)")
    probability = model.predict_proba(X[:1])[0]
    assert probability.shape == (len(X[0]),) * 2
    np.testing.assert_allclose(probability, probability.T, atol=1e-6)
    pairs = [[(k, len(x) - 1 - k) for k in range(5)] for x in X]
    listed = LyraPairing(**SHORT).fit(X, pairs)
    assert listed.predict(X)[0].tolist() == [[k, at] for k, at in enumerate(range(len(X[0]) - 1, -1, -1))][:5]
    assert listed.score(X, y) == model.score(X, y)
    with pytest.raises(SubquadError, match=r"base pairs cannot be read\n  row 1: a pair is two different positions"):
        LyraPairing().fit(X, [[(0, 99)], *pairs[1:]])
    with pytest.raises(SubquadError, match="base pairs need RNA or DNA, but these are proteins"):
        LyraPairing().fit(["MKTAYIAK"] * 3, ["((....))"] * 3)


TAGS = str.maketrans("ACGT", "1100")


def fitted(name, rows=41):
    X, y = assay(rows=rows)
    match name:
        case "regressor":
            return LyraRegressor(**SHORT).fit(X, y), X
        case "rank":
            return LyraRegressor(target_transform="rank", **SHORT).fit(X, y), X
        case "classifier":
            return LyraClassifier(**SHORT).fit(X, np.where(y > 0, "on", "off")), X
        case "paper":
            return LyraClassifier(model="lyra-paper", **SHORT).fit(X, (y > 0).astype(int)), X
        case "mlp":
            return LyraRegressor(model="mlp", **SHORT).fit(X, y), X
        case "alone":
            return LyraTagger(model="lyra-alone", **SHORT).fit(X, [x.translate(TAGS) for x in X]), X
        case "numbers":
            numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(rows, 2)), columns=["a", "b"])
            return LyraRegressor(**SHORT).fit(numbers, y), numbers
        case "tagger":
            return LyraTagger(**SHORT).fit(X, [x.translate(TAGS) for x in X]), X
    X, y = hairpins(rows=13)
    return LyraPairing(**SHORT).fit(X, y), X


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["regressor", "rank", "classifier", "paper", "mlp", "alone", "numbers", "tagger", "pairing"]
)
def test_what_is_saved_and_what_is_pickled_predicts_the_same(name, tmp_path):
    if name == "pairing":
        pytest.importorskip("RNA")
    model, X = fitted(name)
    model.save(tmp_path / "model")
    assert {path.suffix for path in (tmp_path / "model").iterdir()} <= {".json", ".safetensors", ".md", ".html"}
    opened = type(model).load(tmp_path / "model")
    assert opened.get_params() == model.get_params()
    for other in (opened, pickle.loads(pickle.dumps(model))):
        for a, b in zip(other.predict(X), model.predict(X), strict=True):
            np.testing.assert_array_equal(a, b)
    kinds = {"paper": "lyra-paper", "mlp": "mlp", "numbers": "mlp", "alone": "lyra-alone"}
    folder = BioModel.load(tmp_path / "model")
    assert folder.task_type == model._target["task_type"]
    assert folder.models == (kinds.get(name, "lyra"),)
    with pytest.raises(SubquadError, match="a saved estimator, which has no test rows"):
        report(tmp_path / "model", force=True)
    if name == "numbers":
        X.to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(SubquadError, match=r"no column looks like sequences or variants \(a, b\)"):
            predict(tmp_path / "model", tmp_path / "t.csv", out=tmp_path / "p.csv", quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regressor", "classifier", "tagger"])
def test_the_command_predicts_with_a_saved_estimator(name, tmp_path):
    model, X = fitted(name)
    model.save(tmp_path / "model")
    pd.DataFrame({"sequence": X}).to_csv(tmp_path / "t.csv", index=False)
    got = predict(tmp_path / "model", tmp_path / "t.csv", out=tmp_path / "p.csv", quiet=True)
    if name == "regressor":
        np.testing.assert_allclose(got["prediction"], model.predict(X))
    elif name == "classifier":
        assert got["prediction_class"].tolist() == model.predict(X).tolist()
    else:
        expected = [np.round(own[:, 1], 4).tolist() for own in model.predict_proba(X)]
        np.testing.assert_allclose([json.loads(own) for own in got["prediction"]], expected, atol=1e-3)


@pytest.mark.slow
def test_the_folder_of_an_estimator_names_the_models_that_it_lacks(tmp_path):
    model, X = fitted("regressor")
    model.save(tmp_path / "model")
    pd.DataFrame({"sequence": X}).to_csv(tmp_path / "t.csv", index=False)
    for name in ("ridge", "boosting", "ensemble"):
        with pytest.raises(SubquadError, match=rf"no model '{name}' \(there are: lyra\)"):
            predict(tmp_path / "model", tmp_path / "t.csv", out=tmp_path / "p.csv", model=name, quiet=True)
    assert not (tmp_path / "p.csv").exists()
    opened = LyraRegressor.load(tmp_path / "model")
    np.testing.assert_array_equal(opened.predict(X), model.predict(X))


@pytest.mark.slow
def test_an_estimator_is_the_network_of_the_command():
    X, y = assay(rows=101)
    mask = np.arange(101) % 5 == 0
    model = LyraRegressor(**SHORT).fit(X, y, validation=mask)
    codes = np.array([["ACGT".index(letter) for letter in x] for x in X], dtype=np.int8)
    inputs = Inputs(codes=codes, letters=4, covariates=np.zeros((101, 0)), is_aligned=True)
    split = {"train": np.flatnonzero(~mask), "validation": np.flatnonzero(mask), "test": np.arange(0)}
    own = Dataset(inputs=inputs, target=Target(task_type="regression", y=y[:, None]), split=split)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    nets = fit_network("lyra", prepare(own), FitSettings(epochs=3.0, ensemble_size=1), seed=seed)
    np.testing.assert_array_equal(nets.predict(inputs)[:, 0], model.predict(X))


@pytest.mark.slow
def test_folders_of_others_are_refused(tmp_path):
    model, _ = fitted("regressor")
    model.save(tmp_path / "model")
    with pytest.raises(SubquadError, match="has a LyraRegressor, no LyraClassifier"):
        LyraClassifier.load(tmp_path / "model")
    with pytest.raises(SubquadError, match="has a finished run"):
        model.save(tmp_path / "model")
    model.save(tmp_path / "model", force=True)
    with pytest.raises(NotFittedError):
        LyraRegressor().save(tmp_path / "other")


@pytest.mark.slow
def test_errors_name_their_rows():
    X, y = assay(rows=41)
    with pytest.raises(SubquadError, match="row 3: 'J' at position 2 is not in the DNA alphabet"):
        LyraRegressor().fit([*X[:2], "AJACACA", *X[3:]], y)
    with pytest.raises(SubquadError, match="1 of 41 rows have no sequence; leave them out\n  row 2: None"):
        LyraRegressor().fit([X[0], None, *X[2:]], y)
    with pytest.raises(SubquadError, match="3 columns are text"):
        LyraRegressor().fit(pd.DataFrame({"a": X, "b": X, "c": X}), y)
    model = LyraRegressor(**SHORT).fit(X, y)
    with pytest.raises(SubquadError, match="row 1: 5 letters, but the model was trained on sequences of 7"):
        model.predict(["ACGTA"])
    with pytest.raises(SubquadError, match="the model was trained on"):
        model.predict(np.ones((3, 1)))
    with pytest.raises(SubquadError, match="the model was trained on numbers"):
        LyraRegressor(**SHORT).fit(np.arange(20.0)[:, None], np.arange(20.0)).predict(X)
    with pytest.raises(ValueError, match="y has one class only"):
        LyraClassifier().fit(X, np.ones(41))
    with pytest.raises(SubquadError, match="this estimator needs sequences"):
        LyraRegressor(model="lyra-paper").fit(np.ones((41, 2)), y)
    with pytest.raises(ValueError, match="validation must be 41 of bool, got int64"):
        LyraRegressor(**SHORT).fit(X, y, validation=np.arange(41))


@pytest.mark.parametrize(
    ("kind", "model", "message"),
    [
        # baselines are not estimators of this module
        (LyraRegressor, "ridge", r"no model 'ridge' \(there are: mlp, cnn, lyra-paper, .*, lyra\)"),
        (LyraRegressor, "lyra_paper", "no model 'lyra_paper'; did you mean 'lyra-paper'"),
        (LyraClassifier, "ensemble", "no model 'ensemble'"),
        (LyraTagger, "mlp", r"no model 'mlp' \(there are: cnn, lyra-paper, lyra-alone, lyra\)"),
        (LyraPairing, "lyra-additive", "no model 'lyra-additive'; did you mean"),
    ],
)
def test_models_that_are_no_network_of_the_target_are_refused(kind, model, message):
    X, y = (["GGGAAAUCCC"] * 4, ["(((...)))."] * 4) if kind is LyraPairing else assay(rows=21)
    if kind is LyraTagger:
        y = [x.translate(TAGS) for x in X]
    if kind is LyraClassifier:
        y = y > 0
    with pytest.raises(SubquadError, match=message):
        kind(model=model).fit(X, y)


def held(X, strata=None, groups=None, fraction=0.2):
    numbers = np.asarray(X, dtype=float)[:, None]
    inputs = Inputs(codes=np.zeros((len(X), 0), dtype=np.int8), letters=4, covariates=numbers, is_aligned=True)
    strata = np.zeros(len(X)) if strata is None else strata
    return holdout_mask(inputs, strata, groups, fraction=fraction, random=np.random.default_rng(0))


def test_equal_rows_and_whole_groups_are_held_out_together_within_each_class():
    X = np.arange(211) // 3
    out = held(X)
    assert 0.15 < out.mean() < 0.3
    assert all(len(set(out[value == X])) == 1 for value in np.unique(X))
    groups = np.arange(211) // 11
    out = held(np.arange(211), groups=groups)
    assert all(len(set(out[group == groups])) == 1 for group in np.unique(groups))
    strata = (np.arange(211) < 23).astype(int)
    out = held(np.arange(211), strata=strata)
    assert (out[strata == 1].sum(), out[strata == 0].sum()) == (5, 38)
    # a class of one row is used for training
    assert not held(np.arange(31), strata=(np.arange(31) == 7))[7]


@pytest.mark.slow
def test_few_rows_and_one_group_hold_out_nothing():
    assert not held(np.arange(9)).any()
    assert not held(np.ones(31)).any()
    # of a few more rows a quarter is held out
    assert held(np.arange(41), fraction=0.02).sum() == 11
    X, y = assay(rows=7)
    assert LyraRegressor(**SHORT).fit(X, y).predict(X).shape == (7,)


@pytest.mark.slow
def test_the_validation_rows_can_be_given():
    X, y = assay(rows=61)
    mask = np.arange(61) < 13
    model = LyraRegressor(**SHORT).fit(X, y, validation=mask)
    # validation measurements do not change what is learned: a shift of the predictions would show it
    wrong = np.where(mask, y + 1000, y)
    assert LyraRegressor(**SHORT).fit(X, wrong, validation=mask).predict(X).max() < 100
    assert LyraRegressor(**SHORT).fit(X, wrong, validation=~mask).predict(X).min() > 100
    assert model.predict(X).max() < 100
