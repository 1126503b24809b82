"""Tiny checkpoints, tokenizers and runs."""

import pytest
from support.llm_models import SMALL, word_tokenizer, write_checkpoint, write_text

import subquad.llm


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Return a file of words drawn at random."""
    return write_text(tmp_path_factory.mktemp("text") / "words.txt")


@pytest.fixture(scope="session")
def tokenizer(text):
    """Return a byte-level tokenizer trained on the words."""
    return word_tokenizer(text)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tokenizer):
    """Return the folder of a tiny checkpoint."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), tokenizer)


@pytest.fixture(scope="session")
def run(folder, text, tmp_path_factory):
    """Return the folder of a finished run."""
    out = tmp_path_factory.mktemp("run") / "out"
    subquad.llm.linearize(folder, text, SMALL, out=out, quiet=True)
    return out
