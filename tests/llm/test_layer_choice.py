"""`--softmax-layers N`: which layers keep softmax attention, and that the model that is fine-tuned has them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.llm_models import SMALL, small_attention, tiny_model

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.models.attention import attention_layers, attention_mode
from subquad.llm.models.convert import convert
from subquad.llm.training.layer_choice import choose_layers, restored_divergences
from subquad.runs.storage import read_tensors

IDS = torch.arange(2 * 23).reshape(2, 23) % 97


@torch.no_grad()
def test_divergences_are_those_of_models_with_one_softmax_layer():
    model = convert(tiny_model("llama", num_hidden_layers=3), small_attention(sinks=0)).eval()
    found = restored_divergences(model, IDS)
    assert [*found] == [-1, 0, 1, 2]
    with attention_mode(model, "softmax"):
        teacher = model(IDS).logits.log_softmax(-1)
    for number, divergence in found.items():
        for layer in attention_layers(model):
            layer.mode = "softmax" if layer.layer_idx == number else "hybrid"
        student = model(IDS).logits.log_softmax(-1)
        expected = torch.nn.functional.kl_div(student, teacher, log_target=True, reduction="sum") / IDS.numel()
        assert divergence == pytest.approx(float(expected), rel=1e-4)
    assert all(found[number] != found[-1] for number in range(3))


@torch.no_grad()
def test_a_layer_whose_linearization_does_all_the_harm_is_chosen():
    model = convert(tiny_model("llama", num_hidden_layers=3), small_attention(window=40)).eval()
    # a window over all tokens equals softmax attention; that of one layer does not
    attention_layers(model)[1].hybrid.window = 2
    attention_layers(model)[1].hybrid.sinks = 0
    found = restored_divergences(model, IDS)
    assert choose_layers(found, 1) == (1,)
    assert found[1] == pytest.approx(0, abs=1e-6)
    assert found[-1] > 1e-4


def test_the_lowest_divergences_are_chosen_in_order():
    assert choose_layers({-1: 0.0, 0: 3.0, 1: 1.0, 2: 2.0, 5: 1.0}, 3) == (1, 2, 5)
    assert choose_layers({-1: 9.0, 0: 1.0, 1: 1.0}, 1) == (0,)


def test_probabilities_that_are_not_finite_are_an_error():
    with pytest.raises(SubquadError, match=r"layers cannot be chosen: .* not finite"):
        choose_layers({-1: 1.0, 0: 2.0, 1: float("nan")}, 1)


@pytest.mark.slow
def test_linearize_fine_tunes_the_model_with_the_chosen_layers(folder, text, tmp_path):
    settings = replace(SMALL, softmax_layers=1, attention=small_attention())
    metrics = subquad.llm.linearize(folder, text, settings, out=tmp_path / "run", quiet=True)
    notes = json.loads((tmp_path / "run" / "evaluations.json").read_text())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (chosen,) = config["hybrid_attention"]["softmax_layers"]
    divergences = notes["softmax_layers"]["divergences"]
    assert divergences[str(chosen)] == min(value for layer, value in divergences.items() if layer != "-1")
    assert "restored" in metrics["test"]
    assert notes["about"]["layers"] == 1
    model, _ = subquad.llm.load(tmp_path / "run")
    (layer,) = attention_layers(model)
    assert layer.layer_idx == 1 - chosen
    # the other layer has the maps that were trained
    tensors = read_tensors(tmp_path / "run" / "model.safetensors")
    maps = [name for name in tensors if name.endswith("hybrid.map_q.weight")]
    assert maps == [f"model.layers.{1 - chosen}.self_attn.hybrid.map_q.weight"]
    assert not torch.equal(tensors[maps[0]], torch.eye(10).expand(6, 10, 10))
    assert "Green: the layers that keep it" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.long
def test_an_interrupted_run_ends_with_the_same_layers_and_weights(folder, text, tmp_path, monkeypatch):
    from subquad.llm.commands.linearization import Linearization

    settings = replace(SMALL, softmax_layers=1, controls=True)
    subquad.llm.linearize(folder, text, settings, out=tmp_path / "whole", quiet=True)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Linearization, "fine_tune", stop)
        with pytest.raises(KeyboardInterrupt):
            subquad.llm.linearize(folder, text, settings, out=tmp_path / "stopped", quiet=True)
    subquad.llm.linearize(folder, text, settings, out=tmp_path / "stopped", quiet=True)
    whole, stopped = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(stopped[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_run_that_diverged_has_the_same_error_when_it_is_resumed(tmp_path, monkeypatch):
    from subquad.llm.commands.linearization import Linearization
    from subquad.llm.metrics import compare_losses

    text = SimpleNamespace(holdout=SimpleNamespace(ids=None))
    run = SimpleNamespace(directory=tmp_path)

    def linearization():
        return Linearization(run=run, settings=SMALL, data=text, tokenizer=None, seed=0, quiet=True)

    may_diverge = []
    monkeypatch.setattr(
        "subquad.llm.commands.linearization.sequence_losses", lambda *_, **how: may_diverge.append(how["may_diverge"])
    )
    for name in ("teacher", "window", "transferred", "window_fine_tuned", "fine_tuned"):
        linearization().measure(name, None, "hybrid")
    assert may_diverge == [False, True, True, True, False]
    (tmp_path / "evaluations.json").unlink()
    linearization().note("losses", "fine_tuned", lambda: [float("nan"), 2.0])
    assert json.loads((tmp_path / "evaluations.json").read_text())["losses"] == {"fine_tuned": [None, 2.0]}
    with pytest.raises(SubquadError, match="the loss on held-out text is nan: training has diverged"):
        compare_losses(linearization().notes["losses"])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"softmax_layers": 2}, "2 softmax layers: none of 2 is left to be linearized"),
        ({"softmax_layers": -1}, "--softmax-layers must be at least 0"),
    ],
)
def test_a_number_that_leaves_no_layer_is_refused(folder, text, tmp_path, how, message):
    with pytest.raises(SubquadError, match=message):
        subquad.llm.linearize(folder, text, replace(SMALL, **how), out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
