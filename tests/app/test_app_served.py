"""A page that is served: clients that send nothing, and requests of any content."""

import contextlib
import http.client
import json
import random
import re
import socket
import time

import pytest

pytest.importorskip("gradio")

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.app_page import served_page

from subquad.app.access import SESSION_COOKIE
from subquad.app.gradio_requests import JOIN, UPLOAD
from subquad.app.sessions import UPLOADS_PER_SESSION

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

BODY_SECONDS, FILES = 30.0, 300
LARGEST = UPLOADS_PER_SESSION * 2**20
COOKIE = f"{SESSION_COOKIE}={'a' * 32}"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with served_page(
        tmp_path_factory.mktemp("page"), "--max-upload", "1", body_seconds=BODY_SECONDS, files=FILES
    ) as own:
        yield own
        # whatever was sent
        assert own.process.poll() is None
    # gradio prints those of values that its components refuse
    failures = re.split("^Traceback ", own.messages, flags=re.MULTILINE)[1:]
    assert not [text for text in failures if "/subquad/" in text]


def connect(page, sent=b""):
    connection = socket.create_connection((page.host, page.port), timeout=60)
    connection.sendall(sent)
    return connection


def request(method, path, body=b"", *, length=None, kind="application/json"):
    """Return a request as it is sent."""
    lines = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncookie: {COOKIE}\r\nconnection: close\r\n"
    length = len(body) if length is None else length
    return f"{lines}content-type: {kind}\r\ncontent-length: {length}\r\n\r\n".encode() + body


def answer(connection):
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    return reply.status, reply.read()


def ask(page, *arguments, **options):
    with connect(page, request(*arguments, **options)) as connection:
        return answer(connection)


FORM = "multipart/form-data; boundary=edge"
FILE = (
    b'--edge\r\ncontent-disposition: form-data; name="files"; filename="t.csv"\r\n'
    b"content-type: text/csv\r\n\r\nsequence,y\r\n--edge--\r\n"
)


def test_uploads_that_stop_arriving_do_not_keep_those_of_others_out(page):
    with contextlib.ExitStack() as stack:
        begun = [request("POST", UPLOAD, FILE[:count], length=LARGEST, kind=FORM) for count in (0, 0, 60, 120)]
        held = [stack.enter_context(connect(page, sent)) for sent in begun]
        # until they are counted
        end = time.monotonic() + 20
        while ask(page, "POST", UPLOAD, FILE, kind=FORM)[0] != 413:
            assert time.monotonic() < end
        # the page is there meanwhile
        status, body = ask(page, "GET", "/")
        assert (status, b"subquad" in body) == (200, True)
        for connection in held:
            assert connection.recv(1) == b""
    status, body = ask(page, "POST", UPLOAD, FILE, kind=FORM)
    assert status == 200
    assert json.loads(body)[0].endswith("t.csv")


def test_silent_connections_do_not_keep_others_out(page):
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(page)) for _ in range(2 * FILES)]
        # those that are too many are told so, and the others are closed after the time for a head
        assert {connection.recv(1) for connection in silent} <= {b"", b"H"}
        assert ask(page, "GET", "/")[0] == 200
    assert "connections are open, further ones are refused" in page.messages


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
NAMES = [
    "",
    "example:tdp43",
    "example:jets",
    "example:tdp43-model",
    "../../etc/passwd",
    "/etc/hostname",
    "\0",
    "x" * 300,
]
FILES_OF_EVENTS = st.fixed_dictionaries(
    {"path": st.sampled_from(NAMES) | st.text(max_size=20)},
    optional={
        "meta": st.just({"_type": "gradio.FileData"}) | VALUES,
        "orig_name": VALUES,
        "size": VALUES,
        "url": VALUES,
    },
)
OF_COMPONENTS = {
    "number": st.integers() | st.floats(),
    "slider": st.integers() | st.floats(),
    "checkbox": st.booleans(),
    "textbox": st.text(max_size=40) | st.sampled_from(["ACDEFG", ">a\nACD\n", "A24G", "\ud800"]),
    "dropdown": st.sampled_from(NAMES) | st.lists(st.sampled_from(NAMES), max_size=3),
    "file": FILES_OF_EVENTS | st.lists(FILES_OF_EVENTS, max_size=2) | st.none(),
}
"""Values of components by their type, beside any others."""


def components_of(page):
    config = json.loads(ask(page, "GET", "/config")[1])
    return {own["id"]: own for own in config["components"]}, config["dependencies"]


def events(components, dependencies):
    """Return a strategy for events of the page: values of the right types, of others, and in wrong number."""

    def one(own):
        types = [components[number]["type"] for number in own["inputs"]]
        right = st.tuples(*(OF_COMPONENTS.get(kind, st.none()) | VALUES for kind in types)).map(list)
        return st.fixed_dictionaries(
            {"data": right, "fn_index": st.just(own["id"]), "session_hash": st.just("fuzz"), "trigger_id": st.none()}
        )

    def damaged(event):
        change = st.tuples(st.sampled_from([*event, "event_data", "simple_format", "other"]), VALUES)
        return change.map(lambda own: {**event, own[0]: own[1]})

    # of what starts a job, one would run beside the others
    starts = {"on_start", "on_ask", "on_resume"}
    quick = [own for own in dependencies if (own["api_name"] or "").rstrip("_0123456789") not in starts]
    right = st.sampled_from(quick).flatmap(one)
    return right | right.flatmap(damaged) | VALUES


def check(page, method, path, body=b"", **options):
    status, reply = ask(page, method, path, body, **options)
    assert status not in (500, 502), (method, path, body, reply[:300])
    return status


def wait_for_events(page):
    """Wait until all events of the page were handled, so that what they write is in the log."""
    end = time.monotonic() + 600
    while json.loads(ask(page, "GET", "/gradio_api/queue/status")[1])["queue_size"]:
        assert time.monotonic() < end
        time.sleep(0.1)
    # the stream of results ends when no event is left
    with connect(page, request("GET", "/gradio_api/queue/data?session_hash=fuzz")) as connection:
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert reply.status == 200
        results = 0
        while b"close_stream" not in (line := reply.readline()):
            assert line, "the stream was cut"
            assert time.monotonic() < end
            results += b"process_completed" in line
    assert results


@pytest.mark.parametrize("examples", [200])
def test_events_of_any_content_are_answered(page, examples):
    drawn = events(*components_of(page))

    @settings(max_examples=examples, deadline=None, phases=[Phase.generate])
    @given(drawn, st.booleans())
    def send(event, is_cut):
        body = json.dumps(event).encode()
        check(
            page, "POST", JOIN, body[: len(body) // 2] if is_cut and random.Random(len(body)).random() < 0.2 else body
        )

    send()
    wait_for_events(page)
    assert check(page, "GET", "/") == 200


PATHS = ["%00", "..%2f..", "%ff", "x" * 300, "%2e%2e/%2e%2e/etc", "0" * 16, "a/b/c", "?x=1", "out/report.html", "'\"<"]


def test_addresses_and_uploads_of_any_content_are_answered(page):
    routes = ("/files/", f"/files/{'0' * 16}/", "/archives/", "/gradio_api/file=", "/gradio_api/", "/login/", "/",
              "/gradio_api/heartbeat/", "/gradio_api/queue/", "/gradio_api/upload_progress?upload_id=", "/assets/",
              "/static/", "/gradio_api/user/", "/svelte/", "/custom_component/", "/theme.css")  # fmt: skip
    for route in routes:
        for path in PATHS:
            if "heartbeat" in route or "progress" in route:
                continue
            check(page, "GET", f"{route}{path.replace(' ', '%20')}")
            check(page, "POST", f"{route}{path.replace(' ', '%20')}", b"{}")

    @settings(max_examples=40, deadline=None, phases=[Phase.generate])
    @given(st.binary(max_size=60), st.sampled_from([FORM, "application/json", "multipart/form-data", "text/plain"]),
           st.integers(0, len(FILE)), st.integers(0, len(FILE)))  # fmt: skip
    def send(content, kind, start, end):
        check(page, "POST", UPLOAD, FILE[:start] + content + FILE[end:], kind=kind)

    send()
    assert check(page, "GET", "/") == 200
