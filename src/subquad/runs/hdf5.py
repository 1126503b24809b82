"""HDF5 files, without datasets that lie in other files, which a file that someone else made must not choose."""

from typing import Any

from subquad.errors import require


def datasets_of(file: Any, *, extra: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the datasets of an opened HDF5 file by their paths, and why others are not read.

    Returns:
        The datasets in this file; and the names of datasets and links that lead to other files by external storage,
        virtual datasets or external links, each with the reason why it is not read.
    """
    h5py = require("h5py", extra=extra)
    datasets: dict[str, Any] = {}
    file.visititems(lambda name, item: datasets.update({name: item} if isinstance(item, h5py.Dataset) else {}))
    links: list[str] = []
    # h5py turns an exception in such a call into a `SystemError`
    file.visit_links(links.append)
    elsewhere = {name for name in links if hasattr(file.get(name, getlink=True), "filename")}
    for name, dataset in datasets.items():
        if dataset.external or dataset.is_virtual:
            elsewhere |= {name, *(f"{name}_{field}" for field in dataset.dtype.names or ())}
    reason = "it lies in another file, which is not read; copy the data into one file with h5repack"
    return {name: item for name, item in datasets.items() if name not in elsewhere}, dict.fromkeys(elsewhere, reason)
