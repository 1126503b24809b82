"""Files of scores: the types of observers, and jets without a label."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import uproot
import yaml

from subquad.errors import SubquadError
from subquad.hep import PredictSettings, predict
from subquad.hep.data.card import card_of
from subquad.hep.data.layout import layout_of
from subquad.hep.models.networks import build_network
from subquad.hep.models.presets import PRESETS
from subquad.hep.models.trained import TrainedTagger

CLASSES = ("QCD", "Hbb", "Tbqq")
CARD = Path(__file__).parent / "cards" / "JetClass_kin.yaml"


@pytest.fixture
def scored(monkeypatch, tmp_path):
    """Scores of files by a network with initial weights, whose card has these changes."""

    def scores(files, settings=None, *, has_card=True, **changes):
        options = yaml.safe_load(CARD.read_text())
        options["labels"] = {"type": "simple", "value": [f"label_{name}" for name in CLASSES]}
        net = replace(PRESETS["paper"].net, chebyshev_order=2, width=4, layers=1)
        layout = layout_of(net, card_of({**options, **changes}, "card.yaml") if has_card else None)
        torch.manual_seed(0)
        made = {"net": build_network(net, layout, 3).eval(), "settings": net, "layout": layout, "classes": CLASSES}
        tagger = TrainedTagger(path=tmp_path / "run", config={}, **made)
        monkeypatch.setattr(TrainedTagger, "load", lambda run: tagger)
        with uproot.open(
            predict(tmp_path / "run", files, settings, out=tmp_path / "scores.root", force=True, quiet=True)
        ) as file:
            return file["Events"].arrays(library="np")

    return scores


def test_a_column_that_depends_on_the_file_keeps_its_values(jets, scored):
    magic = {"part": {"QCD": 1, "Hbb": 0.5}, "number": {"Tbqq": 7}}
    found = scored(jets, file_magic=magic, observers=["part", "number"])
    assert found["part"].tolist() == [1] * 47 + [0.5] * 47 + [0] * 47
    assert found["number"].tolist() == [0] * 94 + [7] * 47
    assert found["number"].dtype.kind == "i"


@pytest.mark.long
def test_an_observer_of_another_type_is_written_if_the_branch_can_hold_it(tables, scored, tmp_path):
    columns, write = tables
    table = columns("QCD")
    files = []
    for kind, value in (("int32", 3), ("int64", 4), ("float32", 5), ("float64", 0.5)):
        table["number"] = np.full(23, value, kind)
        files.append(write(tmp_path / f"{kind}.root", table))
    found = scored(files[:3], observers=["number"])
    assert found["number"].dtype == np.int32
    assert found["number"].tolist() == [3] * 23 + [4] * 23 + [5] * 23
    with pytest.raises(SubquadError, match="number is int32 at first and float64 later"):
        scored(files, observers=["number"])
    # reals of another precision are rounded
    table["number"] = np.full(23, 0.1, "float64")
    found = scored([files[2], write(tmp_path / "double.root", table)], observers=["number"])
    assert found["number"].tolist() == pytest.approx([5] * 23 + [0.1] * 23)


def test_jets_without_a_label_are_scored_with_labels_of_0(jets, tables, scored, tmp_path):
    columns, write = tables
    table = columns("Hbb")
    table["label_Hbb"] = np.zeros(23, bool)
    found = scored([jets[0], write(tmp_path / "data.root", table)])
    assert found["label_QCD"].tolist() == [1] * 47 + [0] * 23
    assert not any(found[f"label_{name}"][47:].any() for name in CLASSES)
    # labels by the name of the file
    magic = {f"label_{name}": {f"{name}.root": 1} for name in CLASSES}
    found = scored([tmp_path / "data.root", jets[2]], file_magic=magic)
    assert found["label_Tbqq"].tolist() == [0] * 23 + [1] * 47
    assert not any(found[f"label_{name}"][:23].any() for name in CLASSES)


@pytest.mark.parametrize("has_card", [False, True])
def test_further_observers_are_copied_in_their_own_types(tables, scored, tmp_path, has_card):
    columns, write = tables
    table = columns("QCD")
    # too large for single precision
    table |= {"run": np.full(23, 400_123, np.int32), "event": 2**40 + np.arange(23), "m": np.full(23, 0.1)}
    files = [write(tmp_path / "a.root", table)]
    found = scored(files, PredictSettings(observers=("run", "event", "m", "jet_pt")), has_card=has_card)
    for name in ("run", "event", "m"):
        assert found[name].dtype == table[name].dtype
        assert (found[name] == table[name]).all()
    assert found["jet_pt"] == pytest.approx(table["jet_pt"])
    del table["run"]
    with pytest.raises(SubquadError):
        scored([*files, write(tmp_path / "b.root", table)], PredictSettings(observers=("run",)), has_card=has_card)
    if has_card:
        with pytest.raises(SubquadError):
            scored([tmp_path / "b.root"], PredictSettings(observers=("run",)))
    table["run"] = np.where(np.arange(23) == 3, np.nan, 0)
    with pytest.raises(SubquadError):
        scored([write(tmp_path / "b.root", table)], PredictSettings(observers=("run",)), has_card=has_card)


def test_observers_cannot_take_the_names_of_scores():
    with pytest.raises(SubquadError, match="--observers: score_QCD would have the name of a column of the output"):
        PredictSettings(observers=("run", "score_QCD"))
