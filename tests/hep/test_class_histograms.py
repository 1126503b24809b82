"""Histograms by class: panels, and the colours of classes in all figures of a report."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from subquad.hep.metrics.predictions import Predictions
from subquad.hep.plots.class_histograms import MAX_TOGETHER, observer_histograms
from subquad.hep.plots.figures import roc_figure, scores_figure
from subquad.hep.plots.regression import regression_figure
from subquad.hep.plots.style import class_colours

CLASSES = tuple("ABCDEFGHIJ")


def predictions_of(classes, jets=997):
    generator = np.random.default_rng(0)
    labels = np.arange(jets) % len(classes)
    logits = generator.normal(size=(jets, len(classes))) + np.eye(len(classes))[labels]
    exps = np.exp(logits)
    true = {"mass": generator.uniform(50, 150, jets)}
    return Predictions(
        model="net",
        source="made up",
        probabilities=exps / exps.sum(1, keepdims=True),
        labels=labels,
        pt=generator.uniform(500, 1000, jets),
        sdmass=generator.uniform(0, 200, jets),
        multiplicity=generator.integers(1, 90, jets),
        predicted={name: values * generator.normal(1, 0.1, jets) for name, values in true.items()},
        true=true,
    )


def colours_of(axes):
    """Return the colours of what is drawn on axes, in order."""
    return [to_hex(patch.get_edgecolor()) for patch in axes.patches]


@pytest.mark.long
def test_a_class_has_one_colour_in_all_figures_and_no_other_class_has_it():
    one, colours = predictions_of(CLASSES), class_colours(CLASSES, "C")
    assert len(set(colours.values())) == len(CLASSES)
    curves = roc_figure(one, CLASSES, "C").axes[0].lines
    assert {line.get_label(): line.get_color() for line in curves} == {
        name: colour for name, colour in colours.items() if name != "C"
    }
    signals = [name for name in CLASSES if name != "C"]
    for axes, name in zip(scores_figure(one, CLASSES, "C").axes, signals, strict=True):
        assert colours_of(axes) == [colours["C"], colours[name]]
    assert len([*observer_histograms(one, CLASSES, "C")]) == 3


@pytest.mark.parametrize(("count", "panels"), [(MAX_TOGETHER, 1), (10, 10)])
def test_the_responses_of_many_classes_have_a_panel_each(count, panels):
    classes = CLASSES[:count]
    figure = regression_figure(predictions_of(classes), "mass", classes, "A")
    drawn = [axes for axes in figure.axes if axes.patches]
    assert len(drawn) == panels
    assert sum(len(axes.patches) for axes in drawn) == (count if panels == 1 else 2 * count - 1)
    assert {axes.get_xlim() for axes in drawn} == {(0, 2)}
