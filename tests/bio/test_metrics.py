import itertools
import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn import metrics as sk

from subquad.bio.data.dataset import TASK_TYPES, Target
from subquad.bio.metrics import scores, task_metrics
from subquad.bio.metrics.base_pairs import agreement, decode_pairs, dot_bracket
from subquad.bio.metrics.scores import (
    MAIN_METRIC,
    by_group,
    compare_models,
    difference,
    intervals,
    score,
    title,
    undefined_metrics,
)
from subquad.bio.models.estimator_targets import base_pairs

CLASSES = ("helix", "sheet", "coil")


def numbers(rows=101, seed=0, columns=1):
    random = np.random.default_rng(seed)
    y = random.normal(size=(rows, columns))
    # rounded, so that there are ties on both sides
    return y.round(1), (y + random.normal(size=(rows, columns))).round(1)


def binary(rows=101, seed=0):
    y, p = numbers(rows, seed)
    return Target(task_type="binary", y=(y[:, 0] > 0.5).astype(int), classes=("no", "yes")), 1 / (1 + np.exp(-p))


def residues(task_type, rows=23, length=17, seed=0):
    random = np.random.default_rng(seed)
    if task_type == "residue_regression":
        y = random.normal(size=(rows, length))
        p = (y + random.normal(size=y.shape))[..., None]
        y[random.random(y.shape) < 0.2] = np.nan
        return Target(task_type=task_type, y=y), p
    count = 2 if task_type == "residue_binary" else 3
    y = random.integers(0, count, (rows, length)).astype(np.int16)
    p = random.random((rows, length, count)) + 0.7 * np.eye(count)[y]
    p /= p.sum(-1, keepdims=True)
    y[random.random(y.shape) < 0.2] = -1
    return Target(task_type=task_type, y=y, classes=CLASSES[:count]), p[..., 1:] if count == 2 else p


def pairs(rows=19, length=29, seed=0):
    random = np.random.default_rng(seed)
    truth, predictions = [], []
    for _ in range(rows):
        own = np.array([[2, 23], [3, 22], [4, 21]])[: random.integers(1, 4)]
        P = np.triu(random.random((length, length)) ** 5, 1)
        P[own[:, 0], own[:, 1]] = 0.9
        truth.append(own)
        predictions.append(P + P.T)
    return Target(task_type="pairs", y=truth), predictions


def every_kind():
    y, p = numbers(columns=2)
    y[::7, 1] = np.nan
    yield Target(task_type="regression", y=y, names=("brightness", "stability")), p
    yield binary()
    random = np.random.default_rng(3)
    z = random.integers(0, 3, 101)
    yield (
        Target(task_type="multiclass", y=z, classes=CLASSES),
        random.dirichlet(np.ones(3), 101) * 0.7 + 0.3 * np.eye(3)[z],
    )
    labels = (y > 0).astype(float)
    labels[np.isnan(y)] = np.nan
    yield Target(task_type="multilabel", y=labels, names=("binds", "folds")), 1 / (1 + np.exp(-p))
    for task_type in ("residue_regression", "residue_binary", "residue_multiclass"):
        yield residues(task_type)
    yield pairs()


def take(prediction, rows):
    return [prediction[row] for row in rows] if isinstance(prediction, list) else prediction[rows]


def test_regression_metrics_equal_those_of_scipy_and_scikit_learn():
    y, p = numbers()
    got = score(Target(task_type="regression", y=y), p)
    assert got["spearman"] == pytest.approx(spearmanr(y[:, 0], p[:, 0]).statistic, abs=1e-12)
    assert got["pearson"] == pytest.approx(np.corrcoef(y[:, 0], p[:, 0])[0, 1], abs=1e-12)
    assert got["r2"] == pytest.approx(sk.r2_score(y, p), abs=1e-12)
    assert got["rmse"] == pytest.approx(sk.root_mean_squared_error(y, p), abs=1e-12)
    gains = (y - y.min()) / np.ptp(y)
    assert got["ndcg"] == pytest.approx(sk.ndcg_score(gains.T, p.T, k=10), abs=0.02)
    # the column may be left out where there is one
    assert score(Target(task_type="regression", y=y), p[:, 0]) == got


def test_ndcg_without_ties_is_that_of_the_ten_best_of_a_hundred():
    random = np.random.default_rng(5)
    y, p = random.permutation(101)[:, None] * 1.0, random.permutation(101)[:, None] * 1.0
    got = score(Target(task_type="regression", y=y), p)
    assert got["ndcg"] == pytest.approx(sk.ndcg_score(y.T / 100, p.T, k=10), abs=1e-12)
    best = set(np.argsort(-y[:, 0])[:10]) & set(np.argsort(-p[:, 0])[:10])
    assert got["top10_recall"] == pytest.approx(len(best) / 10)


def test_a_constant_prediction_scores_chance_and_never_nan():
    y = np.sort(numbers()[0], axis=0)
    got = score(Target(task_type="regression", y=y), np.full_like(y, 0.1))
    assert got["spearman"] == got["pearson"] == 0
    # though the rows are sorted by the truth
    assert got["top10_recall"] == pytest.approx(10 / 101)
    target, p = binary()
    got = score(target, np.full_like(p, 0.2))
    assert (got["auroc"], got["mcc"], got["f1"]) == (0.5, 0, 0)
    for task_type in (target, Target(task_type="regression", y=np.full_like(y, 2.0))):
        assert np.isfinite(list(score(task_type, np.full(len(task_type), 0.5)).values())).all()


def test_one_class_alone_gives_metrics_of_chance():
    target = Target(task_type="binary", y=np.ones(7, dtype=int), classes=("no", "yes"))
    got = score(target, np.linspace(0, 1, 7))
    assert got["auroc"] == 0.5
    assert np.isfinite(list(got.values())).all()
    assert intervals(target, np.linspace(0, 1, 7), 11)["auroc"] == (0.5, 0.5)


def test_binary_metrics_equal_those_of_scikit_learn():
    target, p = binary()
    got, said = score(target, p), p[:, 0] > 0.5
    want = {
        "auroc": sk.roc_auc_score(target.y, p[:, 0]),
        "average_precision": sk.average_precision_score(target.y, p[:, 0]),
        "mcc": sk.matthews_corrcoef(target.y, said),
        "accuracy": sk.accuracy_score(target.y, said),
        "f1": sk.f1_score(target.y, said),
        "brier": sk.brier_score_loss(target.y, p[:, 0]),
    }
    assert got == pytest.approx(want, abs=1e-12)


def test_multiclass_metrics_equal_those_of_scikit_learn():
    target, p = next(pair for pair in every_kind() if pair[0].task_type == "multiclass")
    said = p.argmax(1)
    want = {
        "accuracy": sk.accuracy_score(target.y, said),
        "balanced_accuracy": sk.balanced_accuracy_score(target.y, said),
        "mcc": sk.matthews_corrcoef(target.y, said),
        "auroc": sk.roc_auc_score(target.y, p, multi_class="ovr"),
        "average_precision": sk.average_precision_score(target.y, p),
    }
    assert score(target, p) == pytest.approx(want, abs=1e-12)


def test_columns_are_averaged_over_their_measured_rows():
    target, p = next(every_kind())
    got = score(target, p)
    known = ~np.isnan(target.y[:, 1])
    assert got["spearman:stability"] == pytest.approx(spearmanr(target.y[known, 1], p[known, 1]).statistic, abs=1e-12)
    assert got["spearman"] == pytest.approx((got["spearman:brightness"] + got["spearman:stability"]) / 2)
    target, p = next(pair for pair in every_kind() if pair[0].task_type == "multilabel")
    got = score(target, p)
    known = ~np.isnan(target.y)
    assert got["f1_micro"] == pytest.approx(sk.f1_score(target.y[known], p[known] > 0.5), abs=1e-12)
    assert got["auroc:binds"] == pytest.approx(sk.roc_auc_score(target.y[:, 0], p[:, 0]), abs=1e-12)


def test_residues_are_pooled_over_known_values():
    target, p = residues("residue_binary")
    known = target.y >= 0
    y, scores = target.y[known], p[known][:, 0]
    got = score(target, p)
    assert got["auroc"] == pytest.approx(sk.roc_auc_score(y, scores), abs=1e-12)
    precision, recall, _ = sk.precision_recall_curve(y, scores)
    assert got["f1_max"] == pytest.approx((2 * precision * recall / (precision + recall)).max(), abs=1e-12)
    own = [sk.roc_auc_score(row[row >= 0], p[k, row >= 0, 0]) for k, row in enumerate(target.y)]
    assert got["auroc_per_sequence"] == pytest.approx(np.mean(own), abs=1e-12)
    target, p = residues("residue_multiclass")
    y, said = target.y[target.y >= 0], p[target.y >= 0].argmax(1)
    got = score(target, p)
    assert got["f1_macro"] == pytest.approx(sk.f1_score(y, said, average="macro"), abs=1e-12)
    assert got["recall:sheet"] == pytest.approx((said[y == 1] == 1).mean())
    target, p = residues("residue_regression")
    known = ~np.isnan(target.y)
    assert score(target, p)["r2"] == pytest.approx(sk.r2_score(target.y[known], p[known][:, 0]), abs=1e-12)
    # what stands in the padding means nothing
    p[~known] = np.nan
    assert np.isfinite(score(target, p)["r2"])


def test_every_task_type_has_its_main_metric_and_weights_equal_repeated_rows(monkeypatch):
    rows = np.random.default_rng(1).integers(0, 19, 19)
    seen = set()
    for target, p in every_kind():
        seen.add(target.task_type)
        some, own = target.take(np.arange(19)), take(p, np.arange(19))
        W = np.bincount(rows, minlength=19)[None].astype(float)
        drawn = {name: figure(W)[0] for name, figure in task_metrics.task_metrics(some, own).items()}
        want = score(some.take(rows), take(own, rows))
        assert MAIN_METRIC[target.task_type] in want
        # gains are scaled once, by the whole table
        names = [name for name in want if not name.startswith("ndcg")]
        assert {name: drawn[name] for name in names} == pytest.approx({name: want[name] for name in names}, abs=1e-9)
        whole = intervals(some, own, 31)
        monkeypatch.setattr(scores, "MAX_CELLS", 1)
        # samples one at a time are other samples, of the same distribution
        assert set(intervals(some, own, 7)) == set(whole)
        monkeypatch.undo()
        assert all(low <= high for low, high in whole.values())
        assert all(title(name) for name in whole)
    assert seen == set(TASK_TYPES)


def test_the_interval_of_a_difference_counts_replicates_as_one_unit():
    y, a = numbers(53)
    b = numbers(53, seed=1)[1]
    once = difference(Target(task_type="regression", y=y), a, b)
    y, a, b = (np.repeat(values, 5, axis=0) for values in (y, a, b))
    target = Target(task_type="regression", y=y)
    assert difference(target, a, b, units=np.repeat(np.arange(53), 5)) == pytest.approx(once)
    narrow = difference(target, a, b)
    assert narrow["high"] - narrow["low"] < 0.7 * (once["high"] - once["low"])


def test_the_interval_of_a_difference_is_paired():
    y, p = numbers(499)
    target = Target(task_type="regression", y=y)
    random = np.random.default_rng(2)
    same = difference(target, p, p * 2 + 1)
    assert same == {"value": 0, "low": 0, "high": 0}
    worse = difference(target, p, random.normal(size=p.shape))
    assert 0 < worse["low"] < worse["value"] < worse["high"]
    lone = intervals(target, p, names=["spearman"])["spearman"]
    near = difference(target, p, p + 0.1 * random.normal(size=p.shape))
    assert near["high"] - near["low"] < (lone[1] - lone[0]) / 2


def compared(sizes, rows=211, seed=4):
    """Return a target, and models whose errors have these sizes."""
    random = np.random.default_rng(seed)
    y = random.normal(size=(rows, 1))
    return Target(task_type="regression", y=y), {
        name: y + size * random.normal(size=y.shape) for name, size in sizes.items()
    }


def test_a_model_wins_only_if_its_advantage_over_every_other_one_is_significant():
    target, models = compared({"ridge": 3, "boosting": 2, "lyra-additive": 3, "lyra": 1})
    found = compare_models(target, models)
    assert found["wins"] == "lyra"
    assert found["differences"]["lyra"]["ridge"] == difference(target, models["lyra"], models["ridge"])
    assert found["intervals"]["test"]["lyra"] == intervals(target, models["lyra"])
    # an ensemble is no single model: it neither wins nor keeps one from winning
    assert compare_models(target, models | {"ensemble": models["lyra"]})["wins"] == "lyra"
    better = (models["lyra"] + target.y) / 2
    found = compare_models(target, models | {"ensemble-without-lyra": better, "ensemble": better})
    assert found["differences"]["ensemble"]["lyra"]["low"] > 0
    assert found["wins"] == "lyra"
    # a variant of Lyra is a single model, and equals it here
    assert compare_models(target, models | {"lyra-additive": models["lyra"]})["wins"] is None
    assert compare_models(target, {"lyra": models["lyra"]})["wins"] is None
    few = target.take(np.arange(19)), {name: own[:19] for name, own in models.items()}
    assert compare_models(*few)["wins"] is None
    one_class = Target(task_type="binary", y=np.ones(31, dtype=int), classes=("no", "yes"))
    constant = {name: np.full((31, 1), 0.5) for name in models}
    assert compare_models(one_class, constant)["wins"] is None


def test_rows_that_belong_together_are_resampled_together():
    random = np.random.default_rng(0)
    y = random.normal(size=(61, 1))
    predictions = {name: y + random.normal(size=y.shape) for name in ("ridge", "lyra")}

    def width(repeats, units):
        target = Target(task_type="regression", y=np.repeat(y, repeats, axis=0), names=("y",))
        repeated = {name: np.repeat(own, repeats, axis=0) for name, own in predictions.items()}
        gap = compare_models(target, repeated, units=units)["differences"]["lyra"]["ridge"]
        return gap["high"] - gap["low"]

    once, each = width(1, None), np.repeat(np.arange(61), 7)
    # units of one row, in any order, are the rows themselves
    assert width(1, random.permutation(61)) == once
    assert width(7, each) == pytest.approx(once)
    # seven copies of a row are not seven measurements
    assert width(7, None) < 0.6 * once
    # too few units to resample
    assert width(7, each // 10) == width(7, None)


def test_lyra_and_the_ensemble_are_compared_with_every_other_model():
    target, models = compared({"ridge": 3, "boosting": 1, "lyra": 2, "ensemble-without-lyra": 1, "ensemble": 0.5})
    found = compare_models(target, models)
    assert list(found["differences"]) == ["lyra", "ensemble"]
    for first, gaps in found["differences"].items():
        assert gaps == {name: difference(target, models[first], models[name]) for name in models if name != first}
    assert found["ensemble_versus_best"] == {"best": "boosting", **found["differences"]["ensemble"]["boosting"]}
    for name, own in found["bootstrap"].items():
        assert own == scores.bootstrap_metric(target, models[name], "spearman").tolist()
    baselines = {name: models[name] for name in ("ridge", "boosting")}
    found = compare_models(target, baselines)
    assert found["differences"] == {}
    assert "ensemble_versus_best" not in found
    assert found["wins"] == "boosting"


def constant_and_worse(task_type):
    """Return a target, a model that predicts the same everywhere, and one that is always wrong."""
    random = np.random.default_rng(6)
    if task_type == "residue_regression":
        y = random.normal(size=(53, 7))
        y[:, 5:] = np.nan
        # networks leave zeros in the padding
        constant = np.where(np.isnan(y), 0.0, np.nanmean(y))[..., None]
        return Target(task_type=task_type, y=y), constant, -3 * np.nan_to_num(y)[..., None]
    count = {"residue_binary": 2}.get(task_type, 3)
    shape = (53, 7) if task_type.startswith("residue") else (53,)
    y = random.choice(count, size=shape, p=[0.7, 0.2, 0.1] if count == 3 else [0.7, 0.3])
    constant, wrong = np.broadcast_to([0.6, 0.3, 0.1], (*shape, 3)), np.eye(3)[(y + 1) % 3]
    dtype = np.int16 if task_type.startswith("residue") else np.int64
    if count == 2:
        return (
            Target(task_type=task_type, y=y.astype(dtype), classes=CLASSES[:2]),
            constant[..., :1],
            1.0 - y[..., None],
        )
    return Target(task_type=task_type, y=y.astype(dtype), classes=CLASSES), constant, wrong


@pytest.mark.parametrize("task_type", ["multiclass", "residue_regression", "residue_binary", "residue_multiclass"])
def test_constant_predictions_never_win(task_type):
    target, constant, worse = constant_and_worse(task_type)
    others = {"ridge": worse, "lyra-additive": worse}
    found = compare_models(target, {**others, "lyra": constant})
    assert found["differences"]["lyra"]["ridge"]["low"] > 0
    assert found["wins"] is None
    # one prediction that differs is no constant
    other = constant.copy()
    other[3] *= 0.99
    assert compare_models(target, {**others, "lyra": other})["wins"] == "lyra"


def test_undefined_samples_of_the_bootstrap_are_null_in_json():
    target = Target(task_type="binary", y=np.arange(23) == 0, classes=("no", "yes"))
    found = compare_models(target, {"ridge": np.linspace(0, 1, 23)[:, None], "lyra": np.full((23, 1), 0.5)})
    drawn = json.loads(json.dumps(found, allow_nan=False))["bootstrap"]
    undefined = [value is None for value in drawn["lyra"]]
    # the only positive is in none of these samples
    assert 0 < sum(undefined) < len(undefined)
    assert undefined == [value is None for value in drawn["ridge"]]
    assert {value for value in drawn["lyra"] if value is not None} == {0.5}


def test_intervals_have_their_nominal_coverage():
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        y = random.normal(size=(211, 1))
        p = 0.6 * y + 0.8 * random.normal(size=y.shape)
        low, high = intervals(Target(task_type="regression", y=y), p, 100, names=["pearson"], seed=seed)["pearson"]
        covered += low <= 0.6 <= high
    # 190 with a standard deviation of 3.1, and as for percentiles of 100 samples somewhat fewer
    assert 177 <= covered <= 197


def test_groups_are_scored_apart():
    target, p = binary()
    groups = np.where(np.arange(101) < 41, "BRCA1", "TP53")
    got = by_group(target, p, groups)
    assert list(got) == ["BRCA1", "TP53"]
    assert got["BRCA1"] == {"rows": 41, **score(target.take(np.arange(41)), p[:41])}


def test_wrong_shapes_and_numbers_are_refused():
    target, p = binary()
    with pytest.raises(ValueError, match=r"predictions of binary must have the shape \(101, 1\), got \(101, 2\)"):
        score(target, np.hstack([1 - p, p]))
    p[3] = np.nan
    with pytest.raises(ValueError, match="predictions must be finite numbers"):
        score(target, p)
    with pytest.raises(ValueError, match="there are no rows to score"):
        score(target.take(np.arange(0)), p[:0])
    with pytest.raises(ValueError, match="predictions of 2 rows for targets of 19"):
        score(pairs()[0], pairs()[1][:2])


def structures(places, min_loop):
    """All nested structures of places, by the definition."""
    if not places:
        yield ()
        return
    first, *rest = places
    yield from structures(rest, min_loop)
    for k, other in enumerate(rest):
        if other - first > min_loop:
            for inside, outside in itertools.product(
                structures(rest[:k], min_loop), structures(rest[k + 1 :], min_loop)
            ):
                yield ((first, other), *inside, *outside)


@pytest.mark.parametrize(("threshold", "min_loop", "seed"), [(0.3, 1, 0), (0.5, 3, 1), (0.1, 0, 2), (0.0, 2, 3)])
def test_the_decoded_structure_is_the_best_of_all_nested_ones(threshold, min_loop, seed):
    P = np.triu(np.random.default_rng(seed).random((9, 9)), 1)
    P += P.T
    best = max(
        sum(P[i, j] - threshold for i, j in pairs if P[i, j] > threshold) for pairs in structures(range(9), min_loop)
    )
    got = decode_pairs(P, threshold=threshold, min_loop=min_loop, crossing=False)
    assert sum(P[i, j] - threshold for i, j in got) == pytest.approx(best)
    assert len(set(got.ravel())) == 2 * len(got)
    assert (got[:, 1] - got[:, 0] > min_loop).all()


def test_of_crossing_pairs_the_likelier_one_is_kept():
    P = np.zeros((13, 13))
    for i, j, value in ((0, 7, 0.9), (3, 11, 0.8), (3, 10, 0.7)):
        P[i, j] = P[j, i] = value
    assert decode_pairs(P).tolist() == [[0, 7]]
    for L in (0, 1, 5):
        assert decode_pairs(np.zeros((L, L))).shape == (0, 2)
    with pytest.raises(ValueError, match=r"must be square, got \(3, 2\)"):
        decode_pairs(np.zeros((3, 2)))


def test_pseudoknots_are_decoded_and_written_in_brackets_of_their_own():
    P = np.zeros((20, 20))
    # a hairpin of three pairs, crossed by a stem of two and by a single pair
    for i, j, value in ((0, 9, 0.9), (1, 8, 0.9), (2, 7, 0.9), (4, 15, 0.8), (5, 14, 0.8), (6, 19, 0.7)):
        P[i, j] = P[j, i] = value
    got = decode_pairs(P)
    assert got.tolist() == [[0, 9], [1, 8], [2, 7], [4, 15], [5, 14]]
    text = dot_bracket(got, 20)
    assert text == "(((.[[.)))....]]...."
    assert base_pairs([text], [20])[0].tolist() == got.tolist()
    nested = decode_pairs(P, crossing=False)
    assert nested.tolist() == [[0, 9], [1, 8], [2, 7]]
    assert dot_bracket(nested, 20) == "(((....))).........."


def test_agreement_of_structures_equals_a_count_by_hand():
    truth = np.array([[0, 19], [1, 18], [2, 17]])
    got = agreement(truth, np.array([[0, 19], [1, 17], [5, 11], [6, 10]]))
    assert got["precision"] == 1 / 4
    assert got["recall"] == 1 / 3
    assert got["f1"] == pytest.approx(2 / 7)
    # (1, 17) is beside two true pairs: precision 2/4, recall 3/3
    assert got["f1_shifted"] == pytest.approx(2 * 0.5 / 1.5)
    none = np.zeros((0, 2), dtype=int)
    assert agreement(none, none)["f1"] == 1
    assert agreement(none, truth)["f1"] == agreement(truth, none)["f1_shifted"] == 0


def test_metrics_undefined_on_one_class_are_named():
    both, none, all_ = (np.array(y) for y in ([0, 1, 1], [0, 0, 0], [1, 1, 1]))
    classes = ("no", "yes")
    assert undefined_metrics(Target(task_type="binary", y=both, classes=classes)) == {}
    found = undefined_metrics(Target(task_type="binary", y=none, classes=classes))
    assert set(found) >= {"auroc", "average_precision", "f1", "mcc"}
    assert set(found.values()) == {"no positive"}
    assert undefined_metrics(Target(task_type="binary", y=all_, classes=classes))["auroc"] == "no negative"
    residues = Target(
        task_type="residue_binary", y=np.array([[0, 0, -1], [0, -1, -1]], dtype=np.int16), classes=classes
    )
    assert undefined_metrics(residues)["auroc_per_sequence"] == "no positive"
    assert undefined_metrics(Target(task_type="multiclass", y=none, classes=("a", "b", "c"))).keys() == {
        "auroc",
        "average_precision",
        "mcc",
    }
    labels = np.array([[0.0, 1.0], [0.0, 0.0], [np.nan, 1.0]])
    found = undefined_metrics(Target(task_type="multilabel", y=labels, names=("liver", "brain")))
    assert found["auroc:liver"] == found["average_precision:liver"] == "no positive"
    assert not {"auroc", "auroc:brain"} & set(found)
    assert "auroc" in undefined_metrics(Target(task_type="multilabel", y=labels[:, [0, 0]], names=("liver", "heart")))
    names = ("spearman", "pearson", "r2", "ndcg")
    constant = Target(task_type="regression", y=np.ones((3, 1)))
    assert undefined_metrics(constant) == dict.fromkeys(names, "a single value")
    residues = Target(task_type="residue_regression", y=np.array([[0.5, np.nan], [0.5, 0.5]]))
    assert undefined_metrics(residues)["r2"] == "a single value"
    assert undefined_metrics(Target(task_type="pairs", y=[np.zeros((0, 2), dtype=np.int64)])) == {}
