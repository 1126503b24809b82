"""Limits on connections that uvicorn does not have: on their number, the time for the head of a request, the time
between parts of its body, and the time in which a client reads nothing.

Without them, clients that send nothing, or do not read their replies, would hold file descriptors until the process has
none for others, and what is reserved for the bodies that they announced.
"""

import asyncio
import os
import socket
import sys
import time
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from subquad.progress import say

__all__ = ["ACCEPTED_TOGETHER", "BUSY", "QueueingServer", "bounded_protocol", "connection_limit"]

HEAD_SECONDS = 10.0
"""Time for sending the head of a request: from the start of the connection, or from the end of the last reply."""
BODY_BYTES = 65_536
"""Bytes of a body that have to arrive in the time for them, unless it ends."""
BODY_SECONDS = 60.0
"""Time for them, in a body that is discarded because its request was answered before."""
WRITE_SECONDS = 30.0
"""Time in which a client has to read something of what was sent, also after the end of its request."""
SEND_BUFFER = 128 * 2**10
"""Bytes of a connection that a system other than Linux keeps until the client has read them; beyond, they stay in the
process, which sees only then whether a client reads. On Linux the system says how many it keeps."""
MOST_CONNECTIONS = 4096
"""Maximum number of open connections, however many files the process may open."""
ACCEPTED_TOGETHER = 8
"""Connections that asyncio accepts before their protocols are asked; uvicorn's `backlog`."""
LISTEN_QUEUE = 2048
"""Connections that the system keeps until they are accepted."""
RESERVED = 64
"""File descriptors that are kept for files, and for four times `ACCEPTED_TOGETHER`: the event loop closes a refused
connection in its fourth iteration."""
WARNING_SECONDS = 60.0
"""Minimum time between two warnings about refused connections."""
BUSY = "too many connections are open; try again later"
"""What clients beyond the limit are told."""


def connection_limit() -> int:
    """Return how many connections may be open: as many as the file descriptors that are left now, but for a reserve."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource

    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    opened = len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else RESERVED
    left = allowed - opened
    return max(1, min(MOST_CONNECTIONS, max(left - RESERVED, left // 2)))


def bounded_protocol(
    limit: int,
    *,
    refusal: tuple[str, bytes] = ("text/plain; charset=utf-8", BUSY.encode()),
    head_seconds: float = HEAD_SECONDS,
    body_seconds: float | None = None,
    write_seconds: float = WRITE_SECONDS,
) -> type[H11Protocol]:
    """Return uvicorn's protocol of HTTP/1.1 with four limits; h11, since it limits the size of a head too.

    Args:
        limit: Maximum number of open connections; further ones get status 503 and are closed.
        refusal: Type and content of the reply with status 503.
        head_seconds: Time in seconds for sending the head of a request; then the connection is closed. Bodies and
            replies may take longer.
        body_seconds: Time in seconds in which a body has to make progress, by `BODY_BYTES` or to its end, while the
            application reads; then the connection is closed, as by the client. None: the application has a limit, and
            `BODY_SECONDS` holds for bodies that are discarded.
        write_seconds: Time in seconds in which a client has to read something; then the connection is cut.
    """
    warned = -WARNING_SECONDS

    def warn() -> None:
        nonlocal warned
        if time.monotonic() - warned >= WARNING_SECONDS:
            warned = time.monotonic()
            say(f"warning: {limit:,} connections are open, further ones are refused; `ulimit -n` sets how many fit")

    class BoundedProtocol(H11Protocol):
        """A connection."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self._timer: asyncio.TimerHandle | None = None
            self._body_timer: asyncio.TimerHandle | None = None
            self._received = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            if sys.platform != "linux":
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            super().connection_made(cast(asyncio.Transport, _Watched(transport, self.loop, write_seconds)))
            if len(self.connections) > limit:
                warn()
                self.transport.write(_refusal(*refusal))
                self.transport.close()
            else:
                self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def handle_events(self) -> None:
            super().handle_events()
            # uvicorn begins a cycle when a head is complete
            if self.cycle is not None:
                self._wait_for_client()

        def data_received(self, data: bytes) -> None:
            self._received += len(data)
            super().data_received(data)

        def on_response_complete(self) -> None:
            # of a request that was answered before it was read; bytes in uvicorn before 0.42, a bytearray since
            self.cycle.body = type(self.cycle.body)()
            # before uvicorn reads the next head, which may have arrived
            self._stop_waiting()
            super().on_response_complete()
            if self._has_body_to_come():
                # a client that still sends may not have read the reply
                self._unset_keepalive_if_required()
            self._wait_for_client()

        def _has_body_to_come(self) -> bool:
            return self.conn.their_state is h11.SEND_BODY

        def _wait_for_client(self) -> None:
            """Limit the time for what the client sends next, unless it is limited already."""
            is_answered = self.cycle.response_complete
            if self._has_body_to_come():
                seconds = body_seconds or (BODY_SECONDS if is_answered else None)
                if self._timer is not None:
                    self._stop_waiting()
                if seconds is not None and self._body_timer is None:
                    self._wait_for_body(seconds)
            elif not is_answered:
                self._stop_waiting()
            elif self._timer is None:
                self._wait_for_head()

        def _wait_for_head(self) -> None:
            self._stop_waiting()
            self._timer = self.loop.call_later(head_seconds, self.transport.close)

        def _wait_for_body(self, seconds: float) -> None:
            self._body_timer = self.loop.call_later(seconds, self._look_at_body, self.cycle, self._received, seconds)

        def _look_at_body(self, cycle: object, before: int, seconds: float) -> None:
            self._body_timer = None
            if self._has_body_to_come():
                if cycle is not self.cycle or self.flow.read_paused or self._received - before >= BODY_BYTES:
                    self._wait_for_body(seconds)
                else:
                    self.transport.close()

        def _stop_waiting(self) -> None:
            for timer in (self._timer, self._body_timer):
                if timer is not None:
                    timer.cancel()
            self._timer = self._body_timer = None

    return BoundedProtocol


class QueueingServer(uvicorn.Server):
    """A server that accepts few connections together, while many more can wait."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and give the sockets their queues: asyncio has one number for these and for how many it accepts."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(LISTEN_QUEUE)


class _Watched:
    """A transport that cuts the connection if nothing that was written gets to the client for some seconds.

    A transport alone waits for ever, also after `close`, which it does only when all has left the process.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, seconds: float):
        self._transport, self._loop, self._seconds = transport, loop, seconds
        self._written = 0
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, and look later whether the client has got some of it."""
        self._written += len(data)
        self._transport.write(data)
        if self._timer is None:
            self._look_later()

    def _waiting(self) -> int:
        """Return how many bytes the process and, where it says so, the system keep for the client."""
        return self._transport.get_write_buffer_size() + _kept_by_system(self._transport.get_extra_info("socket"))

    def _look_later(self) -> None:
        waiting = self._waiting()
        self._timer = self._loop.call_later(self._seconds, self._look, self._written - waiting) if waiting else None

    def _look(self, sent: int) -> None:
        if self._written - self._waiting() > sent:
            self._look_later()
        else:
            self._transport.abort()


def _kept_by_system(connection: socket.socket) -> int:
    """Return the bytes written to a connection that its other end has not acknowledged; 0 where this is unknown."""
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    count = bytearray(4)
    try:
        # of a socket, this is SIOCOUTQ
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)
    except (OSError, ValueError):
        # it is closed
        return 0
    return int.from_bytes(count, sys.byteorder)


def _refusal(kind: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: {kind}\r\nretry-after: 1\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
