"""What libraries raise for damaged files and for full disks, as errors that say so."""

import lzma
import os
import re
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors

from subquad.errors import SubquadError

__all__ = ["OF_TRANSFORMERS", "damage", "damage_as_error", "no_file", "panics_as_errors", "reason_of", "system_errors"]

OF_TRANSFORMERS: tuple[type[Exception], ...] = (Exception,)
"""What transformers raises for a damaged checkpoint: its library tokenizers raises `Exception` itself."""

_DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError),
    *(SyntaxError, MemoryError, AssertionError, ImportError, struct.error, tokenize.TokenError),
    # of uproot, where a compressed object has no bytes
    UnboundLocalError,
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile, safetensors.SafetensorError),
)
_OF_MODULES = {
    "uproot.deserialization": "DeserializationError",
    "uproot.interpretation.identify": "UnknownInterpretation",
    # with which uproot decompresses
    "cramjam": "DecompressionError",
    "pyarrow": "ArrowException",
}


def damage() -> tuple[type[Exception], ...]:
    """Return the exceptions that readers raise for a file that is truncated, overwritten or of another kind."""
    modules = [(sys.modules.get(name), error) for name, error in _OF_MODULES.items()]
    return (*_DAMAGE, *(getattr(module, error) for module, error in modules if module is not None))


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's text, or its type."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return line[:160].rstrip(",") or type(error).__name__


@contextmanager
def damage_as_error(message: str) -> Iterator[None]:
    """Raise whatever a reader raises inside the `with` block as an error of the user.

    Args:
        message: The file, and what is wrong with it; the reason follows in brackets.

    Raises:
        SubquadError: The file is damaged.
    """
    try:
        with panics_as_errors(message):
            yield
    except SubquadError:
        raise
    except damage() as error:
        raise SubquadError(f"{message} ({reason_of(error)})") from error


@contextmanager
def panics_as_errors(message: str) -> Iterator[None]:
    """Raise a panic of a library in Rust, such as tokenizers, as an error of the user.

    Its type is no `Exception`, cannot be imported, and is another one in each library.

    Args:
        message: The file, and what is wrong with it; the reason follows in brackets.

    Raises:
        SubquadError: The file is damaged.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise SubquadError(f"{message} ({reason_of(error)})") from error


@contextmanager
def system_errors(path: Path | str) -> Iterator[None]:
    """Raise errors of the operating system that libraries turn into text, such as a full disk, as what they are."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def no_file(path: Path | str) -> SubquadError:
    """Return the error for a path at which there is no file, but nothing, a folder, or a pipe or device."""
    path = Path(path)
    if path.is_dir():
        return SubquadError(f"{path}: is a folder; give a file")
    if path.exists():
        return SubquadError(f"{path}: is a pipe or device; write its content to a file, and give that")
    return SubquadError(f"{path}: no such file")
