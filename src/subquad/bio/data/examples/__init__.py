"""Example tables that ship with the package; each is checked by its checksum before use."""

from pathlib import Path

from subquad.errors import unknown
from subquad.runs.examples import shipped_file

__all__ = ["EXAMPLES", "PREFIX", "resolve_table"]

EXAMPLES = {"tdp43": ("tdp43.csv.gz", "6badc7af88862b4bfcda5494fc9a80ec3683f3d6fef8306ad46d9ce784ade594")}
"""File and sha256 of each example. `tdp43`: 57,996 variants of TDP-43 with their toxicity; see ATTRIBUTION.md."""
PREFIX = "example:"
"""What the names of examples begin with."""


def resolve_table(table: Path | str) -> Path:
    """Return the path of a table, where `example:NAME` stands for one that ships with the package.

    Raises:
        SubquadError: There is no such example, or its file has changed.
    """
    if not str(table).startswith(PREFIX):
        return Path(table)
    name = str(table).removeprefix(PREFIX)
    if name not in EXAMPLES:
        raise unknown("example", name, EXAMPLES)
    file, digest = EXAMPLES[name]
    return shipped_file(Path(__file__).parent / file, digest)
