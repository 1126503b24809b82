"""Continuous batching: a sequence is the same alone and in a batch, and does not delay the others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from subquad.llm.serving.jobs import Job
from subquad.llm.serving.prefix_states import PrefixStates
from subquad.llm.serving.state_batch import StateBatch
from support.llm_models import byte_tokenizer, linear_model, prefilled

from subquad.errors import SubquadError
from subquad.llm.serving import engine as engine_module
from subquad.llm.serving.engine import Engine, EngineClosed
from subquad.llm.serving.sampling import SamplingParameters

GREEDY = SamplingParameters(temperature=0.0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model():
    return linear_model()


def prompt(length, seed=0):
    return torch.randint(5, 283, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class Recorded:
    """A job together with its deltas."""

    def __init__(self, ids, max_tokens, **how):
        self.deltas = []
        self.job = Job(prompt=ids, max_tokens=max_tokens, on_delta=self.deltas.append, **{"sampling": GREEDY, **how})

    def tokens(self, index=0):
        return [delta.token for delta in self.deltas if delta.index == index]

    def text(self, index=0):
        return "".join(delta.text for delta in self.deltas if delta.index == index)

    def finishes(self):
        return {delta.index: delta.finish_reason for delta in self.deltas if delta.finish_reason}


def alone(model, tokenizer, ids, max_tokens, **how):
    engine, recorded = Engine(model, tokenizer, max_batch_size=4), Recorded(ids, max_tokens, **how)
    engine.submit(recorded.job)
    while engine.work():
        pass
    return recorded


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        ("llama", {}),
        ("llama", {"feature_map": "moments", "cache": 5}),
        ("llama", {"feature_map": "none", "cache": 5}),
        ("qwen3", {"window_shape": "sliding"}),
        ("llama", {"softmax_layers": (0,)}),
        ("qwen3", {"softmax_layers": (1,)}),
        # its first layer has a sliding window of its own
        ("gemma3", {}),
    ],
)
def test_a_sequence_equals_what_transformers_generates(tokenizer, kind, attention):
    model = linear_model(kind, **attention)
    ids = prompt(37)
    made = model.generate(torch.tensor([ids]), max_new_tokens=41, do_sample=False, eos_token_id=None, pad_token_id=1)
    assert alone(model, tokenizer, ids, 41).tokens() == made[0, 37:].tolist()


def mixed_model():
    """Return a model whose layers have a sliding window, softmax attention to all tokens, and linear attention."""
    return linear_model("gemma3", softmax_layers=(1,))


@pytest.mark.long
@given(
    model=st.sampled_from(
        [
            linear_model(),
            linear_model(feature_map="moments", cache=5),
            linear_model(feature_map="none", cache=5),
            linear_model("qwen3", softmax_layers=(0,)),
            mixed_model(),
        ]
    ),
    arrivals=st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 31), st.integers(1, 13), st.sampled_from([0.0, 1.3])),
        min_size=2,
        max_size=5,
    ),
    prefill_chunk_size=st.sampled_from([3, 7, 512]),
    max_batch_size=st.integers(1, 4),
)
@settings(max_examples=16)
def test_a_sequence_is_the_same_in_a_batch_that_others_join_and_leave(
    tokenizer, model, arrivals, prefill_chunk_size, max_batch_size
):
    engine = Engine(model, tokenizer, max_batch_size=max_batch_size, prefill_chunk_size=prefill_chunk_size)
    everyone = []
    for place, (wait, length, most, temperature) in enumerate(arrivals):
        how = {"sampling": SamplingParameters(temperature=temperature, top_p=0.9 if place % 2 else 1.0), "seed": place}
        recorded = Recorded(prompt(length, seed=place), most, **how)
        everyone.append((recorded, alone(model, tokenizer, recorded.job.prompt, most, **how)))
        engine.submit(recorded.job)
        for _ in range(wait):
            engine.work()
    while engine.work():
        pass
    for recorded, expected in everyone:
        assert recorded.deltas == expected.deltas
    assert engine.active == engine.waiting == 0


def test_the_first_of_several_sequences_of_a_prompt_equals_a_single_one(model, tokenizer):
    how = {"sampling": SamplingParameters(), "seed": 3}
    three = alone(model, tokenizer, prompt(29), 17, n=3, **how)
    assert three.tokens(0) == alone(model, tokenizer, prompt(29), 17, **how).tokens()
    assert len({tuple(three.tokens(index)) for index in range(3)}) == 3
    assert alone(model, tokenizer, prompt(29), 17, n=3, **how).deltas == three.deltas
    assert (
        alone(model, tokenizer, prompt(29), 17, n=3, sampling=SamplingParameters(), seed=4).tokens() != three.tokens()
    )


def test_a_long_prompt_is_prefilled_between_the_decoding_steps_of_others(model, tokenizer):
    engine = Engine(model, tokenizer, max_batch_size=2, prefill_chunk_size=7)
    short, long = Recorded(prompt(3), 50), Recorded(prompt(7 * 13), 5)
    engine.submit(short.job)
    engine.work()
    engine.submit(long.job)
    before = len(short.deltas)
    while not long.deltas:
        grown = len(short.deltas)
        engine.work()
        assert len(short.deltas) == grown + 1
    assert len(short.deltas) == before + 13


def test_jobs_wait_in_the_order_of_arrival_if_the_batch_is_full(model, tokenizer):
    engine = Engine(model, tokenizer, max_batch_size=3)
    first, second, third = Recorded(prompt(3), 11, n=2), Recorded(prompt(5), 13, n=2), Recorded(prompt(7), 2)
    for recorded in (first, second, third):
        engine.submit(recorded.job)
    assert engine.waiting == 3
    while not first.finishes():
        assert engine.work()
        # the third would fit beside the first, but nobody is overtaken
        assert not second.deltas
        assert not third.deltas
    while engine.work():
        assert engine.active <= 3
    assert [len(recorded.finishes()) for recorded in (first, second, third)] == [2, 2, 1]


def test_a_cancelled_job_frees_its_row_and_does_not_disturb_others(model, tokenizer):
    engine = Engine(model, tokenizer, max_batch_size=3, prefill_chunk_size=7)
    kept, dropped, unread, last = (
        Recorded(prompt(5), 19),
        Recorded(prompt(6), 10**9, n=2),
        Recorded(prompt(99), 5),
        None,
    )
    for recorded in (dropped, kept, unread):
        engine.submit(recorded.job)
    for _ in range(4):
        engine.work()
    engine.cancel(dropped.job)
    engine.work()
    assert engine.active == 1
    engine.cancel(unread.job)
    last = Recorded(prompt(8), 9)
    engine.submit(last.job)
    while engine.work():
        pass
    engine.cancel(kept.job)
    assert not engine.work()
    assert not unread.deltas
    assert kept.tokens() == alone(model, tokenizer, prompt(5), 19).tokens()
    assert last.tokens() == alone(model, tokenizer, prompt(8), 9).tokens()
    assert len(dropped.deltas) < 20


def test_a_sequence_ends_at_an_end_of_text_token(model, tokenizer, monkeypatch):
    free = alone(model, tokenizer, prompt(11), 31)
    assert free.finishes() == {0: "length"}
    token = free.tokens()[12]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [1, token])
    ended = alone(model, tokenizer, prompt(11), 31)
    place = free.tokens().index(token)
    assert ended.tokens() == free.tokens()[: place + 1]
    assert ended.finishes() == {0: "stop"}
    assert ended.text() == tokenizer.decode(free.tokens()[:place])


def test_an_impossible_job_is_rejected(model, tokenizer):
    engine = Engine(model, tokenizer, max_batch_size=2)
    for ids, most, n in (([], 1, 1), ([5], -1, 1), ([5], 1, 3)):
        with pytest.raises(ValueError, match="1 to 2 sequences"):
            engine.submit(Recorded(ids, most, n=n).job)


def test_unfinished_jobs_are_closed_when_the_engine_stops(model, tokenizer):
    stopped, recorded = Engine(model, tokenizer), Recorded(prompt(3), 5)
    stopped.submit(recorded.job)
    stopped.stop()
    stopped.run()
    assert recorded.finishes() == {0: "closed"}
    assert not stopped.has_failed
    with pytest.raises(EngineClosed):
        stopped.submit(recorded.job)


def test_unfinished_jobs_are_closed_although_the_rows_of_another_cannot_be_freed(model, tokenizer, capfd):
    stopped, jobs = Engine(model, tokenizer, prefix_states=1), [Recorded(prompt(3), 5), Recorded(prompt(4), 5)]
    stopped.submit(jobs[0].job)
    stopped.work()
    assert stopped.active == 1

    def fail(row):
        raise RuntimeError("a copy failed")

    stopped._batch.states = fail
    stopped.cancel(jobs[0].job)
    stopped.submit(jobs[1].job)
    stopped.stop()
    stopped.run()
    assert [recorded.finishes() for recorded in jobs] == [{0: "closed"}, {0: "closed"}]
    assert "a copy failed" in capfd.readouterr().err


def test_a_prompt_that_cannot_be_processed_ends_its_own_job_only(model, tokenizer, capfd):
    engine = Engine(model, tokenizer, max_batch_size=3)
    jobs = [Recorded(prompt(7), 19), Recorded([10**6], 5, n=2), Recorded(prompt(3), 5)]
    for recorded in jobs:
        engine.submit(recorded.job)
    while engine.work():
        pass
    assert [recorded.finishes() for recorded in jobs] == [{0: "length"}, {0: "error", 1: "error"}, {0: "length"}]
    for recorded, length, most in ((jobs[0], 7, 19), (jobs[2], 3, 5)):
        assert recorded.deltas == alone(model, tokenizer, prompt(length), most).deltas
    assert "IndexError" in capfd.readouterr().err


def test_what_a_batch_needs_for_a_sequence_and_for_each_of_its_tokens():
    linear, mixed = StateBatch(linear_model(), 3), StateBatch(mixed_model(), 3)
    assert linear.bytes_per_token == 0 < linear.bytes_per_sequence
    # keys and values of two heads of ten channels, in float32
    assert mixed.bytes_per_token == 2 * 2 * 10 * 4
    window = prefilled(mixed_model(), torch.tensor([prompt(17)])).layers[0]
    assert mixed.bytes_per_sequence > window.keys.nbytes + window.values.nbytes


def test_rotary_positions_that_depend_on_the_batch_cannot_be_batched(monkeypatch):
    model = linear_model()
    monkeypatch.setattr(model.model.rotary_emb, "rope_type", "dynamic")
    with pytest.raises(SubquadError, match=r"dynamic.*use --max-batch-size 1"):
        StateBatch(model, 2)
    assert StateBatch(model, 1).bytes_per_sequence > 0


@pytest.mark.parametrize("make", [linear_model, mixed_model])
def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_there_on_with_the_same_answer(make, tokenizer):
    model = make()
    engine = Engine(model, tokenizer, max_batch_size=3, prefill_chunk_size=7, prefix_states=4)

    def ask(ids, **how):
        recorded = Recorded(ids, 13, **how)
        engine.submit(recorded.job)
        while engine.work():
            pass
        return recorded

    first = ask(prompt(29))
    assert first.job.cached_tokens == 0
    # the next turn of a chat: the prompt and its answer, of which the last token was not read, and a question
    turn = [*prompt(29), *first.tokens(), *prompt(11, seed=1)]
    second = ask(turn)
    assert second.job.cached_tokens == 29 + 12
    assert second.tokens() == alone(model, tokenizer, turn, 13).tokens()
    assert engine.prompt_tokens == 29 + len(turn)
    assert engine.cached_tokens == 29 + 12
    # the same prompt again has one token left to read, or the answer would have no logits to begin with
    again = ask(prompt(29))
    assert again.job.cached_tokens == 0
    assert again.tokens() == first.tokens()
    # log-probabilities of the prompt need all of it
    assert ask(turn, logprobs=1, has_prompt_logprobs=True).job.cached_tokens == 0
    # the states that were kept are not changed by those that go on from them
    assert ask([*turn, 7]).job.cached_tokens == len(turn)
    assert ask([*turn, 7]).tokens() == alone(model, tokenizer, [*turn, 7], 13).tokens()


def test_of_the_states_that_are_kept_the_one_not_used_for_the_longest_time_goes():
    kept = PrefixStates(2)
    kept.add([1, 2], [])
    kept.add([1, 2, 3], [])
    assert kept.find([1, 2, 3, 4])[0] == 3
    assert kept.find([1, 2, 3])[0] == 2
    kept.add([9], [])
    assert len(kept) == 2
    assert kept.find([1, 2, 3, 4])[0] == 2
    assert kept.find([9]) is None
    assert PrefixStates(0).find([1]) is None


class Failing:
    """A function that raises an error at some of its calls."""

    def __init__(self, call, *, times):
        self.call, self.times, self.count = call, times, 0

    def __call__(self, *arguments, **how):
        self.count += 1
        if self.count in self.times:
            raise MemoryError
        return self.call(*arguments, **how)


@pytest.mark.parametrize("place", ["_begin", "_start"])
def test_a_job_that_fails_while_it_is_started_gets_an_error(model, tokenizer, monkeypatch, place):
    engine = Engine(model, tokenizer, max_batch_size=2)
    jobs = [Recorded(prompt(3), 5, n=2), Recorded(prompt(4), 5)]
    for recorded in jobs:
        engine.submit(recorded.job)
    monkeypatch.setattr(engine, place, Failing(getattr(engine, place), times=[1]))
    while engine.work():
        pass
    assert [recorded.finishes() for recorded in jobs] == [{0: "error", 1: "error"}, {0: "length"}]
    assert jobs[1].tokens() == alone(model, tokenizer, prompt(4), 5).tokens()


@pytest.mark.parametrize("make", [linear_model, mixed_model])
@pytest.mark.parametrize("rows", [2, 3])
def test_a_batch_that_fails_in_the_middle_of_a_step_is_emptied_and_other_jobs_go_on(tokenizer, make, rows):
    model = make()
    engine = Engine(model, tokenizer, max_batch_size=rows, prefill_chunk_size=7, prefix_states=4)
    first, second, third = Recorded(prompt(5), 50), Recorded(prompt(6), 50), Recorded(prompt(31), 11)
    for recorded in (first, second, third):
        engine.submit(recorded.job)
    while len(second.deltas) < 3:
        # with three rows, the third prompt is read in part
        engine.work()

    def fail(_, inputs):
        # the first layer has changed its states
        if len(inputs[0]) == 2:
            raise MemoryError

    with model.model.layers[1].register_forward_pre_hook(fail):
        engine.work()
    assert first.finishes() == second.finishes() == {0: "error"}
    assert (engine.active, len(engine._kept)) == (0, 0)
    while engine.work():
        pass
    assert third.deltas == alone(model, tokenizer, prompt(31), 11).deltas


def test_an_engine_whose_model_cannot_compute_any_more_ends(model, tokenizer, monkeypatch, capfd):
    engine, jobs = Engine(model, tokenizer, max_batch_size=1), [Recorded(prompt(3), 5), Recorded(prompt(4), 5)]
    for recorded in jobs:
        engine.submit(recorded.job)
    monkeypatch.setattr(engine_module, "forward", Failing(engine_module.forward, times=[1, 2]))
    engine.run()
    assert engine.has_failed
    assert [recorded.finishes() for recorded in jobs] == [{0: "error"}, {0: "closed"}]
    assert "after an error the model cannot process a single token either" in capfd.readouterr().err


def test_a_cancellation_does_not_count_as_waiting(model, tokenizer):
    engine, recorded = Engine(model, tokenizer), Recorded(prompt(3), 1)
    engine.submit(recorded.job)
    assert engine.waiting == 1
    engine.work()
    engine.cancel(recorded.job)
    assert engine.waiting == 0


def test_more_most_likely_tokens_than_there_are_are_all_tokens(model, tokenizer):
    how = {"seed": 3, "sampling": SamplingParameters(temperature=1.0, top_k=10**400)}
    usual = {"seed": 3, "sampling": SamplingParameters(temperature=1.0, top_k=283)}
    ids = prompt(5)
    assert alone(model, tokenizer, ids, 7, **how).tokens() == alone(model, tokenizer, ids, 7, **usual).tokens()


@pytest.mark.parametrize("make", [linear_model, lambda: linear_model("qwen3", softmax_layers=(0,))])
def test_a_sequence_whose_logits_are_not_finite_ends_and_the_others_go_on(make, tokenizer):
    whole, spoilt = make(), make()
    first = alone(whole, tokenizer, prompt(11), 23).tokens()
    other, long = prompt(13, seed=1), prompt(29, seed=2)
    expected = {len(ids): alone(whole, tokenizer, ids, 23).deltas for ids in (other, long)}
    read = {*other, *long, *(delta.token for deltas in expected.values() for delta in deltas)}
    # a token that the first sequence writes and the others do not have
    place = next(place for place, token in enumerate(first) if token not in read | {*prompt(11)})
    with torch.no_grad():
        spoilt.model.embed_tokens.weight[first[place]] = float("nan")
    engine = Engine(spoilt, tokenizer, max_batch_size=3, prefill_chunk_size=7, prefix_states=9)
    ending, going, later = Recorded(prompt(11), 23), Recorded(other, 23), Recorded(long, 23)
    unread = Recorded([*other, first[place]], 23, n=2, logprobs=0, has_prompt_logprobs=True)
    empty = Recorded([first[place], *other], 0)
    for recorded in (ending, going, unread, empty, later):
        engine.submit(recorded.job)
    while engine.work():
        pass
    assert ending.tokens() == [*first[: place + 1], None]
    assert ending.finishes() == empty.finishes() == {0: "failed"}
    assert unread.finishes() == {0: "failed", 1: "failed"}
    assert (going.deltas, later.deltas) == (expected[13], expected[29])
    assert engine.active == 0
    # their states are not kept for prompts that begin alike
    kept = [tensor for states in engine._kept._states.values() for layer in states for tensor in layer]
    assert kept
    assert all(tensor.isfinite().all() for tensor in kept)
