"""Text files as sequences: what is read, what is held out, and what is said about a file that will not do."""

import gzip
import json

import pytest
import torch
from conftest import write_text
from hypothesis import given
from hypothesis import strategies as st

from subquad.errors import SubquadError
from subquad.llm.data import order, prepare, read_documents


def test_the_last_tenth_is_held_out_and_not_learnt_from(tokenizer, text):
    made = prepare(tokenizer, [text], length=17)
    together = torch.cat((made.train.flatten(), made.held_out.flatten()))
    whole = tokenizer(text.read_text())["input_ids"]
    assert made.train.flatten().tolist() == whole[: made.train.numel()]
    assert 0.08 < made.held_out.numel() / len(together) < 0.12
    assert made.held_out_from == "the last tenth of words.txt"


def test_a_text_of_its_own_for_evaluation_leaves_all_of_the_other_to_learn_from(tokenizer, text, tmp_path):
    other = write_text(tmp_path / "other.txt", words=211, seed=1)
    made = prepare(tokenizer, [text], [other], length=17)
    assert made.train.numel() > 0.99 * len(tokenizer(text.read_text())["input_ids"]) - 17
    assert made.held_out[0].tolist() == tokenizer(other.read_text())["input_ids"][:17]


def test_documents_end_with_the_token_of_the_end(tokenizer, tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "the bird"}\n{"text": "the river"}\n' * 20)
    made = prepare(tokenizer, [path], length=2)
    assert int((made.train == tokenizer.eos_token_id).sum()) >= 30


def test_a_long_text_is_tokenised_as_if_in_one_piece(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("subquad.llm.data.PIECE", 50)
    path = tmp_path / "lines.txt"
    path.write_text("the bird sings\n\nover the house\nunder the river. \n" * 30)
    made = prepare(tokenizer, [path], [path], length=13)
    whole = [*tokenizer(path.read_text())["input_ids"], tokenizer.eos_token_id]
    assert made.train.flatten().tolist() == whole[: made.train.numel()]


@given(sequences=st.integers(1, 40), batch=st.integers(1, 7), seed=st.integers(0, 99), epoch=st.integers(0, 5))
def test_the_order_of_an_epoch_is_a_shuffle_that_comes_again(sequences, batch, seed, epoch):
    plan = order(sequences, batch=batch, seed=seed, epoch=epoch)
    again = order(sequences, batch=batch, seed=seed, epoch=epoch)
    assert [rows.tolist() for rows in plan] == [rows.tolist() for rows in again]
    seen = torch.cat(plan).tolist()
    assert len(set(seen)) == len(seen) >= max(1, sequences - batch + 1) or len(plan) == 1


def test_text_shorter_than_one_sequence_is_refused(tokenizer, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("the bird sings")
    with pytest.raises(SubquadError, match=r"short.txt: \d+ tokens to learn from .*shorter than one sequence of 1024"):
        prepare(tokenizer, [path], length=1024)


def test_held_out_text_shorter_than_one_sequence_is_refused(tokenizer, text, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("the bird sings")
    with pytest.raises(SubquadError, match=r"short.txt: \d+ held-out tokens, shorter than one sequence of 64"):
        prepare(tokenizer, [text], [path], length=64)
