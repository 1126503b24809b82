"""Options that every command shares, and the groups under which `--help` lists flags."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import Group, Parameter

from subquad.errors import SubquadError

__all__ = [
    "FileOptions",
    "FolderOptions",
    "Input",
    "Model",
    "Output",
    "OutputOptions",
    "RunOptions",
    "SeededFolderOptions",
    "SeededOptions",
    "Training",
    "check_seed",
]

T = TypeVar("T")

Input = Annotated[T, Parameter(group=Group("Input", sort_key=1))]
"""A flag about the data that a command reads, as in `target: Input[str | None] = None`."""
Model = Annotated[T, Parameter(group=Group("Model", sort_key=2))]
"""A flag about the model."""
Training = Annotated[T, Parameter(group=Group("Training", sort_key=3))]
"""A flag about training."""
Output = Annotated[T, Parameter(group=Group("Output", sort_key=4))]
"""A flag about what a command writes and prints."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Options of a command that writes without drawing random numbers."""

    out: Output[Path]
    """Output folder or file."""
    force: Output[bool] = False
    """Overwrite an existing output; of a run or report the whole folder, with files that were put into it."""
    quiet: Output[bool] = False
    """Print no progress and no results."""


@dataclass(frozen=True, kw_only=True)
class FolderOptions(OutputOptions):
    """Options of a command that writes a folder without drawing random numbers."""

    out: Output[Path]
    """Output folder."""


@dataclass(frozen=True, kw_only=True)
class FileOptions(OutputOptions):
    """Options of a command that writes a file without drawing random numbers."""

    out: Output[Path]
    """Output file."""


@dataclass(frozen=True, kw_only=True)
class SeededOptions(OutputOptions):
    """Options of a command that also draws random numbers."""

    seed: Training[int] = 0
    """Seed of all random numbers: splits, initial weights, order of the data."""

    def __post_init__(self) -> None:
        """Refuse a seed that no generator takes."""
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class SeededFolderOptions(SeededOptions):
    """Options of a command that writes a folder and draws random numbers."""

    out: Output[Path]
    """Output folder."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(SeededOptions):
    """Options of a command that trains, and that resumes where it was interrupted."""

    out: Output[Path]
    """Output folder. A folder with an unfinished run of the same settings is resumed."""


def check_seed(seed: int) -> None:
    """Check that all generators of random numbers take a seed.

    Raises:
        SubquadError: They do not.
    """
    if not 0 <= seed < 2**32:
        raise SubquadError(f"--seed is {seed}; give a number from 0 to {2**32 - 1:,}")
