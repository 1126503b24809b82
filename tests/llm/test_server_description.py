"""All interfaces of the server: they are described as they are, wait in the queue, and end when their clients go."""

import asyncio
import json
import threading
import time

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from schemathesis.core.failures import FailureGroup
from subquad.llm.serving.openapi import describe
from subquad.llm.serving.protocol import choice_body
from support.described import checked
from support.llm_models import byte_tokenizer, linear_model
from support.servers import COMPLETION, POSTS, Server

from subquad.llm.serving import handlers
from subquad.llm.serving.server import make_app
from subquad.llm.serving.settings import ServeSettings

GETS = {"/health": {}, "/metrics": {}, "/v1/models": {}, "/v1/models/{name}": {"name": "tiny"}}
"""Path of each other interface → its parameters."""
MOST_WAITING = 5
LONG = 30_000
"""Tokens of an answer that does not end by itself."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("bytewise"))


@pytest.fixture(scope="module")
def server(tokenizer):
    settings = ServeSettings(max_batch_size=4, max_context=128, prefill_chunk_size=16)
    with Server(make_app(linear_model(), tokenizer, settings, name="tiny")) as server:
        yield server


@pytest.fixture
def app(tokenizer):
    """An application whose engine works only when a test lets it."""
    settings = ServeSettings(max_context=2 * LONG, max_waiting=MOST_WAITING)
    return make_app(linear_model(), tokenizer, settings, name="tiny")


def described(app):
    """Return the operations of all interfaces that the application describes, by path and method."""
    paths = app.openapi()["paths"]
    return {(path, method.upper()): one for path, methods in paths.items() for method, one in methods.items()}


def test_all_interfaces_are_described_and_those_with_a_body_are_tested_here(app):
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    paths = {(route.path_format, method) for route in routes for method in route.methods}
    assert described(app).keys() == paths
    assert {path for path, method in paths if method == "POST"} == POSTS.keys()
    assert {path for path, method in paths if method == "GET"} == GETS.keys()


def test_the_description_says_what_each_interface_replies(app):
    schemas = app.openapi()["components"]["schemas"]
    for operation in described(app).values():
        content = operation["responses"]["200"]["content"]
        for media_type, reply in content.items():
            if media_type == "application/json":
                name = reply["schema"]["$ref"].rpartition("/")[2]
                assert schemas[name]["required"]
                assert schemas[name]["additionalProperties"] is False
            else:
                assert reply["schema"]["type"] == ("object" if media_type == "text/event-stream" else "string")
        # those whose requests can ask for a stream can reply with one
        body = operation.get("requestBody", {"content": {}})["content"].get("application/json")
        fields = schemas[body["schema"]["$ref"].rpartition("/")[2]]["properties"] if body else {}
        assert ("text/event-stream" in content) == ("stream" in fields)


def test_an_interface_of_another_kind_is_described_as_it_is_declared():
    class Text(BaseModel):
        text: str

    class Count(BaseModel):
        count: int

    app = FastAPI()

    @app.post("/v1/count")
    async def count(body: Text) -> Count:
        return Count(count=len(body.text))

    describe(app, name="tiny")
    (operation,) = described(app).values()
    assert operation["responses"]["200"]["content"] == {
        "application/json": {"schema": {"$ref": "#/components/schemas/Count"}}
    }
    assert app.openapi()["components"]["schemas"]["Text"]["properties"].keys() == {"text"}


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"n": 2, "temperature": 1, "seed": 5, "stop": ["e"]},
        {"logprobs": True},
        {"stream": True, "stream_options": {"include_usage": True}},
    ],
)
@pytest.mark.parametrize("path", POSTS)
def test_successful_replies_are_those_of_the_description(server, path, how):
    more = {"top_logprobs": 2} if "chat" in path else {"logprobs": 2, "echo": True}
    body = {**POSTS[path], **how, **(more if "logprobs" in how else {})}
    assert checked(server, path, body).status_code == 200


@pytest.mark.parametrize("path", GETS)
def test_the_other_replies_are_those_of_the_description(server, path):
    assert checked(server, path, **GETS[path]).status_code == 200


def test_a_reply_with_another_field_is_not_that_of_the_description(server, monkeypatch):
    monkeypatch.setattr(handlers, "choice_body", lambda *words, **how: {**choice_body(*words, **how), "texts": ""})
    with pytest.raises(FailureGroup, match=r"Additional properties are not allowed .*'texts' was unexpected"):
        checked(server, "/v1/completions", POSTS["/v1/completions"])


class Client:
    """A client of one request to an application without a server."""

    def __init__(self, app, path, body):
        self._request = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        self._gone = asyncio.Event()
        self.status, self.sent = None, b""
        self.headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": self.headers, "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
            "http_version": "1.1", "root_path": "",
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        if self._request:
            return self._request.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        self.status = message.get("status", self.status)
        self.sent += message.get("body", b"")

    async def leave(self):
        """Close the connection; the request has to end then, whatever it waits for."""
        self._gone.set()
        await asyncio.wait_for(self.task, 30)


async def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("path", POSTS)
def test_a_prompt_that_is_tokenized_waits_in_the_queue_until_its_client_goes(app, tokenizer, path, monkeypatch):
    handler, began, may_go = app.state.handler, threading.Event(), threading.Event()

    def held(*_, **__):
        began.set()
        assert may_go.wait(60)
        return {"input_ids": [5]}

    async def run():
        client = Client(app, path, POSTS[path])
        await until(lambda: began.is_set() or client.task.done())
        assert handler.waiting == 1
        await client.leave()
        assert handler.waiting == 0
        assert client.status != 200

    for name in ("__call__", "encode"):
        monkeypatch.setattr(type(tokenizer), name, held)
    try:
        asyncio.run(run())
    finally:
        may_go.set()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", POSTS)
def test_a_prompt_waits_for_the_engine_until_its_client_goes(app, path, stream):
    handler, engine = app.state.handler, app.state.engine

    async def run():
        client = Client(app, path, {**POSTS[path], "max_tokens": LONG, **({"stream": True} if stream else {})})
        await until(lambda: engine.waiting or client.task.done())
        if client.task.done():
            # the interface needs no model
            assert client.status == 200
            return
        assert handler.waiting == 1
        # it is decoded then
        assert engine.work()
        assert (engine.active, engine.waiting) == (1, 0)
        await client.leave()
        assert not engine.work()
        assert (engine.active, handler.waiting) == (0, 0)
        assert stream or client.status == 499

    asyncio.run(run())


@pytest.mark.parametrize("path", POSTS)
def test_no_more_prompts_than_may_wait_are_accepted(app, path):
    async def run():
        clients = [Client(app, "/v1/completions", {**COMPLETION, "max_tokens": LONG}) for _ in range(MOST_WAITING)]
        await until(lambda: app.state.engine.waiting == MOST_WAITING)
        refused = Client(app, path, POSTS[path])
        await asyncio.wait_for(refused.task, 30)
        assert refused.status == 429
        assert b"5 prompts are waiting already; try again later" in refused.sent
        for client in clients:
            await client.leave()

    asyncio.run(run())
