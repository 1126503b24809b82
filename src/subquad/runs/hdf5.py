"""The datasets of an HDF5 file, without those in other files; listing them costs no reading of their numbers."""

from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, require

__all__ = ["check_superblock", "datasets_of"]


def datasets_of(file: Any, *, extra: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the datasets of an opened HDF5 file by their paths, and why others are not read.

    A file can name others, whose content would be read in its place: with external storage, virtual datasets and
    external links. A file that someone else made must not choose which files of this machine are read.

    Args:
        file: The file, opened by h5py.
        extra: Extra of subquad that installs h5py, for messages.

    Returns:
        The datasets in this file; and the paths of datasets, their fields, and links that lead to other files, each
        with the reason why it is not read, which begins with "it".
    """
    h5py = require("h5py", extra=extra)
    found: dict[str, Any] = {}
    file.visititems(lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {}))
    # links that are neither hard nor external lead to datasets of this file, which are found by their hard links
    links: list[str] = []
    # h5py turns an exception in such a call into a `SystemError`
    file.visit_links(links.append)
    others = {name: getattr(file.get(name, getlink=True), "filename", None) for name in links}
    elsewhere = {name: _reason(other, "an external link") for name, other in others.items() if other is not None}
    for name, dataset in found.items():
        if reason := _reason_of(dataset):
            fields = [f"{name}_{field}" for field in dataset.dtype.names or ()]
            elsewhere |= dict.fromkeys([name, *fields], reason)
    return {name: dataset for name, dataset in found.items() if name not in elsewhere}, elsewhere


def _reason_of(dataset: Any) -> str:
    """Return why a dataset is not read; empty if it lies in its file."""
    if dataset.external:
        return _reason(dataset.external[0][0], "external storage")
    if dataset.is_virtual:
        sources = [source.file_name for source in dataset.virtual_sources()]
        return _reason(sources[0] if sources else ".", "a virtual dataset")
    return ""


def _reason(other: Any, how: str) -> str:
    named = other.decode(errors="replace") if isinstance(other, bytes) else other
    return (
        f"it lies in another file, {named} ({how}), and other files are not read; copy the data into one file, with "
        "`h5repack -l CONTI OLD NEW` or h5py"
    )


def check_superblock(path: Path) -> None:
    """Check an address in the head of an HDF5 file, which the library would follow and allocate up to 4 GB.

    Raises:
        SubquadError: A file of the first two versions of the format names a driver, which single files do not have.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head[:8] != b"\x89HDF\r\n\x1a\n" or len(head) < 64 or head[8] > 1 or head[13] != 8:
        return
    start = 48 + 4 * head[8]
    if head[start : start + 8] != b"\xff" * 8:
        raise SubquadError(f"{path}: the head of this HDF5 file is damaged (address of a driver); copy it again")
