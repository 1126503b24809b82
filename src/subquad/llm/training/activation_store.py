"""Hidden states at the boundaries between blocks of layers, one file per boundary; nothing is kept in memory.

A boundary takes 2 · T · D bytes per sequence in bfloat16.

Axes: B sequences of a batch, N sequences, T positions, D model width.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subquad.errors import SubquadError
from subquad.runs.storage import atomic


@dataclass(frozen=True, kw_only=True)
class ActivationStore:
    """The stored hidden states of a run."""

    directory: Path
    """Folder of the files."""
    numbers: Int[Tensor, " N"]
    """Indices of the stored sequences, ascending."""
    sequence_length: int
    """T, tokens of a sequence."""
    width: int
    """D, size of a hidden state."""
    dtype: torch.dtype
    """Type in which hidden states are stored."""

    @property
    def bytes(self) -> int:
        """Size of one boundary's file."""
        return len(self.numbers) * self._sequence_bytes

    @property
    def _sequence_bytes(self) -> int:
        return self.sequence_length * self.width * self.dtype.itemsize

    def path(self, boundary: int) -> Path:
        """Return the file of a boundary; boundary 0 is before the first layer."""
        return self.directory / f"states-{boundary}.bin"

    def has(self, boundary: int) -> bool:
        """Return whether a boundary was written completely, and not cut since."""
        path = self.path(boundary)
        return path.is_file() and path.stat().st_size == self.bytes

    def check_space(self, boundaries: int) -> None:
        """Check that the disk has room for this many more boundaries.

        Raises:
            SubquadError: It has not.
        """
        free, needed = shutil.disk_usage(self.directory).free, boundaries * self.bytes
        if free < needed:
            raise SubquadError(f"{self.directory}: the hidden states need {needed:,} bytes, and {free:,} are free")

    def write(self, boundary: int, batches: Iterable[Float[Tensor, "_ T D"]]) -> None:
        """Write a boundary, with the sequences in the order of `numbers`."""
        self.check_space(1)
        with atomic(self.path(boundary)) as temporary:
            with temporary.open("wb") as file:
                for batch in batches:
                    file.write(batch.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().data)
            size = temporary.stat().st_size
            if size != self.bytes:
                raise ValueError(f"boundary {boundary} has {size} bytes instead of {self.bytes}")

    def read(self, boundary: int, numbers: Int[Tensor, " B"]) -> Float[Tensor, "B T D"]:
        """Return the hidden states of some sequences in float32."""
        states = torch.empty(len(numbers), self.sequence_length, self.width, dtype=self.dtype)
        places = torch.searchsorted(self.numbers, numbers.cpu())
        # read instead of mapped, since mapped pages would count as memory of this process
        with self.path(boundary).open("rb", buffering=0) as file:
            for place, row in zip(places.tolist(), states, strict=True):
                file.seek(place * self._sequence_bytes)
                if file.readinto(row.view(torch.uint8).numpy().data) != self._sequence_bytes:
                    raise EOFError(f"{self.path(boundary)}: the file is truncated")
        return states.float()

    def remove(self, boundary: int) -> None:
        """Delete a boundary's file if it exists."""
        self.path(boundary).unlink(missing_ok=True)
