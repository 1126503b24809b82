"""Sockets of servers, opened before anything that takes time, and the names by which servers are called."""

import ipaddress
import os
import re
import socket

from subquad.errors import SubquadError

__all__ = ["check_address", "host_name", "is_loopback", "listen", "loopback_names"]

LOOPBACK_NAMES = frozenset(("127.0.0.1", "localhost", "::1"))


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 for any free one.

    Raises:
        SubquadError: The port is in use, or the address is not one of this computer.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # Python adds the address to the text; errors of name resolution have negative numbers and texts of their own
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SubquadError(
            f"cannot listen on port {port} of {host} ({reason}); choose others with --host and --port; "
            "--port 0 picks a free port"
        ) from error


def check_address(host: str, port: int) -> None:
    """Check that `listen` can be called with these arguments, before packages are imported that take seconds.

    Raises:
        SubquadError: As `listen`.
    """
    listen(host, port).close()


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this computer only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def loopback_names(host: str) -> frozenset[str]:
    """Return the names by which a server that listens on a loopback address may be called.

    A server without a password answers these only: a page on another host, whose name resolves to this computer's
    address, would have the rights of a page of the server in a browser.
    """
    return LOOPBACK_NAMES | {host.lower()}


def host_name(header: str) -> str:
    """Return the name in a `Host` header, in lower case and without the port."""
    return re.sub(r":\d+$", "", header).strip("[]").lower()
