"""Files that ship with the package, and among them fitted runs, which can be opened before anything is trained."""

from pathlib import Path

from subquad.errors import SubquadError, unknown
from subquad.runs.storage import sha256_of, write_text

PREFIX = "example:"
EXAMPLE_RUNS = {
    "example:tdp43-model": "bio/data/examples/tdp43_model",
    "example:linear-smollm2": "llm/data/examples/linear_smollm2",
    "example:tagger": "hep/data/examples/tagger",
}
"""Name of each run → its folder within the package."""


def run_folder(run: Path | str) -> Path:
    """Return the folder of a run, where `example:NAME` names one that ships with the package.

    Raises:
        SubquadError: There is no such example.
    """
    name = str(run)
    if not name.startswith(PREFIX):
        return Path(run)
    if name not in EXAMPLE_RUNS:
        raise unknown("example run", name, EXAMPLE_RUNS)
    return Path(__file__).resolve().parents[1] / EXAMPLE_RUNS[name]


def name_of_run(folder: Path) -> str:
    """Return the name of a run that ships with the package, or else its folder."""
    return next((name for name in EXAMPLE_RUNS if run_folder(name) == folder), str(folder))


def shipped_file(path: Path, sha256: str) -> Path:
    """Return the path of a data file that ships with the package, after checking its content, 64 hex digits.

    Raises:
        SubquadError: The file is missing or its content has changed.
    """
    if not path.is_file() or sha256_of(path) != sha256:
        raise SubquadError(f"{path}: this file of the package is missing or has changed; install subquad again")
    return path


def write_python_topics(path: Path) -> Path:
    """Write the help topics that every Python contains, 460 kB of English, as a text to train on, unless it exists."""
    from pydoc_data.topics import topics

    if not path.is_file():
        write_text(path, "\n\n".join(topics[name] for name in sorted(topics)))
    return path
