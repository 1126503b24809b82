"""Data cards: their content, and the errors of those that cannot be used."""

import json
from pathlib import Path

import pytest
import yaml

from subquad.errors import SubquadError
from subquad.hep.data.card import card_of, read_card, standardized_card
from subquad.hep.settings import Reweighting
from subquad.runs.storage import write_json

CARDS = Path(__file__).parent / "cards"
FLAT = {
    **{"reweight_method": "flat", "reweight_vars": {"jet_pt": [500, 1000]}},
    **{"reweight_classes": ["label_QCD", "label_Hbb"]},
}


@pytest.fixture
def options():
    return yaml.safe_load((CARDS / "JetClass_full.yaml").read_text())


@pytest.mark.parametrize(("kind", "features"), [("kin", 7), ("kinpid", 13), ("full", 17)])
def test_a_card_of_jetclass_is_read(kind, features):
    card = read_card(CARDS / f"JetClass_{kind}.yaml")
    assert len(card.features) == features
    assert [variable.name for variable in card.points] == ["part_deta", "part_dphi"]
    assert [variable.name for variable in card.vectors] == ["part_px", "part_py", "part_pz", "part_energy"]
    assert card.length == 128
    assert card.classes == ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl")
    branches = card.branches(is_training=True)
    assert branches["part_px"] == "inputs"
    assert ("part_d0val" in branches) == (kind == "full")
    assert not {"part_mask", "part_pt", "part_pt_log"} & branches.keys()
    assert "label_Hbb" not in card.branches(is_training=False, has_labels=False)


def test_numbers_behind_a_name_move_scale_and_clip(options):
    card = card_of(options, "card.yaml")
    first, charge, error = card.features[0], card.features[5], card.features[12]
    assert (first.center, first.scale, first.low, first.high) == (1.7, 0.7, -5.0, 5.0)
    assert charge.center is None
    assert (error.name, error.center, error.low, error.high) == ("part_d0err", 0.0, 0.0, 1.0)


def test_automatic_variables_are_those_without_numbers(options):
    options["preprocess"] = {"method": "auto"}
    options["inputs"]["pf_features"]["vars"][0] = "part_pt_log"
    card = card_of(options, "card.yaml")
    assert [v.name for v in card.features if v.is_automatic] == ["part_pt_log"]
    found = standardized_card(card, {"part_pt_log": (2.5, 0.25)})
    assert not found.has_automatic
    assert (found.features[0].center, found.features[0].scale) == (2.5, 0.25)
    # what weaver writes behind its own look at the data is read again
    again = card_of(yaml.safe_load(yaml.safe_dump(dict(found.options))), "card.auto.yaml")
    assert again.features == found.features


def test_weights_are_read(options):
    options["weights"] = {
        "use_precomputed_weights": False,
        "reweight_method": "flat",
        "reweight_vars": {"jet_pt": [500, 600, 1000], "jet_sdmass": [0, 50, 200]},
        "reweight_classes": ["label_QCD", "label_Hbb"],
        "class_weights": [1, 0.5],
        "reweight_threshold": 15,
    }
    card = card_of(options, "card.yaml")
    assert card.event_weights is None
    assert card.reweighting == Reweighting(
        bins={"jet_pt": (500, 600, 1000), "jet_sdmass": (0, 50, 200)},
        classes=("label_QCD", "label_Hbb"),
        class_weights=(1.0, 0.5),
        threshold=15.0,
    )
    assert "label_Hbb" in card.per_jet(is_training=True)
    options["weights"] = {"use_precomputed_weights": True, "weight_branches": ["weight", "class_weight"]}
    card = card_of(options, "card.yaml")
    assert (card.event_weights.names, card.reweighting) == ({"weight", "class_weight"}, None)
    # the weights that a reweighting starts from are event weights
    options["weights"] = {**FLAT, "reweight_basewgt": "weight"}
    card = card_of(options, "card.yaml")
    assert card.event_weights.text == "weight"
    assert card.reweighting.bins == {"jet_pt": (500, 1000)}
    with pytest.raises(SubquadError):
        card_of({**options, "event_weights": "other"}, "card.yaml")


def test_event_weights_are_columns_of_the_files_beside_any_reweighting(options):
    card = card_of({**options, "event_weights": "genweight * 2", "weights": FLAT}, "card.yaml")
    assert card.event_weights.text == "genweight * 2"
    assert card.reweighting is not None
    for is_training in (True, False):
        assert "genweight" in card.branches(is_training=is_training)
    assert "genweight" not in card.branches(is_training=False, has_weights=False)
    given = {**options, "event_weights": "genweight", "observers": ["event_weight"]}
    with pytest.raises(SubquadError):
        card_of(given, "card.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {}}, "no group of features, such as pf_features"),
        ({"selection": "__import__('os')"}, r"card\.yaml: selection: no function '__import__'"),
        ({"weights": {"use_precomputed_weights": True}}, "weight_branches must list one branch or more"),
        ({"weights": {**FLAT, "reweight_vars": {"jet_pt": [3, 2]}}}, "bin edges must increase, got 3, 2"),
        ({"weights": {**FLAT, "class_weights": [1]}}, "class_weights has 1 numbers for 2 reweight_classes"),
        (
            {"labels": {"type": "custom", "value": {"a": "x", "b": "y"}}},
            "value has 2 expressions, and one gives the class index; list regression",
        ),
        (
            {"labels": {"type": "custom", "value": "truth"}},
            r"the class index, such as value: \{cls: truth\}; got type: custom and value: truth",
        ),
        ({"preprocess": {"method": "magic"}}, "method is 'magic'; manual or auto"),
        (
            {"file_magic": {"is_qcd": {"*QCD*": 1}}},
            r"file_magic: is_qcd: '\*QCD\*' is not a regular expression \(nothing to repeat at position 0\); write",
        ),
        ({"file_magic": {"is_qcd": {"QCD": "yes"}}}, "file_magic: is_qcd: 'QCD': 'yes' is not a number"),
    ],
)
def test_a_card_that_cannot_work_is_refused(options, changes, message):
    with pytest.raises(SubquadError):
        card_of({**options, **changes}, "card.yaml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("reweight_threshold", "ten", "weights: reweight_threshold is 'ten'; give a percentile from 0 to 100"),
        ("reweight_threshold", 150, "weights: reweight_threshold is 150; give a percentile from 0 to 100"),
        ("class_weights", [1, -2], r"weights: class_weights: \[1, -2\] must be 0 or more"),
        ("class_weights", [1, float("nan")], r"weights: class_weights: \[1, nan\] is not a list of numbers"),
        ("reweight_vars", {"jet_pt": [500, float("nan"), 600]}, "weights: jet_pt: .* are not bin edges"),
        ("reweight_vars", {"jet_pt": [500, 10**400]}, "weights: jet_pt: .* are not bin edges"),
    ],
)
def test_numbers_of_a_reweighting_that_cannot_work_are_refused(key, value, message, options):
    with pytest.raises(SubquadError):
        card_of({**options, "weights": {**FLAT, key: value}}, "card.yaml")


@pytest.mark.parametrize("params", [3, "part_pt_log", {"part_pt_log": 3}, {"part_pt_log": None}])
def test_params_that_are_no_mapping_are_refused(params, options):
    options["preprocess"] = {"method": "manual", "params": params}
    with pytest.raises(SubquadError):
        card_of(options, "card.yaml")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([float("nan"), 1], "the entries after the name must be numbers or null"),
        ([0, 10**400], "the entries after the name must be numbers or null"),
        ([0, float("inf")], "the numbers to subtract and to multiply by must be finite"),
        ([0, 1, -5, float("nan")], "the entries after the name must be numbers or null"),
    ],
)
def test_a_standardization_without_finite_numbers_is_refused(numbers, message, options):
    options["inputs"]["pf_features"]["vars"][0] = ["part_pt_log", *numbers]
    with pytest.raises(SubquadError):
        card_of(options, "card.yaml")
    options["inputs"]["pf_features"]["vars"][0] = ["part_pt_log", 0, 1, -5, float("inf")]
    assert card_of(options, "card.yaml").features[0].high == float("inf")


def test_a_card_without_limits_is_the_same_after_it_was_saved(options, tmp_path):
    options["inputs"]["pf_features"]["vars"][0] = ["part_pt_log", 0, 1, float("-inf"), float("inf")]
    options["weights"] = {**FLAT, "reweight_vars": {"jet_pt": [500, 1000, float("inf")]}}
    card = card_of(options, "card.yaml")
    write_json(tmp_path / "config.json", card.as_config())

    def refuse(text):
        raise ValueError(text)

    saved = json.loads((tmp_path / "config.json").read_text(), parse_constant=refuse)
    again = card_of(saved["options"], saved["name"])
    assert (again.features, again.reweighting, again.options) == (card.features, card.reweighting, card.options)
    assert (again.features[0].low, again.features[0].high) == (float("-inf"), float("inf"))
