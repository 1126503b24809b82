"""Settings of `subquad llm linearize`: what they reject, and when the command reports it."""

from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from support.llm_models import write_text

import subquad.llm
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.nn.attention import FEATURE_MAPS, FeatureMap


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence_length": 1}, "--sequence-length must be at least 2, got 1"),
        ({"patience": 0, "validate_every": 3}, "--patience must be at least 1, got 0"),
        ({"transfer_learning_rate": 0.0}, "--transfer-learning-rate must be greater than 0, got 0.0"),
        ({"feature_map_learning_rate": float("nan")}, "--feature-map-learning-rate must be a finite number, got nan"),
        ({"distillation_weight": 1.5}, "--distillation-weight must be from 0 to 1, got 1.5"),
        ({"text_weights": (1.0, 0.0)}, "--text-weights must all be greater than 0 and finite, got 1 0"),
        ({"text_weights": (1.0, float("nan"))}, "--text-weights must all be greater than 0 and finite, got 1 nan"),
        ({"lora_targets": ()}, "--lora-targets: at least one is required"),
        ({"lora_targets": ("all-linear", "lm_head")}, "all-linear cannot be combined with other names"),
        ({"precision": "fp8"}, "--precision must be one of auto, float32, bfloat16, got 'fp8'"),
        ({"transfer_tokens": 5}, "--transfer-tokens requires --lora-tokens"),
        (
            {"transfer_tokens": 5, "lora_tokens": 5, "minutes": 1},
            "--minutes and --lora-tokens exclude each other",
        ),
        ({"warmup_fraction": 1.0}, "--warmup-fraction must be at least 0 and less than 1, a fraction .* got 1.0"),
        ({"warmup_fraction": float("nan")}, "--warmup-fraction must be a finite number, got nan"),
        ({"patience": 3}, "--patience 3 requires --validate-every N, the steps between validations"),
        (
            {"documents": "separate", "block_layers": 1, "transfer_tokens": 5, "lora_tokens": 5},
            "--block-layers requires --documents joined",
        ),
        (
            {"from_": Path("a"), "transfer_tokens": 5, "lora_tokens": 5},
            "whose attention was transferred; omit --transfer",
        ),
        ({"from_": Path("a"), "controls": True}, "--controls cannot be used with --from"),
        ({"minutes": 1, "lora_tokens": 5}, "--minutes and --lora-tokens exclude each other"),
        ({"from_": Path("a"), "lora_tokens": 5, "minutes": 1}, "--minutes and --lora-tokens exclude each other"),
        ({"block_layers": 2}, "--block-layers requires --transfer-tokens and --lora-tokens"),
        ({"block_layers": 0}, "--block-layers must be at least 1, got 0"),
        (
            {"shard": True, "block_layers": 1, "transfer_tokens": 5, "lora_tokens": 5},
            "--shard and --block-layers exclude each other",
        ),
        (
            {"softmax_layers": 1, "attention": AttentionSettings(softmax_layers=(0,))},
            "--softmax-layers and --attention.softmax-layers exclude each other",
        ),
        ({"from_": Path("a"), "softmax_layers": 1}, "--softmax-layers cannot be used with --from"),
        ({"standalone": True, "save": "adapter"}, "--standalone requires --save model"),
        ({"dtype": "bfloat16", "precision": "float32"}, "--dtype bfloat16 implies products in bfloat16"),
    ],
)
def test_invalid_settings_are_rejected_by_flag(change, message):
    with pytest.raises(SubquadError, match=message):
        LinearizeSettings(**change)


def test_one_lora_target_may_be_a_string():
    assert LinearizeSettings(lora_targets="q_proj").lora_targets == ("q_proj",)


def test_conflicting_flags_are_reported_by_the_command_before_anything_is_read(tmp_path, capsys):
    flags = ["--patience", "2", "--warmup-fraction", "0.2"]
    command = ["llm", "linearize", "nowhere", "--text", "nothing.txt", "--out", str(tmp_path / "out"), *flags]
    assert main(command) == 2
    assert "--patience 2 requires --validate-every" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_short_text_and_settings_that_do_not_fit_are_refused_before_the_model_is_opened(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("subquad.llm.commands.linearize.open_checkpoint", lambda *_, **__: pytest.fail("opened"))
    long, short = write_text(tmp_path / "long.txt"), write_text(tmp_path / "short.txt", words=9)

    def rejected(message, text, **settings):
        settings = LinearizeSettings(attention=AttentionSettings(window=3, cache=0), **settings)
        with pytest.raises(SubquadError, match=message):
            subquad.llm.linearize(folder, text, settings, out=tmp_path / "out", quiet=True)

    rejected(r"short.txt: \d+ tokens, and two sequences of 31 are needed", short, sequence_length=31)
    monkeypatch.setattr("subquad.llm.commands.linearize.open_tokenizer", lambda *_, **__: pytest.fail("opened"))
    rejected("q_porj", long, sequence_length=31, lora_targets=("q_porj",))
    rejected("the model supports at most", long, sequence_length=100_000)
    rejected("9 softmax layers: none of 2 is left", long, sequence_length=31, softmax_layers=9)


def test_the_settings_offer_every_feature_map():
    # written out there, since help must not import torch
    assert get_args(FeatureMap) == tuple(FEATURE_MAPS)
    offered, _ = get_args(get_type_hints(AttentionSettings)["feature_map"])
    assert {*get_args(offered)} == {*FEATURE_MAPS, "moments"}


@pytest.mark.parametrize("kind", ["moments", "none"])
def test_what_only_feature_maps_have_is_refused_without_them(kind):
    with pytest.raises(SubquadError, match=rf"{kind} has no feature maps; add --attention\.feature-map hedgehog"):
        AttentionSettings(horizon=9.0, feature_map=kind)
    AttentionSettings(horizon=9.0, feature_map="hedgehog")


def test_there_is_no_attention_transfer_without_a_linear_branch():
    attention = AttentionSettings(feature_map="none")
    with pytest.raises(
        SubquadError, match=r"there is no attention transfer with --attention\.feature-map none; omit it"
    ):
        LinearizeSettings(attention=attention, lora_tokens=31, block_layers=2)
    with pytest.raises(SubquadError, match=r"--transfer-tokens requires --lora-tokens"):
        LinearizeSettings(attention=attention, transfer_tokens=31)
    # as from a recipe
    settings = LinearizeSettings(attention=attention, transfer_tokens=31, lora_tokens=31)
    assert settings == LinearizeSettings(attention=attention, lora_tokens=31)
    assert not settings.has_transfer


def test_a_cache_and_moments_are_the_default_with_terraces():
    default = AttentionSettings()
    assert (default.cache, default.feature_map, default.sinks, default.horizon) == (384, "moments", 4, 0)
    for how in ({"window_shape": "sliding"},):
        other = AttentionSettings(**how)
        assert (other.cache, other.feature_map, other.horizon) == (0, "hedgehog", 1024), how
