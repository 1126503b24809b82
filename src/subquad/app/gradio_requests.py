"""Which requests to gradio are refused: routes that the page does not use, and files that lie on other servers."""

import json
import re
from typing import Any

__all__ = ["JOIN", "PREFIX", "UPLOAD", "is_plain_json", "is_unnamed", "is_unused", "names_other_server"]

PREFIX = "/gradio_api/"
"""How the paths of gradio begin."""
UPLOAD = f"{PREFIX}upload"
"""Path to which all files that are dropped together are sent in one request; gradio looks at the size of each."""
LONGEST_NAME = 255
"""Bytes that a name may have on most disks."""
JOIN = f"{PREFIX}queue/join"
"""Path to which the page sends its events."""
UNUSED = frozenset((
    "api", "call", "component_server", "custom_component", "deep_link", "dev", "file", "openapi.json",
    "process_recording", "profiling", "run", "run-history", "runs", "stream", "token", "undo-vibe-edit", "vibe-code",
    "vibe-edit", "vibe-starter-queries",
))  # fmt: skip
"""First words of routes that the page does not use: they fetch what lies elsewhere, write files, or run functions."""


def is_unused(path: str) -> bool:
    """Return whether a path is a route of gradio that the page does not use, a file on another server, or a name that
    no file can have, with which gradio would fail."""
    if "\0" in path or any(len(part.encode("utf-8", "replace")) > LONGEST_NAME for part in path.split("/")):
        return True
    path = re.sub(r"/{2,}", "/", path)
    if not path.startswith(PREFIX):
        return False
    rest = path.removeprefix(PREFIX)
    if rest.startswith("file="):
        return re.match(r"file=[A-Za-z][\w+.\-]*:", rest) is not None
    return rest.startswith("proxy=") or rest.partition("/")[0] in UNUSED


def is_plain_json(body: bytes) -> bool:
    """Return whether a body is JSON as gradio can repeat it in an answer: of finite numbers and Unicode characters, and
    not too deep."""
    try:
        json.dumps(json.loads(body), allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def is_unnamed(event: bytes) -> bool:
    """Return whether an event, as JSON, does not name its page, without which gradio would fail."""
    value = json.loads(event)
    return not (isinstance(value, dict) and isinstance(value.get("session_hash"), str) and value["session_hash"])


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
