"""Figures that can be checked by hand."""

import numpy as np
import pytest

from subquad.hep.metrics import confusion, rejection, scores_of


def test_rejection_counts_background_above_the_signals_threshold():
    # signal scores 0.9, 0.8, 0.7, 0.6: half of them at 0.8; of ten background jets two are as high
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.95, 0.8, *[0.1] * 8])
    labels = np.array([1] * 4 + [0] * 10)
    probabilities = np.stack([1 - score, score], axis=1)
    got = rejection(probabilities, labels, 1, 0, 0.5)
    assert got["value"] == pytest.approx(5.0)
    assert 1 < got["low"] < 5 < got["high"]


def test_rejection_without_background_above_is_a_lower_limit():
    probabilities = np.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.8, 0.2]])
    got = rejection(probabilities, np.array([1, 1, 0, 0]), 1, 0, 0.5)
    assert got["value"] is None
    assert got["high"] is None
    # one minus the 15.9 % quantile's root of two jets
    assert got["low"] == pytest.approx(1 / (1 - 0.15865**0.5), rel=1e-3)


def test_perfect_and_even_answers_have_the_scores_they_must():
    labels = np.repeat(np.arange(3), 7)
    classes = ("QCD", "Hbb", "Tbl")
    perfect = scores_of(np.eye(3, dtype=np.float32)[labels], labels, classes, "QCD")
    assert perfect["accuracy"] == perfect["auc_ovo"] == perfect["auc_ovr"] == perfect["accuracy_ovr_macro"] == 1
    assert set(perfect["rejection"]) == {"Hbb", "Tbl"}
    assert perfect["rejection"]["Tbl"]["efficiency"] == 0.995
    even = scores_of(np.full((21, 3), 1 / 3), labels, classes, "QCD")
    assert even["auc_ovo"] == 0.5
    # a wrong answer is wrong twice among three
    assert even["accuracy_ovr_macro"] == pytest.approx(1 - 2 * (2 / 3) / 3)


def test_two_classes_have_an_area_too():
    labels = np.array([0, 0, 1, 1])
    score = np.array([0.1, 0.6, 0.4, 0.9])
    got = scores_of(np.stack([1 - score, score], axis=1), labels, ("QCD", "top"), "QCD")
    assert got["auc_ovr"] == pytest.approx(0.75)


def test_rows_of_the_confusion_add_up_to_one():
    table = confusion(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]), np.array([0, 0, 1]))
    assert table.tolist() == [[0.5, 0.5], [0.0, 1.0]]
