"""Taggers whose inputs are branches give the scores of `predict` with any padding and order of the particles."""

from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch

from subquad.errors import SubquadError
from subquad.hep.data.card import LAYOUT_PREFIX, card_of, read_card
from subquad.hep.data.chunks import first_jets
from subquad.hep.data.expressions import parse
from subquad.hep.data.formats import expand_files
from subquad.hep.data.layout import fit_standardization, layout_of
from subquad.hep.data.public_layouts import layout_card
from subquad.hep.data.tensor_expressions import FUNCTIONS, Padded
from subquad.hep.models import branch_export
from subquad.hep.models.branch_inputs import MASK, branches_read, padded_branches
from subquad.hep.models.branch_tagger import BranchTagger
from subquad.hep.models.networks import build_network, predict_logits
from subquad.hep.models.presets import PRESETS
from subquad.hep.models.trained import TrainedTagger

CARDS = Path(__file__).parent / "cards"
SMALL = {"k": 3, "chebyshev_order": 3, "layers": 2, "width": 8, "graphs": 2, "pool_heads": 1}
LENGTH = 31
"""Fewer particles than many of the jets have."""

MASKED = {
    "new_variables": {
        "is_track": "part_charge != 0",
        "pt": "np.hypot(part_px, part_py)",
        "share": "pt / ak.sum(ak.values_astype(pt, 'float64'), axis=1)",
        "soft": "np.where(pt < ak.mean(pt, axis=1), np.log(pt), np.nan)",
    },
    "inputs": {
        name: {"length": LENGTH, "vars": variables}
        for name, variables in {
            "pf_points": ["part_deta", "part_dphi"],
            "pf_features": [["share", 0.1, 3], "soft", ["part_d0err", 0, 1, 0, 1]],
            "pf_mask": ["is_track"],
        }.items()
    },
    "labels": {"type": "simple", "value": ["label_QCD", "label_Hbb"]},
}


def small_tagger(preset, card=None, length=LENGTH, **changes):
    """Return a small tagger with random weights, the branches of some real jets, and their scores by `predict`."""
    torch.manual_seed(4)
    settings = replace(PRESETS[preset].net, **SMALL, max_particles=length, **changes)
    layout = layout_of(settings, card)
    columns, chunk = first_jets(expand_files("example:jets"), layout, 53)
    tables = (torch.from_numpy(table) for table in (chunk.particles, chunk.jet_features))
    layout = fit_standardization(layout, settings, *tables)
    net = build_network(settings, layout, 5).eval()
    made = TrainedTagger(path="run", config={}, net=net, settings=settings, layout=layout, classes=tuple("abcde"))
    with torch.no_grad():
        for weight in net.parameters():
            # scores that differ between jets; features in GeV make them differ already
            weight.mul_(1 if settings.features == "raw" else 2)
    return made, columns, predict_logits(net, made.dataset(chunk)).softmax(-1)


def scores_of(tagger, jets):
    with torch.no_grad():
        return BranchTagger(tagger, dict.fromkeys(jets, MASK))(jets)


def padded(columns):
    """Return the branches of particles and jets as padded tensors."""
    return padded_branches(columns, {name: MASK for name, column in columns.items() if column.ndim == 2})


def with_padding(jets, places):
    """Return jets with more padding, which has no numbers."""
    more = torch.nn.functional.pad
    padded = {name: more(x, (0, places), value=torch.nan) if x.ndim == 2 else x for name, x in jets.items()}
    return {**padded, MASK: more(jets[MASK], (0, places))}


@pytest.mark.parametrize("preset", PRESETS)
def test_branches_give_the_scores_of_predict_with_any_order_and_padding(preset):
    tagger, columns, expected = small_tagger(preset)
    assert expected.std(0).mean() > 1e-3
    jets = padded(columns)
    torch.testing.assert_close(scores_of(tagger, jets), expected, atol=1e-5, rtol=0)
    order = torch.randperm(jets[MASK].shape[1], generator=torch.Generator().manual_seed(0))
    mixed = {name: x[:, order] if x.ndim == 2 else x for name, x in with_padding(jets, 0).items()}
    torch.testing.assert_close(scores_of(tagger, with_padding(mixed, 7)), expected, atol=1e-5, rtol=0)
    one = {name: x[11:12] for name, x in jets.items()}
    torch.testing.assert_close(scores_of(tagger, one), expected[11:12], atol=1e-5, rtol=0)


def test_particles_beyond_the_limit_have_no_effect_on_a_network_without_jet_level_features():
    tagger, columns, expected = small_tagger("auto", has_jet_features=False, features="jetclass")
    jets = padded(columns)
    pt = torch.hypot(jets["part_px"], jets["part_py"])
    is_hard = pt >= pt.topk(LENGTH, dim=1).values[:, -1:]
    assert (jets[MASK].sum(1) > LENGTH).any()
    kept = {**jets, MASK: jets[MASK] * is_hard}
    torch.testing.assert_close(scores_of(tagger, kept), expected, atol=1e-5, rtol=0)


def four_vectors():
    """The card of the layout `four-vectors`, whose features and points are all computed from the momenta."""
    content = layout_card("four-vectors", ["label"])
    return {**content, "inputs": {name: {**group, "length": LENGTH} for name, group in content["inputs"].items()}}


@pytest.mark.parametrize(
    ("preset", "card"),
    [
        ("standard", lambda: read_card(CARDS / "JetClass_full.yaml")),
        ("auto", lambda: read_card(CARDS / "JetClass_kin.yaml")),
        ("auto", lambda: card_of(four_vectors(), f"{LAYOUT_PREFIX}four-vectors")),
        ("standard", lambda: card_of(MASKED, "masked")),
    ],
)
def test_branches_give_the_scores_of_predict_with_a_card(preset, card):
    tagger, columns, expected = small_tagger(preset, card())
    jets = padded(columns)
    # in float32 computed points may differ in the last digit
    torch.testing.assert_close(scores_of(tagger, jets), expected, atol=5e-5, rtol=0)
    torch.testing.assert_close(scores_of(tagger, with_padding(jets, 3)), expected, atol=5e-5, rtol=0)


def test_only_the_branches_that_are_read_are_inputs():
    tagger, columns, _ = small_tagger("auto", card_of(four_vectors(), f"{LAYOUT_PREFIX}four-vectors"))
    jets = padded(columns) | {"other": torch.zeros(53)}
    momenta = {"part_px", "part_py", "part_pz", "part_energy"}
    masks = dict.fromkeys(columns, MASK)
    read = branches_read(BranchTagger(tagger, masks), jets, masks)
    assert read[-1] == MASK
    assert {*read[:-1]} == momenta


EXPRESSIONS = [
    "np.log(pt) - np.log(jet_pt)",
    "np.arctan2(y, x) % (2 * np.pi) - np.pi",
    "np.arcsinh(x / pt) ** 2 // 0.3",
    "np.floor(5 * pt) // 0.1 + x * (5 // 2 + 7 % 4)",
    "np.floor(x) // 0",
    "np.clip(x, -0.5, None) + _clip(y, 0, 1)",
    "np.fmax(np.log(x), -5) + np.fmin(-1, np.log(y)) + np.fmax(x, y) + np.fmin(pt, jet_pt)",
    "np.fmax(np.log(x), np.sqrt(y))",
    "np.fmin(np.log(x), np.sqrt(y)) - np.maximum(np.log(pt), x)",
    "np.where((x > 0) & ~(y < 0.1), np.maximum(x, y), -x)",
    "np.nan_to_num(np.log(x), nan=3, posinf=7)",
    "ak.sum(pt, axis=1) / jet_pt + ak.num(pt)",
    "x - ak.max(x, axis=1) + ak.min(y, axis=-1) * ak.mean(x, axis=1)",
    "ak.any(x > 1, axis=1) * 1.5 + ak.all(pt > 0, axis=1) + ak.count_nonzero(x > 0, axis=1)",
    "(x > 0).sum(axis=1) + (y * y).mean(1)",
    "ak.values_astype(x, 'float64') + np.tanh(y) + math.hypot(x, y) + np.expm1(x) + np.sinh(y) + np.log10(pt)",
    "np.full_like(x, 2) + ak.ones_like(y) + np.sign(x) + np.floor(y) + np.power(pt, 0.5) + np.square(x)",
    "np.cos(x) + np.sin(y) + np.tan(x) + np.arctan(y) + np.log1p(pt) + np.log2(pt) + np.cosh(x) + np.deg2rad(y)",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions_have_the_values_of_numpy(text):
    generator = np.random.default_rng(3)
    lengths = np.array([5, 1, 7, 2])
    flat = {name: generator.normal(size=lengths.sum()).astype(np.float32) for name in "xy"}
    flat["pt"] = np.exp(flat["x"])
    columns = {name: ak.unflatten(value, lengths) for name, value in flat.items()}
    columns["jet_pt"] = ak.Array(generator.uniform(1, 5, 4).astype(np.float32))
    jets = padded(columns)
    mask = jets[MASK] != 0
    given = {name: Padded(x, mask if x.ndim == 2 else None) for name, x in jets.items()}
    found = parse(text, "card")(given, FUNCTIONS).values
    expected = parse(text, "card")(columns)
    if expected.ndim == 2:
        found, expected = found[mask], ak.flatten(expected)
    np.testing.assert_allclose(found.numpy(), ak.to_numpy(expected), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("part_px[ak.argsort(part_px)]", r"argsort is not translated to ONNX"),
        ("1 + ak.sort(part_px, axis=1)", r"card: '1 \+ ak.*' cannot be computed \(sort is not translated to ONNX\)"),
        ("_p4_from_pxpypze(part_px, part_px, part_px, part_px).eta", r"_p4_from_pxpypze is not translated"),
        ("np.round(part_px, 2)", "cannot be computed"),
        ("part_px & part_px", r"a branch, which is a float32 input of ONNX, is combined as a boolean"),
        ("ak.sum(part_px)", r"is not a reduction over the particles of a jet"),
        ("ak.values_astype(part_px, 'int32')", r"the type int32 is not translated"),
    ],
)
def test_what_is_not_translated_is_named(text, message):
    columns = {"part_px": Padded(torch.ones(2, 3), torch.ones(2, 3) > 0)}
    with pytest.raises(SubquadError):
        parse(text, "card")(columns, FUNCTIONS)


def test_columns_that_depend_on_the_name_of_the_file_are_refused():
    content = four_vectors()
    content["file_magic"] = {"is_data": {"data": 1, "mc": 0}}
    content["new_variables"] = {**content["new_variables"], "flag": "ak.ones_like(part_px) * is_data"}
    content["inputs"]["pf_features"]["vars"] = [*content["inputs"]["pf_features"]["vars"], "flag"]
    tagger, columns, _ = small_tagger("standard", card_of(content, f"{LAYOUT_PREFIX}magic.yaml"))
    with pytest.raises(SubquadError, match=r"magic.yaml: file_magic: is_data depends on the file"):
        scores_of(tagger, padded(columns))


@pytest.mark.long
def test_a_card_that_computes_all_from_momenta_is_exported(tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.setattr(branch_export, "COMPARED", 20)
    tagger, _, _ = small_tagger("standard", card_of(four_vectors(), f"{LAYOUT_PREFIX}four-vectors"))
    found = branch_export.export_branches(tagger, tmp_path / "tagger.onnx", expand_files("example:jets"))
    assert {*found["input_names"]} == {"part_px", "part_py", "part_pz", "part_energy", MASK}
    assert found["checked"]["jets"] == 20
    assert found["checked"]["largest_difference"] < 1e-5
    assert found["metadata"]["particle_order"] == "as in the files"
