"""Folders that hold a report and its figures: written at once, and replaced only if subquad wrote them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from subquad.errors import SubquadError
from subquad.runs.disk import EARLIER, clean_up, sync, temporary_folder
from subquad.runs.storage import as_folder, check_writable, read_json

__all__ = ["check_report_folder", "write_report_folder"]


def check_report_folder(out: Path | str, *, kind: str, file: str, force: bool) -> Path:
    """Return `out` as the path of a report folder to write, after checking that writing it destroys nothing.

    What killed processes left of it is removed, and a report that one of them was replacing gets its name back.

    Args:
        out: The folder; an empty one counts as absent.
        kind: Kind of the report, as in the entry `subquad: kind` of its JSON file.
        file: Name of that JSON file.
        force: Replace an earlier report of this kind.

    Raises:
        SubquadError: `out` is a file, cannot be written, holds other files, or holds such a report and `force` is off.
    """
    out = as_folder(out)
    check_writable(out)
    if out.is_dir() and not os.access(out.absolute().parent, os.W_OK | os.X_OK):
        raise SubquadError(
            f"{out}: the folder is replaced as a whole, and {out.absolute().parent} must not be written to; choose "
            "another --out, such as a new folder in it"
        )
    clean_up(out.resolve())
    if not out.is_dir() or not any(out.iterdir()):
        return out
    content = read_json(out / file) if (out / file).is_file() else None
    stamp = content.get("subquad") if isinstance(content, dict) else None
    if not isinstance(stamp, dict) or stamp.get("kind") != kind:
        raise SubquadError(f"{out}: not empty, and does not hold a {kind}; choose another folder with --out")
    if not force:
        raise SubquadError(
            f"{out}: holds a {kind} already; choose another folder with --out, or replace it with --force"
        )
    return out


@contextmanager
def write_report_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `out` on success and is removed on failure.

    The earlier report is moved aside once the new one is on the disk, and deleted when that has its name. Stopped in
    between, also by a signal, it gets its name back; killed in between, at the next start.
    """
    # the working directory may be the folder that is moved
    out = out.resolve()
    with temporary_folder(out) as temporary:
        folder = temporary / "new" / out.name
        folder.mkdir(parents=True)
        yield folder
        for written in [*folder.rglob("*"), folder]:
            sync(written)
        if out.is_dir():
            os.replace(out, temporary / EARLIER)
        os.replace(folder, out)
        sync(out.parent)
