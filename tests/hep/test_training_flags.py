"""Flags of the training: optimizer, schedule, dropout and patience."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.hep import FitSettings, PCNTagger, fit, read
from subquad.hep.commands.fit_notes import chance_notes, flawless_notes, outside_notes
from subquad.hep.data.chunks import chunk_of
from subquad.hep.data.layout import layout_of
from subquad.hep.data.public_layouts import LAYOUTS
from subquad.hep.data.store import dataset_of
from subquad.hep.fit_settings import LayoutName, Optimizer, PresetName
from subquad.hep.models.presets import PRESETS, net_settings, training_defaults
from subquad.hep.settings import NetSettings, Reweighting

SHORT = FitSettings(preset="standard", epochs=2, batch_size=32, no_boosting=True)


def test_each_name_that_a_flag_takes_exists():
    assert set(get_args(PresetName)) == PRESETS.keys()
    assert set(get_args(LayoutName)) == LAYOUTS.keys()


def test_the_preset_decides_what_is_not_given():
    assert training_defaults(FitSettings()).schedule == ("cosine", 0.05)
    # the warm-up of the preset belongs to its schedule
    assert training_defaults(FitSettings(schedule="linear")).schedule == ("linear", 0.0)
    assert training_defaults(FitSettings(warmup_fraction=0.2)).schedule == ("cosine", 0.2)
    assert net_settings(FitSettings(dropout=0.4)).dropout == 0.4
    assert net_settings(FitSettings()).dropout == 0.1
    assert net_settings(FitSettings(inputs="particles")).dropout == 0
    assert all(net_settings(FitSettings(inputs=inputs)).has_jet_mean for inputs in (None, "particles"))
    assert net_settings(FitSettings(inputs="particles", dropout=0.2)).dropout == 0.2


def test_values_that_cannot_work_are_refused():
    for given in (
        {"dropout": 1.0},
        {"warmup_fraction": -0.1},
        {"patience": 0},
        {"optimizer": "ranger"},
        {"schedule": "plateau"},
        {"learning_rate": 0.0},
    ):
        with pytest.raises(SubquadError):
            FitSettings(**given)
    with pytest.raises(SubquadError):
        net_settings(FitSettings(preset="paper", dropout=0.2))


@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_every_optimizer_moves_hidden_matrices_and_others(optimizer, jets):
    sample = read(jets)
    settings = {"epochs": 1, "batch_size": 47, "width": 32, "layers": 1, "k": 3, "optimizer": optimizer}
    moved, still = (
        PCNTagger(**settings, learning_rate=rate, random_state=0).fit(sample, sample.class_names).net_
        for rate in (None, 1e-30)
    )
    for one, other in ((moved.blocks[0].value, still.blocks[0].value), (moved.embed[0], still.embed[0])):
        assert (one.weight - other.weight).abs().max() > 1e-5
        assert one.weight.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("muon", 3e-3, 0.05)),
        ({"optimizer": "adamw"}, ("adamw", 2e-3, 0.01)),
        ({"optimizer": "adamw", "weight_decay": 0.0, "learning_rate": 0.1}, ("adamw", 0.1, 0.0)),
        ({"preset": "standard"}, ("adamw", 3e-3, 0.01)),
        ({"preset": "standard", "optimizer": "muon"}, ("muon", 3e-3, 0.05)),
    ],
)
def test_learning_rate_and_weight_decay_are_those_of_preset_and_optimizer(settings, expected):
    preset = training_defaults(FitSettings(**settings))
    assert (preset.optimizer, preset.learning_rate, preset.weight_decay) == expected


def test_a_warm_up_of_less_than_a_step_does_not_leave_the_network_untrained(jets):
    sample = read(jets)
    # one step, of which the warm-up of the preset would be a twentieth
    settings = {"epochs": 1, "batch_size": 1000, "width": 8, "layers": 1, "k": 3, "ema_decay": 0.1}
    model = PCNTagger(preset="auto-chebyshev", **settings, random_state=0)
    model.fit(sample, sample.class_names)
    assert (model.net_.exponents.diagonal() != -0.5).any()


@pytest.mark.long
def test_schedule_dropout_and_patience_are_those_of_the_flags(jets, tmp_path):
    given = ["hep", "fit", *map(str, jets), "--preset", "standard", "--epochs", "5", "--no-boosting", "--patience", "1"]
    flags = ["--learning-rate", "0.1", "--schedule", "cosine", "--dropout", "0.2", "--optimizer", "adamw"]
    assert main([*given, *flags, "--out", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["learning_rate"] == 0.1
    assert metrics["steps"] < 5 * 4
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    passes = metrics["jets_per_second"]["train"] * metrics["seconds"]["training"] / metrics["jets"]["train"]
    assert passes == pytest.approx(sum("validation_loss" in entry for entry in history))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["net"]["dropout"] == 0.2


@pytest.mark.long
def test_a_tagger_that_is_no_better_than_one_class_is_called_so(jets, tmp_path):
    settings = replace(SHORT, epochs=1, learning_rate=1e4, batch_size=64)
    *_, note = fit(jets, settings, out=tmp_path / "run", quiet=True)["notes"]
    assert note.startswith("Warning: the tagger is right for ")
    assert "The training may have diverged; use a --learning-rate below 10000. Or it had too few steps (2)" in note
    assert not fit(jets, replace(SHORT, epochs=8, batch_size=16), out=tmp_path / "good", quiet=True)["notes"]


def test_a_tagger_of_rare_jets_may_be_as_accurate_as_their_background():
    scores = {"labels": np.repeat([0, 1], [19, 1])}
    assert chance_notes({"accuracy": 0.95, "auc_ovo": 0.97}, scores, 1e-3, 500) == []
    (note,) = chance_notes({"accuracy": 0.95, "auc_ovo": 0.5}, scores, 1e-3, 500)
    assert note.endswith("The training may have diverged; use a --learning-rate below 0.001.")
    (note,) = chance_notes({"accuracy": 0.95, "auc_ovo": 0.5}, scores, 1e-3, 1)
    assert note.endswith("Or it had too few steps (1); use more --epochs or smaller batches.")
    # of one class alone nothing is known
    assert chance_notes({"accuracy": 1.0}, {"labels": np.zeros(20, int)}, 1e-3, 500) == []


def test_jets_outside_the_bins_of_a_reweighting_are_counted(jets):
    layout = layout_of(NetSettings())
    dataset = dataset_of(chunk_of(read(jets), layout), layout)
    pt = dataset.observer("jet_pt")
    middle = float(np.median(pt))
    bins = Reweighting(bins={"jet_pt": (middle, float(pt.max()))})
    (note,) = outside_notes(dataset, bins)
    assert note.startswith(
        f"{(pt < middle).sum():,} of {len(pt):,} jets are outside the bins of jet_pt for reweighting"
    )
    assert note.endswith("and have weight 0.")
    assert outside_notes(dataset, replace(bins, drops_outside=False))[0].endswith(
        "have the weights of the nearest bins."
    )
    assert outside_notes(dataset, Reweighting(bins={"jet_pt": (0.0, 1e6)})) == outside_notes(dataset, None) == []


def test_a_training_that_diverges_is_refused(jets, tmp_path):
    settings = replace(SHORT, epochs=1, learning_rate=1e9, batch_size=64)
    with pytest.raises(SubquadError, match=r"fit: .* not finite after step \d+; use a smaller learning rate"):
        fit(jets, settings, out=tmp_path / "run", quiet=True)


def test_only_of_many_jets_is_a_tagger_too_good_to_be_true():
    labels = np.arange(100) % 2
    scores = {"labels": labels, "probabilities": np.eye(2)[labels]}
    (note,) = flawless_notes(scores)
    assert note.endswith("(0 of 100 test jets); check that no input contains the label.")
    assert flawless_notes({name: values[:99] for name, values in scores.items()}) == []
    scores["probabilities"][:3] = scores["probabilities"][:3, ::-1]
    assert flawless_notes(scores) == []
    assert flawless_notes({"labels": np.zeros(200, int), "probabilities": np.ones((200, 1))}) == []
