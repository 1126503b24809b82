"""Token sampling: temperature, nucleus and penalties, each sequence by itself."""

import pytest
import torch
from support.llm_models import byte_tokenizer, linear_model

from subquad.errors import SubquadError
from subquad.llm.serving.generation import stream_text
from subquad.llm.serving.sampling import SamplingParameters, TokenSampler, sample


def sampled(logits, sampling, count=4000, beside=()):
    samplers = [TokenSampler(sampling, seed=5, index=index) for index in range(count)]
    others = [TokenSampler(other, seed=1) for other in beside]
    rows = torch.tensor(logits).expand(count + len(others), -1)
    return sample(rows, [*others, *samplers])[len(others) :]


def test_tokens_are_sampled_with_the_models_probabilities():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    counts = torch.bincount(torch.tensor(sampled(p.log().tolist(), SamplingParameters())), minlength=4) / 4000
    assert (counts - p).abs().max() < 0.03
    cold = (
        torch.bincount(torch.tensor(sampled(p.log().tolist(), SamplingParameters(temperature=0.5))), minlength=4) / 4000
    )
    assert (cold - p.square() / p.square().sum()).abs().max() < 0.03


def test_top_p_keeps_the_most_likely_tokens():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().tolist()
    assert set(sampled(logits, SamplingParameters(top_p=0.65))) == {2, 3}
    assert set(sampled(logits, SamplingParameters(top_p=1e-9))) == {3}
    assert set(sampled(logits, SamplingParameters(temperature=1e-300))) == {3}


def test_top_k_and_min_p_keep_the_most_likely_tokens():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    logits = p.log().tolist()
    assert set(sampled(logits, SamplingParameters(top_k=2))) == {2, 3}
    assert set(sampled(logits, SamplingParameters(top_k=9))) == {0, 1, 2, 3}
    assert set(sampled(logits, SamplingParameters(min_p=0.6))) == {2, 3}
    # of the three that top_k keeps, 0.4 / 0.9 is less than one half
    assert set(sampled(logits, SamplingParameters(top_k=3, top_p=0.5))) == {2, 3}
    counts = torch.bincount(torch.tensor(sampled(logits, SamplingParameters(top_k=3))), minlength=4) / 4000
    assert (counts[1:] - p[1:] / 0.9).abs().max() < 0.03


def test_a_sequence_is_sampled_independently_of_the_others_in_the_batch():
    logits = torch.randn(31, generator=torch.Generator().manual_seed(0)).tolist()
    expected = sampled(logits, SamplingParameters(), count=50)
    assert (
        sampled(
            logits,
            SamplingParameters(),
            count=50,
            beside=[SamplingParameters(top_p=0.5), SamplingParameters(temperature=0.0)],
        )
        == expected
    )


def test_penalties_apply_to_the_tokens_of_the_answer():
    sampler = TokenSampler(SamplingParameters(temperature=0.0, presence_penalty=1.0, frequency_penalty=0.5), seed=0)
    chosen = [sample(torch.tensor([[3.0, 1.2, 0.0]]), [sampler])[0] for _ in range(4)]
    # 3 - 1 - 0.5 = 1.5, then 3 - 1 - 1 = 1.0 < 1.2, whose own penalty then leaves it below 1.0
    assert chosen == [0, 0, 1, 0]


@pytest.mark.parametrize("sampling", [SamplingParameters(temperature=0.0), SamplingParameters(top_k=2)])
def test_no_token_is_chosen_by_logits_that_are_not_finite(sampling):
    nan, infinity = float("nan"), float("inf")
    logits = [[0.0, 9.0, nan], [9.0, 0.0, 0.0], [infinity, 0.0, 0.0], [-infinity] * 3, [-infinity, 0.0, 9.0]]
    samplers = [TokenSampler(sampling, seed=1) for _ in logits]
    assert sample(torch.tensor(logits), samplers) == [None, 0, None, None, 2]
    assert [sum(sampler.counts.values()) for sampler in samplers] == [0, 1, 0, 0, 1]


def test_a_text_ends_where_the_logits_are_not_finite(tmp_path):
    model, tokenizer, read = linear_model(), byte_tokenizer(tmp_path), []
    prompt = "the green bird"
    spoilt = tokenizer(prompt)["input_ids"][-1]
    with torch.no_grad():
        model.model.embed_tokens.weight[spoilt] = float("nan")
    with pytest.raises(SubquadError, match=r"token \d+: the model's logits are not finite .* try --dtype float32"):
        list(stream_text(model, tokenizer, prompt, on_read=lambda *state: read.append(state)))
    # a state that is not finite is not written to a file
    assert not read
