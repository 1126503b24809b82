"""Clients that connect and send nothing, or half a head, or read nothing, or in great number."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time

import pytest
import uvicorn
from subquad.runs.connections import bounded_protocol, connection_limit
from support.llm_models import byte_tokenizer, linear_model
from support.servers import Server, ask, wait_for

from subquad.llm.commands.serve import REFUSAL
from subquad.llm.serving.server import make_app
from subquad.llm.serving.settings import ServeSettings
from subquad.runs import connections

HEAD_SECONDS = BODY_SECONDS = WRITE_SECONDS = 1.0
AMPLE = 10.0
"""A time in seconds that clients do not need, on a busy computer neither."""
LIMIT = 7
ORDINARY = {"model": "tiny", "prompt": "the green bird", "max_tokens": 3, "temperature": 0}
LONG = {**ORDINARY, "prompt": [5] * 250, "echo": True, "logprobs": 20}
"""A request whose reply, or the first event of its stream, has about a hundred kilobytes."""
HEAD = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
BUSY = "too many connections are open; try again later"


class BoundedServer(Server):
    """A server whose connections are limited."""

    def __init__(self, app, **seconds):
        self.app, self.engine = app, app.state.engine
        self.accepted = 0
        """Number of connections since the start of the test."""
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        server = self

        class Counted(bounded_protocol(LIMIT, refusal=REFUSAL, **seconds)):
            def connection_made(self, transport):
                super().connection_made(transport)
                server.accepted += 1

        # a reply's connection is closed by the same limit then
        config = uvicorn.Config(app, http=Counted, log_level="warning", timeout_keep_alive=100)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        wait_for(lambda: self.server.started)

    def connect(self, sent=b""):
        connection = socket.create_connection(self.address, timeout=60)
        connection.sendall(sent)
        return connection

    @property
    def open(self):
        return len(self.server.server_state.connections)


@pytest.fixture(scope="module")
def make_server(tmp_path_factory):
    settings = ServeSettings(max_batch_size=4, max_context=40_000, prefill_chunk_size=256)
    with contextlib.ExitStack() as stack:
        made = {}

        def make(head, body, write):
            seconds = {"head_seconds": head, "body_seconds": body, "write_seconds": write}
            if (key := (head, body, write)) not in made:
                folder = tmp_path_factory.mktemp("bytewise")
                app = make_app(linear_model(), byte_tokenizer(folder), settings, name="tiny")
                made[key] = stack.enter_context(BoundedServer(app, **seconds))
            wait_for(lambda: made[key].open == 0)
            made[key].accepted = 0
            return made[key]

        yield make


@pytest.fixture
def server(make_server):
    """A server whose limits are short."""
    return make_server(HEAD_SECONDS, BODY_SECONDS, WRITE_SECONDS)


@pytest.fixture
def patient(make_server):
    """A server whose limits are long, but for that of heads."""
    return make_server(HEAD_SECONDS, AMPLE, AMPLE / 2)


def posted(body):
    """Return a request with a body."""
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def reply_on(connection):
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    return reply.status, json.load(reply)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"GET /hea", HEAD[:-2]])
def test_a_connection_without_a_complete_head_is_closed(server, sent):
    with server.connect(sent) as connection:
        # others are served meanwhile
        assert ask(server, "/v1/completions", ORDINARY)[0] == 200
        assert connection.recv(1) == b""


@pytest.mark.slow
def test_a_head_that_comes_byte_by_byte_is_not_waited_for(server):
    # the server may close it between two bytes
    with server.connect() as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in HEAD[:-2]:
            connection.sendall(bytes([byte]))
            time.sleep(HEAD_SECONDS / 20)
        assert connection.recv(1) == b""


@pytest.mark.slow
def test_a_body_that_does_not_come_is_not_waited_for(server):
    body = json.dumps(ORDINARY).encode()
    with server.connect(posted(body)[:-1]) as connection, server.connect(posted(body)[: -len(body)]) as other:
        assert connection.recv(1) == other.recv(1) == b""
        assert ask(server, "/v1/completions", ORDINARY)[0] == 200


def test_a_body_that_is_late_is_waited_for(patient):
    body = json.dumps(ORDINARY).encode()
    with patient.connect(posted(body)[:-1]) as connection:
        # others are served meanwhile
        assert ask(patient, "/v1/completions", ORDINARY)[0] == 200
        connection.sendall(body[-1:])
        assert reply_on(connection)[0] == 200


def too_large(length=5 * 2**20):
    """Return the head of a request that is refused before its body is read."""
    return posted(b"").replace(b"length: 0", f"length: {length}".encode())


@pytest.mark.slow
def test_the_body_of_a_refused_request_may_take_longer_than_a_head(patient):
    part = 2**20
    with patient.connect(too_large(5 * part)) as connection:
        connection.sendall(b" " * part)
        for _ in range(3):
            connection.sendall(b" " * part)
            time.sleep(HEAD_SECONDS / 2)
        # the next request follows at once
        connection.sendall(b" " * part + HEAD)
        status, reply = reply_on(connection)
        assert (status, reply["error"]["message"]) == (413, "the body has more than 4 MiB")
        assert reply_on(connection)[0] == 200
        # and then a head has its time again
        assert connection.recv(1) == b""


@pytest.mark.slow
def test_the_body_of_a_refused_request_is_not_waited_for_if_it_does_not_come(server):
    with server.connect(too_large() + b" " * 1000) as connection:
        assert reply_on(connection)[0] == 413
        assert connection.recv(1) == b""


@pytest.mark.slow
def test_a_half_head_after_a_reply_is_not_waited_for(server):
    with server.connect(HEAD) as connection:
        assert reply_on(connection)[0] == 200
        connection.sendall(HEAD[:-2])
        assert connection.recv(1) == b""


@pytest.mark.long
def test_requests_follow_each_other_on_one_connection_beyond_the_time_for_a_head(make_server):
    with make_server(AMPLE, AMPLE, AMPLE).connect() as connection:
        for _ in range(5):
            time.sleep(0.22 * AMPLE)
            connection.sendall(HEAD)
            assert reply_on(connection)[0] == 200
        # and two at once
        connection.sendall(HEAD + HEAD)
        assert reply_on(connection)[0] == 200


@pytest.mark.long
def test_bodies_and_replies_may_take_longer_than_heads(patient):
    body = json.dumps({**ORDINARY, "max_tokens": 2}).encode()
    with patient.connect(posted(body)[: -len(body)]) as connection:
        for byte in body:
            connection.sendall(bytes([byte]))
            time.sleep(2 * HEAD_SECONDS / len(body))
        assert reply_on(connection)[0] == 200
    start, count = time.monotonic(), 0
    with patient.client() as client:
        stream = client.completions.create(**{**ORDINARY, "max_tokens": 30_000}, stream=True)
        for _ in stream:
            count += 1
            if time.monotonic() - start > 2.5 * HEAD_SECONDS:
                break
        next(iter(stream))
        stream.close()
    assert count > 2


def unread(server, body, *, closes=False):
    """Return a connection whose client asks for a long reply and reads nothing of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(server.address)
    request = posted(json.dumps(body).encode())
    connection.sendall(request.replace(b"\r\n", b"\r\nconnection: close\r\n", 1) if closes else request)
    return connection


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "closing", pytest.param("stream", marks=pytest.mark.long)])
def test_clients_that_do_not_read_are_cut_and_free_their_rows(server, kind, monkeypatch):
    monkeypatch.setattr(connections, "SEND_BUFFER", 4096)
    answer = {"stream": True, "max_tokens": 30_000} if kind == "stream" else {"max_tokens": 0}
    with contextlib.ExitStack() as stack:
        for _ in range(LIMIT):
            stack.enter_context(unread(server, {**LONG, **answer}, closes=kind == "closing"))
        wait_for(lambda: server.accepted == LIMIT and server.open == 0)
        wait_for(lambda: server.engine.active == server.engine.waiting == 0)
        assert ask(server, "/v1/completions", ORDINARY)[0] == 200


@pytest.mark.long
def test_a_client_that_reads_slowly_gets_its_whole_reply(patient, monkeypatch):
    monkeypatch.setattr(connections, "SEND_BUFFER", 4096)
    with unread(patient, {**LONG, "max_tokens": 0}, closes=True) as connection:
        found = b""
        # beyond the time in which something has to be read
        for _ in range(7):
            found += connection.recv(8_000, socket.MSG_WAITALL)
            time.sleep(AMPLE / 10)
        while part := connection.recv(100_000):
            found += part
    head, _, body = found.partition(b"\r\n\r\n")
    assert len(body) == int(head.lower().partition(b"content-length:")[2].split()[0]) > 80_000
    assert json.loads(body)["choices"][0]["finish_reason"] == "length"


def test_connections_beyond_the_limit_are_refused_until_others_close(make_server, capfd):
    server = make_server(AMPLE, AMPLE, AMPLE)
    with contextlib.ExitStack() as stack:
        # requests, which no time for a head ends
        body = json.dumps({**ORDINARY, "max_tokens": 30_000, "stream": True}).encode()
        held = [stack.enter_context(server.connect(posted(body))) for _ in range(LIMIT)]
        for connection in held[:4]:
            assert connection.recv(12) == b"HTTP/1.1 200"
        wait_for(lambda: server.open == LIMIT)
        for _ in range(3):
            with server.connect() as refused:
                status, reply = reply_on(refused)
                assert (status, reply["error"]["message"]) == (503, BUSY)
                assert refused.recv(1) == b""
        held[0].close()
        wait_for(lambda: server.open == LIMIT - 1)
        assert ask(server, "/health")[0] == 200
    assert capfd.readouterr().err.count("warning: 7 connections are open, further ones are refused") == 1


def test_the_limit_leaves_file_descriptors_for_files(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(connections.os, "listdir", lambda _: ["0", "1", "2"] * 10)
    for allowed, limit in (
        (1_024, 1_024 - 30 - connections.RESERVED),
        (70, 20),
        (30, 1),
        (1_000_000, connections.MOST_CONNECTIONS),
        (resource.RLIM_INFINITY, connections.MOST_CONNECTIONS),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, allowed=allowed: (allowed, allowed))
        assert connection_limit() == limit


@pytest.mark.long
def test_the_command_serves_while_more_connections_are_silent_than_fit(tmp_path):
    linear_model().save_pretrained(tmp_path / "small")
    byte_tokenizer(tmp_path).save_pretrained(tmp_path / "small")
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200));"
        "from subquad.cli import main; sys.exit(main())"
    )
    arguments = ["llm", "serve", str(tmp_path / "small"), "--port", "0"]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True)
    with process, contextlib.ExitStack() as stack:
        host, port = process.stderr.readline().split()[2].removeprefix("http://").split("/")[0].split(":")
        silent = [stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(400)]
        closed = [connection.recv(1) for connection in silent]
        assert set(closed) == {b"", b"H"}
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(HEAD)
            assert reply_on(connection) == (200, {"status": "ok", "active": 0, "waiting": 0})
        process.terminate()
        message = process.stderr.read()
    assert message.startswith("warning: ")
    assert message.count("\n") == 1
