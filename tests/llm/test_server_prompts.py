"""Prompts that are long, many or slow to tokenize: other requests go on, and what cannot fit is refused at once."""

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subquad.llm.serving.token_lengths import characters_per_token
from support.llm_models import byte_tokenizer, linear_model
from support.servers import Server, ask, wait_for
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from subquad.llm.serving.server import make_app
from subquad.llm.serving.settings import ServeSettings

CONTEXT, WAITING = 128, 5
COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
ORDINARY = {"model": "tiny", "prompt": "the green bird", "max_tokens": 3, "temperature": 0}
SLOW = {**ORDINARY, "prompt": "a slow bird"}


class Gate:
    """What a tokenizer was given; texts with the word slow wait until it is opened."""

    def __init__(self):
        self.texts, self.waiting, self.opened = [], threading.Event(), threading.Event()

    def watch(self, tokenizer):
        class Watched(type(tokenizer)):
            def __call__(own, text, **how):
                self.texts.append(text)
                if "slow" in text:
                    self.waiting.set()
                    assert self.opened.wait(20), "nothing else was answered meanwhile"
                return super().__call__(text, **how)

        tokenizer.__class__ = Watched
        return tokenizer


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    gate = Gate()
    settings = ServeSettings(max_batch_size=4, max_context=CONTEXT, prefill_chunk_size=16, max_waiting=WAITING)
    tokenizer = gate.watch(byte_tokenizer(tmp_path_factory.mktemp("bytewise")))
    with Server(make_app(linear_model(), tokenizer, settings, name="tiny")) as server:
        yield SimpleNamespace(server=server, gate=gate)


@pytest.fixture
def server(watched):
    return watched.server


@pytest.fixture
def gate(watched):
    """Return the gate, closed and empty."""
    watched.gate.texts.clear()
    for event in (watched.gate.waiting, watched.gate.opened):
        event.clear()
    yield watched.gate
    # so that a test that fails does not hold up the next one
    watched.gate.opened.set()


@pytest.mark.parametrize(
    ("path", "body"),
    [(COMPLETION, SLOW), (CHAT, {"model": "tiny", "max_tokens": 3, "messages": [{"role": "user", "content": "slow"}]})],
)
def test_requests_and_streams_go_on_while_a_prompt_is_tokenized(server, gate, path, body):
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        stream = client.completions.create(**{**ORDINARY, "max_tokens": 97}, stream=True)
        next(iter(stream))
        slow = pool.submit(ask, server, path, body)
        assert gate.waiting.wait(20)
        assert [event.choices[0].finish_reason for event in stream][-1] == "length"
        assert ask(server, "/health")[1]["waiting"] == 1
        assert ask(server, COMPLETION, {**ORDINARY, "prompt": [5, 7]})[0] == 200
        gate.opened.set()
        assert slow.result()[0] == 200


def test_prompts_that_wait_for_the_tokenizer_are_waiting_requests(server, gate):
    with ThreadPoolExecutor(WAITING) as pool:
        slow = [pool.submit(ask, server, COMPLETION, SLOW) for _ in range(WAITING)]
        wait_for(lambda: ask(server, "/health")[1]["waiting"] == WAITING)
        status, body = ask(server, COMPLETION, ORDINARY)
        assert (status, body["error"]["message"]) == (429, "5 prompts are waiting already; try again later")
        gate.opened.set()
        assert [each.result()[0] for each in slow] == [200] * WAITING


def test_the_prompts_of_a_request_count_one_by_one(server, gate):
    with ThreadPoolExecutor(WAITING) as pool:
        slow = [pool.submit(ask, server, COMPLETION, SLOW) for _ in range(WAITING - 1)]
        wait_for(lambda: ask(server, "/health")[1]["waiting"] == WAITING - 1)
        several = {**ORDINARY, "prompt": ["the bird"] * WAITING}
        with server.client() as client, pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(**several)
        assert refused.value.body["message"] == (
            "4 prompts are waiting already, and at most 5 may wait with the 5 of this one; try again later"
        )
        assert int(refused.value.response.headers["retry-after"]) >= 1
        gate.opened.set()
        assert [each.result()[0] for each in slow] == [200] * (WAITING - 1)
    assert ask(server, COMPLETION, several)[0] == 200


def test_a_prompt_of_a_client_that_has_gone_is_not_tokenized(server, gate):
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, server, COMPLETION, SLOW)
        assert gate.waiting.wait(20)
        host, port = server.url.removeprefix("http://").split(":")
        gone = http.client.HTTPConnection(host, int(port), timeout=60)
        gone.request("POST", COMPLETION, json.dumps(ORDINARY), {"content-type": "application/json"})
        wait_for(lambda: ask(server, "/health")[1]["waiting"] == 2)
        gone.close()
        wait_for(lambda: ask(server, "/health")[1]["waiting"] == 1)
        gate.opened.set()
        assert slow.result()[0] == 200
    assert gate.texts == [SLOW["prompt"]]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (["a"] * 60_000, "prompt: at most 16,384 in one request are allowed, got 60,000"),
        ([[5]] * 16_385, "prompt: at most 16,384 in one request are allowed, got 16,385"),
        (["a"] * 16_384, "prompt: 16,384 prompts in one request, and at most 5 may wait"),
        (["a"] * 6, "prompt: 6 prompts in one request, and at most 5 may wait"),
        (["a", ""], "prompt: it is empty; there is no text to continue"),
        (
            "bird " * 600_000,
            "the prompt (3,000,000 characters, at most 13 for each token) exceeds the maximum of 128 tokens "
            "(--max-context)",
        ),
        (
            [283] * 200,
            "the prompt (200 tokens) and the answer (3) exceed the maximum of 128 tokens (--max-context)",
        ),
    ],
    ids=len,
)
def test_what_cannot_fit_is_refused_without_the_tokenizer(server, gate, prompt, message):
    status, body = ask(server, COMPLETION, {**ORDINARY, "prompt": prompt})
    assert (status, body["error"]["message"], body["error"]["param"]) == (400, message, "prompt")
    assert gate.texts == []


def test_a_chat_that_cannot_fit_is_refused_without_the_tokenizer(server, gate):
    messages = [{"role": "user", "content": "bird " * 600_000}]
    status, body = ask(server, CHAT, {"model": "tiny", "messages": messages})
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "context_length_exceeded", "messages")
    assert body["error"]["message"].startswith("the prompt (3,000,0")
    assert gate.texts == []


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (COMPLETION, ORDINARY, "max_tokens"),
        (CHAT, {"model": "tiny", "messages": [{"role": "user", "content": "bird"}]}, "max_completion_tokens"),
        (CHAT, {"model": "tiny", "messages": [{"role": "user", "content": "bird"}]}, "max_tokens"),
    ],
)
def test_an_answer_that_is_too_long_for_its_prompt_is_named(server, path, body, name):
    status, answer = ask(server, path, {**body, name: 10**9})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "context_length_exceeded", name)


def test_a_list_ends_at_its_first_error(server):
    # a million errors would be collected otherwise
    status, body = ask(server, COMPLETION, {**ORDINARY, "prompt": [{}] * 1_000_000})
    assert status == 400
    assert body["error"]["message"].startswith("prompt: must be a string, a list of strings, ")


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
ISOLATED = pre_tokenizers.Split(Regex(r"\p{N}"), "isolated")
REMOVED = pre_tokenizers.Split(Regex(r"\s+"), "removed")
SPACES = normalizers.Replace(" ", "▁")


def bytewise(*, normalizer=None, before=LEVEL, added="<s>", alphabet=ALPHABET):
    """Return a tokenizer with a token for each byte, and one for eight spaces."""
    merged = ["Ġ" * 2**power for power in range(4)]
    vocabulary = {token: number for number, token in enumerate([*alphabet, *merged[1:]])}
    core = Tokenizer(models.BPE(vocabulary, [(token, token) for token in merged[:-1]]))
    core.pre_tokenizer, core.decoder = before, decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    core.add_tokens([added])
    return PreTrainedTokenizerFast(tokenizer_object=core)


def with_fallback(count=256):
    """Return a tokenizer with tokens of letters, and of bytes for all others."""
    letters = [f"<0x{byte:02X}>" for byte in range(count)] + list("▁ab") + ["▁a", "▁ab"]
    model = models.BPE(
        {token: number for number, token in enumerate(letters)}, [("▁", "a"), ("▁a", "b")], byte_fallback=True
    )
    core = Tokenizer(model)
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), SPACES])
    return PreTrainedTokenizerFast(tokenizer_object=core)


BOUNDED = {
    "bytes": (bytewise(), 8),
    "digits": (bytewise(before=pre_tokenizers.Sequence([ISOLATED, LEVEL])), 8),
    "long": (bytewise(added="<|a long one|>"), 14),
    "composed": (bytewise(normalizer=normalizers.NFC()), 32),
    "decomposed": (bytewise(normalizer=normalizers.NFD(), added=AddedToken("ᾂ" * 5, normalized=True)), 20),
    "lowercase": (bytewise(normalizer=normalizers.Lowercase()), 8),
    "fallback": (with_fallback(), 6),
}


@pytest.mark.parametrize("kind", BOUNDED)
@given(
    text=st.one_of(
        st.text(st.sampled_from(" abİ1\nα\u0313\u0300\u0345ᾂé豈\U0001f600"), max_size=40),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        st.integers(0, 99).map(lambda count: " " * count),
        st.integers(0, 20).map(lambda count: "\u03b1\u0313\u0300\u0345" * count),
    )
)
def test_no_token_stands_for_more_characters_than_the_bound(kind, text):
    tokenizer, bound = BOUNDED[kind]
    assert characters_per_token(tokenizer) == bound
    assert len(text) <= bound * len(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    "tokenizer",
    [
        bytewise(normalizer=normalizers.Strip()),
        bytewise(normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(" +"), " ")])),
        bytewise(normalizer=normalizers.Replace("  ", " ")),
        bytewise(normalizer=normalizers.StripAccents()),
        bytewise(before=pre_tokenizers.Sequence([REMOVED, LEVEL])),
        bytewise(before=pre_tokenizers.Whitespace()),
        bytewise(added=AddedToken("<s>", rstrip=True)),
        bytewise(alphabet=ALPHABET[1:]),
        with_fallback(255),
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, "?")), unk_token="?"),
        SimpleNamespace(is_fast=False),
    ],
)
def test_a_tokenizer_that_can_drop_or_merge_any_number_of_characters_has_no_bound(tokenizer):
    assert characters_per_token(tokenizer) is None
