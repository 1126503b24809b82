"""Room on the disk of the workspace, some of which is kept free, whatever all browsers together send and compute."""

import shutil
from pathlib import Path

from subquad.errors import SubquadError

__all__ = ["as_sentence", "check_room"]


def check_room(folder: Path, keep_free: int, needed: int = 0) -> None:
    """Check that so many bytes of a disk stay free when others are written.

    Args:
        folder: A folder on the disk.
        keep_free: Bytes that stay free.
        needed: Bytes that are about to be written.

    Raises:
        SubquadError: There is less room.
    """
    free = shutil.disk_usage(folder).free
    if free - needed < keep_free:
        raise SubquadError(
            f"the disk of this page has no room for this: {free / 2**30:,.1f} GB are free, and at least "
            f"{keep_free / 2**30:,.1f} GB are kept free (--keep-free); delete uploads and results that you do not need"
        )


def as_sentence(error: SubquadError) -> str:
    """Return the message of an error as a sentence of its own."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
