"""Tables for the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from subquad.reporting.page import show

Cell = str | float | int | None


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    title: str = "",
    best: int | None = None,
    transposed: bool = False,
) -> None:
    """Print a table on standard output, with numbers as on HTML pages, and the row `best` in bold.

    A table with few rows that would be too wide for a terminal is printed `transposed`.
    """
    # as `Text`, since names of users are not markup
    lines = [list(map(Text, header))]
    lines += [[Text(show(cell), style="bold" if row == best else "") for cell in rows[row]] for row in range(len(rows))]
    names, *lines = map(list, zip(*lines, strict=True)) if transposed else lines
    table = Table(title=Text(title) if title else None)
    for name in names:
        table.add_column(name)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
