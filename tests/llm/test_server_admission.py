"""Requests that are refused before their bodies are read: other hosts, missing keys, many large bodies."""

import http.client
import json
import socket
import urllib.request
from contextlib import closing

import pytest
from support.llm_models import byte_tokenizer, linear_model
from support.servers import Server, ask, wait_for

from subquad.errors import SubquadError
from subquad.llm.serving import admission
from subquad.llm.serving.server import make_app
from subquad.llm.serving.settings import ServeSettings

ORDINARY = {"model": "tiny", "prompt": "the green bird", "max_tokens": 3, "temperature": 0}
KEY = "s3cret"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("bytewise"))


@pytest.fixture(scope="module")
def server(tokenizer):
    with Server(make_app(linear_model(), tokenizer, ServeSettings(max_context=128), name="tiny")) as server:
        yield server


@pytest.fixture(scope="module")
def with_key(tokenizer):
    settings = ServeSettings(max_context=128, api_key=KEY)
    with Server(make_app(linear_model(), tokenizer, settings, name="tiny")) as server:
        yield server


def address(server):
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def begun(server, length, sent=b"", **headers):
    """Return a connection on which a request was begun, whose body is to have so many bytes."""
    connection = http.client.HTTPConnection(*address(server), timeout=60)
    connection.putrequest("POST", "/v1/completions")
    for name, value in {"content-type": "application/json", "content-length": str(length), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders(sent or None)
    return connection


def reply_on(connection):
    reply = connection.getresponse()
    return reply.status, json.load(reply)["error"]["message"], reply.headers


@pytest.mark.parametrize("key", [None, "Bearer wrong", "Basic czNjcmV0"])
def test_without_the_key_a_request_is_refused_before_its_body_is_read(with_key, key):
    headers = {} if key is None else {"authorization": key}
    connection = begun(with_key, 4 * 2**20, b'{"model"', **headers)
    status, message, _ = reply_on(connection)
    assert status == 401
    assert "Authorization: Bearer KEY" in message
    connection.close()
    # nor is it parsed
    assert ask(with_key, "/v1/completions", b"not JSON")[0] == 401


def test_all_paths_but_those_of_monitoring_need_the_key(with_key):
    for path in ("/v1/models", "/v1/models/tiny", "/v1/completions", "/nowhere", "/", "/health/", "//v1/models"):
        assert ask(with_key, path)[0] == 401
    assert ask(with_key, "/health")[0] == ask(with_key, "/openapi.json")[0] == 200


def test_many_large_bodies_are_refused_and_small_ones_are_not(server, monkeypatch):
    monkeypatch.setattr(admission, "MOST_BYTES", 500_000)
    held = begun(server, 1_000_000, b" " * 400_000)

    def reply_to(body):
        # not by urllib, which closes the connection and may lose the reply to a body that it is still sending
        with closing(begun(server, len(body), body)) as connection:
            reply = connection.getresponse()
            return reply.status, json.load(reply), reply.headers

    # once the server has read what was sent of the first
    wait_for(lambda: reply_to(b" " * 300_000)[0] == 429)
    _, answer, headers = reply_to(b" " * 300_000)
    message = "POST /v1/completions: many large requests are being read and answered; try again later"
    assert answer["error"]["message"] == message
    assert int(headers["retry-after"]) >= 1
    assert ask(server, "/v1/completions", {**ORDINARY, "user": "x" * 50_000})[0] == 200
    # the room of a client that has gone is free again
    held.close()
    large = {**ORDINARY, "user": "x" * 500_000}
    wait_for(lambda: reply_to(json.dumps(large).encode())[0] == 200)
    # and that of those that were answered
    assert [ask(server, "/v1/completions", large)[0] for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:8000", "[::1]:8000"])
def test_a_server_of_this_computer_answers_to_its_names(server, host):
    assert asked_as(server, host)[0] == 200


@pytest.mark.parametrize("host", ["rebound.example.org", "rebound.example.org:8000", "127.0.0.1.example.org", ""])
def test_a_page_whose_name_resolves_to_this_computer_is_refused(server, host):
    status, body = asked_as(server, host)
    assert status == 403
    assert body["error"]["message"] == (
        "this server has no key and is called 127.0.0.1 or ::1 or localhost only; to use another name, start it with "
        "--allow-host NAME, or with --api-key"
    )


def test_the_name_of_the_host_may_be_any_with_a_key_or_another_address(with_key, tokenizer):
    assert asked_as(with_key, "models.example.org", authorization=f"Bearer {KEY}")[0] == 200
    assert asked_as(with_key, "models.example.org")[0] == 401
    for host, status in (("0.0.0.0", 200), ("127.0.0.5", 403)):
        app = make_app(linear_model(), tokenizer, ServeSettings(max_context=128, host=host), name="tiny")
        with Server(app) as server:
            assert asked_as(server, "models.example.org")[0] == status
            assert asked_as(server, host)[0] == 200


def test_the_health_of_a_server_is_told_by_any_name_and_a_request_without_a_name_is_answered(server):
    assert asked_as(server, "rebound.example.org", path="/health")[0] == 200
    assert asked_as(server, "rebound.example.org", path="/metrics")[0] == 403
    # of HTTP/1.0, where a name is not required
    assert asked_as(server, None)[0] == 200


def test_further_names_of_a_server_can_be_allowed(tokenizer):
    settings = ServeSettings(max_context=128, allow_host=("Host.Docker.Internal", "[fe80::7]"))
    with Server(make_app(linear_model(), tokenizer, settings, name="tiny")) as server:
        for host in ("host.docker.internal:8000", "[fe80::7]:8000", "localhost:8000"):
            assert asked_as(server, host)[0] == 200
        assert asked_as(server, "rebound.example.org")[0] == 403


@pytest.mark.parametrize("name", ["", "*", "http://models.example.org", "models.example.org:8000"])
def test_what_is_no_name_of_a_host_is_refused(name):
    with pytest.raises(SubquadError, match="without http:// and port") as refused:
        ServeSettings(allow_host=(name,))
    assert str(refused.value).startswith(f"--allow-host {name!r}: give the name of a host")


def test_refused_requests_are_counted_by_their_route(tokenizer):
    settings = ServeSettings(max_context=128, api_key=KEY)
    with Server(make_app(linear_model(), tokenizer, settings, name="tiny")) as server:
        for path in ("/v1/completions", "/v1/models/tiny", "/nowhere"):
            assert ask(server, path, b"{}")[0] == 401
        with urllib.request.urlopen(f"{server.url}/metrics") as reply:
            lines = reply.read().decode().splitlines()
    assert {line.rpartition(" ")[0] for line in lines if line.startswith("subquad_requests_total")} == {
        f'subquad_requests_total{{route="{route}",status="401"}}'
        for route in ("/v1/completions", "/v1/models/{name:path}", "other")
    }


def asked_as(server, host, *, path="/v1/models", **headers):
    """Return the reply to a request for a host of this name, or of none."""
    with socket.create_connection(address(server), timeout=60) as connection:
        own = headers if host is None else {"host": host, **headers}
        lines = [f"{name}: {value}" for name, value in own.items()]
        version = "HTTP/1.0" if host is None else "HTTP/1.1"
        connection.sendall("\r\n".join([f"GET {path} {version}", *lines, "connection: close", "", ""]).encode())
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        return reply.status, json.load(reply)
