"""Limits on connections that uvicorn does not have: on the time for the head of a request, and on their number.

Without them, clients that send nothing would hold file descriptors until the process has none for others.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from subquad.llm.serving.protocol import error_body
from subquad.progress import say

__all__ = ["ACCEPTED_TOGETHER", "bounded_protocol", "connection_limit"]

HEAD_SECONDS = 10.0
"""Time for sending the head of a request: from the start of the connection, or from the end of the last reply."""
MOST_CONNECTIONS = 4096
"""Maximum number of open connections, however many files the process may open."""
ACCEPTED_TOGETHER = 8
"""Connections that asyncio accepts before their protocols are asked; uvicorn's `backlog`."""
RESERVED = 64
"""File descriptors that are kept for files, and for four times `ACCEPTED_TOGETHER`: the event loop closes a refused
connection in its fourth iteration."""
WARNING_SECONDS = 60.0
"""Minimum time between two warnings about refused connections."""


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


def bounded_protocol(limit: int, *, head_seconds: float = HEAD_SECONDS) -> type[H11Protocol]:
    """Return uvicorn's protocol of HTTP/1.1 with two limits; h11, since it limits the size of a head too.

    Args:
        limit: Maximum number of open connections; further ones get status 503 and are closed.
        head_seconds: Time in seconds for sending the head of a request; then the connection is closed. Bodies and
            replies may take longer.
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

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            if len(self.connections) > limit:
                warn()
                transport.write(_refusal())
                transport.close()
            else:
                self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def handle_events(self) -> None:
            super().handle_events()
            # uvicorn begins a cycle when a head is complete
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()

        def on_response_complete(self) -> None:
            # before uvicorn reads the next head, which may have arrived
            self._wait_for_head()
            super().on_response_complete()

        def _wait_for_head(self) -> None:
            self._stop_waiting()
            self._timer = self.loop.call_later(head_seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return BoundedProtocol


def _refusal() -> bytes:
    body = json.dumps(error_body("too many connections are open; try again later", status=503)).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
