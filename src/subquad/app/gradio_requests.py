"""Which requests to gradio are refused: routes that the page does not use, and files that lie on other servers."""

import json
import re
from typing import Any

__all__ = ["JOIN", "UPLOAD", "is_unused", "names_other_server"]

PREFIX = "/gradio_api/"
UPLOAD = f"{PREFIX}upload"
"""Path to which all files that are dropped together are sent in one request; gradio looks at the size of each."""
JOIN = f"{PREFIX}queue/join"
"""Path to which the page sends its events."""
UNUSED = frozenset((
    "api", "call", "component_server", "custom_component", "deep_link", "dev", "file", "openapi.json",
    "process_recording", "profiling", "run", "run-history", "runs", "stream", "token", "undo-vibe-edit", "vibe-code",
    "vibe-edit", "vibe-starter-queries",
))  # fmt: skip
"""First words of routes that the page does not use: they fetch what lies elsewhere, write files, or run functions."""


def is_unused(path: str) -> bool:
    """Return whether a path is a route of gradio that the page does not use, or a file on another server."""
    path = re.sub(r"/{2,}", "/", path)
    if not path.startswith(PREFIX):
        return False
    rest = path.removeprefix(PREFIX)
    if rest.startswith("file="):
        return re.match(r"file=[A-Za-z][\w+.\-]*:", rest) is not None
    return rest.startswith("proxy=") or rest.partition("/")[0] in UNUSED


def names_other_server(body: bytes) -> bool:
    """Return whether an event names a file by its address on another server, which gradio would fetch.

    What is not JSON names none; gradio refuses it.
    """
    try:
        left: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while left:
        value = left.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and re.match(r"[A-Za-z][\w+.\-]*:/", path):
                return True
            left += value.values()
        elif isinstance(value, list):
            left += value
    return False
