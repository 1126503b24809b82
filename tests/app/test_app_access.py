"""Who gets which answer: hosts, cookies, password, sizes and headers, and files of one's own jobs only."""

import asyncio
import zipfile
from http.cookies import SimpleCookie

import pytest

pytest.importorskip("starlette")

from subquad.app import access as access_module
from subquad.app.access import SESSION_COOKIE, Access, token_of
from subquad.app.files import MOST_ARCHIVES
from subquad.app.sessions import new_token
from subquad.runs.storage import read_json, write_json


async def hello(scope, receive, send):
    """Answer with the token of the browser."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": (token_of(scope) or "").encode()})


def ask(app, path="/", *, method="GET", body=b"", host="127.0.0.1:7860", **headers):
    """Send one request to an ASGI application; return status, headers and body."""
    return asyncio.run(answer(app, path, method=method, body=body, host=host, **headers))


async def answer(app, path="/", *, method="GET", body=b"", host="127.0.0.1:7860", **headers):
    sent = []
    lines = {"host": host, "accept": "text/html", **{key.replace("_", "-"): value for key, value in headers.items()}}
    path, _, query = path.partition("?")
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(key.encode(), value.encode()) for key, value in lines.items()], "scheme": "http",
        "server": ("127.0.0.1", 7860), "client": ("127.0.0.1", 1), "http_version": "1.1", "root_path": "",
    }  # fmt: skip

    requests = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        # the browser stays until it has its answer
        return requests.pop() if requests else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], [(k.decode(), v.decode()) for k, v in sent[0]["headers"]], content


def cookies(headers):
    jar = SimpleCookie()
    for name, value in headers:
        if name == "set-cookie":
            jar.load(value)
    return dict(jar)


def test_a_new_browser_gets_a_cookie_and_keeps_it():
    app = Access(hello, password=None, largest=1000)
    status, headers, body = ask(app)
    assert status == 200
    cookie = cookies(headers)[SESSION_COOKIE]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    assert body.decode() == cookie.value
    _, headers, again = ask(app, cookie=f"{SESSION_COOKIE}={cookie.value}")
    assert again == body
    assert SESSION_COOKIE not in cookies(headers)
    assert ask(app)[2] != body


def test_a_cookie_of_another_form_is_replaced():
    _, headers, body = ask(Access(hello, password=None, largest=1000), cookie=f"{SESSION_COOKIE}=../../etc")
    assert cookies(headers)[SESSION_COOKIE].value == body.decode() != "../../etc"


def test_nothing_is_loaded_from_other_hosts():
    headers = dict(ask(Access(hello, password=None, largest=1000))[1])
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "connect-src 'self'" in policy
    assert "http" not in policy
    assert headers["referrer-policy"] == "no-referrer"


def test_a_page_for_this_computer_answers_to_its_own_names_only():
    app = Access(hello, password=None, largest=1000, hosts=frozenset(("127.0.0.1", "localhost", "::1")))
    for host in ("127.0.0.1:7860", "localhost", "[::1]:7860"):
        assert ask(app, host=host)[0] == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example:7860", ""):
        assert ask(app, host=host)[0] == 403, host


def test_an_upload_that_is_too_large_is_refused_before_it_is_read():
    app = Access(hello, password=None, largest=50 * 2**20)
    status, _, body = ask(app, "/gradio_api/upload", method="POST", content_length="600000000")
    assert status == 413
    assert body.decode().startswith("Files of up to 50 MB can be uploaded.")
    assert ask(app, "/gradio_api/upload", method="POST", content_length="x")[0] == 413


def test_an_event_is_as_short_as_its_texts_and_not_as_long_as_a_file():
    app = Access(hello, password=None, largest=50 * 2**20)
    assert ask(app, "/gradio_api/queue/data", method="POST", content_length="200000")[0] == 200
    status, _, body = ask(app, "/gradio_api/queue/join", method="POST", content_length="2000000")
    assert (status, body) == (413, b"A request can have up to 1 MB; drop long texts as a file.")


def test_files_that_are_dropped_together_may_be_larger_than_one_file():
    app = Access(hello, password=None, largest=50 * 2**20)
    assert ask(app, "/gradio_api/upload", method="POST", content_length="160000000")[0] == 200
    assert ask(app, "/gradio_api/upload", method="POST", content_length="600000000")[0] == 413


def test_a_request_says_how_long_it_is_and_is_short_before_the_password_is_given():
    for password in (None, "eleven little ducks"):
        app = Access(hello, password=password, largest=50 * 2**20)
        status, _, body = ask(app, "/login", method="POST", transfer_encoding="chunked")
        assert (status, body) == (411, b"A request has to say how long it is (Content-Length).")
    assert ask(app, "/login", method="POST", content_length="20000000")[0] == 413


def test_the_password_opens_the_page(monkeypatch):
    monkeypatch.setattr(access_module, "SECONDS_AFTER_WRONG_PASSWORD", 0.0)
    app = Access(hello, password="eleven little ducks", largest=1000)
    status, headers, _ = ask(app)
    assert (status, dict(headers)["location"]) == (303, "/login")
    assert ask(app, "/gradio_api/info", accept="application/json")[0] == 401
    assert ask(app, "/files/x/y", method="POST")[0] == 401
    assert b'type="password"' in ask(app, "/login")[2]
    status, headers, body = ask(app, "/login", method="POST", body=b"password=wrong")
    assert (status, "subquad_login" in cookies(headers)) == (401, False)
    assert b"This is not the password." in body
    status, headers, _ = ask(app, "/login", method="POST", body=b"password=eleven+little+ducks")
    login = cookies(headers)["subquad_login"]
    assert (status, login["httponly"], login["samesite"]) == (303, True, "Lax")
    assert ask(app, cookie=f"subquad_login={login.value}")[0] == 200
    assert ask(app, cookie="subquad_login=guessed")[0] == 303


def test_who_has_given_the_password_is_led_from_the_form_to_the_page():
    app = Access(hello, password="eleven little ducks", largest=1000, logins={"known"})
    for method, path in (("GET", "/login"), ("POST", "/login"), ("GET", "/login/")):
        status, headers, _ = ask(app, path, method=method, cookie="subquad_login=known")
        assert (status, dict(headers)["location"]) == (303, "/"), (method, path)
    assert ask(Access(hello, password=None, largest=1000), "/login")[0] == 303


def test_wrong_passwords_are_looked_at_one_after_the_other(monkeypatch):
    sleeping, most, sleep = 0, 0, asyncio.sleep

    async def count(seconds):
        nonlocal sleeping, most
        sleeping += 1
        most = max(most, sleeping)
        for _ in range(20):
            await sleep(0)
        sleeping -= 1

    monkeypatch.setattr(access_module.asyncio, "sleep", count)
    app = Access(hello, password="eleven little ducks", largest=1000)

    async def guess(password):
        return (await answer(app, "/login", method="POST", body=f"password={password}".encode()))[0]

    async def all_at_once():
        return await asyncio.gather(*(guess(f"wrong{number}") for number in range(5)), guess("eleven+little+ducks"))

    assert asyncio.run(all_at_once()) == [401] * 5 + [303]
    assert most == 1


def test_too_many_passwords_at_the_same_time_are_refused():
    app = Access(hello, password="eleven little ducks", largest=1000)

    async def many():
        # nobody's turn comes
        async with app._turn:
            waiting = [
                asyncio.create_task(answer(app, "/login", method="POST", body=b"password=wrong"))
                for _ in range(access_module.MOST_GUESSES)
            ]
            await asyncio.sleep(0.1)
            refused = await answer(app, "/login", method="POST", body=b"password=eleven+little+ducks")
            for task in waiting:
                task.cancel()
        return refused

    status, _, body = asyncio.run(many())
    assert status == 429
    assert b"Too many passwords were tried. Wait some seconds." in body
    # those that left no longer wait
    assert ask(app, "/login", method="POST", body=b"password=eleven+little+ducks")[0] == 303


OTHER_PAGES = [
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
    {"origin": "https://evil.example"},
    {"origin": "http://127.0.0.1:8888"},
    {"origin": "http://127.0.0.1"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:x"},
]


@pytest.mark.parametrize("headers", OTHER_PAGES)
@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/login"])
def test_other_pages_cannot_send_anything(path, headers):
    for password in (None, "eleven little ducks"):
        app = Access(hello, password=password, largest=1000, logins={"known"})
        for method in ("POST", "PUT", "OPTIONS"):
            status, _, body = ask(app, path, method=method, cookie="subquad_login=known", **headers)
            assert (status, body) == (403, b"Other pages cannot send anything to this one.")


def test_other_pages_may_lead_to_this_one():
    app = Access(hello, password=None, largest=1000)
    assert ask(app, sec_fetch_site="cross-site")[0] == 200
    assert ask(app, method="HEAD", origin="https://other.example")[0] == 200


OWN_PAGES = [
    ("127.0.0.1:7860", {}),
    ("127.0.0.1:7860", {"sec_fetch_site": "same-origin"}),
    ("127.0.0.1:7860", {"sec_fetch_site": "none"}),
    ("127.0.0.1:7860", {"origin": "http://127.0.0.1:7860"}),
    ("page.example", {"origin": "https://page.example"}),
    ("page.example:443", {"origin": "https://page.example"}),
    ("[::1]:7860", {"origin": "http://[::1]:7860"}),
    # a proxy gave the request the name of the server behind it
    ("127.0.0.1:7860", {"origin": "https://page.example", "sec_fetch_site": "same-origin"}),
]


@pytest.mark.parametrize(("host", "headers"), OWN_PAGES)
def test_the_page_itself_and_programs_can_send_something(host, headers):
    app = Access(hello, password=None, largest=1000)
    assert ask(app, "/gradio_api/upload", method="POST", host=host, **headers)[0] == 200


def test_the_form_of_the_password_tells_its_origin():
    app = Access(hello, password="eleven little ducks", largest=1000)
    assert dict(ask(app, "/login")[1])["referrer-policy"] == "same-origin"


def test_files_that_arrived_are_limited_together(tmp_path):
    app = Access(hello, password=None, largest=100_000, received=tmp_path)
    upload = {"method": "POST", "content_length": "1000000"}
    assert ask(app, "/gradio_api/upload", **upload)[0] == 200
    (tmp_path / "a").mkdir()
    with (tmp_path / "a" / "table.csv").open("wb") as file:
        file.truncate(3_500_000)
    status, _, body = ask(app, "/gradio_api/upload", **upload)
    assert (status, body.decode()) == (
        413, "Too many files have arrived in the last hour. Try again later, or use the command line."
    )  # fmt: skip
    assert ask(app, "/gradio_api/upload", method="POST", content_length="100000")[0] == 200
    # a session has it too, and is limited itself
    (tmp_path.parent / "own.csv").hardlink_to(tmp_path / "a" / "table.csv")
    assert ask(app, "/gradio_api/upload", **upload)[0] == 200


def test_files_without_content_are_limited_too(tmp_path):
    app = Access(hello, password=None, largest=100_000, received=tmp_path)
    for number in range(62):
        (tmp_path / f"{number}.csv").touch()
    assert ask(app, "/gradio_api/upload", method="POST", content_length="1000")[0] == 413


def test_files_that_arrive_at_the_same_time_are_limited_together(tmp_path):
    arriving, states = asyncio.Event(), []

    async def slow(scope, receive, send):
        await arriving.wait()
        await hello(scope, receive, send)

    app = Access(slow, password=None, largest=100_000, received=tmp_path)

    async def upload():
        states.append((await answer(app, "/gradio_api/upload", method="POST", content_length="1000000"))[0])

    async def all_at_once():
        tasks = [asyncio.create_task(upload()) for _ in range(6)]
        await asyncio.sleep(0.1)
        arriving.set()
        await asyncio.gather(*tasks)
        await upload()

    asyncio.run(all_at_once())
    assert sorted(states) == [200] * 5 + [413] * 2


@pytest.fixture
def downloads(workspace):
    fastapi = pytest.importorskip("fastapi")
    from subquad.app.files import add_routes

    app = fastapi.FastAPI()
    add_routes(app, workspace)
    token = new_token()
    folder = workspace.session(token).new_job_folder()
    record = {"kind": "bio fit", "title": "Fit", "words": [], "output": "out", "created": 0.0, "server": 1, "about": {}}
    write_json(folder / "job.json", record)
    (folder / "out").mkdir()
    (folder / "out" / "report.html").write_text("<p>report</p>")
    return Access(app, password=None, largest=1000), token, folder.name


def test_a_browser_gets_the_files_of_its_own_jobs_only(downloads):
    app, token, job = downloads
    own = {"cookie": f"{SESSION_COOKIE}={token}"}
    status, headers, body = ask(app, f"/files/{job}/out/report.html", **own)
    assert (status, body) == (200, b"<p>report</p>")
    assert "sandbox" in dict(headers)["content-security-policy"]
    assert ask(app, f"/files/{job}/out/report.html", cookie=f"{SESSION_COOKIE}={new_token()}")[0] == 404
    assert ask(app, f"/files/{job}/out/report.html")[0] == 404
    for path in (f"/files/{job}/out/none.csv", f"/files/{job}/../../used", "/files/../../x/y", f"/files/{job}/out"):
        assert ask(app, path, **own)[0] == 404, path


def test_a_download_is_named_after_its_job(downloads):
    app, token, job = downloads
    headers = dict(ask(app, f"/files/{job}/out/report.html?download=1", cookie=f"{SESSION_COOKIE}={token}")[1])
    assert headers["content-disposition"] == f'attachment; filename="report-{job[:6]}.html"'


def test_the_output_of_a_job_is_one_archive(downloads, tmp_path, workspace):
    app, token, job = downloads
    status, _, body = ask(app, f"/archives/{job}.zip", cookie=f"{SESSION_COOKIE}={token}")
    assert status == 200
    (tmp_path / "a.zip").write_bytes(body)
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == ["bio-fit/report.html"]
    assert not list(workspace.archives.iterdir())
    assert ask(app, f"/archives/{job}.zip")[0] == 404


def test_archives_at_the_same_time_are_limited_and_take_nothing_from_uploads(downloads, workspace, monkeypatch):
    app, token, job = downloads
    for number in range(MOST_ARCHIVES):
        (workspace.archives / f"{number}.zip").write_bytes(b"zip")
    status, _, body = ask(app, f"/archives/{job}.zip", cookie=f"{SESSION_COOKIE}={token}")
    assert (status, body) == (503, b"Too many archives are being downloaded; try again in a minute.")
    assert not list(workspace.received.iterdir())
    workspace.clear_received()
    assert not list(workspace.archives.iterdir())
    monkeypatch.setattr("subquad.app.files._pack", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
    with pytest.raises(OSError, match="disk is full"):
        ask(app, f"/archives/{job}.zip", cookie=f"{SESSION_COOKIE}={token}")
    assert not list(workspace.archives.iterdir())


def test_an_output_that_is_a_file_is_in_its_archive(downloads, tmp_path, workspace):
    app, token, job = downloads
    folder = workspace.session(token).job(job).folder
    write_json(folder / "job.json", {**read_json(folder / "job.json"), "kind": "hep predict", "output": "scores.root"})
    (folder / "scores.root").write_bytes(b"root")
    (tmp_path / "a.zip").write_bytes(ask(app, f"/archives/{job}.zip", cookie=f"{SESSION_COOKIE}={token}")[2])
    archive = zipfile.ZipFile(tmp_path / "a.zip")
    assert archive.namelist() == ["hep-predict/scores.root"]
    assert archive.read("hep-predict/scores.root") == b"root"


@pytest.mark.parametrize("other", ['foo={"a":1}', "theme", "a=b c", "=x"])
def test_cookies_of_other_pages_on_this_computer_do_not_hide_ones_own(other):
    token = new_token()
    _, _, body = ask(Access(hello, password=None, largest=1000), cookie=f"{other}; {SESSION_COOKIE}={token}")
    assert body.decode() == token
