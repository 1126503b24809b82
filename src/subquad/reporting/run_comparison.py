"""Reports of runs: the file to write, names of runs, and the page that compares several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, flag_name, shortened
from subquad.reporting.metrics import Metric, difference_table, value_text
from subquad.reporting.page import Block, Section, Table, page
from subquad.reporting.statistics import Difference
from subquad.runs.examples import EXAMPLE_RUNS
from subquad.runs.folder import REPORT, flat_settings
from subquad.runs.storage import check_output


def run_name(folder: Path | str) -> str:
    """Return the name of a run for a page: that of its folder, or of its job on the web page, which is above `out`."""
    path = Path(folder)
    return (path.parent.name if path.name == "out" else "") or path.name or str(folder)


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
    """Return the path of the report to write: `out`, or without it the report in the folder of a single run.

    The latter is replaced without `force`, since it is made of the files of the run.

    Raises:
        SubquadError: A comparison or a run that ships with the package has no `out`, or it must not be written.
    """
    if out is not None:
        return html_file(out, force=force)
    if len(runs) > 1 or str(runs[0]) in EXAMPLE_RUNS:
        what = "a comparison of several runs" if len(runs) > 1 else f"{runs[0]}, which is a part of the package,"
        raise SubquadError(f"{what} needs an output file")
    return folder / REPORT


def html_file(out: Path | str, *, force: bool) -> Path:
    """Return the path of a page to write, which replaces another file only with `force`.

    Raises:
        SubquadError: It exists already, or its name does not end in `.html` or `.htm`.
    """
    return check_output(out, suffixes=(".html", ".htm"), force=force)


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """What a comparison shows of a run."""

    values: Mapping[str, tuple[float | None, Sequence[float] | None]]
    """Value and interval by the name of a row; the first row is the result."""
    settings: Mapping[str, Any]
    """Settings of the run, of which those that differ are shown."""
    facts: Mapping[str, str]
    """Further facts, such as the number of test items."""


Gaps = Mapping[str, Difference | None]


def comparison_page(
    what: str,
    runs: Mapping[str, ComparedRun],
    metrics: Mapping[str, Metric],
    gaps: Callable[[str, str], Gaps | str],
    *,
    ignored: Sequence[str] = (),
) -> str:
    """Return the page that compares runs with the first one.

    Args:
        what: What the runs are, such as `jet taggers`.
        runs: At least two runs by name.
        metrics: Metric of each row, by the name of the row.
        gaps: From the names of a run and of the first one to the paired differences by row, on the same test items, or
            the reason why there are none.
        ignored: Settings that are not shown.
    """
    (first, *others), result = runs, next(iter(metrics))
    found = {name: gaps(name, first) for name in others}
    settings = [run.settings for run in runs.values()]
    seeds = "Training seeds were not varied."
    if len({setting.get("seed") for setting in settings}) > 1:
        seeds = "The runs differ in their seed, with one training each."
    values = "; ".join(f"{name} {value_text(*run.values[result])}" for name, run in runs.items())
    verdicts = [
        f"{name} against {first}: {gap}."
        if isinstance(gap, str)
        else metrics[result].compare(name, first, gap.get(result))
        for name, gap in found.items()
    ]
    cells = [
        [row, *(value_text(*run.values.get(row, (None, None)), between="\n") for run in runs.values())]
        for row in metrics
    ]
    tables: list[Block] = []
    for name, gap in found.items():
        title = f"{name} against {first}"
        if isinstance(gap, str):
            tables.append(f"{title}: {gap}.")
        elif rows := [(row, metrics[row], one) for row, one in gap.items() if one is not None]:
            tables.append(difference_table(rows, what=title, caption=seeds))
    facts = [[fact, *(run.facts[fact] for run in runs.values())] for fact in runs[first].facts]
    return page(
        f"Comparison of {len(runs)} {what}",
        lead=f"{metrics[result].title}: {values}. {' '.join(verdicts)} {seeds}",
        sections=[
            Section("Metrics", [Table(["", *runs], cells, caption="On the test items of each run.")]),
            Section("Differences on the same test items", tables),
            Section("Runs", [Table(["", *runs], facts + differing_settings(settings, ignored=ignored))]),
        ],
    )


def differing_settings(settings: Sequence[Mapping[str, Any]], *, ignored: Sequence[str] = ()) -> list[list[str]]:
    """Return a row for each setting in which runs differ: its flag, and its value in each run."""
    flat = list(map(flat_settings, settings))
    names = [
        name for name in dict.fromkeys(key for setting in flat for key in setting) if name.split(".")[0] not in ignored
    ]
    rows = [[name, *(setting.get(name) for setting in flat)] for name in names]
    return [[flag_name(row[0]), *map(_short, row[1:])] for row in rows if any(value != row[1] for value in row[2:])]


def _short(value: Any) -> str:
    text = "–" if value in (None, [], "") else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return shortened(text)
