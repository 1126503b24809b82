"""Rows of numbers in files without names, of which memory holds what is used; nothing is left when the process ends."""

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import torch
from torch import Tensor

MOST_IN_MEMORY = 1 << 20
"""Numbers that a growing row keeps in memory before it writes them."""
TYPES = {torch.int16: np.int16, torch.int32: np.int32, torch.int64: np.int64, torch.bool: np.bool_}


class GrowingRow:
    """A row of numbers to which others are appended.

    Args:
        kind: Type code of `array`.
        folder: Folder of the file; None keeps all numbers in memory.
    """

    def __init__(self, kind: str, folder: Path | None) -> None:
        self.recent, self.folder = array(kind), folder
        self.file: IO[bytes] | None = None
        self.written = 0
        self.last: int | None = None
        """The last number."""

    def __len__(self) -> int:
        return self.written + len(self.recent)

    def extend(self, values: Sequence[int]) -> None:
        """Append numbers."""
        self.recent.extend(values)
        self.last = values[-1] if values else self.last
        if self.folder is not None and len(self.recent) >= MOST_IN_MEMORY:
            if self.file is None:
                self.file = TemporaryFile(dir=self.folder)  # noqa: SIM115 (open as long as the row grows)
            self._write(self.file)

    def _write(self, file: IO[bytes]) -> None:
        self.recent.tofile(file)
        self.written += len(self.recent)
        del self.recent[:]

    def close(self) -> None:
        """Close the file, whose content is deleted unless it is mapped."""
        if self.file is not None:
            self.file.close()

    def finish(self, dtype: torch.dtype) -> Tensor:
        """Return all numbers."""
        if self.file is None:
            return torch.frombuffer(self.recent, dtype=dtype) if self.recent else torch.empty(0, dtype=dtype)
        self._write(self.file)
        return _mapped(self.file, (len(self),), dtype)


def stored(blocks: Iterable[Tensor], shape: Sequence[int], dtype: torch.dtype, *, folder: Path | None) -> Tensor:
    """Return blocks of rows, one after the other, as a tensor of this shape, in a file of a folder or in memory."""
    if folder is None or 0 in shape:
        return torch.cat([torch.empty(0, *shape[1:], dtype=dtype), *blocks])
    with TemporaryFile(dir=folder) as file:
        # written rather than mapped, so that a full disk is an error and no signal
        for block in blocks:
            write_rows(block, file)
        return _mapped(file, shape, dtype)


def write_rows(rows: Tensor, file: IO[bytes]) -> None:
    """Write rows to a file, as `open_rows` reads them."""
    file.write(rows.contiguous().numpy().data)


def open_rows(path: Path, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return the content of a file with a name."""
    if 0 in shape:
        return torch.empty(*shape, dtype=dtype)
    with path.open("r+b") as file:
        return _mapped(file, shape, dtype)


def _mapped(file: IO[bytes], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    file.flush()
    # writable because torch requires it, and shared so that no memory is reserved for it
    return torch.from_numpy(np.memmap(file, TYPES[dtype], "r+", shape=tuple(shape)))
