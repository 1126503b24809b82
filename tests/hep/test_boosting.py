"""The gradient-boosting baseline: few jets of a class, jets of one class, and a sample of many jets."""

import numpy as np
import pytest
from support.hep_jets import dataset_in_memory

from subquad.hep.data.jets import read
from subquad.hep.data.splits import thinned
from subquad.hep.models.boosting import boosting_probabilities
from subquad.hep.models.presets import PRESETS


@pytest.mark.parametrize("counts", [(4, 4), (9,) * 10, (31, 1)])
def test_few_jets_are_fitted_without_early_stopping(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    features = labels[:, None] + np.random.default_rng(0).normal(0, 0.01, (len(labels), 5))
    found = boosting_probabilities(features, labels, features[:3], classes=len(counts), seed=0)
    assert found.shape == (3, len(counts))
    assert found.sum(1) == pytest.approx(np.ones(3))


def test_jets_of_one_class_have_its_probability():
    features = np.random.default_rng(0).normal(size=(31, 5))
    found = boosting_probabilities(features, np.full(31, 1), features[:3], classes=3, seed=0)
    assert found.tolist() == [[0, 1, 0]] * 3


def test_a_sample_of_many_jets_has_all_classes_in_whatever_order_they_stand(jets):
    found = read(jets)
    # the classes take turns
    interleaved = found[np.arange(3 * 47).reshape(3, 47).T.ravel()]
    dataset = dataset_in_memory(interleaved, PRESETS["paper"].net)
    sample = thinned(dataset, 47)
    assert np.bincount(sample.labels, minlength=3).min() > 5
    assert len(sample) == 47
    assert (np.diff(sample.rows) > 0).all()
    assert thinned(dataset, 47).rows.tolist() == sample.rows.tolist()
    assert thinned(dataset, 3 * 47) is dataset
