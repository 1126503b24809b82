"""Continuous batching: a sequence is the same alone and in a batch, and does not delay the others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.llm_models import byte_tokenizer, linear_model

from subquad.errors import SubquadError
from subquad.llm.serving import engine as engine_module
from subquad.llm.serving.engine import FAILED, STOPPED, Engine, EngineClosed, Job, StateBatch
from subquad.llm.serving.sampling import NOT_FINITE, TokenSampler


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model():
    return linear_model()


def mixed_model():
    """Return a model whose layers have a sliding window, softmax attention to all tokens, and linear attention."""
    return linear_model("gemma3", softmax_layers=(1,))


def prompt(length, seed=0):
    return torch.randint(5, 283, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class Recorded:
    """A job together with its deltas."""

    def __init__(self, ids, max_tokens, *, temperature=0.0, **sampling):
        self.deltas = []
        sampler = TokenSampler(temperature=temperature, **sampling)
        self.job = Job(prompt=ids, max_tokens=max_tokens, sampler=sampler, on_delta=self.deltas.append)

    @property
    def tokens(self):
        return self.job.tokens

    @property
    def end(self):
        """Why the sequence ended; None while it continues."""
        return self.deltas[-1].finish_reason if self.deltas else None

    @property
    def error(self):
        return self.deltas[-1].error


def finish(engine, *jobs):
    for recorded in jobs:
        engine.submit(recorded.job)
    while engine.work():
        pass


def alone(model, tokenizer, ids, max_tokens, **sampling):
    recorded = Recorded(ids, max_tokens, **sampling)
    finish(Engine(model, tokenizer, max_batch_size=4), recorded)
    return recorded


@pytest.mark.parametrize(
    ("architecture", "attention"),
    [
        ("llama", {}),
        ("llama", {"feature_map": "moments", "cache": 5}),
        ("qwen3", {"window_shape": "sliding"}),
        ("llama", {"softmax_layers": (0,)}),
        # its first layer has a sliding window of its own
        ("gemma3", {}),
    ],
)
def test_a_sequence_equals_what_transformers_generates(tokenizer, architecture, attention):
    model, ids = linear_model(architecture, **attention), prompt(37)
    made = model.generate(torch.tensor([ids]), max_new_tokens=41, do_sample=False, eos_token_id=None, pad_token_id=1)
    assert alone(model, tokenizer, ids, 41).tokens == made[0, 37:].tolist()


def check_batch(tokenizer, model, arrivals, prefill_chunk_size, max_batch_size):
    """Check that sequences that join and leave a batch are those that each one is alone."""
    engine = Engine(model, tokenizer, max_batch_size=max_batch_size, prefill_chunk_size=prefill_chunk_size)
    expected, jobs = [], []
    for place, (wait, length, most, temperature) in enumerate(arrivals):
        sampling = {"temperature": temperature, "top_p": 0.9 if place % 2 else 1.0, "seed": place}
        jobs.append(Recorded(prompt(length, seed=place), most, **sampling))
        expected.append(alone(model, tokenizer, prompt(length, seed=place), most, **sampling))
        engine.submit(jobs[-1].job)
        for _ in range(wait):
            engine.work()
            assert engine.active <= max_batch_size
    finish(engine)
    assert [recorded.deltas for recorded in jobs] == [recorded.deltas for recorded in expected]
    assert engine.active == engine.waiting == 0


@pytest.mark.parametrize("make", [linear_model, mixed_model])
def test_five_sequences_share_a_batch_of_three_and_are_the_same(tokenizer, make):
    arrivals = [(2, 31, 13, 0.0), (0, 3, 11, 1.3), (5, 17, 2, 0.0), (0, 7, 13, 1.3), (1, 1, 1, 0.0)]
    check_batch(tokenizer, make(), arrivals, 7, 3)


@pytest.mark.long
@given(
    model=st.sampled_from([linear_model(feature_map="moments", cache=5), linear_model("qwen3", softmax_layers=(0,))]),
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
    check_batch(tokenizer, model, arrivals, prefill_chunk_size, max_batch_size)


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
    engine = Engine(model, tokenizer, max_batch_size=1)
    jobs = [Recorded(prompt(3), 5), Recorded(prompt(5), 5), Recorded(prompt(7), 2)]
    for recorded in jobs:
        engine.submit(recorded.job)
    assert engine.waiting == 3
    while engine.work():
        ended = [recorded.end is not None for recorded in jobs]
        assert ended == sorted(ended, reverse=True)
    assert all(recorded.end == "length" for recorded in jobs)


def test_a_cancelled_job_frees_its_row_and_does_not_disturb_others(model, tokenizer):
    engine = Engine(model, tokenizer, max_batch_size=3, prefill_chunk_size=7)
    dropped, going, unread, later = (Recorded(prompt(n), m) for n, m in ((6, 10**9), (5, 19), (99, 5), (8, 9)))
    for recorded in (dropped, going, unread):
        engine.submit(recorded.job)
    for _ in range(4):
        engine.work()
    engine.cancel(dropped.job)
    engine.work()
    assert engine.active == 1
    engine.cancel(unread.job)
    finish(engine, later)
    engine.cancel(going.job)
    assert not engine.work()
    assert not unread.deltas
    assert going.tokens == alone(model, tokenizer, prompt(5), 19).tokens
    assert later.tokens == alone(model, tokenizer, prompt(8), 9).tokens
    assert len(dropped.deltas) < 20


def test_a_sequence_ends_at_an_end_of_text_token(model, tokenizer, monkeypatch):
    free = alone(model, tokenizer, prompt(11), 31).tokens
    monkeypatch.setattr(model.generation_config, "eos_token_id", [1, free[12]])
    ended, place = alone(model, tokenizer, prompt(11), 31), free.index(free[12])
    assert ended.tokens == free[: place + 1]
    assert ended.end == "stop"
    assert "".join(delta.text for delta in ended.deltas) == tokenizer.decode(free[:place])


@pytest.mark.long
@pytest.mark.parametrize("make", [linear_model, mixed_model])
def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_there_on_with_the_same_answer(make, tokenizer):
    model = make()
    engine = Engine(model, tokenizer, max_batch_size=3, prefill_chunk_size=7, prefix_states=4)

    def ask(ids):
        recorded = Recorded(ids, 13)
        finish(engine, recorded)
        return recorded

    first = ask(prompt(29))
    assert first.job.cached_tokens == 0
    # the next turn of a chat: the prompt and its answer, of which the last token was not read, and a question
    turn = [*prompt(29), *first.tokens, *prompt(11, seed=1)]
    second = ask(turn)
    assert second.job.cached_tokens == 29 + 12
    assert second.tokens == alone(model, tokenizer, turn, 13).tokens
    assert (engine.prompt_tokens, engine.cached_tokens) == (29 + len(turn), 29 + 12)
    # the same prompt again has one token left to read, or the answer would have no logits to begin with
    again = ask(prompt(29))
    assert again.job.cached_tokens == 0
    assert again.tokens == first.tokens
    # the states that were kept are not changed by those that go on from them
    assert [ask([*turn, 7]).job.cached_tokens for _ in range(2)] == [len(turn)] * 2
    assert ask([*turn, 7]).tokens == alone(model, tokenizer, [*turn, 7], 13).tokens
    assert len(engine.kept) == 4


def test_rotary_positions_that_depend_on_the_batch_cannot_be_batched(monkeypatch):
    model = linear_model()
    monkeypatch.setattr(model.model.rotary_emb, "rope_type", "dynamic")
    with pytest.raises(SubquadError, match="batch of 1"):
        StateBatch(model, 2)
    assert StateBatch(model, 1).bytes_per_sequence > 0


def test_unfinished_jobs_get_an_error_when_the_engine_stops(model, tokenizer):
    engine, recorded = Engine(model, tokenizer), Recorded(prompt(3), 5)
    engine.submit(recorded.job)
    engine.stop()
    engine.run()
    assert (recorded.end, recorded.error) == ("error", STOPPED)
    assert not engine.has_failed
    with pytest.raises(EngineClosed):
        engine.submit(recorded.job)


class Failing:
    """A model's first layer, which raises an error at some of its calls."""

    def __init__(self, model, *, times):
        self.count, self.times = 0, times
        self.hook = model.model.layers[1].register_forward_pre_hook(self.fail)

    def fail(self, *_):
        self.count += 1
        if self.count in self.times:
            raise MemoryError("no memory left")


def run_until_done(engine, *jobs):
    """Let the engine run until the last of the jobs has ended."""
    on_delta = jobs[-1].job.on_delta

    def stop_at_end(delta):
        on_delta(delta)
        if delta.finish_reason:
            engine.stop()

    jobs[-1].job.on_delta = stop_at_end
    for recorded in jobs:
        engine.submit(recorded.job)
    engine.run()


def test_a_prompt_that_cannot_be_processed_ends_its_own_job_only(tokenizer, capfd):
    model = linear_model()
    engine = Engine(model, tokenizer, max_batch_size=3)
    jobs = [Recorded(prompt(7), 19), Recorded([10**6], 5), Recorded(prompt(3), 29)]
    run_until_done(engine, *jobs)
    assert [recorded.end for recorded in jobs] == ["length", "error", "length"]
    assert jobs[1].error == FAILED
    for recorded, length, most in ((jobs[0], 7, 19), (jobs[2], 3, 29)):
        assert recorded.deltas == alone(model, tokenizer, prompt(length), most).deltas
    assert "IndexError" in capfd.readouterr().err


@pytest.mark.parametrize("make", [linear_model, mixed_model])
def test_a_batch_that_fails_in_the_middle_of_a_step_is_emptied_and_other_jobs_go_on(tokenizer, make, capfd):
    model = make()
    engine = Engine(model, tokenizer, max_batch_size=2, prefix_states=4)
    jobs = [Recorded(prompt(5), 50), Recorded(prompt(6), 50), Recorded(prompt(31), 11)]
    # two prompts and seven steps, of which the last one fails when the first layer has changed its states
    failing = Failing(model, times=[9])
    run_until_done(engine, *jobs)
    failing.hook.remove()
    assert [recorded.error for recorded in jobs] == [FAILED, FAILED, ""]
    assert jobs[2].deltas == alone(model, tokenizer, prompt(31), 11).deltas
    assert "no memory left" in capfd.readouterr().err


def test_an_engine_whose_model_cannot_compute_any_more_ends(model, tokenizer, monkeypatch, capfd):
    engine, jobs = Engine(model, tokenizer, max_batch_size=1), [Recorded(prompt(3), 5), Recorded(prompt(4), 5)]
    for recorded in jobs:
        engine.submit(recorded.job)

    def lost(*_):
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(engine_module, "forward", lost)
    engine.run()
    assert engine.has_failed
    assert [recorded.error for recorded in jobs] == [FAILED, STOPPED]
    assert "the device is lost" in capfd.readouterr().err


@pytest.mark.parametrize("make", [linear_model, lambda: linear_model("qwen3", softmax_layers=(0,))])
def test_a_sequence_whose_logits_are_not_finite_ends_and_the_others_go_on(make, tokenizer):
    whole, spoilt = make(), make()
    first = alone(whole, tokenizer, prompt(11), 23).tokens
    expected = [alone(whole, tokenizer, prompt(13, seed=1), 23), alone(whole, tokenizer, prompt(29, seed=2), 23)]
    read = {token for recorded in expected for token in (*recorded.job.prompt, *recorded.tokens)}
    # a token that the first sequence writes and the others do not have
    place = next(place for place, token in enumerate(first) if token not in read | {*prompt(11)})
    with torch.no_grad():
        spoilt.model.embed_tokens.weight[first[place]] = float("nan")
    engine = Engine(spoilt, tokenizer, max_batch_size=3, prefill_chunk_size=7, prefix_states=9)
    ending, unread = Recorded(prompt(11), 23), Recorded([*prompt(13, seed=1), first[place]], 23)
    others = [Recorded(recorded.job.prompt, 23) for recorded in expected]
    finish(engine, ending, others[0], unread, others[1])
    assert ending.tokens == first[: place + 1]
    assert ending.error == unread.error == NOT_FINITE
    assert [recorded.deltas for recorded in others] == [recorded.deltas for recorded in expected]
    # their states are not kept for prompts that begin alike
    assert engine.kept
    layers = [layer for cache in engine.kept.values() for layer in cache.layers]
    for layer in layers:
        tensors = getattr(layer, "state", None) or (layer.keys, layer.values)
        assert all(tensor.isfinite().all() for tensor in tensors)
