"""The Gaussian process: its formula, calibrated deviations, missing values, weights, strands and storage."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from subquad.bio.data.dataset import ANY, PAD, Dataset, Inputs, Target
from subquad.bio.features.rows import part_of
from subquad.bio.features.sequences import SequenceFeatures
from subquad.bio.features.substitutions import blosum62
from subquad.bio.models import gaussian_process
from subquad.bio.models.baselines import Baseline, fit_baseline, fit_gp
from subquad.bio.models.gaussian_process import fit_gaussian_process


def variants(rows=260, length=9, *, noise=0.1, seed=0, columns=1):
    """Substitutions in a protein add up, and two sites interact."""
    random = np.random.default_rng(seed)
    reference = random.integers(0, 20, length)
    codes = np.tile(reference, (rows, 1))
    for row in range(rows):
        for place in random.choice(length, random.integers(1, 3), replace=False):
            codes[row, place] = random.integers(0, 20)
    effect = random.normal(size=(length, 20))
    z = effect[np.arange(length), codes].sum(1) + 1.5 * (codes[:, 2] != reference[2]) * (codes[:, 5] != reference[5])
    y = np.stack([(k + 1) * z for k in range(columns)], axis=1) + random.normal(size=(rows, columns)) * noise
    inputs = Inputs(codes=codes.astype(np.int8), letters=20, covariates=np.zeros((rows, 0)), is_aligned=True)
    target = Target(task_type="regression", y=y, names=tuple(f"y{k}" for k in range(columns)))
    parts = np.array_split(np.arange(rows), [rows * 3 // 5, rows * 4 // 5])
    return Dataset(inputs=inputs, target=target, split=dict(zip(("train", "validation", "test"), parts, strict=True)))


def fitted(dataset, **options):
    train = part_of(dataset, "train", most=10**6, seed=0)
    features = SequenceFeatures.for_inputs(train.inputs)
    return features, *fit_gaussian_process(features, train, seed=0, **options)


def test_the_posterior_is_that_of_the_formula():
    dataset = variants(120)
    features, process, estimated = fitted(dataset)
    state = {
        name.split(".", 1)[-1]: value.item() for name, value in process.hyperparameters[0].items() if value.size == 1
    }

    def softplus(name):
        return np.logaddexp(0, next(value for key, value in state.items() if key.endswith(name)))

    X = {
        part: {
            term.kind: term.matrix(features, own, features.matrix(own)).astype(float)
            for own in [dataset.part(part)[0]]
            for term in process.terms
        }
        for part in ("train", "test")
    }
    assert list(X["train"]) == ["linear", "letters", "others"]

    def kernel(a, b):
        letters = np.exp(
            -0.5 * cdist(a["letters"], b["letters"], "sqeuclidean") / softplus("1.base_kernel.raw_lengthscale") ** 2
        )
        others = np.exp(-cdist(a["others"], b["others"]) / softplus("2.base_kernel.raw_lengthscale"))
        linear = softplus("0.raw_variance") * a["linear"] @ b["linear"].T
        return linear + softplus("1.raw_outputscale") * letters + softplus("2.raw_outputscale") * others

    noise = estimated["noise"] + process.noise
    between, within = kernel(X["test"], X["train"]), kernel(X["train"], X["train"]) + np.diag(noise)
    constant = state["raw_constant"]
    mean = constant + between @ np.linalg.solve(within, process.y[:, 0] - constant)
    variance = np.diag(kernel(X["test"], X["test"]) - between @ np.linalg.solve(within, between.T))
    found, deviation = process.predict(features, dataset.part("test")[0])
    scale = process.spread[0]
    # the noise is rounded in what is returned
    np.testing.assert_allclose(found[:, 0], process.mean[0] + scale * mean, rtol=0, atol=2e-3 * scale)
    np.testing.assert_allclose(deviation[:, 0], scale * np.sqrt(variance), rtol=0, atol=2e-3 * scale)


def test_embedded_amino_acids_are_as_far_apart_as_blosum62_says(monkeypatch):
    monkeypatch.setattr(gaussian_process, "EMBEDDED", 1 - 1e-9)
    embedding = gaussian_process._embedding.__wrapped__
    table = embedding(20)
    odds = 2 ** (blosum62(20) / 2)
    expected = -np.log(odds / np.sqrt(np.outer(np.diag(odds), np.diag(odds))))
    distance = cdist(table[:20], table[:20], "sqeuclidean")
    # BLOSUM62 is nearly, but not exactly, a matrix of squared distances
    np.testing.assert_allclose(distance, expected, rtol=0, atol=0.06 * expected.max())
    monkeypatch.undo()
    assert embedding(20).shape == (22, 12)
    kept = cdist(embedding(20)[:20], embedding(20)[:20], "sqeuclidean")
    assert np.corrcoef(kept.ravel(), expected.ravel())[0, 1] > 0.98
    np.testing.assert_allclose(table[ANY], table[:20].mean(0), rtol=0, atol=1e-6)
    assert not table[PAD].any()
    nucleotides = embedding(4)[:4]
    assert len(np.unique(cdist(nucleotides, nucleotides)[~np.eye(4, dtype=bool)].round(6))) == 1


@pytest.mark.long
def test_it_predicts_new_rows_and_knows_how_well():
    dataset = variants(900, noise=0.3)
    features, process, estimated = fitted(dataset)
    test, truth = dataset.part("test")
    mean, deviation = process.predict(features, test)
    assert np.corrcoef(mean[:, 0], truth.y[:, 0])[0, 1] > 0.85
    total = np.sqrt(deviation**2 + estimated["noise"] * process.spread**2)
    inside = np.abs(truth.y - mean) < 1.645 * total
    assert 0.83 < inside.mean() < 0.96


def test_substitutions_at_a_position_that_training_lacks_are_less_certain():
    dataset = variants(400)
    codes, train = dataset.inputs.codes, dataset.split["train"]
    is_mutated = codes[:, 4] != np.bincount(codes[:, 4]).argmax()
    kept = {**dataset.split, "train": train[~is_mutated[train]]}
    features, process, _ = fitted(replace(dataset, split=kept))
    deviation, is_new = process.predict(features, dataset.part("test")[0])[1][:, 0], is_mutated[dataset.split["test"]]
    assert deviation[is_new].mean() > 1.3 * deviation[~is_new].mean()


@pytest.mark.long
def test_columns_are_fitted_to_the_rows_where_they_are_known():
    dataset = variants(300, columns=2)
    y = dataset.target.y.copy()
    y[::3, 1] = np.nan
    features, process, estimated = fitted(replace(dataset, target=replace(dataset.target, y=y)))
    both = fitted(dataset)[1].predict(features, dataset.part("test")[0])[0]
    found = process.predict(features, dataset.part("test")[0])[0]
    np.testing.assert_allclose(found[:, 0], both[:, 0], rtol=1e-6)
    assert np.corrcoef(found[:, 1], both[:, 1])[0, 1] > 0.8
    assert not np.allclose(found[:, 1], both[:, 1])
    assert len(estimated["noise"]) == 2


@pytest.mark.long
def test_rows_of_small_weight_hardly_count():
    dataset = variants(500)
    y = dataset.target.y.copy()
    wrong = dataset.split["train"][::3]
    y[wrong] = 10 * np.random.default_rng(0).normal(size=(len(wrong), 1))
    weight = np.ones(len(y))
    weight[wrong] = 1e-6
    damaged = replace(dataset, target=replace(dataset.target, y=y))
    test, truth = dataset.part("test")
    scores = []
    for own in (damaged, replace(damaged, weight=weight)):
        features, process, _ = fitted(own)
        scores.append(np.corrcoef(process.predict(features, test)[0][:, 0], truth.y[:, 0])[0, 1])
    assert scores[1] > scores[0] + 0.2


def test_many_rows_are_sampled_and_wide_terms_keep_their_widest_columns(monkeypatch):
    dataset = variants(400)
    monkeypatch.setattr(gaussian_process, "MAX_ROWS", 100)
    monkeypatch.setattr(gaussian_process, "SUBSET_ROWS", 50)
    monkeypatch.setattr(gaussian_process, "MAX_COLUMNS", 24)
    features, process, estimated = fitted(dataset)
    assert estimated["rows"] == len(process.X) == 100
    widths = {term.kind: len(term.shift) for term in process.terms}
    assert widths == {"linear": 24, "letters": 24, "others": 24}
    mean, deviation = process.predict(features, dataset.part("test")[0])
    assert np.isfinite(mean).all()
    assert (deviation > 0).all()
    np.testing.assert_array_equal(fitted(dataset)[1].predict(features, dataset.part("test")[0])[0], mean)


@pytest.mark.parametrize("strands", [False, True])
def test_it_comes_back_from_disk_with_its_deviation_as_that_of_two_members(tmp_path, strands):
    dataset = variants(150)
    codes = (dataset.inputs.codes % 4).astype(np.int8)
    inputs = replace(dataset.inputs, codes=codes, letters=4, is_double_stranded=strands) if strands else dataset.inputs
    dataset = replace(dataset, inputs=inputs)
    baseline = fit_baseline("gp", dataset)
    baseline.save(tmp_path / "gp.safetensors")
    loaded, test = Baseline.load(tmp_path / "gp.safetensors"), dataset.part("test")[0]
    np.testing.assert_array_equal(loaded.predict(test), baseline.predict(test))
    members = loaded.members(test)
    np.testing.assert_allclose(members.mean, loaded.predict(test), rtol=1e-9)
    if strands:
        turned = replace(test.reverse_complement(), is_double_stranded=True)
        np.testing.assert_allclose(loaded.predict(turned), loaded.predict(test), rtol=1e-6)
    else:
        np.testing.assert_allclose(members.std(), loaded.model.predict(loaded.features, test)[1], rtol=1e-6)
    assert loaded.predict(test.take(np.arange(0))).shape == (0, 1)
    assert set(loaded.selected) == {"noise", "rows", "validation"}


@pytest.mark.parametrize("strands", [False, True])
def test_differences_to_the_first_row_have_the_deviation_of_the_joint_posterior(monkeypatch, strands):
    monkeypatch.setattr(gaussian_process, "CHUNK", 17)
    dataset = variants(150, columns=2)
    if strands:
        codes = (dataset.inputs.codes % 4).astype(np.int8)
        dataset = replace(dataset, inputs=replace(dataset.inputs, codes=codes, letters=4))
    gp, test = fit_baseline("gp", dataset), dataset.part("test")[0]
    draws = gp.draws(test, 20_000, seed=0)
    expected = (draws - draws[:, :1]).std(0)
    if strands:
        test = replace(test, is_double_stranded=True)
        draws = gp.draws(test.reverse_complement(), 20_000, seed=0)
        expected = (expected + (draws - draws[:, :1]).std(0)) / 2
    members = gp.members(test, to_first=True)
    np.testing.assert_allclose(members.std_to_first()[1:], expected[1:], rtol=0.03)
    np.testing.assert_allclose(members.std_to_first()[0], 0, atol=1e-6)
    # without the covariance the deviations of the two rows nearly cancel
    assert np.median(gp.members(test).std_to_first()[1:] / expected[1:]) < 0.5
    np.testing.assert_array_equal(members.std(), gp.members(test).std())


def test_sequences_of_varying_length_and_covariates_have_no_term_of_letters():
    dataset = variants(150)
    codes = dataset.inputs.codes.copy()
    for row, length in enumerate(np.random.default_rng(0).integers(5, 10, len(codes))):
        codes[row, length:] = PAD
    inputs = replace(dataset.inputs, codes=codes, is_aligned=False, covariates=dataset.target.y[:, :1] ** 3)
    features, process, _ = fitted(replace(dataset, inputs=inputs))
    assert [term.kind for term in process.terms] == ["linear", "others"]
    numbers = replace(inputs, codes=np.zeros((len(codes), 0), dtype=np.int8))
    features, process, _ = fitted(replace(dataset, inputs=numbers))
    test, truth = numbers.take(dataset.split["test"]), dataset.part("test")[1]
    assert np.corrcoef(process.predict(features, test)[0][:, 0], truth.y[:, 0])[0, 1] > 0.95


def test_a_constant_measurement_is_predicted_as_such():
    dataset = variants(80)
    constant = replace(dataset, target=replace(dataset.target, y=np.full_like(dataset.target.y, 3.0)))
    np.testing.assert_allclose(fit_gp(constant).predict(constant.inputs), 3.0, rtol=0, atol=0.05)
