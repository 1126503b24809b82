"""Learning rate schedules of both stages, and early stopping."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from support.llm_models import SMALL, tiny_model

import subquad.llm
from subquad.llm.data.packing import prepare_text
from subquad.llm.models.adapter import add_lora
from subquad.llm.models.convert import convert
from subquad.llm.training import lora, stages, transfer
from subquad.llm.training.blockwise import transfer_blockwise
from subquad.runs.folder import WORK
from subquad.runs.storage import read_tensors, read_tensors_and_metadata

pytestmark = pytest.mark.slow

STEPS = 13
TOKENS = {"transfer_tokens": 31 * STEPS, "lora_tokens": 31 * STEPS}
STAGES = ["transfer", "lora"]


def rates(monkeypatch, tokenizer, text, stage, validations=(), **how):
    """Return the factor on the rates at each step of a stage whose validations find these losses, and its outcome."""
    settings, factors, losses = replace(SMALL, **TOKENS, **how), [], iter(validations)
    place, step = {"transfer": (transfer, "transfer_step"), "lora": (lora, "fine_tune_step")}[stage]
    real_train, real_step = stages.train, getattr(place, step)

    def watched_train(model, *, optimizer, **options):
        peak = optimizer.param_groups[0]["lr"]

        def watched_step(*arguments, **more):
            factors.append(optimizer.param_groups[0]["lr"] / peak)
            return real_step(*arguments, **more)

        monkeypatch.setattr(place, step, watched_step)
        return real_train(model, optimizer=optimizer, **options)

    monkeypatch.setattr(stages, "train", watched_train)
    monkeypatch.setattr(transfer, "transfer_errors", lambda *_, **__: [next(losses)])
    monkeypatch.setattr(lora, "_validation_loss", lambda *_, **__: next(losses))
    made = prepare_text(tokenizer, [text], sequence_length=31)
    model = convert(tiny_model("llama", vocab_size=len(tokenizer)), settings.attention)
    options = {"tokens": 31 * STEPS, "precision": "float32", "validation": made.holdout.ids[:1], "quiet": True}
    if stage == "transfer":
        return factors, transfer.transfer(model, made.training.ids, settings, **options)
    return factors, lora.fine_tune(add_lora(model, settings, seed=0), made.training.ids, settings, **options)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("transfer", [1 - step / STEPS for step in range(STEPS)]),
        ("lora", [0.0] + [(1 - step / STEPS) / 0.9 if step >= 1.3 else step / 1.3 for step in range(1, STEPS)]),
    ],
)
def test_default_schedules_of_both_stages(monkeypatch, tokenizer, text, stage, expected):
    factors, outcome = rates(monkeypatch, tokenizer, text, stage)
    assert factors == pytest.approx(expected)
    assert (outcome.steps, outcome.stopped_early) == (STEPS, False)


@pytest.mark.parametrize("stage", STAGES)
def test_the_warmup_fraction_applies_to_both_stages(monkeypatch, tokenizer, text, stage):
    factors, _ = rates(monkeypatch, tokenizer, text, stage, warmup_fraction=5 / STEPS)
    rising, falling = [step / 5 for step in range(5)], [1 - step / 8 for step in range(8)]
    assert factors == pytest.approx(rising + falling)


@pytest.mark.parametrize("stage", STAGES)
def test_patience_stops_a_stage_early(monkeypatch, tokenizer, text, stage):
    losses = [5.0, 4.0, 4.5, 4.2, 4.1, 1.0]
    factors, outcome = rates(monkeypatch, tokenizer, text, stage, losses, patience=3, validate_every=2)
    assert (len(factors), outcome.steps, outcome.best_step, outcome.stopped_early) == (10, 10, 4, True)


def test_patience_that_runs_out_at_the_last_step_is_not_early_stopping(monkeypatch, tokenizer, text):
    losses = [4.0, 5.0]
    _, outcome = rates(monkeypatch, tokenizer, text, "transfer", losses, patience=1, validate_every=7)
    assert (outcome.steps, outcome.best_step, outcome.stopped_early) == (STEPS, 7, False)


def test_each_block_stops_early_by_itself(monkeypatch, folder, tokenizer, text, tmp_path):
    settings = replace(SMALL, **TOKENS, patience=2, validate_every=2)
    losses = iter([5.0, 6.0, 7.0, 5.0, 4.0, 3.0, 3.5, 3.6])
    monkeypatch.setattr(transfer, "transfer_errors", lambda *_, **__: [next(losses)])
    made = prepare_text(tokenizer, [text], sequence_length=31)
    found = transfer_blockwise(
        folder, made.training.ids, settings, block_layers=1, tokens=31 * STEPS, directory=tmp_path,
        validation=made.holdout.ids[:1], quiet=True,
    )  # fmt: skip
    assert [(outcome.steps, outcome.best_step) for outcome in found.blocks] == [(6, 2), (10, 6)]
    assert (found.steps, found.stopped_early) == (10, True)


@pytest.mark.long
@pytest.mark.parametrize("block", [None, 1])
def test_metrics_and_page_have_the_steps_taken(monkeypatch, folder, text, tmp_path, block):
    monkeypatch.setattr(transfer, "transfer_errors", lambda *_, **__: [1.0])
    monkeypatch.setattr(lora, "_validation_loss", lambda *_, **__: 1.0)
    settings = replace(SMALL, **TOKENS, patience=2, validate_every=2, block_layers=block)
    metrics = subquad.llm.linearize(folder, text, settings, out=tmp_path / "out", quiet=True)
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["tokens"] == {"transfer": 31 * 6, "lora": 31 * 6}
    assert metrics["stopped_early"] == {"transfer": True, "lora": True}
    for name in ("report.html", "README.md"):
        words = (tmp_path / "out" / name).read_text()
        assert "186 tokens of attention transfer" in words
        assert "validation did not improve: attention transfer, fine-tuning." in words


@pytest.mark.long
@pytest.mark.parametrize("block", [None, 1])
def test_an_interrupted_run_with_validation_resumes_to_the_same_weights(monkeypatch, folder, text, tmp_path, block):
    # a high learning rate makes stage 1 worse, and a mock of the loss lets stage 2 get worse with every step
    def size(net, *_, **__):
        return sum(float(tensor.square().sum()) for name, tensor in net.named_parameters() if "lora_B" in name)

    monkeypatch.setattr(lora, "_validation_loss", size)
    settings = replace(
        SMALL, **TOKENS, warmup_fraction=0.1, patience=3, validate_every=1, block_layers=block,
        transfer_learning_rate=1.0,
    )  # fmt: skip
    monkeypatch.setattr(stages, "LoopSettings", partial(stages.LoopSettings, save_seconds=0.0))
    run = partial(subquad.llm.linearize, folder, text, settings, quiet=True)
    whole = run(out=tmp_path / "whole")
    part = "transfer" if block is None else "transfer-0"
    kills = (
        # with one validation that was no best, and with two
        (transfer, "transfer_step", 3, part, 1),
        (transfer, "transfer_step", 2, part, 2),
        (lora, "fine_tune_step", 3, "lora", 1),
        (lora, "fine_tune_step", 2, "lora", 2),
    )
    for place, name, last, checkpoint, since_best in kills:
        calls, real = [], getattr(place, name)

        def killed(*given, calls=calls, real=real, last=last, **how):
            calls.append(1)
            if len(calls) == last:
                raise KeyboardInterrupt
            return real(*given, **how)

        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed)
            with pytest.raises(KeyboardInterrupt):
                run(out=tmp_path / "out")
        header = read_tensors_and_metadata(tmp_path / "out" / WORK / f"checkpoint-{checkpoint}.safetensors")[1]
        state = json.loads(header["state"])
        assert state["since_best"] == since_best
    metrics = run(out=tmp_path / "out")
    assert metrics["tokens"] == whole["tokens"]
    assert metrics["stopped_early"] == whole["stopped_early"] == {"transfer": True, "lora": True}
    expected, given = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert expected.keys() == given.keys()
    assert all(torch.equal(expected[name], given[name]) for name in expected)
    lines = [
        [{**json.loads(line), "seconds": 0} for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("whole", "out")
    ]
    assert lines[0] == lines[1]


@pytest.mark.long
@pytest.mark.parametrize("block", [None, 1])
def test_accumulated_gradients_are_those_of_a_larger_batch(folder, text, tmp_path, block):
    made = {}
    for name, how in {
        "batch": {"batch_size": 2},
        "accumulated": {"gradient_accumulation": 2},
        "single": {},
    }.items():
        settings = replace(SMALL, transfer_tokens=31 * 8, lora_tokens=31 * 6, block_layers=block, **how)
        metrics = subquad.llm.linearize(folder, text, settings, out=tmp_path / name, quiet=True)
        assert metrics["tokens"] == {"transfer": 31 * 8, "lora": 31 * 6}
        made[name] = read_tensors(tmp_path / name / "model.safetensors")
    for tensor, expected in made["batch"].items():
        torch.testing.assert_close(made["accumulated"][tensor], expected, rtol=1e-3, atol=1e-4)
    differs = [not torch.allclose(made["single"][name], made["batch"][name], rtol=1e-3) for name in made["batch"]]
    assert sum(differs) > len(differs) / 2
