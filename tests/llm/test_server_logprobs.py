"""Replies with many log-probabilities: their number is limited, and other requests go on while they are written."""

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from subquad.llm.serving.logprobs import token_logprobs
from support.llm_models import byte_tokenizer, linear_model
from support.servers import Server, ask

from subquad.llm.serving import handlers
from subquad.llm.serving.server import make_app
from subquad.llm.serving.settings import ServeSettings

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
ORDINARY = {"model": "tiny", "prompt": "the green bird", "max_tokens": 3, "temperature": 0}
ECHOED = {"model": "tiny", "prompt": [[5, 7] * 50] * 3, "echo": True, "max_tokens": 0}


class Texts:
    """Which tokens were decoded one by one; token 9 waits while it is closed."""

    def __init__(self):
        self.counts, self.waiting, self.opened = Counter(), threading.Event(), threading.Event()
        self.opened.set()

    def watch(self, tokenizer):
        class Watched(type(tokenizer)):
            def decode(own, tokens, *, skip_special_tokens, **how):
                if not skip_special_tokens and len(tokens) == 1:
                    self.counts[tokens[0]] += 1
                    if tokens[0] == 9:
                        self.waiting.set()
                        assert self.opened.wait(20), "nothing else was answered meanwhile"
                return super().decode(tokens, skip_special_tokens=skip_special_tokens, **how)

        tokenizer.__class__ = Watched
        return tokenizer


@pytest.fixture
def watched(tmp_path):
    texts, settings = Texts(), ServeSettings(max_batch_size=4, max_context=1000)
    app = make_app(linear_model(), texts.watch(byte_tokenizer(tmp_path)), settings, name="tiny")
    with Server(app) as server:
        yield SimpleNamespace(server=server, texts=texts)
        texts.opened.set()


@pytest.mark.parametrize("is_stream", [False, True])
def test_requests_go_on_while_a_reply_with_log_probabilities_is_written(watched, is_stream):
    server, texts = watched.server, watched.texts
    texts.opened.clear()
    body = {**ECHOED, "prompt": [5, 9], "logprobs": 1, "stream": is_stream}
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, server, COMPLETION, body) if not is_stream else pool.submit(events, server, body)
        assert texts.waiting.wait(20)
        assert ask(server, "/health")[0] == 200
        assert ask(server, COMPLETION, ORDINARY)[0] == 200
        texts.opened.set()
        reply = slow.result()[0] if is_stream else slow.result()[1]
    assert len(reply["choices"][0]["logprobs"]["tokens"]) == 2


def events(server, body):
    """Return the events of a stream."""
    with server.client() as client:
        return [event.model_dump() for event in client.completions.create(**body)]


def test_each_token_is_decoded_once(watched):
    reply = ask(watched.server, COMPLETION, {**ECHOED, "logprobs": 20, "n": 2})[1]
    assert len(json.dumps(reply)) > 100_000
    assert set(watched.texts.counts.values()) == {1}


@pytest.mark.parametrize(
    ("path", "change", "count"),
    [
        (COMPLETION, {"logprobs": 3}, "1,200 log-probabilities (300 tokens, 4 for each)"),
        (COMPLETION, {"logprobs": 1, "n": 2}, "1,200 log-probabilities (600 tokens, 2 for each)"),
        (COMPLETION, {"logprobs": 0, "max_tokens": 300}, "1,200 log-probabilities (1,200 tokens, 1 for each)"),
        (COMPLETION, {"logprobs": 3, "stream": True}, "1,200 log-probabilities (300 tokens, 4 for each)"),
        (CHAT, {"logprobs": True, "top_logprobs": 20, "max_tokens": 50}, "1,050 log-probabilities (50 tokens, 21 for"),
    ],
)
def test_more_log_probabilities_than_a_reply_can_have_are_refused(watched, monkeypatch, path, change, count):
    monkeypatch.setattr(handlers, "MOST_VALUES", 1000)
    asked = ECHOED if path == COMPLETION else {"model": "tiny", "messages": [{"role": "user", "content": "bird"}]}
    status, body = ask(watched.server, path, {**asked, **change})
    assert (status, body["error"]["param"]) == (400, "logprobs")
    assert f"logprobs: {count}" in body["error"]["message"]
    assert "and a reply can have 1,000; ask for fewer" in body["error"]["message"]
    # what is within the limit is answered, and the tokens of a stream are sent one by one
    assert ask(watched.server, COMPLETION, {**ECHOED, "logprobs": 2})[0] == 200
    streamed = {**ORDINARY, "logprobs": 20, "max_tokens": 70, "stream": True}
    assert events(watched.server, streamed)[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("path", "change", "count"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "bird"}], "logprobs": True, "top_logprobs": 4}, 20),
        (COMPLETION, {"prompt": [[5] * 3, [7] * 3], "echo": True, "logprobs": 4}, 7 + 7),
    ],
)
def test_answers_without_a_maximum_are_as_long_as_their_log_probabilities_fit(
    watched, monkeypatch, path, change, count
):
    monkeypatch.setattr(handlers, "MOST_VALUES", 104)
    asked = {"model": "tiny", "temperature": 0, **change}
    status, body = ask(watched.server, path, asked)
    assert (status, body["usage"]["completion_tokens"]) == (200, count)
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    # a maximum of the client's is not changed
    assert ask(watched.server, path, {**asked, "max_tokens": 40})[0] == 400
    # nor is a prompt shortened
    monkeypatch.setattr(handlers, "MOST_VALUES", 4)
    assert ask(watched.server, path, asked)[0] == 400


def test_tokens_without_any_probability_have_a_number_that_json_has():
    (found,) = token_logprobs(torch.tensor([[0.0, -torch.inf, 1.0]]), [1], 3)
    assert found.logprob == -9999.0
    assert [token for token, _ in found.top] == [2, 0, 1]
    json.dumps([*found.top_logprobs], allow_nan=False)
