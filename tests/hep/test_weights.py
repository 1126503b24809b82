"""Weights that equalize classes, or their spectra in some variables."""

import re

import numpy as np
import pytest

from subquad.errors import SubquadError
from subquad.hep import FitSettings
from subquad.hep.data.reweighting import balance_classes, kinematic_weights, unit_mean
from subquad.hep.settings import Reweighting, reweighting_of

NAMES = ("QCD", "Hbb")
EDGES = (0.0, 1.0, 2.0, 3.0)


def drawn(seed=0, jets=3001):
    generator = np.random.default_rng(seed)
    labels = generator.choice(2, jets, p=[0.8, 0.2])
    pt = np.where(labels == 0, 3 * generator.beta(1, 3, jets), 3 * generator.beta(3, 2, jets))
    return {"pt": pt, "mass": generator.uniform(0, 3, jets), "is0": 1 - labels, "is1": labels}, labels


def sums(weights, columns, labels):
    return np.stack([np.histogram(columns["pt"][labels == i], EDGES, weights=weights[labels == i])[0] for i in (0, 1)])


def test_classes_of_unequal_number_count_the_same():
    _, labels = drawn()
    weights = balance_classes(np.ones(len(labels)), labels, 3)
    assert np.bincount(labels, weights) == pytest.approx([1, 1])


def test_by_hand():
    columns = {"pt": np.array([0.5, 0.5, 0.5, 1.5])}
    found = kinematic_weights(Reweighting(bins={"pt": (0.0, 1.0, 2.0)}, threshold=0), columns, np.zeros(4, int), ("a",))
    # flat: the three jets of the first bin together count as the one of the second; all together 1
    assert found == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


@pytest.mark.parametrize("names", [(), ("is0", "is1")])
def test_flat_makes_every_class_flat(names):
    columns, labels = drawn()
    found = kinematic_weights(Reweighting(bins={"pt": EDGES}, classes=names, threshold=0), columns, labels, NAMES)
    assert sums(found, columns, labels) == pytest.approx(np.full((2, 3), 1 / 3))


def test_ref_makes_every_class_like_the_first():
    columns, labels = drawn()
    found = kinematic_weights(Reweighting(bins={"pt": EDGES}, method="ref", threshold=0), columns, labels, NAMES)
    first, second = sums(found, columns, labels)
    assert second == pytest.approx(first)
    counts = np.histogram(columns["pt"][labels == 0], EDGES)[0]
    assert first == pytest.approx(counts / counts.sum())


def test_two_variables_class_weights_and_base_weights():
    columns, labels = drawn()
    base = np.linspace(0.5, 2, len(labels))
    reweighting = Reweighting(
        bins={"pt": EDGES, "mass": EDGES}, classes=("is0", "is1"), class_weights=(1, 0.25), threshold=0
    )
    found = kinematic_weights(reweighting, columns, labels, NAMES, base=base)
    assert sums(found, columns, labels) == pytest.approx(np.array([[1 / 3] * 3, [1 / 12] * 3]))
    # event weights of a generator may be negative, and stay in proportion within a bin
    signs = np.where(np.arange(len(labels)) % 7, 1.0, -1.0)
    found = kinematic_weights(reweighting, columns, labels, NAMES, base=signs)
    assert sums(found, columns, labels) == pytest.approx(np.array([[1 / 3] * 3, [1 / 12] * 3]))
    assert (np.sign(found) == signs).all()


def test_jets_outside_of_the_bins_count_nothing_or_as_the_nearest():
    columns, labels = drawn()
    bins = {"pt": (0.5, 1.0, 2.0)}
    outside = (columns["pt"] < 0.5) | (columns["pt"] > 2)
    dropped = kinematic_weights(Reweighting(bins=bins), columns, labels, NAMES)
    kept = kinematic_weights(Reweighting(bins=bins, drops_outside=False), columns, labels, NAMES)
    assert not dropped[outside].any()
    assert (kept > 0).all()
    # the last edge is inside
    at_edge = {"pt": np.array([0.5, 0.7, 1.5, 2.0] * 2)}
    assert (kinematic_weights(Reweighting(bins=bins), at_edge, np.arange(8) // 4, NAMES[:2]) > 0).all()


def test_a_nearly_empty_bin_does_not_determine_the_weights_of_the_others():
    pt = np.concatenate([np.full(300, 0.2), np.full(300, 0.6), [1.5]])
    columns, labels = {"pt": np.tile(pt, 2)}, np.repeat([0, 1], len(pt))
    found = kinematic_weights(Reweighting(bins={"pt": (0.0, 0.5, 1.0, 2.0)}, threshold=0), columns, labels, NAMES[:2])
    np.testing.assert_allclose(found[: len(pt)], found[0])


def test_a_threshold_bounds_the_weights():
    columns, labels = drawn()
    sharp = kinematic_weights(Reweighting(bins={"pt": EDGES}, threshold=0), columns, labels, NAMES)
    mild = kinematic_weights(Reweighting(bins={"pt": EDGES}, threshold=50), columns, labels, NAMES)
    of_first = labels == 0
    assert mild[of_first].max() / mild[of_first].min() < sharp[of_first].max() / sharp[of_first].min()


def test_weights_have_a_mean_of_1_among_the_training_jets():
    found = unit_mean(np.array([1.0, 3.0, 8.0]), 2)
    assert found.tolist() == [0.5, 1.5, 4.0]
    assert unit_mean(np.array([3.0, -1.0, 8.0]), 2).tolist() == [3.0, -1.0, 8.0]
    for wrong in ([0.0, 0.0, 1.0], [1.0, -2.0, 9.0]):
        with pytest.raises(SubquadError, match="weights of the training jets do not add up to more than 0"):
            unit_mean(np.array(wrong), 2)


def test_observers_are_followed_by_their_bin_edges():
    assert reweighting_of(("jet_pt", "500", "600", "jet_eta", "-2", "0.5")).bins == {
        **{"jet_pt": (500.0, 600.0), "jet_eta": (-2.0, 0.5)},
    }
    assert reweighting_of(()) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("jet_pt", "jet_pt: no bin edges follow; give two numbers or more"),
        ("jet_pt 1", "jet_pt: (1.0,) are not bin edges"),
        ("jet_pt 2 1", "jet_pt: bin edges must increase, got 2, 1"),
        ("500 600", "500: begin with the observer, as in jet_pt 500 600 800 1000"),
        ("jet_pt 1 2 jet_pt 3 4", "jet_pt: give each observer once"),
        ("jet_pt:500,600", "jet_pt:500,600: write it as jet_pt 500 600"),
    ],
)
def test_words_that_are_not_bins_are_refused(words, message):
    with pytest.raises(SubquadError, match=f"--reweight-vars {re.escape(message)}"):
        FitSettings(reweight_vars=tuple(words.split()))
