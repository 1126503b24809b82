"""The server under requests that are drawn from its own description, and under clients that are slow or go away."""

import asyncio
import http.client
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psutil
import pytest
import schemathesis
from fastapi import HTTPException
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from support.described import CHECKS
from support.llm_models import byte_tokenizer, linear_model
from support.servers import COMPLETION as ORDINARY
from support.servers import POSTS, Server, ask, wait_for

from subquad.llm.serving import admission
from subquad.llm.serving.server import make_app
from subquad.llm.serving.settings import ServeSettings

FUZZ_SECONDS = float(os.environ.get("SUBQUAD_FUZZ_SECONDS", "0"))
EXAMPLES = max(10, int(10 * FUZZ_SECONDS))
"""Requests of each kind to each interface: 600 in `make fuzz`."""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    settings = ServeSettings(max_batch_size=4, max_context=128, prefill_chunk_size=16)
    return make_app(linear_model(), byte_tokenizer(tmp_path_factory.mktemp("bytewise")), settings, name="tiny")


@pytest.fixture(scope="module")
def server(app):
    with Server(app) as server:
        yield server


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", POSTS)
def test_replies_are_those_of_the_description(server, path, mode):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    statuses = []

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(case=schema[path]["POST"].as_strategy(generation_mode=mode))
    def send(case):
        reply = case.call()
        case.validate_response(reply, checks=CHECKS)
        statuses.append(reply.status_code)

    send()
    # what fits the description may still not suit the model, which can refuse all of a few requests
    expected = {200, 400} if mode == GenerationMode.POSITIVE and FUZZ_SECONDS else {400}
    assert set(statuses) >= expected
    assert ask(server, "/v1/completions", ORDINARY)[0] == 200


def half_sent(server, text):
    """Return a connection on which a part of a request was sent."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(text)
    return connection


HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comple", HEAD[:-2], HEAD + b'{"model": "ti'])
def test_clients_that_send_half_a_request_do_not_hold_up_the_others(server, sent):
    expected = ask(server, "/v1/completions", ORDINARY)[1]["choices"]
    process = psutil.Process()
    before = process.memory_info().rss
    connections = [half_sent(server, sent) for _ in range(100)]
    try:
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: ask(server, "/v1/completions", ORDINARY), range(16)))
        assert [(status, body["choices"]) for status, body in replies] == [(200, expected)] * 16
        assert process.memory_info().rss - before < 100e6
    finally:
        for connection in connections:
            connection.close()
    wait_for(lambda: not server.server.server_state.connections)
    assert ask(server, "/health")[1] == {"status": "ok", "active": 0, "waiting": 0}


@pytest.mark.slow
def test_a_body_that_does_not_come_is_refused(server, monkeypatch):
    monkeypatch.setattr(admission, "WHOLE_BODY_SECONDS", 0.3)
    with half_sent(server, HEAD + b" ") as connection:
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        message = json.load(reply)["error"]["message"]
    assert (reply.status, message) == (408, "POST /v1/completions: the body was not complete within 0.3 seconds")


class Client:
    """A client whose messages take time, by a clock of its own."""

    def __init__(self, monkeypatch, *messages):
        self.now, self.limits, self._messages = 1000.0, [], list(messages)
        """Time, and the limits under which the messages were waited for."""
        monkeypatch.setattr(admission, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(admission, "asyncio", SimpleNamespace(wait_for=self.wait_for))
        monkeypatch.setattr(admission, "WHOLE_BODY_SECONDS", 60)
        self.receive = admission._Body(admission.Admission(None, key=None, hosts=None)).receiver(self.next)

    async def next(self):
        seconds, message = self._messages.pop(0)
        self.now += seconds
        return message

    async def wait_for(self, coroutine, limit):
        self.limits.append(limit)
        began = self.now
        message = await coroutine
        if self.now - began > limit:
            self.now = began + limit
            raise TimeoutError
        return message

    def received(self):
        return asyncio.run(self.receive())


PART = {"type": "http.request", "body": b" ", "more_body": True}
LAST = {**PART, "more_body": False}
GONE = {"type": "http.disconnect"}


def test_a_body_that_comes_too_slowly_is_refused(monkeypatch):
    client = Client(monkeypatch, (25, PART), (25, PART), (25, LAST))
    assert [client.received(), client.received()] == [PART, PART]
    with pytest.raises(HTTPException, match="408: the body was not complete within 60 seconds"):
        client.received()
    assert client.now == 1060
    assert client.limits == [60, 35, 10]


def test_what_has_arrived_of_a_body_is_read_however_late(monkeypatch):
    client = Client(monkeypatch, (0, PART), (0, LAST))
    client.received()
    client.now += 100
    assert client.received() == LAST
    assert client.limits == [60, 0.05]


def test_an_answer_may_take_longer_than_its_request(monkeypatch):
    client = Client(monkeypatch, (59, PART), (0.5, LAST), (10_000, GONE))
    assert [client.received() for _ in range(3)] == [PART, LAST, GONE]
    assert client.limits == [60, 1]
