"""Which requests reach gradio: nothing that the page does not use, and no files of other servers."""

import inspect
import json
import re

import pytest

gr = pytest.importorskip("gradio")

from starlette.testclient import TestClient

from subquad.app.access import Access
from subquad.app.gradio_requests import is_plain_json, is_unused, names_other_server

USED = {
    "app_id", "cancel", "file=", "heartbeat", "info", "login_check", "queue", "reset", "startup-events", "theme.css",
    "upload", "upload_progress", "user",
}  # fmt: skip
"""First words of the routes that the page uses, or that do nothing."""


async def echo(scope, receive, send):
    """Answer with the body of the request."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def ask(app, path, *, method="GET", body=b"", **headers):
    """Return status and body of the answer to a request."""
    client = TestClient(app, base_url="http://127.0.0.1:7860")
    response = client.request(method, f"http://127.0.0.1:7860{path}", content=body, headers=headers)
    return response.status_code, response.content


def test_each_route_of_the_installed_gradio_is_used_or_refused():
    from gradio import routes

    found = set(re.findall(r'@router\.\w+\(\s*"/([^/"{]+)', inspect.getsource(routes)))
    assert "upload" in found
    unknown = {name for name in found if name not in USED and not is_unused(f"/gradio_api/{name}")}
    assert not unknown
    assert not any(is_unused(f"/gradio_api/{name}") for name in USED)


@pytest.mark.parametrize(
    "path",
    [
        "file=https://example.org/x", "file=HTTP://example.org", "file=ftp://example.org", "file=http:/example.org/x",
        "file/https://example.org", "proxy=https://example.org", "deep_link", "process_recording", "component_server/",
        "run/predict", "api/predict", "call/v2/predict", "stream/a/b/c/playlist.m3u8", "run-history/connect",
    ],
)  # fmt: skip
def test_routes_that_the_page_does_not_use_are_refused(path):
    for password in (None, "eleven little ducks"):
        app = Access(echo, password=password, largest=1000, logins={"known"})
        for slashes in ("/", "//"):
            status, body = ask(app, f"/gradio_api{slashes}{path}", cookie="subquad_login=known")
            assert (status, body) == (404, b"This page has no such address.")


@pytest.mark.parametrize(
    "path", ["/", "/files/a/proxy=", "/gradio_api/file=/files/received/a/t.csv", "/gradio_api/queue/data", "/config"]
)
def test_what_the_page_uses_is_answered(path):
    assert ask(Access(echo, password=None, largest=1000), path)[0] == 200


def file(path):
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("path", ["http://example.org/t.csv", "https://example.org", "HTTPS://example.org/t.csv"])
def test_a_file_on_another_server_is_not_fetched(path):
    app = Access(echo, password=None, largest=10**6)
    for data in ([file(path)], [None, [file("/tmp/t.csv"), file(path)]], [{"a": {"b": file(path)}}]):
        body = json.dumps({"data": data, "fn_index": 3, "session_hash": "a"}).replace("h", "\\u0068").encode()
        for address in ("/gradio_api/queue/join", "/gradio_api/queue/join/"):
            status, answer = ask(app, address, method="POST", body=body)
            assert (status, answer) == (403, b"Files on other servers are not fetched; drop the file on the page.")


def test_other_events_reach_the_page_unchanged():
    app = Access(echo, password=None, largest=10**6)
    for data in ([file("/tmp/t.csv")], ["http://example.org", {"path": None}], [{"text": "see http://example.org"}]):
        body = json.dumps({"data": data, "session_hash": "a"}).encode()
        assert ask(app, "/gradio_api/queue/join", method="POST", body=body) == (200, body)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"3"])
def test_nonsense_names_no_other_server(body):
    assert not names_other_server(body)


@pytest.mark.parametrize(
    "body", [b"{", b"NaN", b"[1e999]", b"[-Infinity]", b'["\\ud800"]', b"[" * 10**5, b"\xff", b"1" * 5000]
)
def test_what_gradio_could_not_repeat_in_an_answer_is_refused(body):
    app = Access(echo, password=None, largest=10**6)
    assert not is_plain_json(body)
    for path in ("queue/join", "queue/join/", "cancel", "reset"):
        status, answer = ask(app, f"/gradio_api/{path}", method="POST", body=body)
        assert (status, answer) == (400, b"This is not JSON of finite numbers and Unicode characters.")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"3", b'{"session_hash": ""}', b'{"session_hash": ["a"]}'])
def test_an_event_names_its_page(body):
    status, answer = ask(Access(echo, password=None, largest=10**6), "/gradio_api/queue/join", method="POST", body=body)
    assert (status, answer) == (400, b"An event has to name its page (session_hash).")


@pytest.mark.parametrize("path", ["/assets/" + "x" * 256, "/static/" + "\u00e4" * 128, "/theme\0.css"])
def test_names_that_no_file_can_have_do_not_reach_gradio(path):
    assert is_unused(path)
    assert not is_unused(f"/assets/{'x' * 255}")


@pytest.mark.parametrize("error", [TypeError("no form"), KeyError(17), UnicodeDecodeError("utf-8", b"", 0, 1, "")])
def test_a_damaged_request_is_refused_where_gradio_fails(error):
    for path in ("upload", "queue/join"):
        answer = ask(failing(error), f"/gradio_api/{path}", method="POST", body=b'{"session_hash": "a"}')
        assert answer == (400, b"The page cannot read this request.")


def test_a_failure_of_the_server_is_one():
    with pytest.raises(OSError, match="No space left"):
        ask(failing(OSError(28, "No space left on device")), "/gradio_api/upload", method="POST")


def failing(error):
    """Return an application that fails as gradio does."""

    async def fail(scope, receive, send):
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"Internal Server Error"})
        raise error

    return Access(fail, password=None, largest=10**6)
