"""The fraction of a held-out text that stands in a training text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subquad.llm.data import repeated_text
from subquad.llm.data.repeated_text import RUN, repeated_fraction


def drawn(count, seed, vocabulary=49_152):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (count,), generator=generator, dtype=torch.int32)


@given(
    held_out=st.integers(0, 5 * RUN),
    training=st.lists(st.integers(0, 5 * RUN), max_size=3),
    block=st.sampled_from([1, 37, 1000]),
    seed=st.integers(0, 99),
)
def test_it_is_the_fraction_of_runs_that_a_search_finds(held_out, training, block, seed):
    # of two tokens, the first far more often, so that runs of it occur in both
    tokens = (drawn(held_out, seed, 97) == 0).int()
    texts = [(drawn(count, seed + number + 1, 97) == 0).int() for number, count in enumerate(training)]
    known = {tuple(text[place : place + RUN].tolist()) for text in texts for place in range(len(text) - RUN + 1)}
    runs = {tuple(run.tolist()) for run in tokens.split(RUN) if len(run) == RUN}
    expected = sum(run in known for run in runs) / len(runs) if runs else 0.0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(repeated_text, "BLOCK_TOKENS", block)
        assert repeated_fraction(tokens, texts) == pytest.approx(expected)


@pytest.mark.parametrize("begin", [0, 1, 977])
def test_a_part_of_the_training_text_is_found_at_any_place(begin):
    training, other = drawn(3_001, 0), drawn(640, 1)
    part = training[begin : begin + 640]
    assert repeated_fraction(part, [other, training]) == 1
    assert repeated_fraction(torch.cat([part, other]), [training]) == 0.5
    assert repeated_fraction(other, [training]) == 0
    # often repeated, such as a system prompt
    prompt = training[begin : begin + RUN]
    assert repeated_fraction(torch.cat([*[prompt] * 99, other]), [training]) == pytest.approx(1 / 21)
