"""Jets that ship with subquad, so that every command can be tried without data."""

from pathlib import Path

from subquad.runs.examples import shipped_file

__all__ = ["EXAMPLES", "example_path"]

EXAMPLES = {"example:jets": ("jets_small.root", "f1bf4516ae6270b5e02149e772a2b83f8b086019d9e8e3e2c0e69b26a1034aac")}
"""Name → file and its SHA-256. `example:jets`: 1,500 simulated jets, 150 of each class of JetClass, mixed."""


def example_path(name: str = "example:jets") -> Path:
    """Return the path of the ROOT file of an example.

    Args:
        name: One of `EXAMPLES`.

    Raises:
        SubquadError: The file is missing or has changed.
    """
    file, sha256 = EXAMPLES[name]
    return shipped_file(Path(__file__).parent / file, sha256)
