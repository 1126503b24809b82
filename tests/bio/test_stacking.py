import json

import numpy as np
import pytest

from subquad.bio.data.dataset import Target
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models.members import Members
from subquad.bio.models.stacking import Stacking, combine, fit_stacking


def measured(rows, strengths, *, common=0.5, seed=0, task_type="regression"):
    """Models that each see the truth with noise, a part of which they share."""
    random = np.random.default_rng(seed)
    y, shared, models = random.normal(size=rows), random.normal(size=rows), {}
    for k, r in enumerate(strengths):
        noise = np.sqrt(common) * shared + np.sqrt(1 - common) * random.normal(size=rows)
        p = r * (r * y + np.sqrt(1 - r**2) * noise)
        models[f"model {k}"] = (p if task_type == "regression" else 1 / (1 + np.exp(-3 * p)))[:, None]
    if task_type == "regression":
        return Target(task_type=task_type, y=y[:, None]), models
    return Target(task_type="binary", y=(y > 0.3).astype(int), classes=("no", "yes")), models


def take(models, rows):
    return {name: [own[row] for row in rows] if isinstance(own, list) else own[rows] for name, own in models.items()}


def halves(target, models, first):
    ahead, rest = np.arange(first), np.arange(first, len(target))
    return (target.take(ahead), take(models, ahead)), (target.take(rest), take(models, rest))


@pytest.mark.parametrize("task_type", ["regression", "binary"])
def test_thirty_rows_find_a_clearly_best_model(task_type):
    for seed in range(5):
        (known, own), (truth, other) = halves(*measured(1031, (0.9, 0.3, 0.2), seed=seed, task_type=task_type), 30)
        stack, main = fit_stacking(known, own), MAIN_METRIC[task_type]
        assert score(truth, stack.predict(other))[main] > score(truth, other["model 0"])[main] - 0.02
        assert stack.weights["model 0"] > 0.7


@pytest.mark.parametrize("task_type", ["regression", "binary"])
def test_models_that_err_apart_are_better_together(task_type):
    for rows, gain in ((30, -0.01), (499, 0.02)):
        (known, own), (truth, other) = halves(*measured(2003 + rows, (0.7, 0.7), common=0.1, task_type=task_type), rows)
        stack, main = fit_stacking(known, own), MAIN_METRIC[task_type]
        best = max(score(truth, p)[main] for p in other.values())
        assert score(truth, stack.predict(other))[main] > best + gain


def test_on_average_the_stack_is_no_worse_than_the_model_that_looks_best():
    ours, theirs = [], []
    for seed in range(12):
        (known, own), (truth, other) = halves(*measured(1024, (0.6, 0.55, 0.5), seed=seed), 24)
        looks = max(own, key=lambda name: score(known, own[name])["spearman"])
        ours.append(score(truth, fit_stacking(known, own).predict(other))["spearman"])
        theirs.append(score(truth, other[looks])["spearman"])
    assert np.mean(ours) > np.mean(theirs)
    assert min(ours) > min(theirs)


def test_models_are_brought_to_the_scale_of_the_target():
    target, models = measured(499, (0.8, 0.8), common=0.0)
    odd = {"plain": models["model 0"], "odd": 100 * models["model 1"] - 7}
    stacked, plain = fit_stacking(target, odd), fit_stacking(target, models)
    assert score(target, stacked.predict(odd))["r2"] == pytest.approx(
        score(target, plain.predict(models))["r2"], abs=0.01
    )
    assert stacked.weights["odd"] == pytest.approx(0.5, abs=0.15)


def test_a_lone_model_keeps_its_order_and_its_decisions():
    for task_type in ("regression", "binary"):
        target, models = measured(101, (0.6,), task_type=task_type)
        stack = fit_stacking(target, models)
        assert stack.weights == {"model 0": 1.0}
        got, want = score(target, stack.predict(models)), score(target, models["model 0"])
        for name in ("spearman", "ndcg") if task_type == "regression" else ("auroc", "mcc", "f1"):
            assert got[name] == pytest.approx(want[name], abs=1e-9)


def test_a_worthless_or_reversed_model_keeps_out():
    target, models = measured(211, (0.7, 0.0))
    models["model 1"] = -models["model 0"]
    models["constant"] = np.full((211, 1), 3.0)
    stack = fit_stacking(target, models)
    # a blend with either is the best model on another scale
    assert score(target, stack.predict(models))["spearman"] > score(target, models["model 0"])["spearman"] - 0.02


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_very_few_rows_count_the_models_equally_and_leave_them_alone(rows):
    target, models = measured(rows, (0.9, 0.1))
    stack = fit_stacking(target, models)
    assert stack.weights == {"model 0": 0.5, "model 1": 0.5}
    assert stack.predict(models) == pytest.approx((models["model 0"] + models["model 1"]) / 2)
    same = Target(task_type="regression", y=np.full((31, 1), 2.0))
    assert fit_stacking(same, measured(31, (0.9, 0.1))[1]).weights == {"model 0": 0.5, "model 1": 0.5}


def residues(task_type, rows=41, length=13, seed=0):
    random = np.random.default_rng(seed)
    if task_type == "residue_regression":
        y = random.normal(size=(rows, length))
        models = {
            name: (y + size * random.normal(size=y.shape))[..., None] for name, size in (("good", 0.3), ("bad", 5))
        }
        y[:, 11:] = np.nan
        return Target(task_type=task_type, y=y), models
    count = 2 if task_type == "residue_binary" else 3
    y = random.integers(0, count, (rows, length))
    models = {}
    for name, size in (("good", 3.0), ("bad", 0.2)):
        p = np.exp(size * np.eye(count)[y] + random.normal(size=(rows, length, count)))
        p /= p.sum(-1, keepdims=True)
        models[name] = p[..., 1:] if count == 2 else p
    y[:, 11:] = -1
    return Target(task_type=task_type, y=y.astype(np.int16), classes=("a", "b", "c")[:count]), models


def pairs(rows=23, length=19, seed=0):
    random, truth, models = np.random.default_rng(seed), [], {"good": [], "bad": []}
    for row in range(rows):
        own = np.array([[1, 15], [2, 14], [3, 13]])[: 1 + row % 3]
        right = np.zeros((length, length))
        right[own[:, 0], own[:, 1]] = 1
        truth.append(own)
        for name, share in (("good", 0.9), ("bad", 0.4)):
            P = np.triu(share * right + 0.5 * random.random(right.shape) ** 4, 1)
            models[name].append(np.clip(P + P.T, 0, 1))
    return Target(task_type="pairs", y=truth), models


def labels(task_type, rows=101, seed=0):
    random = np.random.default_rng(seed)
    if task_type == "multiclass":
        y = random.integers(0, 3, rows)
        right = np.eye(3)[y]
        models = {}
        for name, size in (("good", 4.0), ("bad", 0.3)):
            p = np.exp(size * right + random.normal(size=right.shape))
            models[name] = p / p.sum(1, keepdims=True)
        return Target(task_type=task_type, y=y, classes=("a", "b", "c")), models
    right = random.normal(size=(rows, 2))
    models = {name: right + size * random.normal(size=right.shape) for name, size in (("good", 0.3), ("bad", 5))}
    if task_type == "multilabel":
        y, models = (right > 0).astype(float), {name: 1 / (1 + np.exp(-p)) for name, p in models.items()}
    else:
        y = right * [1, 100] + 7
    y[::5, 1] = np.nan
    return Target(task_type=task_type, y=y, names=("one", "two")), models


@pytest.mark.parametrize(
    ("target", "models"),
    [
        *(residues(task_type) for task_type in ("residue_regression", "residue_binary", "residue_multiclass")),
        *(labels(task_type) for task_type in ("multiclass", "multilabel", "regression")),
        pairs(),
    ],
    ids=lambda own: own.task_type if isinstance(own, Target) else "",
)
def test_every_kind_is_stacked_and_survives_json(target, models):
    stack = fit_stacking(target, models)
    assert stack.weights["good"] > 0.5
    assert sum(stack.weights.values()) == pytest.approx(1)
    got, main = stack.predict(models), MAIN_METRIC[target.task_type]
    assert score(target, got)[main] > score(target, models["good"])[main] - 0.03
    again = Stacking.from_dict(json.loads(json.dumps(stack.as_dict(), allow_nan=False)))
    assert again == stack
    for one, other, model in zip(got, again.predict(models), models["good"], strict=True):
        assert one.shape == model.shape
        np.testing.assert_array_equal(one, other)
    if target.task_type == "pairs":
        assert all((P == P.T).all() for P in got)
    if target.task_type.endswith("multiclass"):
        np.testing.assert_allclose(got.sum(-1), 1)


def test_a_missing_model_is_named_unless_it_has_no_weight():
    stack = Stacking(
        task_type="regression",
        weights={"lyra": 1.0, "ridge": 0.0},
        shift={"lyra": (1.0,), "ridge": (0.0,)},
        scale={"lyra": (2.0,), "ridge": (1.0,)},
        rows=31,
    )
    assert stack.predict({"lyra": np.array([[3.0]])}) == 7
    with pytest.raises(ValueError, match="the stack needs the predictions of lyra"):
        stack.predict({"ridge": np.zeros((1, 1))})
    with pytest.raises(ValueError, match="at least one model"):
        fit_stacking(measured(31, (0.5,))[0], {})


def with_members(predictions, count, seed=0):
    """Return members that scatter around each model's prediction, a single one for the last model."""
    random, found = np.random.default_rng(seed), {}
    for name, own in predictions.items():
        size = 1 if name == list(predictions)[-1] else count
        if isinstance(own, list):
            each = [[np.clip(P + 0.01 * random.random(), 0, 1) for P in own] for _ in range(size)]
        else:
            each = [own * (1 + 0.05 * random.normal(size=own.shape)) for _ in range(size)]
            if own.min() >= 0 and own.max() <= 1:
                each = [np.clip(one, 0, 1) for one in each]
        found[name] = Members.of_equals(each)
    return found


@pytest.mark.parametrize("target_and_models", [measured(101, (0.8, 0.5, 0.7)), labels("regression")])
def test_the_weighted_mean_of_all_members_is_the_prediction_of_a_stack_of_measurements(target_and_models):
    target, models = target_and_models
    members = with_members(models, 3)
    stack = fit_stacking(target, {name: own.mean for name, own in members.items()})
    stack = stack.with_weights(np.arange(1, len(models) + 1) / np.arange(1, len(models) + 1).sum())
    found = combine(stack, members)
    assert len(found.each) == len(found.weights) == 3 * (len(models) - 1) + 1
    assert found.weights.sum() == pytest.approx(1)
    # three networks share the weight of their model
    assert found.weights[:3] == pytest.approx(stack.weights[next(iter(models))] / 3)
    assert np.tensordot(found.weights, np.stack(found.each), 1) == pytest.approx(found.mean)
    assert found.mean == pytest.approx(stack.predict({name: own.mean for name, own in members.items()}))
    square = sum(w * (one - found.mean) ** 2 for w, one in zip(found.weights, found.each, strict=True))
    assert found.std() == pytest.approx(np.sqrt(square / (1 - (found.weights**2).sum())))


@pytest.mark.parametrize(
    ("target", "models"),
    [
        *(residues(task_type) for task_type in ("residue_binary", "residue_multiclass")),
        *(labels(task_type) for task_type in ("multiclass", "multilabel")),
        pairs(),
    ],
    ids=lambda own: own.task_type if isinstance(own, Target) else "",
)
def test_members_of_probabilities_are_calibrated_probabilities(target, models):
    stack = fit_stacking(target, models).with_weights(np.array([0.7, 0.3]))
    members = with_members(models, 2)
    found = combine(stack, members)
    assert found.weights == pytest.approx([0.35, 0.35, 0.3])
    for one in found.each:
        for own, mean in zip(one, found.mean, strict=True):
            assert own.shape == mean.shape
            assert ((own >= 0) & (own <= 1)).all()
            if target.task_type.endswith("multiclass"):
                assert own.sum(-1) == pytest.approx(1)
    # a stack of one model predicts what that model does after calibration
    alone = combine(stack.with_weights(np.array([1.0, 0.0])), members)
    calibrated = stack.calibrate("good", members["good"].mean)
    for own, want in zip(alone.mean, calibrated, strict=True):
        np.testing.assert_allclose(own, want, atol=1e-12)
    assert len(alone.each) == 2


def test_models_without_weight_are_not_needed_for_members():
    target, models = measured(53, (0.8, 0.5))
    stack = fit_stacking(target, models).with_weights(np.array([1.0, 0.0]))
    found = combine(stack, {"model 0": Members.of_equals([models["model 0"]])})
    assert found.weights.tolist() == [1.0]
    np.testing.assert_array_equal(found.each[0], found.mean)
    assert found.std() is None


def test_calibration_is_the_line_of_each_column():
    stack = Stacking(
        task_type="regression",
        weights={"ridge": 0.5, "lyra": 0.5},
        shift={"ridge": (1.0, -3.0), "lyra": (0.0, 0.0)},
        scale={"ridge": (2.0, 0.5), "lyra": (1.0, 1.0)},
        rows=31,
    )
    assert stack.calibrate("ridge", np.array([[5.0, 8.0]])).tolist() == [[11.0, 1.0]]
    assert stack.calibrate("lyra", np.array([[5.0, 8.0]])).tolist() == [[5.0, 8.0]]


@pytest.mark.parametrize("noise", [0.0, 1e-17, 1e-15, 1e-11])
@pytest.mark.parametrize("level", [0.0, 0.1, 1.0, -3e5])
def test_a_constant_model_gets_no_slope_and_does_not_explode_the_scale(noise, level):
    random = np.random.default_rng(2)
    target, models = measured(211, (0.7, 0.5))
    models["constant"] = level + noise * max(abs(level), 1) * random.normal(size=(211, 1))
    stack = fit_stacking(target, models)
    assert stack.scale["constant"] == (0.0,)
    assert np.abs(list(stack.scale.values())).max() < 10
    # another level at prediction time must not matter either
    shifted = stack.predict(models | {"constant": models["constant"] + 1.0})
    np.testing.assert_allclose(shifted, stack.predict(models))
    assert score(target, shifted)["spearman"] > score(target, models["model 0"])["spearman"] - 0.02


def test_a_model_of_small_but_real_variance_keeps_its_slope():
    target, models = measured(211, (0.7,))
    p, y = models["model 0"][:, 0], target.y[:, 0]
    line = np.polyval(np.polyfit(p, y, 1), p)
    for own in (p, 1 + 1e-6 * p):
        stack = fit_stacking(target, {"only": own[:, None]})
        np.testing.assert_allclose(stack.predict({"only": own[:, None]})[:, 0], line, atol=0.02)


def test_a_model_with_all_the_weight_out_of_fold_stays_as_it_is():
    random = np.random.default_rng(3)
    y = random.normal(size=(101, 1))
    target = Target(task_type="regression", y=y)
    # models of the folds that overshoot
    predictions = {"lyra": 2.0 * y + 0.01 * random.normal(size=y.shape)}
    folded = fit_stacking(target, predictions, is_out_of_fold=True)
    assert folded.weights == {"lyra": 1.0}
    np.testing.assert_array_equal(folded.predict({"lyra": y}), y)
    # validation rows are predicted by the models themselves
    np.testing.assert_allclose(fit_stacking(target, predictions).predict({"lyra": y}), 0.5 * y, atol=0.05)
