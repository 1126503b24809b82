"""The datasets of an HDF5 file, none of which lies in another file; listing them costs no reading of their numbers."""

from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, require

__all__ = ["datasets_of"]


def datasets_of(path: Path, file: Any, *, extra: str) -> dict[str, Any]:
    """Return all datasets of an opened HDF5 file by their paths.

    A file can name others, whose content would be read in its place: with external storage, virtual datasets and
    external links. A file that someone else made must not choose which files of this machine are read.

    Args:
        path: The file, for messages.
        file: The same, opened by h5py.
        extra: Extra of subquad that installs h5py, for messages.

    Raises:
        SubquadError: A dataset or a group of it lies in another file.
    """
    h5py = require("h5py", extra=extra)
    found: dict[str, Any] = {}
    file.visititems(lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {}))
    # links that are neither hard nor external lead to datasets of this file, which are found by their hard links
    links: list[str] = []
    # h5py turns an exception in such a call into a `SystemError`
    file.visit_links(links.append)
    for name in links:
        if (other := getattr(file.get(name, getlink=True), "filename", None)) is not None:
            raise _elsewhere(path, name, other, "an external link")
    for name, dataset in found.items():
        if dataset.external:
            raise _elsewhere(path, f"dataset {name}", dataset.external[0][0], "external storage")
        if dataset.is_virtual:
            others = [source.file_name for source in dataset.virtual_sources()]
            raise _elsewhere(path, f"dataset {name}", others[0] if others else ".", "a virtual dataset")
    return found


def _elsewhere(path: Path, what: str, other: Any, how: str) -> SubquadError:
    named = other.decode(errors="replace") if isinstance(other, bytes) else other
    return SubquadError(
        f"{path}: {what} lies in another file, {named} ({how}), and other files are not read; copy the data into one "
        "file, for example with h5repack or with h5py"
    )
