"""Tiny language models with random weights, tokenizers, and texts of random words."""

import json
import random

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

from subquad.llm.models.convert import convert
from subquad.llm.models.decoding import forward, new_cache
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
    attention=AttentionSettings(window=3, cache=5),
    sequence_length=31,
    transfer_tokens=31 * 7,
    lora_tokens=31 * 5,
    evaluation_tokens=31 * 3,
    precision="float32",
)

WORDS = ["the", "a", "green", "old", "bird", "river", "house", "sings", "falls", "under", "over", "quickly", "seen"]


def small_attention(**settings):
    """Return hybrid attention with feature maps and without a cache, which could hold a whole short text."""
    return AttentionSettings(**{"window": 3, "cache": 0, "feature_map": "hedgehog", **settings})


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


TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' and 'nonsense' in m.content %}{{ raise_exception('no nonsense') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]


def prefilled(model, ids):
    """Return the cache of a model after these tokens."""
    cache = new_cache(model)
    forward(model, ids, torch.arange(ids.shape[1])[None], cache)
    return cache


def byte_tokenizer(folder, *, template=TEMPLATE):
    """Return a tokenizer whose characters outside ASCII are two to four tokens each."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=283,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator([write_text(folder / "words.txt").read_text()], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=template,
    )


def linear_model(kind="llama", *, vocab_size=283, seed=0, **settings):
    """Return a model that never chooses special tokens greedily."""
    model = tiny_model(kind, vocab_size=vocab_size, max_position_embeddings=100_003, seed=seed)
    with torch.no_grad():
        model.lm_head.weight[: len(SPECIAL)] = 0.0
    return convert(model, small_attention(**{"window": 5, **settings}))


def word_tokenizer(text):
    """Return a byte-level tokenizer that is trained on the words of a file."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=151, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=sorted(set("".join(WORDS)) | {".", "Ġ", "Ċ"}),
    )  # fmt: skip
    core.train_from_iterator([text.read_text()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def write_checkpoint(folder, tokenizer):
    """Write a tiny Llama with random weights and its tokenizer."""
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def task_manager(folder, items):
    """Return lm-eval's definition of a task `toy`, whose items have a question, choices and the right one."""
    from lm_eval.tasks import TaskManager

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "toy.yaml").write_text(
        "task: toy\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: "
        f"{folder / 'items.jsonl'}\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: choices\ndoc_to_target: answer\ntarget_delimiter: ""\n'
        "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )
    return TaskManager(include_defaults=False, include_path=str(folder))
