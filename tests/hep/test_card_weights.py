"""Weights of a data card: reweighting, weights that are computed already, and weights of events."""

import numpy as np
import pytest
import torch
import uproot
from support.hep_cards import NET, chunks_of, options, written

from subquad.errors import SubquadError
from subquad.hep import FitSettings
from subquad.hep.commands.fit import _split
from subquad.hep.data.card import card_of
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.fit_files import FitFiles
from subquad.hep.data.layout import layout_of, with_event_weights
from subquad.hep.data.preparation import source_of, temporary_store
from subquad.hep.data.splits import with_present_classes


@pytest.fixture(scope="module")
def files(jetclass):
    """Files of three of JetClass's ten classes."""
    return jetclass


FLAT = {
    **{"use_precomputed_weights": False, "reweight_method": "flat", "reweight_threshold": 0},
    **{"reweight_vars": {"jet_sdmass": [0, 80, 400]}, "reweight_classes": ["label_QCD", "label_Hbb", "label_Hcc"]},
}


def test_test_jets_have_no_observers_that_only_training_files_are_read_for(files, tmp_path):
    card = written(tmp_path / "card.yaml", {**options("kin"), "weights": FLAT, "observers": ["jet_pt"]})
    source = source_of(FitFiles(train=files[:2], test=files[2:]), NET, FitSettings(card=card, no_boosting=True))
    with temporary_store(source, tmp_path / "run", force=False, quiet=True) as folder:
        dataset = source.open(folder)
        parts = {name: dataset.subset(dataset.part(name)) for name in ("train", "test")}
        assert parts["train"].observer("jet_sdmass").min() > 0
        assert parts["test"].observer("jet_sdmass") is None
        assert parts["test"].observer("jet_pt").min() > 0


@pytest.mark.parametrize("weights", [FLAT, {"use_precomputed_weights": True, "weight_branches": ["jet_tau1", "2"]}])
def test_weights_of_a_card_enter_the_loss(weights, files, tmp_path):
    settings = FitSettings(
        card=written(tmp_path / "card.yaml", {**options("kin"), "weights": weights}), no_boosting=True
    )
    source = source_of(FitFiles(train=files), NET, settings)
    with temporary_store(source, tmp_path / "run", force=False, quiet=True) as folder:
        dataset = with_present_classes(source.open(folder), "files")
        split = _split(dataset, source, net=NET, settings=settings, seed=0)
        parts = [split[name] for name in ("train", "validation")]
        found, labels = (torch.cat([getattr(part, name) for part in parts]).numpy() for name in ("weights", "labels"))
        assert parts[0].weights.mean().item() == pytest.approx(1, abs=1e-5)
        values = {name: np.concatenate([part.observer(name) for part in parts]) for name in dataset.layout.observers}
    if weights is FLAT:
        sums = np.stack(
            [
                np.histogram(values["jet_sdmass"][labels == i], [0, 80, 400], weights=found[labels == i])[0]
                for i in range(3)
            ]
        )
        filled = sums[sums > 0]
        assert filled.min() > 0.3 * filled.max()
        assert sums.sum(1) == pytest.approx(sums.sum(1).mean() * np.ones(3), rel=1e-4)
    else:
        assert found / found[0] == pytest.approx(values["jet_tau1"] / values["jet_tau1"][0], rel=1e-4)


def test_event_weights_of_a_card_are_kept_with_their_signs(files):
    given = {**options("kin"), "weights": {"use_precomputed_weights": True, "weight_branches": ["jet_tau1 - 0.3"]}}
    card = card_of(given, "card.yaml")
    for is_training in (True, False):
        (chunk,) = chunks_of(files[:1], card, is_training=is_training)
        np.testing.assert_allclose(chunk.observers["event_weight"], tau1(files[0]) - 0.3, atol=1e-6)
        assert (chunk.observers["event_weight"] < 0).any()
    given["weights"]["weight_branches"] = ["genweight"]
    layout = layout_of(NET, card_of(given, "card.yaml"))
    with pytest.raises(SubquadError):
        list(read_chunks(files, layout))
    # scores can be made without them
    (chunk, *_) = read_chunks(files, layout, needs_weights=False)
    assert "event_weight" not in chunk.observers


def tau1(path):
    with uproot.open(path) as file:
        return file["tree"]["jet_tau1"].array(library="np")


def test_event_weights_are_a_branch_of_files_without_a_card_too(files):
    layout = with_event_weights(layout_of(NET), "jet_tau1")
    (chunk,) = read_chunks(files[:1], layout)
    assert chunk.observers["event_weight"].tolist() == tau1(files[0]).tolist()
    with pytest.raises(SubquadError):
        list(read_chunks(files[:1], with_event_weights(layout, "w")))
    (chunk,) = read_chunks(files[:1], with_event_weights(layout, "w"), needs_weights=False)
    assert "event_weight" not in chunk.observers
    # of a card, others take the place of its own, and its reweighting stays
    card = card_of({**options("kin"), "weights": {**FLAT, "reweight_basewgt": "jet_tau1"}}, "card.yaml")
    found = with_event_weights(layout_of(NET, card), "jet_tau2")
    assert found.card.event_weights.text == found.event_weights == "jet_tau2"
    assert found.card.reweighting == card.reweighting
