"""Tables that come with the package, each checked by its sha256 before it is used."""

import hashlib
from pathlib import Path

from subquad.errors import SubquadError, unknown

__all__ = ["EXAMPLES", "example"]

EXAMPLES = {"tdp43": ("tdp43.csv.gz", "6badc7af88862b4bfcda5494fc9a80ec3683f3d6fef8306ad46d9ce784ade594")}
"""Name: file and sha256. `tdp43`: 57,996 variants of TDP-43 with their toxicity; see ATTRIBUTION.md beside it."""


def example(name: str) -> Path:
    """Return the path of a table that comes with subquad.

    Raises:
        SubquadError: there is no such table, or the file is not the one that was shipped.
    """
    if name not in EXAMPLES:
        raise unknown("example", name, EXAMPLES)
    file, digest = EXAMPLES[name]
    path = Path(__file__).parent / file
    if not path.is_file():
        raise SubquadError(f"{path}: missing from the installation; install subquad again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise SubquadError(f"{path}: changed since it was shipped (wrong sha256); install subquad again")
    return path
