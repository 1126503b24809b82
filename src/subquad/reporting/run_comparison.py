"""What the reports of runs have in common: the file to write, names of runs, and the settings in which runs differ."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, flag_name
from subquad.reporting.page import Table
from subquad.runs.examples import EXAMPLE_RUNS
from subquad.runs.folder import REPORT
from subquad.runs.storage import as_file, check_output

__all__ = [
    "difference_tables",
    "differing_settings",
    "html_file",
    "model_name",
    "report_file",
    "run_name",
    "run_names",
    "seeds_text",
]

UNINFORMATIVE = "out"
"""Name of the folder that the web page gives to every output; the folder above it has the name of the job."""
MAX_SETTING = 60
"""Characters of a setting that are shown."""


def run_name(folder: Path | str) -> str:
    """Return the name of a run for a page: that of its folder, or of the folder above one that is called `out`."""
    path = Path(folder)
    return (path.parent.name if path.name == UNINFORMATIVE else "") or path.name or str(folder)


def model_name(model: str) -> str:
    """Return the name of a model for a page: the folder of one that was opened by its whole path."""
    return run_name(model) if Path(model).is_absolute() else model


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each run: that of its folder, or all of its path if two folders have one name.

    Raises:
        SubquadError: A folder is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise SubquadError(f"{', '.join(map(str, folders))}: a run cannot be compared with itself")
    names = [run_name(folder.resolve()) for folder in folders]
    return names if len(set(names)) == len(names) else list(map(str, folders))


def report_file(runs: Sequence[Path | str], folder: Path, *, out: Path | str | None, force: bool) -> Path:
    """Return the path of the report to write.

    Args:
        runs: The runs as they were given; with several the report compares them.
        folder: Folder of the first run, to whose report `out` defaults; that one is replaced without `force`.
        out: The file that was given.
        force: Overwrite an existing file.

    Raises:
        SubquadError: A comparison or a run that ships with the package has no `out`, or it must not be written or does
            not end in `.html` or `.htm`.
    """
    if out is None and (len(runs) > 1 or str(runs[0]) in EXAMPLE_RUNS):
        what = "a comparison of several runs" if len(runs) > 1 else f"{runs[0]}, which is a part of the package,"
        raise SubquadError(f"{what} needs an output file: name it with --out")
    if out is None:
        # it is made of what lies beside it, so that nothing is lost
        return check_output(folder / REPORT, force=True)
    return html_file(out, force=force)


def html_file(out: Path | str, *, force: bool, flag: str = "--out") -> Path:
    """Return the path of a page to write.

    Args:
        out: The file that was given.
        force: Overwrite an existing page.
        flag: The flag that names it.

    Raises:
        SubquadError: It must not be written or does not end in `.html` or `.htm`.
    """
    path = check_output(as_file(out, flag=flag), force=force, flag=flag)
    if path.suffix.lower() not in (".html", ".htm"):
        if path.is_file():
            raise SubquadError(f"{path}: is no HTML file, and --force replaces only pages; choose another {flag}")
        raise SubquadError(f"{path}: {flag} must end in .html or .htm, since it is an HTML page")
    return path


def difference_tables(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> list[Table]:
    """Return differences between runs as one table for each pair of runs, which so fits a narrow screen.

    Args:
        header: Names of the columns after that of the runs.
        rows: Which run is compared with which, and the other columns.
        caption: What the columns mean; below the last table.
    """
    pairs = list(dict.fromkeys(row[0] for row in rows))
    captions = {**{pair: f"{pair}." for pair in pairs}, **{pair: f"{pair}. {caption}" for pair in pairs[-1:]}}
    return [Table(header, [row[1:] for row in rows if row[0] == pair], caption=captions[pair]) for pair in pairs]


def seeds_text(settings: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on whether the compared runs differ in their seed, from their settings."""
    if len({own.get("seed") for own in settings}) > 1:
        return "The runs differ in their seed, with one training each."
    return "Training seeds were not varied."


def differing_settings(settings: Sequence[Mapping[str, Any]], *, ignored: Sequence[str] = ()) -> list[list[str]]:
    """Return a row for each setting in which runs differ: its flag, and its value in each run."""
    flat = [dict(_flat(own)) for own in settings]
    names = [name for name in dict.fromkeys(key for own in flat for key in own) if name.split(".")[0] not in ignored]
    rows = [[flag_name(name), *(own.get(name) for own in flat)] for name in names]
    return [[row[0], *map(_short, row[1:])] for row in rows if any(value != row[1] for value in row[2:])]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _short(value: Any) -> str:
    text = "–" if value in (None, [], "") else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= MAX_SETTING else text[:MAX_SETTING] + " …"
