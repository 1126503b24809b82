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
    """Print a table on standard output, with numbers as on HTML pages.

    Args:
        header: Names of the columns.
        rows: Cells as text or numbers; None is a dash.
        title: Line above the table.
        best: Index of the row that is printed in bold.
        transposed: Print rows as columns, for tables with few rows that would be too wide for a terminal.
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
