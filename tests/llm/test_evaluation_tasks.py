"""lm-eval's tasks on a model in memory: what each item has right, and what is refused."""

import pytest
import torch
from support.llm_models import small_attention, task_manager, tiny_model

from subquad.errors import SubquadError
from subquad.llm.models.attention import attention_mode
from subquad.llm.models.convert import convert

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'subquad[eval]')")

from subquad.llm.evaluation.tasks import item_rows

ITEMS = [
    {"question": "the green bird", "choices": [" sings", " falls under the house", " a"], "answer": 0},
    {"question": "a river", "choices": [" the old bird", " a river", " quickly"], "answer": 1},
    {"question": "seen" + " the old bird" * 9, "choices": [" house", " the", " sings over the river"], "answer": 2},
]


@pytest.fixture
def model(tokenizer):
    return convert(tiny_model("llama", vocab_size=len(tokenizer)), small_attention())


@pytest.fixture(autouse=True)
def _task(tmp_path, monkeypatch):
    monkeypatch.setattr("subquad.llm.evaluation.tasks._task_manager", lambda: task_manager(tmp_path / "tasks", ITEMS))


@torch.no_grad()
def log_likelihood(model, tokenizer, context, continuation):
    start, whole = tokenizer.encode(context), tokenizer.encode(context + continuation)
    chances = model(torch.tensor([whole]), use_cache=False).logits.log_softmax(-1)[0, len(start) - 1 : -1]
    return float(chances.gather(1, torch.tensor(whole[len(start) :])[:, None]).sum())


@pytest.mark.parametrize("mode", ["hybrid", "window", "softmax"])
def test_an_item_is_right_if_its_answer_is_the_most_likely_one(model, tokenizer, mode):
    rows = item_rows(model, tokenizer, "toy", mode=mode)
    with attention_mode(model, mode):
        for item, row in zip(ITEMS, rows, strict=True):
            values = [log_likelihood(model, tokenizer, item["question"], choice) for choice in item["choices"]]
            per_letter = [value / len(choice) for value, choice in zip(values, item["choices"], strict=True)]
            assert row["acc"] == (values.index(max(values)) == item["answer"])
            assert row["acc_norm"] == (per_letter.index(max(per_letter)) == item["answer"])
            longest = max(len(tokenizer.encode(item["question"] + choice)) for choice in item["choices"])
            assert row["tokens"] == longest - 1


def test_the_first_items_are_measured(model, tokenizer):
    rows = item_rows(model, tokenizer, "toy", mode="hybrid")
    assert item_rows(model, tokenizer, "toy", mode="hybrid", limit=2) == rows[:2]


def test_logits_that_are_not_finite_name_the_item(model, tokenizer):
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.encode("a river")[-1]] = float("nan")
    with pytest.raises(SubquadError, match=r"\(window\): the logits of item 1 of toy are not finite"):
        item_rows(model, tokenizer, "toy", mode="window")
