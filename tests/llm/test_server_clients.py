"""The server under requests that are drawn from its own description, and under clients that are slow or go away."""

import http.client
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from support.llm_models import byte_tokenizer, linear_model
from support.servers import Server, ask, wait_for

from subquad.llm.serving import admission
from subquad.llm.serving.server import make_app
from subquad.llm.serving.settings import ServeSettings

FUZZ_SECONDS = float(os.environ.get("SUBQUAD_FUZZ_SECONDS", "0"))
EXAMPLES = max(25, int(10 * FUZZ_SECONDS))
"""Requests of each kind to each interface: 600 in `make fuzz`."""
ORDINARY = {"model": "tiny", "prompt": "the green bird", "max_tokens": 3, "temperature": 0}
# whether a request that fits the description can be answered depends on the model too: its context, its template
CHECKS = [check for check in schemathesis.checks.CHECKS.get_all() if check.__name__ != "positive_data_acceptance"]


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
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
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


@pytest.mark.long
def test_the_other_replies_are_those_of_the_description(server):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    for path in ("/health", "/metrics", "/v1/models"):
        schema[path]["GET"].Case().call_and_validate()
    schema["/v1/models/{name}"]["GET"].Case(path_parameters={"name": "tiny"}).call_and_validate()


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


def test_a_body_that_comes_too_slowly_is_refused(server, monkeypatch):
    monkeypatch.setattr(admission, "WHOLE_BODY_SECONDS", 0.3)
    with half_sent(server, HEAD) as connection:
        start = time.monotonic()
        for _ in range(3):
            connection.sendall(b" ")
            time.sleep(0.05)
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert 0.1 < time.monotonic() - start < 30
        message = json.load(reply)["error"]["message"]
    assert (reply.status, message) == (408, "POST /v1/completions: the body was not complete within 0.3 seconds")


def test_an_answer_may_take_longer_than_its_request(server, monkeypatch):
    monkeypatch.setattr(admission, "WHOLE_BODY_SECONDS", 0.05)
    assert ask(server, "/v1/completions", {**ORDINARY, "max_tokens": 100})[0] == 200
