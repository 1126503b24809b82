"""Sockets of servers, opened before anything that takes time."""

import os
import socket

from subquad.errors import SubquadError

__all__ = ["check_address", "listen"]


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
