"""The file by which a workspace is recognised, so that no folder of someone else is cleaned."""

import re
from collections.abc import Callable
from pathlib import Path

from subquad import __version__
from subquad.errors import SubquadError
from subquad.runs.disk import LOCK, temporaries_of
from subquad.runs.lock import is_blank
from subquad.runs.storage import read_json, write_json

__all__ = ["FOLDERS", "MARKER", "SESSION", "check_workspace", "mark_workspace"]

MARKER = "workspace.json"
"""Name of the file in a workspace by which it is recognised."""
KIND = "app"
FORMAT = 1
"""Version of the layout of a workspace; raised when an older subquad must not use a newer workspace."""
FOLDERS = ("sessions", "received", "archives")
"""Names of the folders in a workspace."""
SESSION = re.compile(r"[0-9a-f]{32}")
"""Names of the folders of sessions."""
IN_SESSION = {"jobs", "pasted", "uploads", "used"}
REMEDY = "; choose another --workspace"


def check_workspace(root: Path) -> None:
    """Check that a folder is a workspace, or can become one; nothing is written.

    Workspaces of versions that wrote no `workspace.json` are recognised by the names of all that is in them.

    Raises:
        SubquadError: The folder is not empty and not a workspace, or one of a newer version.
    """
    # what is not a folder is refused with other outputs
    if not root.is_dir() or is_blank(root, MARKER):
        return
    if not (root / MARKER).is_file():
        if _is_unmarked_workspace(root):
            return
        raise SubquadError(f"{root}: not empty, and not a workspace of `subquad app`{REMEDY}")
    content = read_json(root / MARKER)
    stamp = content.get("subquad") if isinstance(content, dict) else None
    number = stamp.get("format") if isinstance(stamp, dict) and stamp.get("kind") == KIND else None
    if not isinstance(number, int):
        raise SubquadError(f"{root}: its {MARKER} is not that of a workspace of `subquad app`{REMEDY}")
    if number > FORMAT:
        raise SubquadError(
            f"{root}: a workspace of format {number}, which is newer than this subquad {__version__} uses "
            f"(up to {FORMAT}); upgrade subquad, or choose another --workspace"
        )


def mark_workspace(root: Path) -> None:
    """Check a folder as `check_workspace` does, and write the file by which it is recognised, unless it is there.

    Raises:
        SubquadError: As `check_workspace`.
    """
    check_workspace(root)
    if not (root / MARKER).is_file():
        write_json(root / MARKER, {"subquad": {"format": FORMAT, "kind": KIND, "version": __version__}})


def _is_unmarked_workspace(root: Path) -> bool:
    """Return whether a folder holds nothing but what versions without a marker wrote to a workspace."""
    # a server may have been killed while it marked the folder
    names = {path.name for path in {*root.iterdir()} - {*temporaries_of(root / MARKER)}}
    return (
        names <= {*FOLDERS, LOCK}
        and not names.isdisjoint(FOLDERS)
        and _all_in(root / "sessions", _is_session)
        and _all_in(root / "received", _has_arrived)
        and _all_in(root / "archives", _is_archive)
    )


def _all_in(folder: Path, is_own: Callable[[Path], bool]) -> bool:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return False
    return not folder.exists() or all(is_own(path) and not path.is_symlink() for path in folder.iterdir())


def _is_session(path: Path) -> bool:
    if not SESSION.fullmatch(path.name) or not path.is_dir() or {own.name for own in path.iterdir()} - IN_SESSION:
        return False
    kept = [own for name in ("uploads", "jobs") for own in (path / name).glob("*")]
    return all(re.fullmatch(r"[0-9a-f]{16}", own.name) and own.is_dir() for own in kept)


def _has_arrived(path: Path) -> bool:
    """Return whether gradio wrote this: a file while it arrives, then a folder that is named after its content."""
    if path.is_file():
        return re.fullmatch(r"tmp\w{8}", path.name) is not None
    return re.fullmatch(r"[0-9a-f]{64}", path.name) is not None and all(own.is_file() for own in path.iterdir())


def _is_archive(path: Path) -> bool:
    return re.fullmatch(r"tmp\w{8}\.zip", path.name) is not None and path.is_file()
