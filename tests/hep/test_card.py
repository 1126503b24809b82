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


def test_points_and_vectors_are_never_standardized(options):
    options["preprocess"] = {"method": "auto"}
    options["inputs"]["pf_features"]["vars"] = ["part_deta", "part_dphi", "part_px"]
    options["inputs"]["pf_points"]["vars"] = ["part_deta", "part_dphi"]
    options["inputs"]["pf_vectors"]["vars"] = ["part_px", "part_py", "part_pz", "part_energy"]
    card = card_of(options, "card.yaml")
    assert [v.name for v in card.features if v.is_automatic] == ["part_deta", "part_dphi", "part_px"]
    numbers = dict.fromkeys(("part_deta", "part_dphi", "part_px", "part_energy"), (2.0, 0.5))
    found = standardized_card(card, numbers)
    for one in (card, found):
        assert all(v.center is None and not v.is_automatic for v in (*one.points, *one.vectors))
    assert {v.center for v in found.features} == {2.0}
    options["inputs"]["pf_points"]["vars"] = [["part_deta", "auto"], ["part_dphi", None, 0.5]]
    with pytest.raises(SubquadError) as caught:
        card_of(options, "card.yaml")
    for name in ("part_deta", "part_dphi"):
        assert f"inputs: pf_points: {name}: ['{name}', " in str(caught.value)
    assert "points are taken as they are; write [part_deta, null]" in str(caught.value)


def test_points_that_are_not_two_or_in_the_wrong_order_are_refused(options):
    options["inputs"]["pf_points"]["vars"] = ["part_dphi", "part_deta"]
    with pytest.raises(SubquadError, match="Δη first and Δφ second: part_deta, part_dphi"):
        card_of(options, "card.yaml")
    options["inputs"]["pf_points"]["vars"] = ["part_deta", "part_dphi", "part_dzval"]
    with pytest.raises(SubquadError, match="points has 3 variables; it needs Δη and Δφ"):
        card_of(options, "card.yaml")


def test_a_variable_that_is_defined_twice_is_refused_with_both_expressions(options, tmp_path):
    text = (CARDS / "JetClass_full.yaml").read_text()
    path = tmp_path / "twice.yaml"
    path.write_text(text.replace("new_variables:", "new_variables:\n   part_pt:  np.hypot(part_px, part_py)", 1))
    assert read_card(path).new_variables["part_pt"].text == "np.hypot(part_px, part_py)"
    path.write_text(text.replace("new_variables:", "new_variables:\n   part_pt: abs(part_px)", 1))
    with pytest.raises(SubquadError) as caught:
        read_card(path)
    assert "twice.yaml: new_variables: part_pt is defined twice, as 'abs(part_px)' (line" in str(caught.value)
    assert "and as 'np.hypot(part_px, part_py)' (line" in str(caught.value)
    options["file_magic"] = {"part_pt": {"QCD": 1}}
    options["labels"] = {"type": "custom", "value": {"part_e_log": "label_Hbb"}}
    with pytest.raises(SubquadError) as caught:
        card_of(options, "card.yaml")
    assert "part_pt is defined as 'np.hypot(part_px, part_py)', and by file_magic as {'QCD': 1}" in str(caught.value)
    assert "part_e_log is defined as 'label_Hbb', and by new_variables as 'np.log(part_energy)'" in str(caught.value)


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
    with pytest.raises(SubquadError, match="weights: reweight_basewgt and event_weights: both give event weights"):
        card_of({**options, "event_weights": "other"}, "card.yaml")


def test_event_weights_are_columns_of_the_files_beside_any_reweighting(options):
    card = card_of({**options, "event_weights": "genweight * 2", "weights": FLAT}, "card.yaml")
    assert card.event_weights.text == "genweight * 2"
    assert card.reweighting is not None
    for is_training in (True, False):
        assert "genweight" in card.branches(is_training=is_training)
    assert "genweight" not in card.branches(is_training=False, has_weights=False)
    given = {**options, "event_weights": "genweight", "observers": ["event_weight"]}
    with pytest.raises(SubquadError, match=r"observers: event_weight is the name of the event weights \(genweight\)"):
        card_of(given, "card.yaml")


def test_all_mistakes_of_a_card_are_reported_with_key_and_nearest_name(options):
    options["input"] = {}
    options["new_variables"] |= {"one": "two + 1", "two": "one", "three": "np.lg(part_px)"}
    options["inputs"]["pf_maks"] = options["inputs"].pop("pf_mask")
    options["inputs"]["pf_points"]["length"] = 64
    options["inputs"]["pf_vectors"]["vars"].pop()
    options["inputs"]["pf_features"]["vars"][0] = ["part_pt_log", "much"]
    options["labels"] = {"type": "simpel", "value": []}
    options["weights"] = {"use_precomputed_weights": False, "reweight_metod": "flat"}
    options["observers"] = "jet_pt"
    with pytest.raises(SubquadError) as caught:
        card_of(options, "card.yaml")
    text = str(caught.value)
    for message in (
        "card.yaml: this data card cannot be used:",
        "card.yaml: no key 'input'; did you mean 'inputs'?",
        "card.yaml: new_variables: one → two → one: a variable cannot depend on itself",
        "card.yaml: new_variables: three: no function of np 'lg'; did you mean 'log'?",
        "card.yaml: inputs: no group 'pf_maks'; did you mean 'pf_mask'?",
        "all lengths of pf must be the same whole number above 0 (pf_points: 64, pf_features: 128, pf_vectors: 128)",
        "inputs: pf_vectors has 3 variables; it needs px, py, pz and energy",
        "inputs: pf_features: part_pt_log: ['part_pt_log', 'much']: the entries after the name must be",
        "labels: give type: simple with a list of two labels or more",
        "weights: no key 'reweight_metod'; did you mean 'reweight_method'?",
        "observers: 'jet_pt' is not a list of names",
    ):
        assert message in text


def test_mistakes_of_the_last_keys_are_reported_together_with_the_others(options):
    options |= {"observers": "jet_pt", "test_time_selection": "jet_pt > np.lg(2)", "branch_magic": "part"}
    with pytest.raises(SubquadError) as caught:
        card_of(options, "card.yaml")
    for message in (
        "card.yaml: observers: 'jet_pt' is not a list of names",
        "card.yaml: test_time_selection: no function of np 'lg'; did you mean 'log'?",
        "card.yaml: branch_magic: 'part' is not a mapping `name: value`",
    ):
        assert message in str(caught.value)


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
    with pytest.raises(SubquadError, match=message):
        card_of({**options, **changes}, "card.yaml")


def test_a_card_without_labels_is_told_what_is_missing(options):
    with pytest.raises(SubquadError, match=r"card\.yaml: the key labels is missing; add one such as labels: \{type"):
        card_of({name: value for name, value in options.items() if name != "labels"}, "card.yaml")


def test_collections_that_cannot_form_one_set_are_refused_with_all_reasons(options):
    options["inputs"]["sv_features"] = {"length": 5, "vars": ["sv_ntracks", ["part_charge", None]]}
    with pytest.raises(SubquadError) as caught:
        card_of(options, "card.yaml")
    for message in (
        "card.yaml: inputs: neither points nor vectors; add sv_points, coordinates for nearest neighbours",
        "card.yaml: inputs: sv: with several collections each needs points; add sv_points",
        "card.yaml: inputs: pf has vectors and sv has none; give them to all or to none",
        "card.yaml: inputs: part_charge is in pf and sv; define it for sv under another name in new_variables",
    ):
        assert str(caught.value).count(message) == 1


def test_a_file_that_is_no_card_is_reported(tmp_path):
    with pytest.raises(SubquadError, match=r"none\.yaml: no such file \(--card\)"):
        read_card(tmp_path / "none.yaml")
    with pytest.raises(SubquadError, match=r"a folder; give the file with the card \(--card\)"):
        read_card(tmp_path)
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(SubquadError, match=r"bad\.yaml: not a YAML file"):
        read_card(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(SubquadError, match=r"list\.yaml: not a data card"):
        read_card(tmp_path / "list.yaml")
    (tmp_path / "tag.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(SubquadError, match=r"tag\.yaml: not a YAML file"):
        read_card(tmp_path / "tag.yaml")


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
    with pytest.raises(SubquadError, match=message):
        card_of({**options, "weights": {**FLAT, key: value}}, "card.yaml")


@pytest.mark.parametrize("params", [3, "part_pt_log", {"part_pt_log": 3}, {"part_pt_log": None}])
def test_params_that_are_no_mapping_are_refused(params, options):
    options["preprocess"] = {"method": "manual", "params": params}
    with pytest.raises(SubquadError, match=r"card\.yaml: (preprocess: )?params: .*mapping"):
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
    with pytest.raises(SubquadError, match=rf"inputs: pf_features: part_pt_log: .*{message}"):
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


def test_a_name_that_branch_magic_doubles_again_and_again_is_refused(options):
    options["branch_magic"] = {"pt": "ptpt", **{letter * 2: letter * 4 for letter in "ab"}}
    assert card_of(options, "card.yaml").branch("part_pt") == "part_ptpt"
    assert card_of(options, "card.yaml").branch("aab") == "aaaab"
    options["branch_magic"] = {"a": "b" * 60, "b": "c" * 60, "c": "d" * 1009}
    with pytest.raises(SubquadError, match=r"card\.yaml: branch_magic: 'b': 'c{60}': makes a name of more than 1,000"):
        card_of(options, "card.yaml")


def test_whole_numbers_that_are_too_large_are_refused_with_their_places(tmp_path):
    digits = "0x" + "f" * 90
    text = (CARDS / "JetClass_full.yaml").read_text()
    text = text.replace("length: 128", "length: 9999999999999999999999999", 1)
    path = tmp_path / "card.yaml"
    path.write_text(f"{text}\nevent_weights: {digits}\nbranch_magic:\n  ? {digits}\n  : [a, -{digits}]\n")
    with pytest.raises(SubquadError) as caught:
        read_card(path)
    shown = "0xffffffffffffffffff…"
    assert [line.partition(" is beyond")[0] for line in str(caught.value).splitlines()] == [
        f"{path}: this data card cannot be used:",
        "  card.yaml: inputs: pf_points: length: 9999999999999999999999999",
        f"  card.yaml: event_weights: {shown}",
        f"  card.yaml: branch_magic: name of a key: {shown}",
        f"  card.yaml: branch_magic: {shown}: entry 2: -{shown[:-2]}…",
    ]
    assert str(caught.value).count("is beyond the largest whole number of a card, 9007199254740992; correct it") == 4


def test_a_length_that_no_tensor_can_have_is_refused(options):
    for group in options["inputs"].values():
        group["length"] = 10**24
    with pytest.raises(SubquadError, match="must be the same whole number above 0 and at most 9007199254740992"):
        card_of(options, "card.yaml")
