"""Explanations: networks that by construction depend on one input, and the command."""

import json
from dataclasses import replace

import awkward as ak
import numpy as np
import pytest
import torch
from support.hep_jets import dataset_in_memory

from subquad.cli import main
from subquad.hep import ExplainSettings, FitSettings, explain, fit
from subquad.hep.data.batches import collate
from subquad.hep.data.features import STANDARD_FEATURES
from subquad.hep.data.jets import read
from subquad.hep.data.layout import layout_of
from subquad.hep.explanation.attributions import attribute, grad_cam, input_means
from subquad.hep.explanation.displays import display_of, select_jets
from subquad.hep.explanation.permutation import (
    Importance,
    feature_groups,
    jet_feature_importance,
    mean_auc,
    particle_importance,
)
from subquad.hep.explanation.sample import read_sample
from subquad.hep.explanation.summary import by_columns
from subquad.hep.models.networks import forward
from subquad.hep.models.trained import TrainedTagger
from subquad.hep.plots.explain_page import summary
from subquad.hep.settings import NetSettings
from subquad.nn.graph import PCN
from subquad.nn.kinematic import EPCN, KinematicNet
from subquad.ops.chebyshev import knn_adjacency
from subquad.ops.kinematics import VARIABLES

SETTINGS = NetSettings(has_jet_features=False, k=2)
H = len(STANDARD_FEATURES)
FIELDS = ("accuracy", "accuracy_deviation", "auc", "auc_deviation")


def batch_of(jets, settings=SETTINGS):
    """All jets of the three files, and the first eleven of the second one as a batch."""
    dataset = dataset_in_memory(read(jets), settings)
    return dataset, collate(dataset, torch.arange(47, 58))


def test_grad_cam_is_that_of_its_formula():
    activations = torch.tensor([[[1.0, 2], [3, -1], [9, 9]]])
    gradients = torch.tensor([[[2.0, 1], [0, 1], [9, 9]]])
    mask = torch.tensor([[True, True, False]])
    # alpha = (1, 1); particles 1·1 + 1·2 = 3 and 1·3 - 1·1 = 2
    assert grad_cam(activations, gradients, mask).tolist() == [5.0]
    # alpha = (-1, -1): nothing speaks for the class
    assert grad_cam(activations, -gradients, mask).tolist() == [0.0]


@pytest.mark.parametrize("graph", [0, 2])
def test_a_kinematic_net_of_one_variable_has_all_importance_on_it(jets, graph):
    _, batch = batch_of(jets)
    torch.manual_seed(2)
    net = KinematicNet(H, 3, filter="chebyshev", width=8, graphs=2, terms=3, layers=1, k=2, pool_heads=1).eval()
    with torch.no_grad():
        net.exponents.zero_()[:, graph] = 0.7
    variables = attribute(net, batch, batch.labels, input_means([batch])).variables
    # of jets with one edge or none nothing differs from the mean
    has_some = batch.mask.sum(1) > 2
    assert variables.isnan().any(1).tolist() == (~has_some).tolist()
    torch.testing.assert_close(variables[has_some], torch.eye(4)[graph].expand(int(has_some.sum()), 4))


def test_an_epcn_that_pools_one_graph_has_all_importance_on_it(jets):
    _, batch = batch_of(jets)
    torch.manual_seed(2)
    net = EPCN(H, 3, width=5, terms=3, layers=2, k=2).eval()
    with torch.no_grad():
        net.head.weight[:, 5:] = 0
        # what comes out of a ReLU speaks for every class
        net.head.weight[:, :5] = 1
    found = attribute(net, batch, batch.labels, input_means([batch]))
    assert found.graphs[:, 1:].nan_to_num().max() == 0
    assert (found.graphs[:, 0] == 1).all()
    # the pairs of the one graph are weighted by ΔR alone
    assert found.variables[:, 1:].nan_to_num().max() == 0


def of_one_feature(jet_features=0, feature=3):
    torch.manual_seed(2)
    net = PCN(H, 3, jet_features=jet_features, width=7, terms=3, layers=2, k=2, periodic=(1,), hidden=5).eval()
    with torch.no_grad():
        net.filters[0].weight[:, [i for i in range(H) if i != feature]] = 0
        # the second layer's half of the head sees nothing of the jet but one of its numbers
        if jet_features:
            net.head[1].weight[:, 8:] = 0
    return net


def test_a_net_of_one_feature_has_all_attribution_and_permutation_importance_on_it(jets):
    inputs, batch = batch_of(jets)
    net = of_one_feature()
    found = attribute(net, batch, batch.labels, input_means([batch]))
    assert found.features[:, 3].min() > 0
    assert torch.cat([found.features[:, :3], found.features[:, 4:]], 1).max() == 0
    torch.testing.assert_close(found.features.sum(1), found.particles.sum(1))
    batches = [collate(inputs, rows) for rows in torch.arange(len(inputs)).split(50)]
    # what it says itself is the truth, so that it can only lose
    with torch.no_grad():
        scores = [forward(net, one).double().softmax(-1)[:, 0] for one in batches]
    for one, score in zip(batches, scores, strict=True):
        one.labels.copy_(score <= torch.cat(scores).median())
    columns = {"unused": [0], "used": [3], "both": [0, 3]}
    importance = particle_importance(net, batches, columns, repeats=2, seed=1, only=0)
    assert importance["unused"] == Importance(accuracy=0, accuracy_deviation=0, auc=0, auc_deviation=0)
    assert importance["used"].auc > 0.05
    assert importance["both"].auc > 0.05
    once = particle_importance(net, batches, columns, repeats=1, seed=1, only=0)["used"]
    assert (once.accuracy_deviation, once.auc_deviation) == (None, None)


def test_a_net_of_one_jet_level_feature_has_all_importance_on_it(jets):
    _, batch = batch_of(jets, NetSettings(k=2))
    net = of_one_feature(jet_features=batch.jet_features.shape[1])
    found = attribute(net, batch, batch.labels, input_means([batch]))
    assert found.jet_features[:, 1:].max() == 0
    assert found.jet_features[:, 0].max() > 0
    importance = jet_feature_importance(net, [batch], {"used": [0], "unused": [1, 2]}, repeats=2, seed=1)
    assert importance["unused"].accuracy == 0
    with torch.no_grad():
        moved = batch.jet_features.clone()
        moved[:, 1:3] = 0
        torch.testing.assert_close(forward(net, batch), net(batch.x, batch.points, batch.mask, jet_features=moved))


def test_the_attribution_is_the_change_of_the_logit_in_a_linear_net(jets):
    _, batch = batch_of(jets)
    torch.manual_seed(5)
    net = EPCN(H, 3, width=5, terms=2, layers=1, k=2).eval()
    with torch.no_grad():
        for branch in net.on_each:
            # no particle is cut off by the ReLU
            branch.filters[0].bias.add_(100)
    means = input_means([batch])
    found = attribute(net, batch, batch.labels, means)
    row, feature, particle = 4, 6, 1
    x = batch.x.clone()
    x[row, particle, feature] = means.features[feature]
    with torch.no_grad():
        change = (forward(net, batch) - forward(net, replace(batch, x=x)))[row, batch.labels[row]].abs()
    one = torch.zeros_like(batch.x)
    one[row, particle, feature] = 1
    x = batch.x.clone().requires_grad_()
    forward(net, replace(batch, x=x))[row, batch.labels[row]].backward()
    expected = (x.grad * (batch.x - means.features) * one).abs().sum()
    assert change.item() == pytest.approx(expected.item(), abs=2e-4)
    assert found.features[row, feature] >= expected - 1e-5


def test_a_display_has_the_edges_of_the_graph_and_marks_displaced_tracks(jets):
    inputs, _ = batch_of(jets)
    row = int(inputs.lengths.argmax())
    batch = collate(inputs, torch.tensor([row]))
    net = of_one_feature()
    attribution = attribute(net, batch, torch.tensor([1]), input_means([batch]))
    first, P = int(inputs.first[row]), int(inputs.lengths[row])
    table = inputs.particles[first : first + P].numpy()
    display = display_of(table, inputs.layout, attribution, label="Hbb", predicted="QCD", probability=0.7)
    adjacency = knn_adjacency(batch.points, batch.mask, 2, periodic=(1,))[0].numpy()
    assert {tuple(edge) for edge in display.edges.tolist()} == set(zip(*np.nonzero(np.triu(adjacency)), strict=True))
    assert display.importance.max() == display.particles.max() == 1
    significance = table[:, STANDARD_FEATURES.index("d0 significance")]
    assert display.is_displaced.tolist() == (np.abs(significance) > np.log(4)).tolist()
    charged = table[:, STANDARD_FEATURES.index("isChargedHadron")] > 0
    assert [name == "charged hadron" for name in display.types] == charged.tolist()
    assert display.pt.sum() == pytest.approx(1)


def test_a_jet_of_weight_2_counts_as_two_jets(jets):
    dataset, _ = batch_of(jets)
    rows = torch.arange(0, 141, 7)
    weighted = collate(replace(dataset, weights=1.0 + (torch.arange(141) % 2)), rows)
    twice = collate(dataset, rows.repeat_interleave(1 + rows % 2))
    torch.testing.assert_close(input_means([weighted]).features, input_means([twice]).features)
    net = of_one_feature()
    with torch.no_grad():
        scores = [forward(net, one).softmax(-1).numpy() for one in (weighted, twice)]
    for only in (None, 1):
        got = mean_auc(scores[0], weighted.labels.numpy(), only, weighted.weights.numpy())
        assert got == pytest.approx(mean_auc(scores[1], twice.labels.numpy(), only))
    values = {"features": np.abs(np.random.default_rng(0).normal(size=(5, 3)))}
    weights = np.array([2.0, 1, 0, 1, 3])
    found = by_columns(values, weights, {"first": [0]}, {"first": Importance(**dict.fromkeys(FIELDS, 0.0))})
    means = values["features"].repeat([2, 1, 0, 1, 3], axis=0).mean(0)
    assert found["first"]["attribution"] == pytest.approx(means[0] / means.sum())


def test_jets_with_the_highest_score_come_first_then_the_most_confident_mistakes():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 0, 1])
    assert select_jets(probabilities, labels, 0, 1).tolist() == [0, 2]
    assert select_jets(probabilities, labels, 0, 5).tolist() == [0, 1, 2, 3]


def test_the_auc_of_a_class_without_jets_is_none():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert mean_auc(probabilities, np.array([0, 1]), None) == 1
    assert mean_auc(probabilities, np.array([0, 0]), 0) is None


def test_features_are_grouped_by_their_names():
    names = (*STANDARD_FEATURES, "part_d0", "part_isMuon", "part_pt_log")
    groups = {names[i]: group for group, columns in feature_groups(names).items() for i in columns}
    assert len(groups) == len(names)
    assert {name for name, group in groups.items() if group == "impact parameters"} == {
        *("tanh d0", "d0err", "tanh dz", "dzerr", "d0 significance", "dz significance", "part_d0")
    }
    assert groups["charge"] == groups["part_isMuon"] == groups["isPhoton"] == "particle types"
    assert groups["deta"] == groups["part_pt_log"] == groups["log pt/jet"] == "kinematics"
    assert feature_groups(("sv_mass", "part_logptrel", "sv_ntracks", "btag", "part_tanhdz")) == {
        "kinematics": [0, 1],
        "impact parameters": [4],
        "other features": [2, 3],
    }


@pytest.mark.parametrize(
    ("decreases", "start", "points"),
    [
        (
            {"a": (-0.001, 0.003), "b": (-0.002, 0.001)},
            "No group lowers the AUC by more than its deviation; the largest decrease, that of a, is",
            "-0.1 ± 0.3 points",
        ),
        (
            {"a": (0.02, 0.03), "b": (0.01, 0.001)},
            "The most important group is b: permuting it lowers the AUC by",
            "1.0 ± 0.1 points",
        ),
        (
            {"a": (0.02, None), "b": (0.01, None)},
            "The most important group is a: permuting it lowers the AUC by",
            "2.0 points in a single permutation",
        ),
        (
            {"a": (-0.02, None)},
            "No group lowers the AUC; the largest decrease, that of a, is",
            "-2.0 points in a single permutation",
        ),
    ],
)
def test_a_group_is_important_only_if_it_lowers_the_metric_by_more_than_its_deviation(decreases, start, points):
    groups = {
        name: {"permutation": dict(zip(("auc", "auc_deviation"), own, strict=True))} for name, own in decreases.items()
    }
    found = summary({"groups": groups, "auc": 0.5, "graphs": None, "variables": None})
    assert found == f"{start} {points} (from 50.0)."


@pytest.fixture(scope="module")
def fitted(jets, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tagger"
    settings = FitSettings(preset="auto-chebyshev", epochs=2, batch_size=32, no_boosting=True)
    fit(jets, settings, out=out, quiet=True)
    return out


@pytest.mark.long
def test_the_command_writes_page_figures_and_json(fitted, jets, tmp_path, capsys):
    out = tmp_path / "explained"
    files = [str(path) for path in jets]
    arguments = ["hep", "explain", str(fitted), "--files", *files, "--out", str(out), "--jets", "60", "--repeats", "2"]
    assert main([*arguments, "--displays", "1"]) == 0
    assert f"Wrote {out}" in capsys.readouterr().out
    found = json.loads((out / "explain.json").read_text())
    assert found["jets"] == found["explained_jets"] == 60
    assert sum(entry["attribution"] for entry in found["features"].values()) == pytest.approx(1)
    assert sum(entry["attribution"] for entry in found["groups"].values()) == pytest.approx(1)
    assert sum(found["by_class"]["Hbb"].values()) == pytest.approx(1)
    assert found["graphs"] is None
    assert np.shape(found["exponents"]) == (4, 4)
    assert sum(found["variables"]["all"][name] for name in VARIABLES) == pytest.approx(1)
    text = (out / "report.html").read_text()
    # graphs, exponents, two of features, and jets of three classes
    assert text.count("<figure") == 7
    assert "The most important group is" in text
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--class", "Hbb", "--force", "--displays", "0", "--quiet"]) == 0
    assert json.loads((out / "explain.json").read_text())["classes"] == ["Hbb"]


@pytest.mark.long
def test_the_default_network_is_explained_without_exponents(jets, tmp_path):
    fit(jets, FitSettings(epochs=1, batch_size=32, no_boosting=True), out=tmp_path / "tagger", quiet=True)
    settings = ExplainSettings(jets=20, repeats=1, displays=1)
    out = tmp_path / "out"
    assert explain(tmp_path / "tagger", settings, files=jets, out=out, quiet=True)["exponents"] is None
    assert "exponents" not in (out / "report.html").read_text()


@pytest.mark.slow
def test_classes_without_jets_are_named(fitted, jets, tmp_path, capsys):
    settings = ExplainSettings(jets=6, repeats=1, displays=0)
    explanation = explain(fitted, settings, files=jets[0], out=tmp_path / "out")
    assert "None of the 6 jets is Hbb, Tbqq, so the importances hold for the other classes" in explanation["note"]
    assert "Warning: None of the 6 jets is Hbb, Tbqq" in capsys.readouterr().err
    assert "increase --jets, or give files with jets of all classes" in (tmp_path / "out" / "report.html").read_text()


def test_only_jets_before_the_last_one_of_the_sample_are_skipped(tables, tmp_path, capsys):
    columns, write = tables
    parts = [columns(name, jets=20, seed=seed) for seed, name in enumerate(("Tbqq", "QCD", "Hbb", "QCD", "Tbqq"))]
    table = {name: ak.concatenate([part[name] for part in parts]) for name in parts[0]}
    table = {name: x if x.ndim == 2 else ak.to_numpy(x) for name, x in table.items()}
    path = write(tmp_path / "mixed.root", table)
    # not the first class of the file
    net, classes = NetSettings(has_jet_features=False), ("Hbb", "Tbqq")
    tagger = TrainedTagger(path=tmp_path, config={}, net=None, settings=net, layout=layout_of(net), classes=classes)
    sample = read_sample(tagger, [path], ExplainSettings(jets=30), quiet=False)
    assert sample.classes == classes
    assert sample.labels.tolist() == [1] * 20 + [0] * 10
    assert "skipped 20 jets of classes that" in capsys.readouterr().err
    # the quota is full before any of them
    read_sample(tagger, [path], ExplainSettings(jets=20), quiet=False)
    assert "skipped" not in capsys.readouterr().err
    read_sample(tagger, [path, path], ExplainSettings(jets=1), quiet=False)
    assert "skipped" not in capsys.readouterr().err
