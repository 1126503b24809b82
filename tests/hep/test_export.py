"""Export of taggers: ONNX has torch's probabilities at any multiplicity, and preprocess.json describes the inputs."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.export import export_onnx
from subquad.hep import ExportSettings, example_path, export
from subquad.hep.commands import export as export_command
from subquad.hep.commands.export import EXPRESSIONS, export_tagger, graph_of, preprocessing
from subquad.hep.data.card import card_of, read_card
from subquad.hep.data.expressions import parse
from subquad.hep.data.features import STANDARD_FEATURES, particle_features
from subquad.hep.data.jets import OBSERVERS, PARTICLES, read
from subquad.hep.data.layout import Standardizer, layout_of
from subquad.hep.models.branch_export import comparison_files
from subquad.hep.models.dense import DenseTagger, example_inputs
from subquad.hep.models.networks import build_network
from subquad.hep.models.presets import PRESETS
from subquad.hep.models.trained import TrainedTagger

CLASSES = ("QCD", "Hbb", "Tbqq")
CARDS, GOLDEN = Path(__file__).parent / "cards", Path(__file__).parents[1] / "golden" / "hep_tagger"

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript or onnxruntime is not installed",
)
SMALL = {"k": 2, "chebyshev_order": 3, "layers": 2, "width": 4, "graphs": 2, "pool_heads": 1}


def tagger(preset):
    """A small network of a preset with random weights."""
    torch.manual_seed(4)
    settings = replace(PRESETS[preset].net, **SMALL)
    layout = layout_of(settings)
    J = len(layout.jet_features)
    if settings.has_jet_features:
        layout = replace(layout, jet_standardizer=Standardizer.of(torch.zeros(J), torch.full((J,), 0.5)))
    return TrainedTagger(
        path="run",
        config={"classes": CLASSES},
        net=build_network(settings, layout, 3).eval(),
        settings=settings,
        layout=layout,
        classes=CLASSES,
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_the_dense_form_has_the_probabilities_of_the_network(preset):
    made = tagger(preset)
    names = preprocessing(made)["input_names"]
    scorer = DenseTagger(made.net, uses_features_as_points=made.settings.graph == "features")
    for given in example_inputs(made.layout, names):
        x, mask = given["pf_features"].mT, given["pf_mask"][:, 0] > 0
        points = given["pf_points"].mT if "pf_points" in given else x
        rest = {"vectors": given["pf_vectors"].mT} if "pf_vectors" in given else {}
        with torch.no_grad():
            expected = made.net(x, points, mask, jet_features=given.get("jet_features"), **rest).softmax(-1)
            torch.testing.assert_close(scorer(**given), expected, atol=1e-5, rtol=1e-4)


def test_a_jet_that_is_not_finite_leaves_the_others_of_its_batch_alone():
    made = tagger("auto")
    *_, inputs = example_inputs(made.layout, preprocessing(made)["input_names"], [7])
    dense = DenseTagger(made.net)
    with torch.no_grad():
        expected = dense(**inputs)
        inputs["pf_features"][0, 0, 0] = torch.nan
        found = dense(**inputs)
    assert found[0].isnan().all()
    assert torch.allclose(found[1:], expected[1:], atol=1e-6)


@needs_onnx
@pytest.mark.long
@pytest.mark.parametrize("preset", ["auto", "epcn", "paper-edges"])
def test_onnxruntime_has_the_probabilities_of_torch_at_any_multiplicity(preset, tmp_path):
    made = tagger(preset)
    checked = export_tagger(made, tmp_path / "tagger.onnx")
    assert [(one["jets"], one["particles"]) for one in checked] == [(B, P) for B in (1, 3) for P in (1, 2, 7, 40, 128)]
    assert max(one["difference"] for one in checked) < 1e-5
    # several threads of onnxruntime lose summands in these
    graph = pytest.importorskip("onnx").load(tmp_path / "tagger.onnx").graph
    assert not [node.op_type for node in graph.node if node.op_type.startswith("Scatter")]


@pytest.mark.parametrize("k", [2, 126, 127, 200])
def test_a_network_is_traced_with_more_particles_than_neighbours(k, tmp_path, monkeypatch):
    made = tagger("standard")
    made.net.k = k
    traced = []

    def traces(*_, inputs, examples, **__):
        traced.append(inputs["pf_mask"].shape)
        return [0.0] * len(examples)

    monkeypatch.setattr(export_command, "export_onnx", traces)
    export_tagger(made, tmp_path / "tagger.onnx")
    jets, _, particles = traced[0]
    assert jets > 1
    assert particles > k + 1


def test_the_expressions_compute_the_standard_features(jets):
    given = read(jets)
    columns = {name: ak.unflatten(given.particles[:, i], given.lengths) for i, name in enumerate(PARTICLES)} | {
        name: given.observers[:, i] for i, name in enumerate(OBSERVERS)
    }
    assert set(EXPRESSIONS) == set(STANDARD_FEATURES)
    expected = particle_features(given, STANDARD_FEATURES)
    infos = preprocessing(tagger("standard"))["pf_features"]["var_infos"]
    for i, name in enumerate(STANDARD_FEATURES):
        value = np.asarray(ak.flatten(parse(EXPRESSIONS[name], name)(columns)), np.float64)
        info = infos[name]
        value = ((value - info["median"]) * info["norm_factor"]).clip(info["lower_bound"], info["upper_bound"])
        np.testing.assert_allclose(value, expected[:, i], atol=2e-5, err_msg=name)


def test_preprocess_json_describes_the_inputs():
    found = preprocessing(tagger("auto"))
    assert found["output_names"] == ["label_QCD", "label_Hbb", "label_Tbqq"]
    assert found["input_names"] == ["pf_points", "pf_features", "pf_vectors", "pf_mask", "jet_features"]
    assert set(found["input_names"]) < set(found)
    assert found["pf_features"]["var_length"] == 128
    assert found["pf_features"]["var_infos"]["log pt"] == {
        **{"median": 1.7, "norm_factor": 0.7, "replace_inf_value": 0, "lower_bound": -10, "upper_bound": 10, "pad": 0}
    }
    assert found["pf_vectors"]["var_infos"]["px"]["upper_bound"] == 1e32
    assert found["jet_features"]["var_infos"]["width"]["norm_factor"] == 0.5
    assert found["expressions"]["px"] == "part_px"
    for name in found["input_names"]:
        assert list(found[name]["var_infos"]) == found[name]["var_names"]
        for info in found[name]["var_infos"].values():
            assert {*info} == {"median", "norm_factor", "replace_inf_value", "lower_bound", "upper_bound", "pad"}
    lengths = {name: found[name]["var_length"] for name in found["input_names"]}
    assert lengths == {**dict.fromkeys(found["input_names"], 128), "jet_features": 1}
    paper = preprocessing(tagger("paper"))
    assert paper["input_names"] == ["pf_features", "pf_mask"]
    assert paper["expressions"]["pt"] == "np.hypot(part_px, part_py)"


def test_preprocess_json_describes_the_graph():
    graph = graph_of(tagger("auto"))
    assert graph == {
        "opset": 18,
        "inputs": {
            "pf_points": ["batch", 2, "particles"],
            "pf_features": ["batch", 19, "particles"],
            "pf_vectors": ["batch", 4, "particles"],
            "pf_mask": ["batch", 1, "particles"],
            "jet_features": ["batch", 41],
        },
        "output": "softmax",
        "output_shape": ["batch", 3],
        "classes": ["QCD", "Hbb", "Tbqq"],
    }
    assert list(graph_of(tagger("paper"))["inputs"]) == ["pf_features", "pf_mask"]


def test_preprocess_json_has_length_clipping_and_expressions_of_a_card():
    card = read_card(CARDS / "JetClass_full.yaml")
    settings = replace(PRESETS["standard"].net, **SMALL, has_jet_features=False)
    made = replace(tagger("standard"), settings=settings, layout=replace(layout_of(settings, card), max_particles=61))
    found = preprocessing(made)
    assert found["input_names"] == ["pf_points", "pf_features", "pf_mask"]
    assert {found[name]["var_length"] for name in found["input_names"]} == {61}
    assert found["pf_features"]["var_infos"]["part_pt_log"] == {
        **{"median": 1.7, "norm_factor": pytest.approx(0.7), "replace_inf_value": 0, "pad": 0},
        **{"lower_bound": -5, "upper_bound": 5},
    } | {"median": pytest.approx(1.7)}
    assert found["pf_features"]["var_infos"]["part_d0err"]["upper_bound"] == 1
    assert found["pf_features"]["var_infos"]["part_charge"]["upper_bound"] == 1e32
    assert found["expressions"]["part_logptrel"] == "np.log(part_pt/jet_pt)"
    assert found["expressions"]["part_charge"] == "part_charge"


class _Sum(torch.nn.Module):
    """Adds a number, and another one while it is traced."""

    def __init__(self, off):
        super().__init__()
        self.off = off

    def forward(self, x):
        return x + (0.0 if torch.compiler.is_exporting() else self.off)


@pytest.mark.long
@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("off", [0.0, 0.5])
def test_a_model_with_other_values_in_onnxruntime_is_refused(off, tmp_path):
    how = {"inputs": {"x": torch.ones(2, 3)}, "axes": {"x": {0: "rows"}}, "outputs": {"y": 1.0}}
    given = [{"x": torch.randn(rows, 3)} for rows in (1, 5)]
    if not off:
        assert export_onnx(_Sum(off).eval(), tmp_path / "sum.onnx", **how, examples=given) == [0, 0]
        return
    with pytest.raises(SubquadError, match=r"differ by 0.5 for x \(1, 3\)"):
        export_onnx(_Sum(off).eval(), tmp_path / "sum.onnx", **how, examples=given)


def test_a_description_never_lies_beside_the_network_of_another_one(tmp_path, monkeypatch):
    out, beside = tmp_path / "a.onnx", tmp_path / "preprocess.json"

    def write(tagger, path):
        path.write_text("new")
        return [{"difference": 0.0}]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_command, "export_tagger", write)
    # while the network gets its name, or the description is written
    for name in ("subquad.runs.storage.os.replace", "subquad.hep.commands.export.write_json"):
        for path in (out, beside):
            path.write_text("old")
        with monkeypatch.context() as patch:
            patch.setattr(name, stop)
            with pytest.raises(KeyboardInterrupt):
                export(GOLDEN, ExportSettings(inputs="weaver"), out=out, force=True, quiet=True)
        assert not beside.exists()
    export(GOLDEN, ExportSettings(inputs="weaver"), out=out, force=True, quiet=True)
    assert (out.read_text(), beside.is_file()) == ("new", True)


def test_the_command_prints_inputs_and_comparison(tmp_path, capsys, monkeypatch):
    given = []

    def run_export(run, settings, **options):
        given.append((run, settings, options["files"]))
        checked = {"file": "a.root", "jets": 1200, "particles": 106, "largest_difference": 2e-7}
        return {"input_names": ["part_px", "particle_mask"], "output_names": ["label_QCD"], "checked": checked}

    monkeypatch.setattr("subquad.hep.commands.export.export", run_export)
    assert main(["hep", "export", "example:tagger", "--out", str(tmp_path / "a.onnx"), "--files", "example:jets"]) == 0
    assert given == [(Path("example:tagger"), ExportSettings(inputs="branches"), ("example:jets",))]
    out = " ".join(capsys.readouterr().out.split())
    assert "Inputs: part_px, particle_mask; output: softmax, the probabilities of label_QCD." in out
    assert "differ by at most 2e-07 on 1,200 jets of a.root, with up to 106 particles." in out


def test_a_tagger_whose_branches_are_nowhere_asks_for_files():
    content = {**read_card(CARDS / "JetClass_kin.yaml").options, "observers": ["jet_btag"]}
    made = tagger("standard")
    made = replace(made, layout=layout_of(made.settings, card_of(content, "card.yaml")))
    with pytest.raises(SubquadError, match=r"example:jets has not all of its branches \(jet_btag\), .* with --files"):
        comparison_files(made, None, tree="tree")
    # event weights are not compared
    content |= {"observers": ["jet_pt"], "treename": "Events", "event_weights": "genweight"}
    made = replace(made, layout=layout_of(made.settings, card_of(content, "card.yaml")))
    assert comparison_files(made, None, tree="tree") == [example_path()]


def test_a_training_file_may_be_named_with_its_tree(jets):
    content = {**read_card(CARDS / "JetClass_kin.yaml").options, "observers": ["jet_btag"]}
    made = tagger("standard")
    layout = layout_of(made.settings, card_of(content, "card.yaml"))
    made = replace(made, layout=layout, config={"files": ["gone.root:tree", f"{jets[0]}:tree"]})
    assert comparison_files(made, None, tree="tree") == [Path(f"{jets[0]}:tree")]
