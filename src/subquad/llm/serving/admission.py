"""What is refused before a request is parsed: other hosts, missing keys, and bodies that could fill the memory."""

import asyncio
import secrets
import time

from fastapi import HTTPException
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from subquad.llm.serving.protocol import TOO_MANY, error_body
from subquad.runs.listening import host_name

__all__ = ["Admission", "error_reply"]

LARGEST_BODY = 4 * 2**20
"""Largest body of a request in bytes; while one is parsed, a second at most, no other request is answered."""
WHOLE_BODY_SECONDS = 60
"""Time for sending a body, from its start to its end."""
SMALL_BODY = 64 * 2**10
"""Bytes of each body that count nothing, so that large bodies do not keep small ones out."""
MOST_BYTES = 128 * 2**20
"""Largest sum of the other bytes, of all bodies that are being read or answered."""
HEALTH = "/health"
"""Path that is answered whatever the name of the server is, since health checks may use an address."""
OPEN_PATHS = frozenset((HEALTH, "/metrics", "/openapi.json"))
"""Paths that need no key."""


def error_reply(message: str, *, status: int = 400, field: str | None = None, code: str | None = None) -> Response:
    """Return a reply with OpenAI's error body, and with Retry-After if the request may be sent again."""
    headers = {"retry-after": "1"} if status == TOO_MANY else None
    return JSONResponse(error_body(message, status=status, field=field, code=code), status, headers)


class Admission:
    """The layer in front of the application; it looks at heads first, so that no body is read in vain."""

    def __init__(self, app: ASGIApp, *, key: str | None, hosts: frozenset[str] | None):
        """Wrap an application.

        Args:
            app: The application.
            key: Key that clients have to send; None for none.
            hosts: Names by which the server may be called; None for any. Requests without the header Host, which no
                browser sends, and those for the health of the server, are answered too.
        """
        self._app, self._key, self._hosts = app, key, hosts
        self._held = 0
        """Bytes that count, of all bodies."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if refusal := self._refusal(scope):
            await refusal(scope, receive, send)
            return
        body = _Body(self)
        try:
            await self._app(scope, body.receiver(receive), send)
        finally:
            self._held -= body.counted

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._is_called(headers.get("host")) and scope["path"] != HEALTH:
            return error_reply(
                f"this server has no key and is called {' or '.join(sorted(self._hosts or ()))} only; to use another "
                "name, start it with --allow-host NAME, or with --api-key",
                status=403,
            )
        if self._key is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            is_bearer = scheme.lower() == "bearer"
            # in constant time, so that an answer's delay does not tell how much of a key is right
            if not is_bearer or not secrets.compare_digest(given.encode(), self._key.encode()):
                has_key = is_bearer and bool(given)
                reason = "the API key is wrong" if has_key else "there is no Authorization header with a Bearer key"
                return error_reply(
                    f"{reason}; this server was started with --api-key: send the header "
                    "`Authorization: Bearer KEY`, which OpenAI's clients make of their api_key",
                    status=401,
                    code="invalid_api_key",
                )
        if "transfer-encoding" in headers:
            return error_reply("a request has to say how long it is (Content-Length)", status=411)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            return error_reply(f"the body has more than {LARGEST_BODY // 2**20} MiB", status=413)
        return None

    def _is_called(self, host: str | None) -> bool:
        return self._hosts is None or host is None or host_name(host) in self._hosts

    def hold(self, count: int) -> bool:
        """Count bytes of a body; return whether there was room for them."""
        has_room = self._held + count <= MOST_BYTES
        self._held += count if has_room else 0
        return has_room


class _Body:
    """The body of one request as it arrives."""

    def __init__(self, admission: Admission):
        self._admission = admission
        self._length = self.counted = 0
        """Bytes that arrived, and those of them that count."""

    def receiver(self, receive: Receive) -> Receive:
        """Return a `receive` that raises status 408 if the body is not complete in time, and 429 without room."""
        is_complete, end = False, time.monotonic() + WHOLE_BODY_SECONDS

        async def timed() -> Message:
            nonlocal is_complete
            if is_complete:
                # what comes then is that the client has gone, at any time
                return await receive()
            try:
                # what has arrived is read, however late
                message = await asyncio.wait_for(receive(), max(0.05, end - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, f"the body was not complete within {WHOLE_BODY_SECONDS} seconds") from None
            self._count(len(message.get("body", b"")))
            is_complete = not message.get("more_body", False)
            return message

        return timed

    def _count(self, arrived: int) -> None:
        self._length += arrived
        new = max(0, self._length - SMALL_BODY) - self.counted
        if not self._admission.hold(new):
            raise HTTPException(TOO_MANY, "many large requests are being read and answered; try again later")
        self.counted += new
