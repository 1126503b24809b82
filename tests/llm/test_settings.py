"""Settings of `subquad llm linearize`: which combinations they refuse, and when the command says so."""

from pathlib import Path
from typing import get_args, get_type_hints
from unittest.mock import patch

import pytest
from support.llm_models import write_text

import subquad.llm
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.nn.attention import FEATURE_MAPS, FeatureMap

TOKENS = {"transfer_tokens": 5, "lora_tokens": 5}
ADAPTER = {"from_": Path("a")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_targets": ("all-linear", "lm_head")}, "all-linear cannot be combined with other names"),
        ({"transfer_tokens": 5}, "--transfer-tokens requires --lora-tokens"),
        ({**TOKENS, "minutes": 1.0}, "--minutes and --lora-tokens exclude each other"),
        ({"patience": 3}, "--patience .* requires --validate-every"),
        ({**TOKENS, "documents": "separate", "block_layers": 1}, "--block-layers requires --documents joined"),
        ({**ADAPTER, **TOKENS}, "whose attention was transferred; omit --transfer"),
        ({**ADAPTER, "controls": True}, "--controls cannot be used with --from"),
        ({**ADAPTER, "softmax_layers": 1}, "--softmax-layers cannot be used with --from"),
        ({"block_layers": 2}, "--block-layers requires --transfer-tokens and --lora-tokens"),
        ({**TOKENS, "shard": True, "block_layers": 1}, "--shard and --block-layers exclude each other"),
        (
            {"softmax_layers": 1, "attention": AttentionSettings(softmax_layers=(0,))},
            "--softmax-layers and --softmax-indices exclude each other",
        ),
        ({"standalone": True, "save": "adapter"}, "--standalone requires --save model"),
        ({"dtype": "bfloat16", "precision": "float32"}, "--dtype bfloat16 implies products in bfloat16"),
    ],
)
def test_combinations_that_cannot_work_are_refused_by_flag(change, message):
    with pytest.raises(SubquadError, match=message):
        LinearizeSettings(**change)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--softmax-layers", "3"], (3, ())),
        (["--softmax-indices", "5", "0"], (0, (0, 5))),
        ("softmax-layers: 2", (2, ())),
        ("softmax-indices: [0, 5]", (0, (0, 5))),
        ("attention:\n  window: 7\nsoftmax-indices: [1]", (0, (1,))),
    ],
)
def test_layers_that_keep_softmax_attention_are_counted_or_named(flags, expected, folder, text, tmp_path):
    if isinstance(flags, str):
        (tmp_path / "recipe.yaml").write_text(flags)
        flags = ["--config", str(tmp_path / "recipe.yaml")]
    command = ["llm", "linearize", str(folder), "--text", str(text), "--out", str(tmp_path / "out"), "--quiet"]
    with patch("subquad.llm.commands.linearize.linearize", return_value={}) as run:
        assert main([*command, *flags]) == 0
    settings = run.call_args.args[2]
    assert (settings.softmax_layers, settings.attention.softmax_layers) == expected


def test_conflicting_flags_are_reported_by_the_command_before_anything_is_read(tmp_path, capsys):
    command = ["llm", "linearize", "nowhere", "--text", "nothing.txt", "--out", str(tmp_path / "out")]
    assert main([*command, "--patience", "2"]) == 2
    assert "requires --validate-every" in capsys.readouterr().err
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
    assert {*get_args(offered)} == {*FEATURE_MAPS, "moments", "none"}


@pytest.mark.parametrize("kind", ["moments", "none"])
def test_what_only_feature_maps_have_is_refused_without_them(kind):
    with pytest.raises(SubquadError, match=rf"{kind} has no feature maps"):
        AttentionSettings(horizon=9.0, feature_map=kind)
    AttentionSettings(horizon=9.0, feature_map="hedgehog")


def test_there_is_no_attention_transfer_without_a_linear_branch():
    attention = AttentionSettings(feature_map="none")
    with pytest.raises(SubquadError, match="there is no attention transfer"):
        LinearizeSettings(attention=attention, lora_tokens=31, block_layers=2)
    with pytest.raises(SubquadError, match=r"--transfer-tokens requires --lora-tokens"):
        LinearizeSettings(attention=attention, transfer_tokens=31)
    # as from a recipe
    settings = LinearizeSettings(attention=attention, transfer_tokens=31, lora_tokens=31)
    assert settings == LinearizeSettings(attention=attention, lora_tokens=31)
    assert not settings.has_transfer


def test_a_cache_and_moments_are_the_default_with_terraces():
    default, sliding = AttentionSettings(), AttentionSettings(window_shape="sliding")
    assert (default.cache, default.feature_map, default.sinks, default.horizon) == (384, "moments", 4, 0)
    assert (sliding.cache, sliding.feature_map, sliding.horizon) == (0, "hedgehog", 1024)
