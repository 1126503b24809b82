"""Conversations: text by the chat template, the spans of answers, and the loss mask."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from support.llm_models import SMALL
from tokenizers import processors
from transformers import ByT5Tokenizer

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.data.conversations import render
from subquad.llm.data.packing import prepare_text
from subquad.llm.data.text_files import check_text
from subquad.llm.data.tokens import tokenize
from subquad.llm.settings import LinearizeSettings

DATA = Path(os.environ.get("SUBQUAD_DATA", "no data")) / "llm" / "instruct"

PLAIN = "{% for m in messages %}{{ m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
ASKING = "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
# as in Llama 3: the template writes the mark of the beginning
WITH_BEGINNING = "<s>" + PLAIN + ASKING
# as in Qwen 3: a thought precedes the last answer only, and answers are trimmed
WITH_THOUGHT = (
    "{% for m in messages %}{{ m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}{{ 'a thought. ' }}"
    "{% endif %}{{ m['content'].strip() + '</s>\n' }}{% endfor %}" + ASKING
)
STRICT = "{% for m in messages %}{% if m['role'] == 'bird' %}{{ raise_exception('no birds') }}{% endif %}{% endfor %}"
# the prompt is written in other words once it has its answer
CHANGING = "{% if add_generation_prompt %}{{ 'house' }}{% else %}{{ 'river ' + messages[-1]['content'] }}{% endif %}"

TURNS = [
    {"role": "user", "content": "the river"},
    {"role": "assistant", "content": " sings "},
    {"role": "user", "content": "the green river"},
    {"role": "assistant", "content": "falls"},
]


def with_template(tokenizer, template):
    made = copy.deepcopy(tokenizer)
    made.chat_template = template
    return made


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def loss_text(tokenizer, tokens):
    return tokenizer.decode(tokens.ids[tokens.loss_mask])


@pytest.mark.parametrize(
    ("template", "written", "answers"),
    [
        (
            PLAIN + ASKING,
            "user\nthe river</s>\nassistant\n sings </s>\nuser\nthe green river</s>\nassistant\nfalls</s>\n",
            [" sings </s>", "falls</s>"],
        ),
        (
            WITH_THOUGHT,
            "user\nthe river</s>\nassistant\nsings</s>\nuser\nthe green river</s>\nassistant\na thought. falls</s>\n",
            ["sings</s>", "a thought. falls</s>"],
        ),
        (None, "the river\n\nsings\n\nthe green river\n\nfalls", ["sings", "falls"]),
    ],
)
def test_an_answer_spans_from_the_generation_prompt_to_its_end_token(tokenizer, template, written, answers):
    made = render(with_template(tokenizer, template), TURNS, with_answers=True)
    assert made.text == written
    assert [written[start:stop] for start, stop in made.answers] == answers


def test_an_answer_that_is_a_word_of_the_template_is_found_in_its_own_turn(tokenizer):
    turns = [{"role": "user", "content": "user"}, {"role": "assistant", "content": "user"}]
    made = render(with_template(tokenizer, PLAIN + ASKING), turns, with_answers=True)
    assert made.text[: made.answers[0][0]] == "user\nuser</s>\nassistant\n"
    assert [made.text[start:stop] for start, stop in made.answers] == ["user</s>"]


def test_an_assistant_message_that_comes_first_is_not_an_answer(tokenizer):
    made = render(with_template(tokenizer, PLAIN + ASKING), TURNS[1:], with_answers=True)
    assert [made.text[start:stop] for start, stop in made.answers] == ["falls</s>"]


def test_special_tokens_of_the_template_are_not_added_twice(tokenizer, tmp_path):
    used = with_template(tokenizer, WITH_BEGINNING)
    path = write(tmp_path / "a.jsonl", [{"messages": TURNS[:2]}] * 3)
    made = tokenize(used, [path], train_on="answers")
    whole = used.apply_chat_template(TURNS[:2], return_dict=False)
    assert made.ids.tolist() == whole * 3
    assert made.starts.tolist() == [0, len(whole), 2 * len(whole)]
    assert loss_text(used, made) == " sings </s>" * 3


def test_the_start_token_is_added_to_plain_text_only(tokenizer, tmp_path):
    used = with_template(tokenizer, None)
    used.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    rows = [{"question": "the river", "answer": "the bird"}] * 2
    made = tokenize(used, [write(tmp_path / "a.jsonl", rows)], train_on="answers")
    assert used.decode(made.ids) == "<s>the river\n\nthe bird</s>" * 2
    assert loss_text(used, made) == "the bird</s>" * 2
    used.chat_template = WITH_BEGINNING
    made = tokenize(used, [tmp_path / "a.jsonl"], train_on="answers")
    assert used.decode(made.ids) == "<s>user\nthe river</s>\nassistant\nthe bird</s>\n" * 2
    assert loss_text(used, made) == "the bird</s>" * 2


def test_without_a_template_the_end_token_after_an_answer_counts_in_the_loss(tokenizer, tmp_path):
    rows = [{"instruction": "the river", "input": "falls", "output": "the bird"}, {"instruction": "a", "output": ""}]
    made = tokenize(tokenizer, [write(tmp_path / "a.jsonl", rows)], train_on="answers")
    assert tokenizer.decode(made.ids) == "the river\n\nfalls\n\nthe bird</s>a</s>"
    assert loss_text(tokenizer, made) == "the bird</s>"


def test_the_end_token_after_a_question_does_not_count_in_the_loss(tokenizer, tmp_path):
    made = tokenize(tokenizer, [write(tmp_path / "a.jsonl", [{"messages": TURNS[:3]}])], train_on="answers")
    assert loss_text(tokenizer, made) == "sings"
    assert made.ids[-1] == tokenizer.eos_token_id


def test_the_loss_mask_is_packed_with_its_tokens(tokenizer, text, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "the river", "answer": "the old bird"}] * 101)
    made = prepare_text(tokenizer, [path], [text], sequence_length=7, train_on="answers")
    whole = prepare_text(tokenizer, [path], [text], sequence_length=7)
    assert torch.equal(made.training.ids, whole.training.ids)
    assert torch.equal(made.training.documents, whole.training.documents)
    assert tokenizer.decode(made.training.ids[made.training.loss_mask]).startswith("the old bird</s>" * 9)
    assert 0 < made.training.loss_mask.sum() < made.training.loss_mask.numel()
    # plain text has no answers, so all of it counts
    assert made.holdout.loss_mask.all()
    assert whole.training.loss_mask.all()


def test_a_mixture_keeps_answers_and_documents_with_their_sequences(tokenizer, text, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "the river", "answer": "the old bird"}] * 101)
    made = prepare_text(tokenizer, [text, path], sequence_length=7, weights=(1, 1), train_on="answers")
    cut = made.mixture.sizes[0]
    assert made.training.loss_mask[:cut].all()
    assert not made.training.documents[:cut].any()
    assert not made.training.loss_mask[cut:].all()
    assert made.training.documents[cut:].any()


def test_each_file_is_described(tokenizer, text, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "the river", "answer": "the bird"}] * 41)
    how = "a.jsonl: 'question' as the question, 'answer' as the answer, "
    assert prepare_text(tokenizer, [path], [text], sequence_length=7).descriptions == (
        how + "joined by blank lines, since the model's tokenizer has no chat template",
        "words.txt: plain text, one document",
    )
    used = with_template(tokenizer, PLAIN + ASKING)
    assert prepare_text(used, [path], sequence_length=7).descriptions == (
        how + "in the chat template of the model's tokenizer",
    )


def test_conversations_that_a_template_rejects_are_errors_of_their_rows(tokenizer, tmp_path):
    rows = [{"messages": [{"role": role, "content": "la"}]} for role in ("user", "bird", "bird")]
    path = write(tmp_path / "a.jsonl", rows)
    # whether a role is valid depends on the tokenizer
    check_text([path])
    with pytest.raises(SubquadError, match=r"line 2: .*template rejects the roles bird: no birds"):
        tokenize(with_template(tokenizer, STRICT), [path])
    with pytest.raises(SubquadError, match=r"line 2: .*roles are system, user, assistant, got 'bird'"):
        tokenize(tokenizer, [path])


def test_answers_that_cannot_be_located_are_rejected(tokenizer, text, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"messages": TURNS[:2]}])
    used = with_template(tokenizer, CHANGING)
    with pytest.raises(SubquadError, match=r"line 1: .*answer 2 is not found"):
        tokenize(used, [path], train_on="answers")
    assert used.decode(tokenize(used, [path]).ids) == "river  sings </s>"
    with pytest.raises(SubquadError, match=r"words.txt: no conversations"):
        prepare_text(tokenizer, [text], sequence_length=7, train_on="answers")


def test_a_slow_tokenizer_cannot_limit_the_loss_to_answers(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "caf\xe9?", "answer": "noir"}])
    used = ByT5Tokenizer()
    assert used.decode(tokenize(used, [path]).ids) == "caf\xe9?\n\nnoir</s>"
    with pytest.raises(SubquadError, match=r"cannot be read as a tokenizer .*offset_mapping"):
        tokenize(used, [path], train_on="answers")


@pytest.mark.long
def test_a_run_trains_on_a_mixture_and_describes_its_files(folder, text, tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", [{"question": "the river", "answer": "the old bird"}] * 211)
    changes = {
        name: getattr(SMALL, name) for name in ("attention", "sequence_length", "transfer_tokens", "lora_tokens")
    }
    how = LinearizeSettings(**changes, evaluation_tokens=31, precision="float32", text_weights=(1, 2))
    out = tmp_path / "out"
    metrics = subquad.llm.linearize(folder, [text, path], how, out=out)
    assert metrics["test"]["fine_tuned"]["perplexity"] > 1
    printed = capsys.readouterr().err
    assert "a.jsonl: 'question' as the question, 'answer' as the answer, joined by blank lines" in printed
    assert json.loads((out / "config.json").read_text())["subquad"]["settings"]["text_weights"] == [1, 2]


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="SUBQUAD_DATA is not set: the instruction files are not here")
def test_the_loss_mask_of_published_instructions_is_their_answers(tokenizer):
    used = with_template(tokenizer, PLAIN + ASKING)
    path = DATA / "selfinstruct" / "seed_tasks.jsonl"
    made = tokenize(used, [path], train_on="answers")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    answers = [row["instances"][0]["output"].strip() + "</s>" for row in rows]
    assert len(made.starts) == 175
    # the tokenizer knows few letters, so only those are compared
    assert loss_text(used, made) == used.decode([token for answer in answers for token in used(answer)["input_ids"]])
