"""Files that ship with the package, and among them fitted runs, which can be opened before anything is trained."""

import hashlib
from pathlib import Path

from subquad.errors import SubquadError, unknown

__all__ = ["EXAMPLE_RUNS", "name_of_run", "run_folder", "shipped_file"]

PREFIX = "example:"
EXAMPLE_RUNS = {
    "example:tdp43-model": (
        "bio/data/examples/tdp43_model/model.safetensors",
        "feb686b9feea1fab109e5eb19c995b77b6529a83513ba958f34d2147bec5e26f",
    ),
    "example:linear-smollm2": (
        "llm/data/examples/linear_smollm2/model.safetensors",
        "d57f79794aba32f8ba8e5078a98ca4b6d160e203dd3258302ed934ec796e321f",
    ),
    "example:tagger": (
        "hep/data/examples/tagger/model.safetensors",
        "ee60151556701e8c507529b04f3322c32af651b27082e487c5f3c647567b613b",
    ),
}
"""Name of each run → its weights within the package, and their SHA-256."""


def run_folder(run: Path | str) -> Path:
    """Return the folder of a run, where `example:NAME` stands for one that ships with the package.

    Raises:
        SubquadError: There is no such example, or its weights are missing or have changed.
    """
    name = str(run)
    if not name.startswith(PREFIX):
        return Path(run)
    if name not in EXAMPLE_RUNS:
        raise unknown("example run", name, EXAMPLE_RUNS)
    weights, digest = EXAMPLE_RUNS[name]
    return shipped_file(Path(__file__).resolve().parents[1] / weights, digest).parent


def name_of_run(folder: Path) -> str:
    """Return the name of a run that ships with the package, or else its folder."""
    return next((name for name in EXAMPLE_RUNS if run_folder(name) == folder), str(folder))


def shipped_file(path: Path, sha256: str) -> Path:
    """Return the path of a data file that ships with the package, after checking its content.

    Args:
        path: Where the package has it.
        sha256: The expected checksum, 64 hex digits.

    Raises:
        SubquadError: The file is missing or its content has changed.
    """
    if not path.is_file():
        raise SubquadError(f"{path}: this file of the package is missing; install subquad again")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise SubquadError(f"{path}: this file of the package has changed (sha256 {digest}); install subquad again")
    return path
