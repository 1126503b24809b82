"""Who gets which answer: hosts, cookies, password, sizes and headers."""

import asyncio
from http.cookies import SimpleCookie
from types import SimpleNamespace

import pytest

pytest.importorskip("starlette")

from support.asgi import answer, ask

from subquad.app import access as access_module
from subquad.app.access import SESSION_COOKIE, Access, token_of
from subquad.app.sessions import new_token


async def hello(scope, receive, send):
    """Answer with the token of the browser."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": (token_of(scope) or "").encode()})


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


def test_too_many_passwords_of_an_address_at_the_same_time_are_refused(monkeypatch):
    app, sleep = Access(hello, password="eleven little ducks", largest=1000), asyncio.sleep

    async def wait(seconds):
        # after a wrong password, for as long as this test lasts
        await (asyncio.Event().wait() if seconds == access_module.SECONDS_AFTER_WRONG_PASSWORD else sleep(0))

    monkeypatch.setattr(access_module.asyncio, "sleep", wait)

    def guess(password, client):
        return answer(app, "/login", method="POST", body=f"password={password}".encode(), client=client)

    async def many():
        waiting = [asyncio.create_task(guess("wrong", "2001:db8::1")) for _ in range(access_module.MOST_GUESSES)]
        while app._guesses.total() < access_module.MOST_GUESSES:
            await sleep(0)
        # another address of the same computer, and another computer
        refused = await guess("eleven+little+ducks", "2001:db8::99")
        taken = await guess("eleven+little+ducks", "2001:db8:0:1::1")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return refused, taken

    (status, _, body), taken = asyncio.run(many())
    assert status == 429
    assert b"Too many passwords were tried. Wait some seconds." in body
    assert taken[0] == 303
    assert not app._guesses
    assert not app._turns
    # those that left no longer wait
    assert ask(app, "/login", method="POST", body=b"password=eleven+little+ducks")[0] == 303


def test_passwords_from_many_addresses_are_looked_at_a_few_in_a_second(monkeypatch):
    waits, sleep = [], asyncio.sleep

    async def wait(seconds):
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(access_module.asyncio, "sleep", wait)
    monkeypatch.setattr(access_module, "SECONDS_BETWEEN_GUESSES", 1000.0)
    app = Access(hello, password="eleven little ducks", largest=1000)

    def guess(number, password="wrong"):
        return answer(app, "/login", method="POST", body=f"password={password}".encode(), client=f"10.0.0.{number}")

    async def many():
        return await asyncio.gather(*(guess(number) for number in range(5)), guess(9, "eleven+little+ducks"))

    assert [status for status, *_ in asyncio.run(many())] == [401] * 5 + [303]
    # besides the second after each that is wrong
    assert sorted(round(seconds / 1000) for seconds in waits if seconds != 1.0) == [0, 1, 2, 3, 4, 5]


ADDRESSES = [
    *(("127.0.0.1", own) for own in ("127.3.2.1", "::1", "::ffff:127.0.0.2")),
    ("10.0.0.1", "::ffff:10.0.0.1"),
    ("2001:db8::1", "2001:db8::2"),
]


@pytest.mark.parametrize(("first", "second"), ADDRESSES)
def test_addresses_that_one_client_can_have_count_as_one(first, second):
    def address(host):
        return access_module._address_of({"client": (host, 1)})

    assert address(first) == address(second)
    assert len({address(host) for host in ("127.0.0.1", "10.0.0.1", "10.0.0.2", "2001:db8:0:1::1", "unix")}) == 5


def test_what_gradio_raises_for_a_request_is_logged_with_its_place(capsys):
    async def fail(scope, receive, send):
        raise KeyError("fault")

    status, _, body = ask(Access(fail, password=None, largest=1000), "/gradio_api/upload", method="POST")
    assert (status, body) == (400, b"The page cannot read this request.")
    message = capsys.readouterr().err
    assert message.startswith("POST /gradio_api/upload got status 400: KeyError: \"'fault'\" (")
    assert "test_app_access.py:" in message


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


def test_uploads_leave_room_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    app = Access(hello, password=None, largest=2_000_000, received=tmp_path, keep_free=2_000_000)
    assert ask(app, "/gradio_api/upload", method="POST", content_length="900000")[0] == 200
    status, _, body = ask(app, "/gradio_api/upload", method="POST", content_length="1100000")
    assert status == 507
    assert body.startswith(b"The disk of this page has no room for this: ")
    assert ask(app, "/")[0] == 200


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


@pytest.mark.parametrize("other", ['foo={"a":1}', "theme", "a=b c", "=x"])
def test_cookies_of_other_pages_on_this_computer_do_not_hide_ones_own(other):
    token = new_token()
    _, _, body = ask(Access(hello, password=None, largest=1000), cookie=f"{other}; {SESSION_COOKIE}={token}")
    assert body.decode() == token
