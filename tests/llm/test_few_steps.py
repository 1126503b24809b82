"""What a run says before it begins if --minutes are enough for few steps only."""

from types import SimpleNamespace

import pytest
import torch
from support.llm_models import linear_model, small_attention

from subquad.llm.commands.linearization import Linearization
from subquad.llm.plots.linearize_result import FEW_STEPS
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training.budget import TokenBudget

LENGTH = 31


@pytest.fixture
def described(folder, tmp_path, capsys):
    """Return a function of the steps of both stages to what is printed about them."""

    def printed(transfer, lora, *, quiet=False, **settings):
        settings = LinearizeSettings(attention=small_attention(), sequence_length=LENGTH, batch_size=1, **settings)
        run = SimpleNamespace(directory=tmp_path, settings={"text": ["words.txt"]})
        ids = torch.zeros(101, LENGTH, dtype=torch.long)
        data = SimpleNamespace(
            holdout=SimpleNamespace(ids=ids[:3]), training=SimpleNamespace(ids=ids), holdout_source="the last tenth"
        )
        linearization = Linearization(run, settings, data, None, seed=0, quiet=quiet)
        tokens = {"transfer_tokens": transfer * LENGTH, "lora_tokens": lora * LENGTH}
        budget = TokenBudget(precision="float32", evaluation_sequences=3, **tokens)
        linearization.describe(linear_model(), str(folder), budget)
        return capsys.readouterr().err

    return printed


def test_few_steps_in_the_time_that_was_given_are_named(described):
    text = described(1, FEW_STEPS - 1)
    end = f"too few to judge the student by ({FEW_STEPS} are the least); give more --minutes"
    assert f"1 step of attention transfer: {end}" in text
    assert f"{FEW_STEPS - 1} steps of fine-tuning: {end}" in text


def test_enough_steps_or_tokens_that_were_given_have_no_such_message(described):
    assert "too few" not in described(FEW_STEPS, FEW_STEPS)
    assert "too few" not in described(1, 1, transfer_tokens=LENGTH, lora_tokens=LENGTH)
    assert described(1, 1, quiet=True) == ""
