"""Windows drawn for each training sequence: what a step computes, which are drawn, and where none are."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from support.llm_models import SMALL, small_attention, tiny_model

from subquad.errors import SubquadError
from subquad.llm.models.adapter import add_lora
from subquad.llm.models.attention import attention_layers, attention_mode
from subquad.llm.models.convert import convert, feature_parameters
from subquad.llm.models.documents import separate_documents
from subquad.llm.models.windows import drawn_windows
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training import stages
from subquad.llm.training.lora import draw_windows, fine_tune, fine_tune_step

IDS = torch.randint(2, 151, (3, 29), generator=torch.Generator().manual_seed(0))
OWN = small_attention(window=7, sinks=2)
DRAWN = {3: replace(OWN, window=3), 5: replace(OWN, window=5), 7: OWN}
DOCUMENTS = torch.tensor([[0] * 29, [0] * 11 + [1] * 18, [0] * 5 + [1] * 13 + [2] * 11])


def converted(attention=OWN):
    model = convert(tiny_model("llama"), attention).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in feature_parameters(model):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def gradients(model, logits, weights):
    parameters = feature_parameters(model)
    return torch.autograd.grad((logits * weights).sum(), parameters)


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["joined", "separate"])
def test_each_sequence_is_computed_with_its_window_and_so_is_its_gradient(documents):
    windows, model = [7, 5, 3], converted()
    weights = torch.randn(3, 29, 151, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with separate_documents(model, documents), drawn_windows(model, windows):
        given = model(input_ids=IDS, use_cache=False).logits
    found = gradients(model, given, weights)
    total = [torch.zeros_like(gradient) for gradient in found]
    for row, window in enumerate(windows):
        alone, of_row = converted(DRAWN[window]), slice(row, row + 1)
        with separate_documents(alone, None if documents is None else documents[of_row]):
            expected = alone(input_ids=IDS[of_row], use_cache=False).logits
        torch.testing.assert_close(given[of_row], expected)
        total = [a + b for a, b in zip(total, gradients(alone, expected, weights[of_row]), strict=True)]
    for one, other in zip(found, total, strict=True):
        torch.testing.assert_close(one, other)


def test_softmax_attention_has_no_window_and_the_model_keeps_its_own():
    model = converted()
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
        with attention_mode(model, "softmax"):
            softmax = model(input_ids=IDS, use_cache=False).logits
            with drawn_windows(model, [3, 5, 7]):
                torch.testing.assert_close(model(input_ids=IDS, use_cache=False).logits, softmax)
        torch.testing.assert_close(model(input_ids=IDS, use_cache=False).logits, expected)
    assert all(
        (layer.hybrid.window, layer.hybrid.sinks, layer.windows) == (7, 2, None) for layer in attention_layers(model)
    )


def test_gradient_checkpointing_recomputes_with_the_drawn_windows():
    losses, found = [], []
    for is_checkpointed in (False, True):
        settings = LinearizeSettings(lora_rank=3, gradient_checkpointing=is_checkpointed)
        model = add_lora(convert(tiny_model("llama"), OWN), settings, seed=0).train()
        metrics = fine_tune_step(model, IDS, torch.Tensor.backward, windows=[3, 5, 7])
        losses.append(float(metrics["loss"]))
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_windows_are_drawn_by_seed_and_epoch_alone():
    draw = partial(draw_windows, [2, 2, 1], (3, 5, 7))
    assert draw(seed=0, epoch=0) == draw(seed=0, epoch=0)
    assert [len(batch) for batch in draw(seed=0, epoch=0)] == [2, 2, 1]
    many = [tuple(map(tuple, draw(seed=seed, epoch=epoch))) for seed in range(4) for epoch in range(4)]
    assert len(set(many)) > 12
    counts = torch.tensor(draw_windows([3000], (3, 5, 7), seed=0, epoch=0)[0]).unique(return_counts=True)
    assert counts[0].tolist() == [3, 5, 7]
    assert (counts[1] > 900).all()
    assert draw_windows([2, 1], (), seed=0, epoch=0) == [None, None]


SEQUENCES = torch.randint(2, 151, (6, 31), generator=torch.Generator().manual_seed(3))
SETTINGS = replace(SMALL, attention=OWN, random_windows=(3, 5, 7), batch_size=2, lora_rank=3, validate_every=2)


def trained(settings, directory=None, calls=None, stop_after=None):
    """Return the tensors after fine-tuning; `calls` gets the windows of each step and of each validation."""
    model = add_lora(convert(tiny_model("llama"), OWN), settings, seed=0)
    first = attention_layers(model)[0]
    seen = []

    def look(module, *_):
        seen.append((module.training, module.windows))
        if stop_after is not None and sum(is_training for is_training, _ in seen) > stop_after:
            raise KeyboardInterrupt

    first.register_forward_pre_hook(look)
    try:
        fine_tune(
            model, SEQUENCES[:5], settings, tokens=31 * 14, precision="float32", validation=SEQUENCES[5:], quiet=True,
            directory=directory, seed=4,
        )  # fmt: skip
    finally:
        if calls is not None:
            calls += seen
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_drawn_windows_are_those_of_training_and_never_of_validation():
    calls = []
    trained(SETTINGS, calls=calls)
    training = [windows for is_training, windows in calls if is_training]
    # batches of five sequences without the last, over several epochs
    expected = [own for epoch in range(4) for own in draw_windows([2, 2], (3, 5, 7), seed=4, epoch=epoch)]
    assert training == expected[: len(training)]
    assert len(training) == 7
    validation = [windows for is_training, windows in calls if not is_training]
    assert validation
    assert set(validation) == {None}
    plain = trained(replace(SETTINGS, random_windows=()))
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in trained(SETTINGS).items())


def test_a_resumed_stage_draws_the_same_windows(tmp_path, monkeypatch):
    # a checkpoint behind every step
    monkeypatch.setattr(stages, "LoopSettings", partial(stages.LoopSettings, save_seconds=0.0))
    whole = trained(SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        trained(SETTINGS, tmp_path, stop_after=3)
    assert list(tmp_path.rglob("checkpoint-*"))
    resumed = trained(SETTINGS, tmp_path)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


@pytest.mark.parametrize("windows", [(3, 9), (1, 3)])
def test_windows_that_cannot_be_drawn_are_refused(windows):
    with pytest.raises(SubquadError, match=r"--random-windows .* must be from 2 .* to 7"):
        LinearizeSettings(attention=OWN, random_windows=windows)
    # an adapter has its own attention, which is not known yet
    continued = LinearizeSettings(random_windows=(96,), from_=Path("adapter"))
    with pytest.raises(SubquadError, match="96 must be from 4"):
        continued.check_random_windows()
    assert LinearizeSettings(attention=OWN, random_windows=[3, 7]).random_windows == (3, 7)  # pyright: ignore
