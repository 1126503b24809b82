"""Opening HDF5 files, and their datasets without those in other files; listing them costs no reading of numbers."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, require

__all__ = ["datasets_of", "open_hdf5"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def open_hdf5(path: Path, given: Any, *, extra: str) -> Any:
    """Return an HDF5 file opened by h5py for reading, whose head was checked first.

    Args:
        path: The file, for messages.
        given: The file, or its opened content if it is remote.
        extra: Extra of subquad that installs h5py, for messages.

    Raises:
        SubquadError: The head names a driver, which single files do not have; the library would follow a damaged
            address of one, and allocate up to 4 GB.
    """
    h5py = require("h5py", extra=extra)
    with given.open("rb") if isinstance(given, Path) else nullcontext(given) as file:
        if _names_driver(file):
            raise SubquadError(
                f"{path}: its head has the address of a driver, so it is damaged or one of several files; copy it "
                "again, or join the files with h5repart"
            )
    return h5py.File(given, "r")


def _names_driver(file: Any) -> bool:
    """Return whether the superblock of an HDF5 file, at the byte 0, 512, 1024, 2048, ..., has an address of a driver.

    Only versions 0 and 1 of the superblock have a field for it, the fourth of its addresses.
    Source: HDF5 File Format Specification, version 3.0, section II.A.
    """
    start = 0
    while len(head := file.read(len(_SIGNATURE))) == len(_SIGNATURE):
        if head == _SIGNATURE:
            # four addresses of at most 32 bytes; a head that is cut short is left to the library
            fields = file.read(16 + 4 + 4 * 32).ljust(6, b"\xff")
            version, size = fields[0], fields[5]
            first = 16 + 4 * version + 3 * size
            address = fields[first : first + size]
            return version < 2 and len(address) == size and address != b"\xff" * size
        start = 2 * start or 512
        file.seek(start)
    return False


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
