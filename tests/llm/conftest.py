"""Tiny checkpoints, tokenizers and runs."""

import pytest
from support.llm_models import SMALL, WORDS, tiny_model, write_text
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import subquad.llm


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
