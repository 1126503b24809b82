"""Remote files through fsspec: `root://` with fsspec-xrootd, `https://`, `s3://` and others, read where they are.

ROOT files are read by uproot in parts, the others through a file object; the network takes most of the time.
"""

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import Any

from subquad.errors import reading, require


class RemotePath(PosixPath):
    """A file at a URL, with those methods of a path that readers of files need.

    Args:
        url: Such as `root://host//file.root`, also followed by the name of a tree.
    """

    def __init__(self, url: str) -> None:
        if sys.version_info >= (3, 12):
            super().__init__(url)
        self.url = url

    def __str__(self) -> str:
        return self.url

    def __fspath__(self) -> str:
        return self.url

    def is_file(self, **_: Any) -> bool:
        """Return whether there is such a file."""
        filesystem, path = _filesystem(self.url)
        return filesystem.isfile(path)

    def open(self, mode: str = "rb", *_: Any, **__: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the file, opened for reading."""
        filesystem, path = _filesystem(self.url)
        return filesystem.open(path, mode)

    def resolve(self, strict: bool = False) -> "RemotePath":
        """Return the file itself."""
        return self

    def stat(self, **_: Any) -> os.stat_result:
        """Return the size of the file; all other entries are 0."""
        filesystem, path = _filesystem(self.url)
        return os.stat_result((0, 0, 0, 0, 0, 0, filesystem.size(path), 0, 0, 0))


def is_remote(name: str) -> bool:
    """Return whether a name is a URL."""
    scheme, found, _ = name.partition("://")
    return bool(found) and scheme[:1].isalpha() and scheme.replace("+", "").replace("-", "").replace(".", "").isalnum()


def remote_files(url: str, suffixes: Collection[str]) -> list[RemotePath]:
    """Return the files that a URL stands for: one file, those that match a pattern, or the files of jets in a folder.

    Args:
        url: Without the name of a tree.
        suffixes: Endings of the names of files of jets.

    Raises:
        SubquadError: The server cannot be reached, or a package for it is missing.
    """
    with reading(url):
        filesystem, path = _filesystem(url)
        if "*" in url or "[" in url:
            names = [name for name in sorted(filesystem.glob(path)) if filesystem.isfile(name)]
        elif filesystem.isfile(path):
            return [RemotePath(url)]
        else:
            entries = filesystem.ls(path, detail=True) if filesystem.isdir(path) else []
            names = [
                name for name in sorted(entry["name"] for entry in entries) if Path(name).suffix.lower() in suffixes
            ]
        if not names:
            # this raises an error where a server does not answer, which the calls above take for no file
            filesystem.exists(path)
        return [RemotePath(filesystem.unstrip_protocol(name)) for name in names]


@contextmanager
def readable(path: Path) -> Iterator[Any]:
    """Yield what readers of local files take: the path, or the opened file if it is remote."""
    if not isinstance(path, RemotePath):
        yield path
        return
    with path.open("rb") as file:
        yield file


def _filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it."""
    return require("fsspec.core", extra="hep").url_to_fs(url)
