"""Continuous batching: a text is the same alone and among others, and the others do not wait for it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.llm_models import byte_tokenizer, linear_model

from subquad.errors import SubquadError
from subquad.llm.serving.batching import Engine, EngineClosed, Job
from subquad.llm.serving.decoding import Rows
from subquad.llm.serving.detokenizer import Writer
from subquad.llm.serving.sampling import Dice, Sampling, choose

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model():
    return linear_model()


def prompt(length, seed=0):
    return torch.randint(5, 283, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class Heard:
    """A job together with what it was told."""

    def __init__(self, ids, max_tokens, **how):
        self.pieces = []
        self.job = Job(prompt=ids, max_tokens=max_tokens, listen=self.pieces.append, **{"sampling": GREEDY, **how})

    def tokens(self, index=0):
        return [piece.token for piece in self.pieces if piece.place == index]

    def text(self, index=0):
        return "".join(piece.text for piece in self.pieces if piece.place == index)

    def finishes(self):
        return {piece.place: piece.finish for piece in self.pieces if piece.finish}


def alone(model, tokenizer, ids, max_tokens, **how):
    engine, heard = Engine(model, tokenizer, max_batch=4), Heard(ids, max_tokens, **how)
    engine.submit(heard.job)
    while engine.work():
        pass
    return heard


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("shape", ["terrace", "sliding"])
def test_a_text_is_what_transformers_generates(tokenizer, kind, shape):
    model = linear_model(kind, window_shape=shape)
    ids = prompt(37)
    made = model.generate(torch.tensor([ids]), max_new_tokens=41, do_sample=False, eos_token_id=None, pad_token_id=1)
    assert alone(model, tokenizer, ids, 41).tokens() == made[0, 37:].tolist()


@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 31), st.integers(1, 13), st.sampled_from([0.0, 1.3])),
        min_size=2,
        max_size=5,
    ),
    chunk=st.sampled_from([3, 7, 512]),
    max_batch=st.integers(1, 4),
)
@settings(max_examples=8)
def test_a_text_is_the_same_among_others_that_come_and_go(model, tokenizer, arrivals, chunk, max_batch):
    engine = Engine(model, tokenizer, max_batch=max_batch, chunk=chunk)
    everyone = []
    for place, (wait, length, most, temperature) in enumerate(arrivals):
        how = {"sampling": Sampling(temperature=temperature, top_p=0.9 if place % 2 else 1.0), "seed": place}
        heard = Heard(prompt(length, seed=place), most, **how)
        everyone.append((heard, alone(model, tokenizer, heard.job.prompt, most, **how)))
        engine.submit(heard.job)
        for _ in range(wait):
            engine.work()
    while engine.work():
        pass
    for heard, expected in everyone:
        assert heard.pieces == expected.pieces
    assert engine.active == engine.waiting == 0


def test_several_texts_of_a_prompt_start_with_the_one_that_comes_alone(model, tokenizer):
    how = {"sampling": Sampling(), "seed": 3}
    three = alone(model, tokenizer, prompt(29), 17, n=3, **how)
    assert three.tokens(0) == alone(model, tokenizer, prompt(29), 17, **how).tokens()
    assert len({tuple(three.tokens(index)) for index in range(3)}) == 3
    assert alone(model, tokenizer, prompt(29), 17, n=3, **how).pieces == three.pieces
    assert alone(model, tokenizer, prompt(29), 17, n=3, sampling=Sampling(), seed=4).tokens() != three.tokens()


def test_a_long_prompt_is_read_between_the_tokens_of_others(model, tokenizer):
    engine = Engine(model, tokenizer, max_batch=2, chunk=7)
    short, long = Heard(prompt(3), 50), Heard(prompt(7 * 13), 5)
    engine.submit(short.job)
    engine.work()
    engine.submit(long.job)
    before = len(short.pieces)
    while not long.pieces:
        grown = len(short.pieces)
        engine.work()
        assert len(short.pieces) == grown + 1
    assert len(short.pieces) == before + 13


def test_where_the_batch_is_full_jobs_wait_for_their_turn(model, tokenizer):
    engine = Engine(model, tokenizer, max_batch=3)
    first, second, third = Heard(prompt(3), 11, n=2), Heard(prompt(5), 13, n=2), Heard(prompt(7), 2)
    for heard in (first, second, third):
        engine.submit(heard.job)
    assert engine.waiting == 3
    while not first.finishes():
        assert engine.work()
        # the third would fit beside the first, but nobody is overtaken
        assert not second.pieces
        assert not third.pieces
    while engine.work():
        assert engine.active <= 3
    assert [len(heard.finishes()) for heard in (first, second, third)] == [2, 2, 1]


def test_a_cancelled_job_leaves_its_row_to_the_next_and_the_others_alone(model, tokenizer):
    engine = Engine(model, tokenizer, max_batch=3, chunk=7)
    kept, dropped, unread, last = Heard(prompt(5), 19), Heard(prompt(6), 10**9, n=2), Heard(prompt(99), 5), None
    for heard in (dropped, kept, unread):
        engine.submit(heard.job)
    for _ in range(4):
        engine.work()
    engine.cancel(dropped.job)
    engine.work()
    assert engine.active == 1
    engine.cancel(unread.job)
    last = Heard(prompt(8), 9)
    engine.submit(last.job)
    while engine.work():
        pass
    engine.cancel(kept.job)
    assert not engine.work()
    assert not unread.pieces
    assert kept.tokens() == alone(model, tokenizer, prompt(5), 19).tokens()
    assert last.tokens() == alone(model, tokenizer, prompt(8), 9).tokens()
    assert len(dropped.pieces) < 20


def test_a_text_ends_where_the_model_says_so(model, tokenizer, monkeypatch):
    free = alone(model, tokenizer, prompt(11), 31)
    assert free.finishes() == {0: "length"}
    token = free.tokens()[12]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [1, token])
    ended = alone(model, tokenizer, prompt(11), 31)
    place = free.tokens().index(token)
    assert ended.tokens() == free.tokens()[: place + 1]
    assert ended.finishes() == {0: "stop"}
    assert ended.text() == tokenizer.decode(free.tokens()[:place])


def test_a_job_that_cannot_be_done_is_refused(model, tokenizer):
    engine = Engine(model, tokenizer, max_batch=2)
    for ids, most, n in (([], 1, 1), ([5], 0, 1), ([5], 1, 3)):
        with pytest.raises(ValueError, match="from 1 to 2 texts"):
            engine.submit(Heard(ids, most, n=n).job)


def test_jobs_are_told_when_the_engine_fails_or_is_stopped(model, tokenizer):
    engine = Engine(model, tokenizer, max_batch=2)
    jobs = [Heard([10**6], 5, n=2), Heard(prompt(3), 5)]
    for heard in jobs:
        engine.submit(heard.job)
    with pytest.raises(IndexError, match="out of range"):
        engine.run()
    assert [heard.finishes() for heard in jobs] == [{0: "closed", 1: "closed"}, {0: "closed"}]
    with pytest.raises(EngineClosed):
        engine.submit(jobs[0].job)
    stopped, heard = Engine(model, tokenizer), Heard(prompt(3), 5)
    stopped.submit(heard.job)
    stopped.stop()
    stopped.run()
    assert heard.finishes() == {0: "closed"}


def test_a_model_with_softmax_layers_is_refused_in_a_batch():
    with pytest.raises(SubquadError, match="only 1 of the model's 2 layers are linear, and texts with growing caches"):
        Rows(linear_model(softmax_layers=(0,)), 3)


def test_positions_that_depend_on_the_batch_are_refused_in_a_batch(monkeypatch):
    model = linear_model()
    monkeypatch.setattr(model.model.rotary_emb, "rope_type", "dynamic")
    with pytest.raises(SubquadError, match=r"dynamic.*use --max-batch 1"):
        Rows(model, 2)
    assert Rows(model, 1).bytes_each > 0


@given(text=st.text(max_size=40), cut=st.integers(0, 40))
def test_the_pieces_of_a_text_are_the_text_and_hold_no_broken_characters(tokenizer, text, cut):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    writer = Writer(tokenizer, ids[:0])
    pieces = [writer.add(token) for token in ids]
    assert "".join(pieces) + writer.end() == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@given(text=st.text("ab€", max_size=30), stops=st.lists(st.text("ab€", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_ends_the_text_wherever_tokens_meet(tokenizer, text, stops):
    ids, expected = tokenizer(text, add_special_tokens=False)["input_ids"], text
    # the stop that is whole first counts, and of two that one token makes whole the one that begins first
    for count in range(1, len(ids) + 1):
        found = tokenizer.decode(ids[:count])
        if starts := [found.find(stop) for stop in stops if stop in found]:
            expected = text[: min(starts)]
            break
    writer, given_text = Writer(tokenizer, [7], stops), ""
    for token in ids:
        given_text += writer.add(token)
        # what was given is never taken back
        assert expected.startswith(given_text)
        if writer.is_stopped:
            break
    else:
        given_text += writer.end()
    assert given_text == expected
    assert writer.is_stopped == any(stop in text for stop in stops)


def test_bytes_that_are_no_character_come_out_in_the_end(tokenizer):
    (lone,) = tokenizer("€", add_special_tokens=False)["input_ids"][:1]
    writer = Writer(tokenizer)
    assert writer.add(lone) == ""
    assert writer.end() == "\ufffd"
    assert any(writer.add(lone) for _ in range(40))


def draws(logits, sampling, count=4000, beside=()):
    dice = [Dice(sampling, seed=5, index=index) for index in range(count)]
    others = [Dice(other, seed=1) for other in beside]
    rows = torch.tensor(logits).expand(count + len(others), -1)
    return choose(rows, [*others, *dice])[len(others) :]


def test_tokens_are_drawn_as_often_as_the_model_says():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    counts = torch.bincount(torch.tensor(draws(p.log().tolist(), Sampling())), minlength=4) / 4000
    assert (counts - p).abs().max() < 0.03
    cold = torch.bincount(torch.tensor(draws(p.log().tolist(), Sampling(temperature=0.5))), minlength=4) / 4000
    assert (cold - p.square() / p.square().sum()).abs().max() < 0.03


def test_top_p_keeps_the_likeliest_tokens_that_have_the_share():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().tolist()
    assert set(draws(logits, Sampling(top_p=0.65))) == {2, 3}
    assert set(draws(logits, Sampling(top_p=1e-9))) == {3}
    assert set(draws(logits, Sampling(temperature=1e-300))) == {3}


def test_the_draw_of_one_text_does_not_depend_on_the_tastes_beside_it():
    logits = torch.randn(31, generator=torch.Generator().manual_seed(0)).tolist()
    expected = draws(logits, Sampling(), count=50)
    assert draws(logits, Sampling(), count=50, beside=[Sampling(top_p=0.5), GREEDY]) == expected


def test_penalties_are_taken_off_the_tokens_of_the_answer():
    dice = Dice(Sampling(temperature=0.0, presence_penalty=1.0, frequency_penalty=0.5), seed=0)
    chosen = [choose(torch.tensor([[3.0, 1.2, 0.0]]), [dice])[0] for _ in range(4)]
    # 3 - 1 - 0.5 = 1.5, then 3 - 1 - 1 = 1.0 < 1.2, whose own penalty then leaves it below 1.0
    assert chosen == [0, 0, 1, 0]
