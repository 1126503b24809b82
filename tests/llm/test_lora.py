"""Fine-tuning with LoRA: the loss and its gradient, targets, learning rates and gradient checkpointing."""

import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.llm_models import small_attention, tiny_model

from subquad.errors import SubquadError
from subquad.llm.models.adapter import add_lora
from subquad.llm.models.convert import convert
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training import lora, losses
from subquad.llm.training.lora import fine_tune, fine_tune_step
from subquad.llm.training.metrics import run_teacher
from subquad.runs.history import read_history

IDS = torch.randint(2, 151, (2, 23), generator=torch.Generator().manual_seed(0))


def tuned(window=3, **settings):
    model = convert(tiny_model("llama"), small_attention(window=window))
    return add_lora(model, LinearizeSettings(**settings), seed=0)


def step_metrics(model, *, distillation_weight=0.0, **options):
    settings = LinearizeSettings(distillation_weight=distillation_weight)
    return fine_tune_step(model, IDS, torch.Tensor.backward, settings=settings, **options)


def test_a_window_over_the_whole_text_has_no_divergence_from_the_teacher():
    assert float(step_metrics(tuned(window=23), distillation_weight=1.0)["loss"]) == pytest.approx(0.0, abs=1e-5)
    assert float(step_metrics(tuned(window=3), distillation_weight=1.0)["loss"]) > 1e-2


def test_the_divergence_is_from_the_model_before_conversion():
    expected = tiny_model("llama")(IDS).logits[:, :-1].log_softmax(-1).detach()
    model = tuned()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    found = model(input_ids=IDS).logits[:, :-1].log_softmax(-1).detach()
    distance = (expected.exp() * (expected - found)).sum(-1).mean()
    assert float(step_metrics(model, distillation_weight=1.0)["divergence"]) == pytest.approx(float(distance), rel=1e-4)


def test_the_loss_weights_both_parts():
    model = tuned()
    parts = step_metrics(model, distillation_weight=0.25)
    with torch.no_grad():
        next_token = F.cross_entropy(model(input_ids=IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    assert float(parts["next_token"]) == pytest.approx(float(next_token), rel=1e-5)
    assert float(parts["loss"]) == pytest.approx(0.25 * float(parts["divergence"]) + 0.75 * float(next_token), rel=1e-5)
    assert float(step_metrics(model)["loss"]) == pytest.approx(float(next_token), rel=1e-5)


@pytest.mark.parametrize("distillation_weight", [0.0, 0.5])
def test_the_loss_covers_the_masked_tokens_only(distillation_weight):
    model, loss_mask = tuned(), torch.zeros(2, 23, dtype=torch.bool)
    loss_mask[0, 7:11] = True
    alone = step_metrics(model, loss_mask=loss_mask, distillation_weight=distillation_weight)
    with torch.no_grad():
        expected = F.cross_entropy(model(input_ids=IDS).logits[0, 6:10], IDS[0, 7:11])
    assert float(alone.get("next_token", alone["loss"])) == pytest.approx(float(expected), rel=1e-5)
    nothing = step_metrics(
        model, loss_mask=torch.zeros(2, 23, dtype=torch.bool), distillation_weight=distillation_weight
    )
    assert float(nothing["loss"]) == 0.0


@pytest.mark.parametrize("distillation_weight", [0.0, 0.3])
@pytest.mark.parametrize("at_a_time", [1, 151 * 5, 2**30])
def test_the_gradient_equals_autograd(monkeypatch, distillation_weight, at_a_time):
    monkeypatch.setattr(losses, "CPU_BLOCK", at_a_time)
    generator = torch.Generator().manual_seed(1)
    given, wanted = (torch.randn(2, 23, 151, generator=generator, dtype=torch.float64) for _ in range(2))
    given.requires_grad_()
    loss_mask = torch.rand(2, 23, generator=generator) < 0.6
    counts, targets = loss_mask[:, 1:], IDS[:, 1:]
    found = given[:, :-1].log_softmax(-1)
    next_token = F.nll_loss(found[counts], targets[counts])
    distance = (F.kl_div(found, wanted[:, :-1].log_softmax(-1), log_target=True, reduction="none").sum(-1))[counts]
    expected = distillation_weight * distance.mean() + (1 - distillation_weight) * next_token
    asked = {"teacher_logits": wanted, "distillation_weight": distillation_weight} if distillation_weight else {}
    loss, *_ = losses.language_model_loss(given, IDS, loss_mask=loss_mask, **asked)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(2 * loss, given)
    torch.testing.assert_close(gradient, torch.autograd.grad(2 * expected, given)[0], rtol=1e-4, atol=1e-7)


def test_updates_have_gradients_after_the_pass_of_the_teacher():
    model = tuned()
    step_metrics(model, distillation_weight=0.5)
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "lora_" in name)


@pytest.mark.parametrize("rate", [0.0, 1e-2])
def test_feature_maps_have_their_own_learning_rate_or_are_frozen(rate):
    model = tuned(feature_map_learning_rate=rate)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = LinearizeSettings(
        batch_size=2, sequence_length=23, feature_map_learning_rate=rate, lora_learning_rate=1e-5
    )
    fine_tune(model, IDS, settings, tokens=46 * 3, precision="float32", quiet=True)
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in model.named_parameters()}
    maps = [moved[name] for name in moved if ".hybrid.map_" in name]
    # a step of AdamW is about as long as its rate
    assert max(moved[name] for name in moved if "lora_" in name) < 1e-4
    assert (max(maps) > 1e-3) == (rate > 0)


@pytest.mark.parametrize("how", [{}, {"distillation_weight": 0.25}])
def test_accumulated_sequences_with_other_numbers_of_counting_tokens_have_the_gradient_of_one_batch(how):
    loss_mask = torch.zeros(2, 23, dtype=torch.bool)
    # 3 tokens of one sequence, as of a short answer, and 17 of the other
    loss_mask[0, 4:7], loss_mask[1, 5:22] = True, True
    documents = torch.arange(23).div(9, rounding_mode="floor").expand(2, 23)
    found, logged = [], []
    for batch_size, accumulation in ((2, 1), (1, 2)):
        model, gradients = tuned(), {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                # the last call of a step has the sum over its batches
                parameter.register_post_accumulate_grad_hook(
                    lambda own, name=name, into=gradients: into.update({name: own.grad.clone()})
                )
        settings = LinearizeSettings(
            batch_size=batch_size, gradient_accumulation=accumulation, sequence_length=23, **how
        )
        with tempfile.TemporaryDirectory() as work:
            options = {"loss_mask": loss_mask, "documents": documents, "directory": Path(work), "quiet": True}
            fine_tune(model, IDS, settings, tokens=46, precision="float32", **options)
            logged.append(read_history(Path(work))[0]["loss"])
        found.append(gradients)
    assert len(found[0]) > 10
    assert logged[0] == pytest.approx(logged[1], rel=1e-6)
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_updates_are_added_to_the_targets():
    model = tuned(lora_targets=("up_proj", "v_proj"))
    names = {name.split(".lora_")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_" in name}
    assert names == {"up_proj", "v_proj"}


def test_an_unknown_target_is_an_error():
    with pytest.raises(SubquadError, match=r"no linear layer 'q_prij'; did you mean 'q_proj'"):
        tuned(lora_targets=("q_prij",))


@pytest.mark.parametrize("documents", [None, torch.tensor([[0] * 9 + [1] * 14] * 2)])
def test_gradient_checkpointing_changes_no_gradient(documents):
    found = {}
    for checkpointing in (False, True):
        model = tuned(gradient_checkpointing=checkpointing).train()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
        calls = []
        layer = next(module for module in model.modules() if hasattr(module, "hybrid")).hybrid
        layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        step_metrics(model, distillation_weight=0.5, documents=documents)
        found[checkpointing] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        # once more in the backward pass; separate documents are several calls
        assert len(calls) % (1 + checkpointing) == 0
        assert (len(calls) > (1 if documents is None else 4)) == checkpointing
    for name, gradient in found[False].items():
        torch.testing.assert_close(found[True][name], gradient)


def test_a_tied_output_head_is_not_a_valid_target():
    model = convert(tiny_model("llama", tie_word_embeddings=True), small_attention())
    with pytest.raises(SubquadError, match="lm_head cannot be updated: its weight is tied to the embedding"):
        add_lora(model, LinearizeSettings(lora_targets=("q_proj", "lm_head")), seed=0)
    assert add_lora(
        convert(tiny_model("llama"), small_attention()), LinearizeSettings(lora_targets=("lm_head",)), seed=0
    )


def test_distillation_requires_teacher_logits():
    with pytest.raises(ValueError, match="no teacher logits"):
        losses.language_model_loss(torch.zeros(1, 3, 5), torch.zeros(1, 3, dtype=torch.long), distillation_weight=0.5)


@pytest.mark.parametrize("how", [{}, {"distillation_weight": 0.5}])
def test_validation_has_the_loss_that_is_trained(how):
    model, settings = tuned(), LinearizeSettings(**how)
    loss_mask = torch.rand(2, 23, generator=torch.Generator().manual_seed(1)) < 0.4
    documents = torch.arange(23).div(9, rounding_mode="floor").expand(2, 23)
    expected = fine_tune_step(model, IDS, lambda _: None, loss_mask=loss_mask, documents=documents, settings=settings)[
        "loss"
    ]
    given = lora._validation_loss(model, IDS, settings, loss_mask=loss_mask, documents=documents)
    assert given == pytest.approx(float(expected), rel=1e-5)
    assert given != pytest.approx(lora._validation_loss(model, IDS, settings, loss_mask=None, documents=None), rel=1e-3)


def test_a_teacher_has_no_dropout():
    model = add_lora(
        convert(tiny_model("phi3", resid_pdrop=0.4), small_attention(window=3)), LinearizeSettings(), seed=0
    ).train()
    settings = LinearizeSettings(distillation_weight=1.0)
    teachers = []

    def keep(module, arguments, output):
        if not module.training:
            teachers.append(output.logits.detach())

    hook = lora._callable_model(model).register_forward_hook(keep)
    for _ in range(2):
        fine_tune_step(model, IDS, lambda _: None, settings=settings)
    hook.remove()
    assert torch.equal(*teachers)
    assert all(module.training for module in model.modules())

    targets = []
    for _ in range(2):
        own = []
        run_teacher(model.model, IDS, lambda layer, given, target, own=own: own.append(target))
        targets.append(torch.stack(own))
    assert torch.equal(*targets)
