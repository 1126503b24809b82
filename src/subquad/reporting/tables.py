"""Tables for the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from subquad.reporting.page import show

__all__ = ["print_table"]

Cell = str | float | int | None


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    title: str = "",
    best: int | None = None,
    transposed: bool = False,
) -> None:
    """Print a table on standard output.

    Args:
        header: Names of the columns.
        rows: Cells as text or numbers; numbers are rounded as on HTML pages, and None is shown as a dash.
        title: Line above the table.
        best: Index of the row that is printed in bold.
        transposed: Print rows as columns, for tables with few rows that would be too wide for a terminal.
    """
    # names of users are not markup
    table = Table(title=Text(title) if title else None)
    cells = [[Text(show(cell)) for cell in row] for row in rows]
    if transposed:
        names, *lines = zip(map(Text, header), *cells, strict=True)
        for index, name in enumerate(names):
            table.add_column(name, style="bold" if best is not None and index == best + 1 else None)
        for line in lines:
            table.add_row(*line)
    else:
        for name in header:
            table.add_column(Text(name))
        for index, row in enumerate(cells):
            table.add_row(*row, style="bold" if index == best else None)
    Console().print(table)
