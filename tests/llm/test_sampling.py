"""Token sampling: temperature, nucleus and further filters, each sequence by itself."""

import pytest
import torch
from support.llm_models import byte_tokenizer, linear_model

from subquad.errors import SubquadError
from subquad.llm.serving.generation import stream_text
from subquad.llm.serving.sampling import TokenSampler, sample

P = torch.tensor([0.1, 0.2, 0.3, 0.4])
COUNT = 4000


def sampled(logits=P.log(), count=COUNT, beside=(), **sampling):
    samplers = [TokenSampler(**sampling, seed=f"5 {number}") for number in range(count)]
    return sample(logits.expand(count + len(beside), -1), [*beside, *samplers])[len(beside) :]


def frequencies(**sampling):
    return torch.bincount(torch.tensor(sampled(**sampling)), minlength=4) / COUNT


def test_tokens_are_sampled_with_the_models_probabilities():
    assert (frequencies() - P).abs().max() < 0.03
    assert (frequencies(temperature=0.5) - P.square() / P.square().sum()).abs().max() < 0.03
    assert (frequencies(top_k=3)[1:] - P[1:] / 0.9).abs().max() < 0.03


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({"top_p": 0.65}, {2, 3}),
        ({"top_p": 1e-9}, {3}),
        ({"temperature": 1e-300}, {3}),
        ({"temperature": 0.0}, {3}),
        ({"top_k": 2}, {2, 3}),
        ({"top_k": 10**400}, {0, 1, 2, 3}),
        ({"min_p": 0.6}, {2, 3}),
        # of the three that top_k keeps, 0.4 / 0.9 is less than one half
        ({"top_k": 3, "top_p": 0.5}, {2, 3}),
    ],
)
def test_filters_keep_the_most_likely_tokens(sampling, kept):
    assert set(sampled(**sampling)) == kept


def test_a_sequence_is_sampled_independently_of_the_others_in_the_batch():
    logits = torch.randn(31, generator=torch.Generator().manual_seed(0))
    others = [TokenSampler(top_p=0.5, seed=1), TokenSampler(temperature=0.0)]
    assert sampled(logits, count=50, beside=others) == sampled(logits, count=50)


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"top_k": 2}])
def test_no_token_is_chosen_by_logits_that_are_not_finite(sampling):
    nan, infinity = float("nan"), float("inf")
    logits = [[0.0, 9.0, nan], [9.0, 0.0, 0.0], [infinity, 0.0, 0.0], [-infinity] * 3, [-infinity, 0.0, 9.0]]
    samplers = [TokenSampler(**sampling, seed=1) for _ in logits]
    assert sample(torch.tensor(logits), samplers) == [None, 0, None, None, 2]


def test_a_text_ends_where_the_logits_are_not_finite(tmp_path):
    model, tokenizer, read = linear_model(), byte_tokenizer(tmp_path), []
    prompt = "the green bird"
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer(prompt)["input_ids"][-1]] = float("nan")
    with pytest.raises(SubquadError, match=r"token \d+: the model's logits are not finite"):
        list(stream_text(model, tokenizer, prompt, on_read=lambda *state: read.append(state)))
    # a state that is not finite is not written to a file
    assert not read
