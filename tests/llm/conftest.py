"""Tiny language models and texts, made on the spot."""

import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

import subquad.llm
from subquad.llm.settings import AttentionSettings, LinearizeSettings

CONFIGS = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mistral": MistralConfig,
    "gemma3": Gemma3TextConfig,
    "phi3": Phi3Config,
}

SMALL = LinearizeSettings(
    attention=AttentionSettings(window=3),
    length=31,
    transfer_tokens=31 * 7,
    lora_tokens=31 * 5,
    evaluation_tokens=31 * 3,
    precision="no",
)

WORDS = ["the", "a", "green", "old", "bird", "river", "house", "sings", "falls", "under", "over", "quickly", "seen"]


def write_text(path, *, words=4_001, seed=0):
    draw = random.Random(seed)
    path.write_text(" ".join(draw.choice(WORDS) + "." * (draw.random() < 0.1) for _ in range(words)))
    return path


def tiny_config(kind, **changes):
    sizes = {
        "vocab_size": 151,
        "hidden_size": 30,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "max_position_embeddings": 211,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    layers = changes.get("num_hidden_layers", 3)
    own = {
        "mistral": {"sliding_window": None},
        # two rotations, two kinds of layers
        "gemma3": {
            "num_hidden_layers": layers,
            "layer_types": ["sliding_attention"] + ["full_attention"] * (layers - 1),
            "sliding_window": 5,
            "query_pre_attn_scalar": 13,
        },
        # projections in one, and a part of each head without a rotation
        "phi3": {
            "sliding_window": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4},
        },
    }
    return CONFIGS[kind](**{**sizes, **own.get(kind, {}), **changes})


def tiny_model(kind, *, seed=0, spread=0.25, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(kind, **changes)).eval()
        for name, parameter in model.named_parameters():
            # norms stay near 1, everything else (biases too) is drawn
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=spread)
    return model


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Return a file of words drawn at random."""
    return write_text(tmp_path_factory.mktemp("text") / "words.txt")


@pytest.fixture(scope="session")
def tokenizer(text):
    """Return a byte-level tokenizer trained on the words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=151, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=sorted(set("".join(WORDS)) | {".", "Ġ", "Ċ"}),
    )  # fmt: skip
    core.train_from_iterator([text.read_text()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tokenizer):
    """Return the folder of a tiny checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint")
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def run(folder, text, tmp_path_factory):
    """Return the folder of a finished run."""
    out = tmp_path_factory.mktemp("run") / "out"
    subquad.llm.linearize(folder, text, SMALL, out=out, quiet=True)
    return out
