"""Attention transfer: the errors that a step tells, and its learning rate."""

import pytest
import torch
from support.llm_models import small_attention, tiny_model

from subquad.llm.data.packing import prepare_text
from subquad.llm.models.convert import convert
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.llm.training import transfer as transfer_module
from subquad.llm.training.metrics import transfer_errors
from subquad.llm.training.transfer import freeze_for_transfer, transfer, transfer_step

IDS = torch.randint(2, 151, (2, 23), generator=torch.Generator().manual_seed(0))


def test_a_step_tells_the_relative_error_of_each_layer():
    model = convert(tiny_model("llama").double(), small_attention(window=5))
    freeze_for_transfer(model)
    metrics = transfer_step(model, IDS, torch.Tensor.backward)
    errors = [float(metrics[f"error/{layer}"]) for layer in range(2)]
    assert errors == pytest.approx(transfer_errors(model, IDS), rel=1e-5)


@pytest.mark.parametrize(
    ("how", "rate"), [({}, 0.3), ({"feature_map": "hedgehog"}, 0.03), ({"feature_map": "hedgehog", "rate": 0.02}, 0.02)]
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
