"""What a run says before it begins if --minutes are enough for few steps only."""

from types import SimpleNamespace

import pytest
import torch
from support.llm_models import linear_model, small_attention

from subquad.llm.commands.linearization import Linearization
from subquad.llm.data.packing import PackedSequences
from subquad.llm.plots.linearize_page import FEW_STEPS
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training.budget import TokenBudget, divide_time, enough_minutes
from subquad.llm.training.stages import steps_for

LENGTH = 31
SECONDS = {"evaluate": 0.5, "transfer": 1.0, "lora": 2.0}


@pytest.fixture
def described(folder, tmp_path, capsys):
    """Return a function of the steps of both stages to what is printed about them."""

    def printed(transfer, lora, *, quiet=False, is_resumed=False, **settings):
        settings = LinearizeSettings(attention=small_attention(), sequence_length=LENGTH, batch_size=1, **settings)
        run = SimpleNamespace(directory=tmp_path, settings={"text": ["words.txt"]}, is_resumed=is_resumed)
        ids = torch.zeros(101, LENGTH, dtype=torch.long)
        packed = PackedSequences(ids=ids, documents=ids, loss_mask=ids == 0)
        data = SimpleNamespace(holdout=packed[:3], training=packed, holdout_source="the last tenth")
        linearization = Linearization(run, settings, data, None, seed=0, quiet=quiet)
        tokens = {"transfer_tokens": transfer * LENGTH, "lora_tokens": lora * LENGTH}
        budget = TokenBudget(precision="float32", evaluation_sequences=3, seconds_per_sequence=SECONDS, **tokens)
        linearization.notes["seconds"] = {"load": 20.0, "timing": 10.0}
        linearization.describe(linear_model(), str(folder), budget)
        return capsys.readouterr().err

    return printed


def test_few_steps_in_the_time_that_was_given_are_named(described):
    end = "too few to judge the student by; 4 of each stage are the least, for which this computer needs about "
    text = described(1, FEW_STEPS - 1)
    assert f"1 step of attention transfer and 3 steps of fine-tuning: {end}" in text
    assert f"\n3 steps of fine-tuning: {end}" in f"\n{described(FEW_STEPS, 3)}"
    first, _ = described(FEW_STEPS, 3).splitlines()
    assert "attention transfer" not in first


@pytest.mark.parametrize("spent", [30.0, 300.0])
@pytest.mark.parametrize("accumulation", [1, 8])
def test_the_minutes_for_a_number_of_steps_are_the_least(spent, accumulation):
    settings = LinearizeSettings(
        attention=small_attention(), sequence_length=LENGTH, batch_size=1, gradient_accumulation=accumulation
    )
    text = SimpleNamespace(holdout=range(9))
    budget = TokenBudget(
        precision="float32", evaluation_sequences=1, transfer_tokens=1, lora_tokens=1, seconds_per_sequence=SECONDS
    )
    minutes = enough_minutes(FEW_STEPS, budget, text, settings, spent=spent)
    steps = []
    for given in (minutes - 1, minutes):
        found = divide_time(60 * given - spent, SECONDS, settings, precision="float32", sequences=9)
        steps.append(min(steps_for(tokens, settings) for tokens in (found.transfer_tokens, found.lora_tokens)))
    assert steps[0] < FEW_STEPS <= steps[1]


def test_enough_steps_or_tokens_that_were_given_have_no_such_message(described):
    assert "too few" not in described(FEW_STEPS, FEW_STEPS)
    assert "too few" not in described(1, 1, transfer_tokens=LENGTH, lora_tokens=LENGTH)
    assert described(1, 1, quiet=True) == ""
    # its minutes cannot change any more
    assert "too few" not in described(1, 1, is_resumed=True)
