"""Fits that start from a saved tagger: what they take from it, what they refuse, and that it helps."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.weights import shuffle

from subquad.errors import SubquadError
from subquad.hep import FitSettings, fit, read
from subquad.hep.commands import fit as fit_command
from subquad.hep.data.chunks import chunk_of
from subquad.hep.data.layout import layout_of
from subquad.hep.data.store import dataset_of
from subquad.hep.models import training
from subquad.hep.models.fine_tuning import origin_of
from subquad.hep.models.networks import build_network, predict_logits
from subquad.hep.models.presets import training_defaults
from subquad.reporting.page import Section
from subquad.runs.storage import read_tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "hep_tagger"
CARD = Path(__file__).parent / "cards"
SHORT = FitSettings(preset="standard", epochs=2, batch_size=16, no_boosting=True)


def start(classes):
    """A network of these classes that starts from the golden tagger, and its logits of some jets."""
    origin = origin_of(GOLDEN)
    layout = origin.layout(layout_of(origin.net))
    torch.manual_seed(5)
    net = build_network(origin.net, layout, len(classes))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    origin.load_into(net, classes)
    jets = dataset_of(chunk_of(read(GOLDEN / "input.root"), layout), layout)
    return origin, net, before, predict_logits(net, jets), predict_logits(origin.tagger.net, jets)


def test_before_the_first_step_predictions_are_those_of_the_run_for_its_classes_in_any_order():
    origin, _, _, logits, expected = start(("QCD", "Hbb", "Tbqq"))
    assert torch.equal(logits, expected)
    _, _, _, logits, _ = start(("Tbqq", "QCD", "Hbb"))
    assert torch.equal(logits, expected[:, [2, 0, 1]])
    assert origin.note(("Tbqq", "QCD", "Hbb")).endswith("with its standardization and its output layer.")


def test_only_the_output_layer_of_other_classes_is_new():
    origin, net, before, _, _ = start(("QCD", "Hcc"))
    own = origin.tagger.net.state_dict()
    left = origin.load_into(net, ("QCD", "Hcc"))
    last, layer = [(name, part) for name, part in net.named_modules() if isinstance(part, torch.nn.Linear)][-1]
    assert all(parameter is one for parameter, one in zip(left, (layer.weight, layer.bias), strict=True))
    new = {name for name, tensor in net.state_dict().items() if torch.equal(tensor, before[name])}
    assert {f"{last}.weight", f"{last}.bias"} <= new
    kept = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith(f"{last}.")}
    assert all(torch.equal(tensor, own[name]) for name, tensor in kept.items())
    assert "the output layer is newly initialised, as the run has the classes QCD, Hbb, Tbqq" in origin.note(("QCD",))


def test_the_learning_rate_is_a_third_of_that_of_the_preset_unless_it_is_given():
    assert training_defaults(FitSettings(preset="standard", from_=GOLDEN)).learning_rate == pytest.approx(1e-3)
    assert training_defaults(FitSettings(from_=GOLDEN, learning_rate=0.5)).learning_rate == 0.5


@pytest.fixture(scope="module", autouse=True)
def _no_figures():
    """Leave out the figures of the reports, which take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_command, "sections_of", lambda metrics, *_: [Section("Metrics", list(metrics["notes"]))])
        yield


@pytest.fixture(scope="module")
def origin(jets, tmp_path_factory):
    """A tagger of three classes."""
    out = tmp_path_factory.mktemp("origin") / "run"
    fit(jets, replace(SHORT, epochs=8), out=out, quiet=True)
    return out


@pytest.fixture(scope="module")
def samples(tables, tmp_path_factory):
    """Few jets of two of the classes, which are not those of the run, and more to test on."""
    columns, write = tables
    folder = tmp_path_factory.mktemp("samples")
    return [
        [write(folder / f"{name}_{seed}.root", columns(name, jets=jets, seed=seed)) for name in ("Hbb", "Tbqq")]
        for jets, seed in ((25, 7), (211, 9))
    ]


@pytest.mark.slow
@pytest.mark.long
def test_few_jets_give_a_better_tagger_from_a_run_than_from_scratch(origin, samples, tmp_path, monkeypatch, capsys):
    few, many = samples
    scratch = fit(few, SHORT, test=many, out=tmp_path / "scratch", quiet=True)
    given = replace(SHORT, preset="auto", from_=origin)
    tuned = fit(few, given, test=many, out=tmp_path / "tuned")
    assert tuned["test"]["net"]["accuracy"] > scratch["test"]["net"]["accuracy"] + 0.03
    assert "Fine-tuned from" in capsys.readouterr().err
    assert "Fine-tuned from" in (tmp_path / "tuned" / "report.html").read_text()
    config, own = (json.loads((run / "config.json").read_text()) for run in (tmp_path / "tuned", origin))
    assert config["from"]["run"] == str(origin)
    assert config["from"]["classes"] == ["QCD", "Hbb", "Tbqq"]
    assert not config["from"]["keeps_output_layer"]
    assert config["preset"] == "standard"
    assert {*own["digests"]} < {*config["digests"]}
    before, after = (read_tensors(run / "model.safetensors") for run in (origin, tmp_path / "tuned"))
    # the jets of the run decide the standardization
    assert torch.equal(before["jet_features.center"], after["jet_features.center"])
    assert tuned["test"]["net"]["accuracy"] > 0.7

    # an interrupted fit is resumed to the same weights, but not from a run whose weights are others by now
    class StoppedError(Exception):
        pass

    copied = tmp_path / "origin"
    shutil.copytree(origin, copied)
    given = replace(given, from_=copied)
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit_temperature", lambda *args: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            fit(few, given, test=many, out=tmp_path / "stopped", quiet=True)
    again = fit(few, given, test=many, out=tmp_path / "stopped", quiet=True)
    assert again["test"] == tuned["test"]
    (tmp_path / "stopped" / "metrics.json").unlink()
    shuffle(copied)
    with pytest.raises(SubquadError, match=r"with other settings \(the input files changed\)"):
        fit(few, given, test=many, out=tmp_path / "stopped", quiet=True)
