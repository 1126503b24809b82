"""Attention transfer with the loss of attention weights: formula, minimum, gradient and training."""

import math

import pytest
import torch
from support.llm_models import small_attention, tiny_model

from subquad.llm.data.packing import prepare_text
from subquad.llm.models.attention import attention_mode
from subquad.llm.models.convert import convert, feature_parameters
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.llm.training import transfer as transfer_module
from subquad.llm.training.metrics import run_teacher, transfer_errors
from subquad.llm.training.transfer import attention_weights_loss, freeze_for_transfer, transfer, transfer_step

IDS = torch.randint(2, 151, (2, 23), generator=torch.Generator().manual_seed(0))
SHAPES = ["terrace", "sliding", "none"]


def converted(**attention):
    """Return a model in float64 whose stage 1 parameters are drawn."""
    model = convert(tiny_model("llama").double(), small_attention(**{"window": 5, **attention}))
    freeze_for_transfer(model)
    generator = torch.Generator().manual_seed(1)
    for parameter in feature_parameters(model):
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return model


def step_metrics(model, ids=IDS, **settings):
    settings = LinearizeSettings(transfer_loss="attention_weights", **settings)
    return transfer_step(model, ids, torch.Tensor.backward, settings=settings)


@torch.no_grad()
def softmax_weights(ids=IDS):
    """Return what the model's own attention computes, layer by layer."""
    model = tiny_model("llama").double()
    model.set_attn_implementation("eager")
    return model(ids, output_attentions=True).attentions


def entropy(weights):
    return -torch.special.xlogy(weights, weights).sum(-1).mean()


@pytest.mark.parametrize("window_shape", ["terrace", "sliding"])
def test_the_minimum_of_the_cross_entropy_is_the_entropy_of_the_softmax_weights(window_shape):
    least = sum(entropy(weights) for weights in softmax_weights()) / 2
    found = step_metrics(converted(window=23, window_shape=window_shape))
    # transformers computes this softmax in float32
    torch.testing.assert_close(found["weights"], least.double(), rtol=1e-5, atol=0)
    assert float(found["outputs"]) == pytest.approx(0.0, abs=1e-12)
    assert float(step_metrics(converted(window=3, window_shape=window_shape))["weights"]) > 1.01 * float(least)


@pytest.mark.parametrize("feature_heads", ["query", "kv"])
@pytest.mark.parametrize("window_shape", SHAPES)
def test_the_cross_entropy_equals_its_formula(window_shape, feature_heads):
    model = converted(window_shape=window_shape, feature_heads=feature_heads)
    wanted, found = softmax_weights(), []

    def compare(layer, given, target, weights):
        ours, softmax = weights()
        # transformers computes this softmax in float32
        torch.testing.assert_close(softmax, wanted[layer].double(), rtol=1e-5, atol=1e-6)
        assert not softmax.requires_grad
        torch.testing.assert_close(ours.sum(-1), torch.ones_like(ours[..., 0]))
        found.append(-torch.special.xlogy(wanted[layer], ours).tril().sum(-1).mean())

    run_teacher(model, IDS, compare)
    torch.testing.assert_close(step_metrics(model)["weights"], sum(found) / 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
def test_the_loss_weights_both_parts(beta):
    found = step_metrics(converted(), cross_entropy_fraction=beta)
    torch.testing.assert_close(found["loss"], (1 - beta) * found["outputs"] + beta * found["weights"])
    assert float(found["outputs"]) == pytest.approx(
        float(transfer_step(converted(), IDS, torch.Tensor.backward)["loss"]), rel=1e-6
    )


@pytest.mark.parametrize("feature_map", ["hedgehog", "t2r"])
@pytest.mark.parametrize("window_shape", SHAPES)
def test_the_gradient_reaches_every_feature_map(window_shape, feature_map):
    model = converted(window_shape=window_shape, feature_map=feature_map)
    step_metrics(model, cross_entropy_fraction=1.0)
    for layer in model.model.layers:
        for name, parameter in layer.self_attn.hybrid.named_parameters():
            assert parameter.grad.isfinite().all()
            # without softmax terms the mixing term has no effect
            assert bool(parameter.grad.any()) == (name != "mix" or window_shape != "none"), name


def test_the_gradient_equals_finite_differences():
    model = converted(window_shape="sliding")
    step_metrics(model, cross_entropy_fraction=1.0)
    parameter = model.model.layers[1].self_attn.hybrid.map_k.weight
    slope, step = parameter.grad[3, 5, 7].item(), 1e-6
    values = []
    for sign in (1, -1):
        parameter.data[3, 5, 7] += sign * step
        # the loss of one layer is that of all, over their number
        values.append(2 * float(step_metrics(model, cross_entropy_fraction=1.0)["loss"]))
        parameter.data[3, 5, 7] -= sign * step
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-5)


def test_zero_features_give_a_finite_loss_and_gradient():
    model = converted(window_shape="none", feature_map="t2r")
    for layer in model.model.layers:
        # relu gives 0 for any query
        layer.self_attn.hybrid.map_q.bias.data[:] = -1e3
    found = step_metrics(model, cross_entropy_fraction=1.0)
    assert float(found["weights"]) == pytest.approx(-math.log(torch.finfo(torch.float64).eps))
    assert all(parameter.grad.isfinite().all() for parameter in feature_parameters(model))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_the_loss(side):
    ids, pad = IDS[:1, :17], torch.full((1, 6), 1)
    parts, real = ([ids, pad], [torch.ones_like(ids), torch.zeros_like(pad)])
    if side == "left":
        parts, real = parts[::-1], real[::-1]
    found = []

    def compare(layer, given, wanted, weights):
        found.append(attention_weights_loss(*weights()).detach())

    model = converted()
    run_teacher(model, ids, compare)
    padded, mask = torch.cat(parts, 1), torch.cat(real, 1)
    with attention_mode(model, "transfer", compare):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        model.base_model(padded, attention_mask=mask, position_ids=positions, use_cache=False)
    torch.testing.assert_close(torch.stack(found[:2]), torch.stack(found[2:]))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_transfer_reduces_the_cross_entropy(tokenizer, text, precision):
    model = convert(tiny_model("llama", vocab_size=len(tokenizer)), small_attention())
    made = prepare_text(tokenizer, [text], sequence_length=31)
    settings = LinearizeSettings(attention=small_attention(), sequence_length=31, transfer_loss="attention_weights")
    ids = made.holdout.ids[:5]

    def loss():
        return float(transfer_step(model, ids, lambda _: None, settings=settings)["weights"])

    before, errors = loss(), transfer_errors(model, ids)
    transfer(model, made.training.ids, settings, tokens=31 * 40, precision=precision, quiet=True)
    assert loss() < 0.98 * before
    assert all(new < old for new, old in zip(transfer_errors(model, ids), errors, strict=True))


@pytest.mark.parametrize("transfer_loss", ["mse", "relative", "attention_weights"])
def test_a_step_tells_the_relative_error_of_each_layer(transfer_loss):
    model = converted()
    metrics = transfer_step(model, IDS, torch.Tensor.backward, settings=LinearizeSettings(transfer_loss=transfer_loss))
    own = [float(metrics[f"error/{layer}"]) for layer in range(2)]
    assert own == pytest.approx(transfer_errors(model, IDS), rel=1e-5)


@pytest.mark.parametrize(
    ("how", "rate"), [({}, 0.3), ({"feature_map": "hedgehog"}, 0.03), ({"feature_map": "t2r", "rate": 0.02}, 0.02)]
)
def test_moments_are_transferred_at_a_higher_rate_than_feature_maps(tokenizer, text, monkeypatch, how, rate):
    given = how.pop("rate", None)
    attention = AttentionSettings(window=3, cache=5, **how)
    settings = LinearizeSettings(attention=attention, sequence_length=31, transfer_learning_rate=given)
    seen = []
    real = transfer_module.train_stage

    def recorded(*arguments, parameter_groups, **options):
        seen.extend(group["lr"] for group in parameter_groups)
        return real(*arguments, parameter_groups=parameter_groups, **options)

    monkeypatch.setattr(transfer_module, "train_stage", recorded)
    model = convert(tiny_model("llama", vocab_size=len(tokenizer)), attention)
    sequences = prepare_text(tokenizer, [text], sequence_length=31).training.ids
    transfer(model, sequences, settings, tokens=31, precision="float32", quiet=True)
    assert {*seen} == {rate}
