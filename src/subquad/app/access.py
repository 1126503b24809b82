"""Who may use the page: hosts, password, the cookie of a browser, the size of requests, and headers for the browser.

One ASGI layer in front of everything else, so that no route can be forgotten.
"""

import asyncio
import hmac
import ipaddress
import re
import secrets
import stat
import traceback
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from subquad.app.disk import as_sentence, check_room
from subquad.app.gradio_requests import JOIN, PREFIX, UPLOAD, is_plain_json, is_unnamed, is_unused, names_other_server
from subquad.app.sessions import UPLOADS_PER_SESSION, new_token
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.listening import host_name

__all__ = ["SESSION_COOKIE", "Access", "token_of"]

SESSION_COOKIE, LOGIN_COOKIE = "subquad_session", "subquad_login"
YEAR = 31_536_000
LOGIN = "/login"
SECONDS_AFTER_WRONG_PASSWORD = 1.0
MOST_GUESSES, MOST_GUESSES_OF_ALL = 10, 500
"""Passwords that may wait until those before them were looked at: of each address, and of all."""
SECONDS_BETWEEN_GUESSES = 0.05
"""Time between two looks at passwords, from whatever addresses they come."""
ROOM = 1_000_000
"""Bytes that a request may have beyond its files."""
SMALLEST = 65_536
"""Bytes that each file counts at least, so that there are not too many."""
SESSIONS_AT_ONCE = 4
"""Sessions whose files can arrive at the same time, as many as each can hold."""
MOST_BEFORE_LOGIN = 10_000
"""Bytes of a request of a browser that has not given the password."""

# scripts and styles stand in the page itself; nothing is loaded from or sent to another host
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; frame-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
MALFORMED = (AssertionError, LookupError, TypeError, ValueError)
"""What gradio raises for an upload that is not a form with files, and for an event of a function that is unknown; it is
logged, since a fault of the page could raise it too."""
MOST_OF_MESSAGE = 200
"""Characters of an error that are logged."""
LOGIN_PAGE = Path(__file__).parent / "assets" / "login.html"


@dataclass
class Access:
    """The layer: refuses what is not allowed, gives each browser a cookie, and adds headers to all answers."""

    app: ASGIApp
    password: str | None
    """Password of the page; None for none."""
    largest: int
    """Largest upload in bytes."""
    hosts: frozenset[str] | None = None
    """Names by which this computer may be called; None: any. Protects a page without a password from other pages,
    whose name resolves to this computer's address."""
    received: Path | None = None
    """Folder in which uploads arrive, whose size is limited; None: no limit."""
    keep_free: int = 0
    """Bytes of its disk that stay free."""
    logins: set[str] = field(default_factory=set)
    """Cookies of browsers that gave the password."""
    _arriving: int = field(default=0, init=False)
    """Bytes of the uploads that arrive now."""
    _guesses: Counter[str] = field(default_factory=Counter, init=False)
    """Passwords that wait, by address."""
    _turns: dict[str, asyncio.Lock] = field(default_factory=dict, init=False)
    """Held while a password of an address is looked at."""
    _next_look: float = field(default=0.0, init=False)
    """When the next password may be looked at, by the clock of the event loop."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            # the page uses no web sockets
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        # who leaves in the middle of a request, or is closed, is no error of the page
        with suppress(ClientDisconnect):
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = token_of(scope)
        is_known = self.password is None or cookies_of(scope).get(LOGIN_COOKIE) in self.logins
        refusal = self._refusal(scope, is_known=is_known)
        if refusal is None and not is_known:
            refusal = await self._login(scope, receive)
        elif refusal is None and scope["path"].rstrip("/") == LOGIN:
            refusal = RedirectResponse("/", 303)
        elif refusal is None and scope["method"] == "POST" and _is_of_gradio(scope["path"]):
            refusal, receive = await _checked_event(scope, receive)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send, None))
            return
        new = None
        if token is None:
            new = new_token()
            scope = {**scope, "headers": _with_cookie(scope["headers"], f"{SESSION_COOKIE}={new}")}
        if scope["method"] == "POST" and scope["path"].startswith(PREFIX):
            await self._take(scope, receive, _with_headers(send, new))
        else:
            await self.app(scope, receive, _with_headers(send, new))

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let gradio receive an upload or an event; where these are damaged, it fails with errors of its own."""
        length = _length(scope) if scope["path"] == UPLOAD else 0
        self._arriving += length
        try:
            await self.app(scope, receive, _without_failure(send))
        except MALFORMED as error:
            say(f"{scope['method']} {scope['path']} got status 400: {_described(error)}")
            await PlainTextResponse("The page cannot read this request.", 400)(scope, receive, send)
        finally:
            self._arriving -= length

    def _refusal(self, scope: Scope, *, is_known: bool) -> Response | None:
        headers = Headers(scope=scope)
        if self.hosts is not None and host_name(headers.get("host", "")) not in self.hosts:
            return PlainTextResponse(f"This page is served as {' or '.join(sorted(self.hosts))} only.", 403)
        if scope["method"] not in ("GET", "HEAD") and _is_of_other_page(headers):
            return PlainTextResponse("Other pages cannot send anything to this one.", 403)
        if is_known and is_unused(scope["path"]):
            return PlainTextResponse("This page has no such address.", 404)
        if "transfer-encoding" in headers:
            # a body of unknown length could fill the memory
            return PlainTextResponse("A request has to say how long it is (Content-Length).", 411)
        length, most = headers.get("content-length", "0"), ROOM
        if scope["path"] == UPLOAD:
            most = UPLOADS_PER_SESSION * self.largest + ROOM
        if not is_known and length.isdigit() and int(length) > MOST_BEFORE_LOGIN:
            return PlainTextResponse("Give the password first.", 413)
        if not length.isdigit() or (int(length) > most and scope["path"] != UPLOAD):
            return PlainTextResponse(f"A request can have up to {ROOM // 10**6} MB; drop long texts as a file.", 413)
        if int(length) > most:
            return PlainTextResponse(
                f"Files of up to {self.largest / 2**20:,.0f} MB can be uploaded. Use the command line for larger ones, "
                "or start the page with a larger --max-upload.",
                413,
            )
        if scope["path"] == UPLOAD and is_known and self._is_full(int(length)):
            return PlainTextResponse(
                "Too many files have arrived in the last hour. Try again later, or use the command line.", 413
            )
        if scope["path"] == UPLOAD and is_known and self.received is not None:
            try:
                check_room(self.received, self.keep_free, self._arriving + int(length))
            except SubquadError as error:
                return PlainTextResponse(as_sentence(error), 507)
        return None

    def _is_full(self, length: int) -> bool:
        """Return whether so many bytes more are too many for the folder in which files arrive."""
        if self.received is None:
            return False
        return _held(self.received) + self._arriving + length > SESSIONS_AT_ONCE * UPLOADS_PER_SESSION * self.largest

    async def _login(self, scope: Scope, receive: Receive) -> Response:
        request = Request(scope, receive)
        if request.url.path != LOGIN:
            # the page itself leads to the form; its parts only fail
            is_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
            return RedirectResponse(LOGIN, 303) if is_page else PlainTextResponse("Give the password first.", 401)
        if request.method != "POST":
            return _login_page("")
        address = _address_of(scope)
        if self._guesses[address] >= MOST_GUESSES or self._guesses.total() >= MOST_GUESSES_OF_ALL:
            return _login_page("Too many passwords were tried. Wait some seconds.", 429)
        given = parse_qs((await request.body()).decode("utf-8", "replace")).get("password", [""])[0]
        if not await self._is_right(given, address):
            return _login_page("This is not the password.", 401)
        token = secrets.token_urlsafe(24)
        self.logins.add(token)
        response = RedirectResponse("/", 303)
        response.headers["set-cookie"] = _cookie(LOGIN_COOKIE, token)
        return response

    async def _is_right(self, given: str, address: str) -> bool:
        """Return whether this is the password; one guess of an address is looked at after the other, and a wrong one
        delays all of them. Guesses from many addresses are looked at a few in a second."""
        self._guesses[address] += 1
        try:
            async with self._turns.setdefault(address, asyncio.Lock()):
                now = asyncio.get_running_loop().time()
                look = max(now, self._next_look)
                self._next_look = look + SECONDS_BETWEEN_GUESSES
                await asyncio.sleep(look - now)
                if hmac.compare_digest(given.encode(), (self.password or "").encode()):
                    return True
                await asyncio.sleep(SECONDS_AFTER_WRONG_PASSWORD)
                return False
        finally:
            self._guesses[address] -= 1
            if not self._guesses[address]:
                del self._guesses[address], self._turns[address]


def _address_of(scope: Scope) -> str:
    """Return the address from which a request comes; with IPv6 its network, in which a client can have any address, and
    one for this computer, whose users have many."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None and not address.is_loopback:
            return str(ipaddress.IPv6Network((host, 64), strict=False))
        address = address.ipv4_mapped or address
    return "this computer" if address.is_loopback else str(address)


def _described(error: BaseException) -> str:
    """Return the type of an error, its text and where it was raised, in one line."""
    places = [f"{Path(own.filename).name}:{own.lineno}" for own in traceback.extract_tb(error.__traceback__)[-3:]]
    return f"{type(error).__name__}: {str(error)[:MOST_OF_MESSAGE]!r} ({', '.join(places)})"


def cookies_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return the cookies of a request."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name == b"cookie":
            # cookies of other pages of this computer come too, and need not be written as the standard wants
            found |= cookie_parser(value.decode("latin-1"))
    return found


def token_of(scope: Mapping[str, Any]) -> str | None:
    """Return the token of the browser that sent a request; None if it has none yet."""
    token = cookies_of(scope).get(SESSION_COOKIE, "")
    return token if re.fullmatch(r"[\w-]{32}", token) else None


def _is_of_other_page(headers: Headers) -> bool:
    """Return whether a browser sent a request for another page; other programs do not say for which."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        sender = urlsplit(origin)
        own = urlsplit(f"{sender.scheme}://{headers.get('host', '')}")
        # a page without an origin, such as a file, says null
        return sender.hostname is None or _address(sender) != _address(own)
    except ValueError:
        return True


def _address(url: SplitResult) -> tuple[str | None, int | None]:
    return url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _length(scope: Scope) -> int:
    """Return the length of the body of a request, which was checked."""
    return int(Headers(scope=scope).get("content-length", "0"))


def _held(folder: Path) -> int:
    """Return the bytes of the files in a folder, without those that a session holds too, which limits them."""
    held = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.lstat()
            if status.st_nlink == 1 and stat.S_ISREG(status.st_mode):
                held += max(status.st_size, SMALLEST)
    return held


def _is_of_gradio(path: str) -> bool:
    return path.startswith(PREFIX) and path != UPLOAD


async def _checked_event(scope: Scope, receive: Receive) -> tuple[Response | None, Receive]:
    """Return the refusal of an event or another call of gradio, if any, and what gives the application its body."""
    try:
        body = await Request(scope, receive).body()
    except ClientDisconnect:
        return PlainTextResponse("The request ended too early.", 400), receive
    if body and not is_plain_json(body):
        return PlainTextResponse("This is not JSON of finite numbers and Unicode characters.", 400), receive
    if scope["path"].rstrip("/") == JOIN and (not body or is_unnamed(body)):
        return PlainTextResponse("An event has to name its page (session_hash).", 400), receive
    if names_other_server(body):
        return PlainTextResponse("Files on other servers are not fetched; drop the file on the page.", 403), receive
    bodies: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return bodies.pop() if bodies else await receive()

    return None, again


def _cookie(name: str, value: str) -> str:
    # lax: a link on another page leads here as the same browser, but other pages cannot start anything
    return f"{name}={value}; Path=/; Max-Age={YEAR}; HttpOnly; SameSite=Lax"


def _with_cookie(headers: list[tuple[bytes, bytes]], cookie: str) -> list[tuple[bytes, bytes]]:
    """Return headers of a request as if the browser had sent this cookie too."""
    own = [value.decode("latin-1") for name, value in headers if name == b"cookie"]
    rest = [(name, value) for name, value in headers if name != b"cookie"]
    return [*rest, (b"cookie", "; ".join([*own, cookie]).encode("latin-1"))]


def _with_headers(send: Send, token: str | None) -> Send:
    """Return `send` with the headers of all answers, and with the cookie of a new browser."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if token is not None:
                headers.append("set-cookie", _cookie(SESSION_COOKIE, token))
        await send(message)

    return sending


def _without_failure(send: Send) -> Send:
    """Return `send` without the answer to a request that failed; another one is sent in its place."""
    has_failed = False

    async def sending(message: Message) -> None:
        nonlocal has_failed
        has_failed = has_failed or message.get("status") == 500
        if not has_failed:
            await send(message)

    return sending


def _login_page(message: str, status: int = 200) -> Response:
    page = LOGIN_PAGE.read_text(encoding="utf-8").replace("{{ message }}", message)
    # without the origin, which no-referrer withholds, the form would look like one of another page
    return HTMLResponse(page, status, headers={"referrer-policy": "same-origin"})
