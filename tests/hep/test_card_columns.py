"""What the expressions of a card give: missing values, shapes, and numbers that depend on how files are read."""

import awkward as ak
import numpy as np
import pytest
import torch

from subquad.errors import SubquadError
from subquad.hep.data import file_chunks
from subquad.hep.data.card import card_of
from subquad.hep.data.chunks import read_chunks
from subquad.hep.data.layout import fit_standardization, layout_of, with_event_weights
from subquad.hep.data.store import write_store
from subquad.hep.settings import NetSettings

CLASSES = ("QCD", "Hbb", "Tbqq")
VECTORS = ["part_px", "part_py", "part_pz", "part_energy"]


def chunks_of(files, *, variables=(), feature="part_pt", mask="", is_training=True, needs_labels=True, **keys):
    """Chunks of files by a small card with further variables and keys."""
    groups = {"points": ["part_deta", "part_dphi"], "features": [[feature, None]], "vectors": VECTORS}
    groups |= {"mask": [mask]} if mask else {}
    options = {
        "new_variables": {"part_pt": "np.hypot(part_px, part_py)", **dict(variables)},
        "inputs": {f"pf_{name}": {"length": 16, "vars": variables} for name, variables in groups.items()},
        "labels": {"type": "simple", "value": [f"label_{name}" for name in CLASSES]},
        **keys,
    }
    layout = layout_of(NetSettings(has_jet_features=False), card_of(options, "card.yaml"))
    return list(read_chunks(files, layout, is_training=is_training, needs_labels=needs_labels))


def pts_of(table):
    return np.hypot(table["part_px"], table["part_py"])


@pytest.fixture
def one(tables, tmp_path):
    columns, write = tables
    table = columns("Hbb")
    return write(tmp_path / "Hbb.root", table), table


def test_the_largest_value_of_a_jet_is_a_number_like_others(one):
    path, table = one
    expected = ak.to_numpy(ak.max(pts_of(table), axis=1))
    variables = {"largest": "ak.max(part_pt, axis=1)", "relative": "part_pt / np.max(part_pt, axis=1)"}
    (chunk,) = chunks_of(
        [path], variables=variables, feature="relative", observers=["largest"], event_weights="largest"
    )
    assert chunk.observers["largest"] == pytest.approx(expected)
    assert chunk.observers["event_weight"] == pytest.approx(expected)
    assert chunk.particles[:, 0].max() == pytest.approx(1)


def test_the_class_is_the_index_of_the_label_that_is_1(jets):
    stacked = "np.stack([label_QCD, label_Hbb, label_Tbqq], axis=1)"
    for text in (f"np.argmax({stacked}, axis=1)", f"{stacked}.argmax(1)"):
        chunks = chunks_of(jets, labels={"type": "custom", "value": {"truth": text}})
        assert [{*chunk.labels.tolist()} for chunk in chunks] == [{0}, {1}, {2}]


def test_a_missing_value_is_selected_away_or_reported(one):
    path, table = one
    is_hard = ak.any(pts_of(table) > 30, axis=1)
    variables = {"hard": "ak.firsts(part_pt[part_pt > 30])"}
    with pytest.raises(SubquadError, match=r"Hbb\.root: entry \d+: hard has no value \(and \d+ more jets\); drop such"):
        chunks_of([path], variables=variables, observers=["hard"])
    selection = "ak.any(part_pt > 30, axis=1)"
    (chunk,) = chunks_of([path], variables=variables, observers=["hard"], selection=selection)
    assert len(chunk) == ak.sum(is_hard)
    with pytest.raises(
        SubquadError, match=r"entry \d+: card\.yaml: selection: 'hard > 40' has no value .*ak\.fill_none"
    ):
        chunks_of([path], variables=variables, selection="hard > 40")
    (chunk,) = chunks_of([path], variables=variables, selection="ak.fill_none(hard > 40, False)")
    assert len(chunk) == ak.sum(ak.fill_none(ak.firsts(pts_of(table)[pts_of(table) > 30]) > 40, False))


def test_a_selection_of_particles_is_refused(one):
    with pytest.raises(
        SubquadError, match=r"selection: 'part_px > 0' is of type var \* bool; it must be one number per"
    ):
        chunks_of([one[0]], selection="part_px > 0")


def test_four_vectors_are_no_feature(one):
    variables = {"momentum": "_p4_from_pxpypze(part_px, part_py, part_pz, part_energy)"}
    with pytest.raises(SubquadError, match=r"momentum is of type .*; it must be a list of numbers per jet"):
        chunks_of([one[0]], variables=variables, feature="momentum")


def test_a_particle_whose_mask_is_undefined_is_dropped(one):
    path, table = one
    variables = {"is_used": "np.where(part_pt > 2, 1, np.nan)"}
    selection = "ak.any(part_pt > 2, axis=1)"
    (chunk,) = chunks_of([path], variables=variables, mask="is_used", selection=selection)
    is_used = pts_of(table) > 2
    assert chunk.lengths.tolist() == ak.sum(is_used, axis=1)[ak.any(is_used, axis=1)].to_list()


@pytest.mark.parametrize("text", ["ak.sum(part_pt)", "part_pt.max()", "len(part_pt)", "jet_pt[0]", "np.mean(jet_pt)"])
def test_a_number_that_depends_on_how_files_are_read_is_refused(text, one, monkeypatch):
    monkeypatch.setattr(file_chunks, "ENTRIES_PER_CHUNK", 5)
    with pytest.raises(SubquadError) as caught:
        chunks_of([one[0]], variables={"relative": f"part_pt / {text}"}, feature="relative")
    assert f"Hbb.root: card.yaml: new_variables: relative: 'part_pt / {text}' cannot be computed" in str(caught.value)
    assert "is one number for all jets that are read at once; with axis=1 it is one per jet" in str(caught.value)


def test_labels_that_not_all_files_have_are_not_read(tables, one, tmp_path):
    columns, write = tables
    data = {name: column for name, column in columns("QCD").items() if not name.startswith("label_")}
    files = [one[0], write(tmp_path / "data.root", data)]
    for chunk in chunks_of(files, is_training=False, needs_labels=False):
        assert chunk.classes == ()
        assert (chunk.labels == -1).all()


def test_a_variable_without_a_finite_value_cannot_be_standardized(one):
    options = {
        "preprocess": {"method": "auto"},
        "new_variables": {"far": "np.log(part_isMuon)"},
        "inputs": {
            "pf_features": {"length": 16, "vars": ["far"]},
            "pf_vectors": {"length": 16, "vars": VECTORS},
        },
        "labels": {"type": "simple", "value": [f"label_{name}" for name in CLASSES]},
    }
    settings = NetSettings(has_jet_features=False)
    layout = layout_of(settings, card_of(options, "card.yaml"))
    (chunk,) = read_chunks([one[0]], layout, is_training=True)
    particles, features = torch.from_numpy(chunk.particles), torch.from_numpy(chunk.jet_features)
    with pytest.raises(SubquadError, match=r"card\.yaml: inputs: far has no finite value in the training jets"):
        fit_standardization(layout, settings, particles, features)


def test_vectors_in_another_order_or_in_mev_are_refused_with_the_remedy(tables, tmp_path):
    columns, write = tables
    turned = {name: {"length": 16, "vars": [*VECTORS[1:], VECTORS[0]]} for name in ("pf_vectors",)}
    turned["pf_features"] = {"length": 16, "vars": [["part_pt", None]]}
    table = columns("Hbb")
    table["part_px"] = -table["part_px"]
    path = write(tmp_path / "a.root", table)
    with pytest.raises(SubquadError, match="pf_vectors must be px, py, pz and energy; the fourth variable is part_"):
        chunks_of([path], inputs=turned)
    table = columns("Hbb")
    path = write(tmp_path / "mev.root", {**table, **{name: table[name] * np.float32(1e6) for name in VECTORS}})
    with pytest.raises(
        SubquadError, match=r"mev\.root: .* which no collider reaches; momenta must be in GeV, so divide"
    ):
        chunks_of([path])


def test_a_selection_that_leaves_no_jet_is_named(jets, tmp_path):
    options = {
        "selection": "jet_pt > 1e9",
        "inputs": {
            "pf_features": {"length": 16, "vars": [["part_energy", 0, 1]]},
            "pf_vectors": {"length": 16, "vars": VECTORS},
        },
        "labels": {"type": "simple", "value": [f"label_{name}" for name in CLASSES]},
    }
    layout = layout_of(NetSettings(has_jet_features=False), card_of(options, "card.yaml"))
    with pytest.raises(SubquadError, match=r"card\.yaml: selection: 'jet_pt > 1e9' selects no jet to fit on; check"):
        write_store(tmp_path / "jets", layout, {"train": read_chunks(jets, layout, is_training=True)}, key="a")


@pytest.mark.parametrize(("method", "feature"), [("manual", ["part_ratio", 0, 1]), ("auto", "part_ratio")])
def test_infinity_that_is_clipped_is_logged(method, feature, jets, capsys):
    options = {
        "preprocess": {"method": method},
        "new_variables": {"part_ratio": "1 / part_d0err"},
        "inputs": {
            "pf_features": {"length": 16, "vars": [feature]},
            "pf_vectors": {"length": 16, "vars": VECTORS},
        },
        "labels": {"type": "simple", "value": [f"label_{name}" for name in CLASSES]},
    }
    layout = layout_of(NetSettings(has_jet_features=False), card_of(options, "card.yaml"))
    (chunk,) = read_chunks(jets[:1], layout, is_training=True, quiet=False)
    count = np.isinf(chunk.particles[:, layout.particles.index("part_ratio")]).sum()
    assert count
    assert f"part_ratio has {count:,} infinite values, which are clipped; the first is in {jets[0]}: entry" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_variable_that_its_numbers_would_make_constant_is_refused():
    for numbers, reason in (
        ([0, 0], r"multiply is 0, so that the variable would be constant; correct or omit it"),
        ([0, 1, 5, -5], r"clip_min 5 is not below clip_max -5, so that"),
    ):
        features = {"length": 16, "vars": [["part_energy", *numbers]]}
        labels = {"type": "simple", "value": ["label_QCD", "label_Hbb"]}
        with pytest.raises(SubquadError, match=rf"inputs: pf_features: part_energy: .*: {reason}"):
            card_of({"inputs": {"pf_features": features}, "labels": labels}, "card.yaml")


def test_points_in_degrees_are_refused(jets):
    variables = {"degrees": "np.degrees(part_dphi)"}
    groups = {"features": [["part_energy", None]], "points": ["part_deta", "degrees"], "vectors": VECTORS}
    inputs = {f"pf_{name}": {"length": 16, "vars": given} for name, given in groups.items()}
    with pytest.raises(
        SubquadError, match=r"QCD\.root: pf_points: by the four-vectors, degrees is in degrees; give rad"
    ):
        chunks_of(jets[:1], variables=variables, inputs=inputs)


def test_a_label_that_differs_in_its_case_is_answered_with_its_name(jets):
    labels = {"type": "simple", "value": ["label_qcd", "label_Hbb"]}
    with pytest.raises(SubquadError, match=r"no branch label_qcd, which .* asks for; did you mean 'label_QCD'\?"):
        chunks_of(jets, labels=labels)


def test_angles_in_degrees_from_which_points_and_momenta_agree_are_refused(tables, tmp_path):
    columns, write = tables
    table = columns("Hbb", jets=47)
    table["phi"] = np.degrees(np.arctan2(table["part_py"], table["part_px"]))
    table["pt"] = pts_of(table)
    path = write(tmp_path / "deg.root", table)
    variables = {"x": "pt * np.cos(phi)", "y": "pt * np.sin(phi)"}
    groups = {"features": [["part_pt", None]], "vectors": ["x", "y", *VECTORS[2:]]}
    inputs = {f"pf_{name}": {"length": 16, "vars": given} for name, given in groups.items()}
    with pytest.raises(
        SubquadError,
        match=r"deg\.root: card\.yaml: new_variables: x: \d\d % of the values of phi are beyond ±2π, such as .*; "
        r"angles must be in radians: define another variable as np\.deg2rad\(phi\) in new_variables",
    ):
        chunks_of([path], variables=variables, inputs=inputs)
    inputs["pf_points"] = {"length": 16, "vars": ["part_deta", "phi"]}
    with pytest.raises(SubquadError, match=r"card\.yaml: inputs: pf_points: \d\d % of the values of phi are beyond"):
        chunks_of([path], variables=variables, inputs=inputs)
    # padding that the mask drops may have any angle
    is_odd = ak.local_index(table["phi"]) % 2
    padded = table | {"phi": np.where(is_odd, -999, np.radians(table["phi"])), "used": 1 - is_odd}
    masked = inputs | {"pf_mask": {"length": 16, "vars": ["used"]}}
    (chunk,) = chunks_of([write(tmp_path / "padded.root", padded)], variables=variables, inputs=masked)
    assert len(chunk) == 47
    variables = {"radians": "np.deg2rad(phi)", "x": "pt * np.cos(radians)", "y": "pt * np.sin(radians)"}
    inputs["pf_points"] = {"length": 16, "vars": ["part_deta", "radians"]}
    (chunk,) = chunks_of([path], variables=variables, inputs=inputs)
    assert len(chunk) == 47


def test_energies_in_another_unit_than_the_momenta_are_refused(jets):
    groups = {"features": [["part_pt", None]], "vectors": [*VECTORS[:3], "mev"]}
    inputs = {f"pf_{name}": {"length": 16, "vars": given} for name, given in groups.items()}
    with pytest.raises(
        SubquadError,
        match=r"QCD\.root: the energy of the particles is 100\d times their momentum \(median\), .* same unit, GeV",
    ):
        chunks_of(jets[:1], variables={"mev": "part_energy * 1000"}, inputs=inputs)


def test_jets_that_no_class_takes_are_reported_with_the_column_that_labels_are_computed_from(tables, tmp_path):
    columns, write = tables
    table = columns("Hbb") | {"truth": np.ones(23, np.int32)}
    table["truth"][5] = 7
    path = write(tmp_path / "truth.root", table)
    variables = {"is_qcd": "truth == 0", "is_top": "truth == 1"}
    with pytest.raises(
        SubquadError, match=r"truth\.root: entry 5: no label is 1 for truth = 7; exactly one label of a"
    ):
        chunks_of([path], variables=variables, labels={"type": "simple", "value": ["is_qcd", "is_top"]})


def test_advice_to_drop_jets_says_by_which_selection(one, tables, tmp_path):
    columns, write = tables
    table = columns("Hbb")
    table["jet_pt"][3] = np.nan
    path = write(tmp_path / "nan.root", table)
    with pytest.raises(SubquadError) as caught:
        chunks_of([path], observers=["jet_pt"])
    expected = "entry 3: jet_pt is nan; drop such jets (in a card: `selection: np.isfinite(jet_pt)`)"
    assert expected in str(caught.value)
    (chunk,) = chunks_of([path], observers=["jet_pt"], selection="np.isfinite(jet_pt)")
    assert len(chunk) == 22
    variables = {"far": "np.where(part_px > 2, 1 / (part_px - part_px), 0)"}
    with pytest.raises(SubquadError, match=r"drop such jets \(in a card: `selection: ak\.all\(np\.isfinite\(far\), ax"):
        chunks_of(one[:1], variables=variables, feature="far")
    selection = "ak.all(np.isfinite(far), axis=1)"
    assert chunks_of(one[:1], variables=variables, feature="far", selection=selection)
    variables = {"hard": "ak.firsts(part_pt[part_pt > 30])"}
    with pytest.raises(SubquadError, match=r"hard has no value .* \(in a card: `selection: ~ak\.is_none\(hard\)`\)"):
        chunks_of(one[:1], variables=variables, observers=["hard"])
    (chunk,) = chunks_of(one[:1], variables=variables, observers=["hard"], selection="~ak.is_none(hard)")
    assert np.isfinite(chunk.observers["hard"]).all()


def test_a_branch_is_only_taken_for_a_misspelling_if_it_is_the_same_quantity(one):
    with pytest.raises(SubquadError) as caught:
        chunks_of(one[:1], variables={"x": "part_e * part_pxx"}, feature="x")
    text = str(caught.value)
    assert "no branch part_pxx, which card.yaml: new_variables: x asks for; did you mean 'part_px'?" in text
    assert "no branch part_e, which card.yaml: new_variables: x asks for\n" in f"{text}\n"


def test_a_weight_that_outweighs_all_others_is_logged_with_its_place(tables, tmp_path, capsys):
    columns, write = tables
    table = columns("Hbb") | {"w": np.ones(23)}
    table["w"][3] = 1e30
    path = write(tmp_path / "huge.root", table)
    given = {"inputs": {"pf_features": {"length": 16, "vars": ["part_px"]}}, "event_weights": "w"}
    given["inputs"]["pf_vectors"] = {"length": 16, "vars": VECTORS}
    given["labels"] = {"type": "simple", "value": [f"label_{name}" for name in CLASSES]}
    net = NetSettings(has_jet_features=False)
    for layout in (layout_of(net, card_of(given, "card.yaml")), with_event_weights(layout_of(net), "w")):
        list(read_chunks([path], layout, quiet=False))
        text = " ".join(capsys.readouterr().err.split())
        assert "Warning: with the event weights w, the 23 jets count as 1.0 (effective number" in text
        assert "The largest weight is 1e+30, in" in text
        assert "huge.root: entry 3; check it" in text
    table["w"][3] = 2
    list(read_chunks([write(path, table)], layout, quiet=False))
    assert "Warning" not in capsys.readouterr().err
