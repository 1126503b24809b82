"""A tiny linearized model that can write any character, and a tokenizer with a chat template."""

import torch
from conftest import tiny_model, write_text
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from subquad.llm.models.convert import convert
from subquad.llm.settings import AttentionSettings

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' and 'nonsense' in m.content %}{{ raise_exception('no nonsense') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]


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
    """Return a model that says special tokens never by itself."""
    model = tiny_model(kind, vocab_size=vocab_size, max_position_embeddings=100_003, seed=seed)
    with torch.no_grad():
        model.lm_head.weight[: len(SPECIAL)] = 0.0
    return convert(model, AttentionSettings(**{"window": 5, **settings}))
