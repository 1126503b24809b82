"""Incremental detokenization: every text in every cut, and stop strings across tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.llm_models import byte_tokenizer
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace, Sequence, Split
from transformers import PreTrainedTokenizerFast

from subquad.llm.serving.tokenization import Detokenizer, encode_after


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@given(text=st.text(max_size=40))
def test_deltas_add_up_to_the_text_and_contain_no_incomplete_characters(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(tokenizer, ids[:0])
    deltas = [detokenizer.add(token) for token in ids]
    assert "".join(deltas) + detokenizer.finish() == text
    assert "\ufffd" in text or not any("\ufffd" in delta for delta in deltas)


@given(text=st.text("ab€", max_size=30), stops=st.lists(st.text("ab€", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_ends_the_text_even_across_tokens(tokenizer, text, stops):
    ids, expected = tokenizer(text, add_special_tokens=False)["input_ids"], text
    # the stop string that is complete first ends the text; of two completed by one token, the one that starts first
    for count in range(1, len(ids) + 1):
        found = tokenizer.decode(ids[:count])
        if starts := [found.find(stop) for stop in stops if stop in found]:
            expected = text[: min(starts)]
            break
    detokenizer, given_text = Detokenizer(tokenizer, [7], stops), ""
    for token in ids:
        given_text += detokenizer.add(token)
        # released text is final
        assert expected.startswith(given_text)
        if detokenizer.is_stopped:
            break
    else:
        given_text += detokenizer.finish()
    assert given_text == expected
    assert detokenizer.is_stopped == any(stop in text for stop in stops)


def test_invalid_bytes_are_released_in_the_end(tokenizer):
    (lone,) = tokenizer("€", add_special_tokens=False)["input_ids"][:1]
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.add(lone) == ""
    assert detokenizer.finish() == "\ufffd"
    assert any(detokenizer.add(lone) for _ in range(40))


def test_a_character_whose_first_bytes_end_the_prompt_is_new_text(tokenizer):
    *first, last = tokenizer("aé", add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(tokenizer, first)
    assert detokenizer.add(last) + detokenizer.finish() == "é"


def test_text_after_another_one_gets_no_space_of_its_own(tokenizer):
    pieces = ["▁", "\n", "the", "▁old", "▁bi", "rd", "s", "▁sing", "<unk>"]
    made = Tokenizer(WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.pre_tokenizer = Sequence([Metaspace(), Split(Regex("\n|▁old|▁bi|rd|s(?!i)|▁sing"), "isolated")])
    metaspace = PreTrainedTokenizerFast(tokenizer_object=made)

    def shown(tokens):
        return metaspace.convert_ids_to_tokens(tokens)

    assert shown(encode_after(metaspace, "rds sing")) == ["rd", "s", "▁sing"]
    # as it would be at the start of a text
    assert "▁" in "".join(shown(metaspace("rds sing")["input_ids"]))[:6] or shown(metaspace("rds")["input_ids"])
    for text in ("the green", "\nthe", " the", ""):
        assert encode_after(tokenizer, text) == tokenizer(text, add_special_tokens=False)["input_ids"]
