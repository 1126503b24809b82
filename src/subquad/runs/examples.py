"""Fitted runs that ship with the package, which can be opened before anything is trained."""

from pathlib import Path

__all__ = ["EXAMPLE_RUNS", "run_folder"]

EXAMPLE_RUNS = {"example:tagger": "hep/data/examples/tagger"}
"""Name of each run → its folder within the package."""


def run_folder(run: Path | str) -> Path:
    """Return the folder of a run, where `example:NAME` stands for one that ships with the package."""
    known = EXAMPLE_RUNS.get(str(run))
    return Path(run) if known is None else Path(__file__).parents[1] / known
