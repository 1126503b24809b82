"""Hidden states at the edges between blocks of layers, one file an edge; nothing of them stays in memory.

An edge of T tokens and D numbers a token takes 2 · T · D bytes in bfloat16.

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

__all__ = ["Edges"]


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The files of a run's edges, and the sequences in them."""

    directory: Path
    """Where the files are."""
    numbers: Int[Tensor, " N"]
    """The numbers of the sequences that are kept, smallest first."""
    length: int
    """T, tokens of a sequence."""
    width: int
    """D, numbers of a token."""
    dtype: torch.dtype
    """How a number is stored."""

    @property
    def bytes(self) -> int:
        """Bytes of one edge."""
        return len(self.numbers) * self._row

    @property
    def _row(self) -> int:
        return self.length * self.width * self.dtype.itemsize

    def path(self, edge: int) -> Path:
        """Return the file of an edge; edge 0 lies before the first layer."""
        return self.directory / f"states-{edge}.bin"

    def has(self, edge: int) -> bool:
        """Return whether an edge was written as a whole."""
        return self.path(edge).is_file()

    def check_space(self, edges: int) -> None:
        """Raise where the disk has no room for so many more edges.

        Raises:
            SubquadError: says how many bytes are missing.
        """
        free, needed = shutil.disk_usage(self.directory).free, edges * self.bytes
        if free < needed:
            raise SubquadError(
                f"{self.directory}: the hidden states of {len(self.numbers) * self.length:,} tokens take {needed:,} "
                f"bytes more on disk, and {free:,} are free: {needed - free:,} bytes are missing; make room, name a "
                "folder on another disk, or learn from fewer tokens with --transfer-tokens"
            )

    def write(self, edge: int, batches: Iterable[Float[Tensor, "_ T D"]]) -> None:
        """Write an edge, its sequences in the order of `numbers`."""
        self.check_space(1)
        with atomic(self.path(edge)) as temporary:
            with temporary.open("wb") as file:
                for batch in batches:
                    file.write(batch.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy())
            if temporary.stat().st_size != self.bytes:
                raise ValueError(f"edge {edge} has {temporary.stat().st_size} bytes in place of {self.bytes}")

    def read(self, edge: int, numbers: Int[Tensor, " B"]) -> Float[Tensor, "B T D"]:
        """Return the states of some sequences, in float32."""
        states = torch.empty(len(numbers), self.length, self.width, dtype=self.dtype)
        places = torch.searchsorted(self.numbers, numbers.cpu())
        # read rather than mapped: mapped pages would count as this process's memory
        with self.path(edge).open("rb", buffering=0) as file:
            for place, row in zip(places.tolist(), states, strict=True):
                file.seek(place * self._row)
                if file.readinto(row.view(torch.uint8).numpy()) != self._row:
                    raise SubquadError(f"{self.path(edge)}: is cut short; remove it, and give the same command again")
        return states.float()

    def remove(self, edge: int) -> None:
        """Delete an edge's file, where there is one."""
        self.path(edge).unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Delete what a killed run was writing."""
        for leftover in self.directory.glob(".states-*.bin.*"):
            shutil.rmtree(leftover)
