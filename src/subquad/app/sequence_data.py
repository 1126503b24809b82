"""What the page shows of a table of sequences: columns as they were inferred, the split and its leakage."""

import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from subquad.app.markup import details, heading, join, pairs, remarks, table
from subquad.bio.data.examples import EXAMPLES, resolve_table
from subquad.bio.data.files import file_of, read_frame
from subquad.bio.data.table import Table, read_table
from subquad.bio.plots.split_section import LEAK_LABELS
from subquad.bio.settings import FitSettings
from subquad.bio.splits.split import Split, make_split
from subquad.bio.splits.split_column import check_split_column
from subquad.reporting.page import Table as Rows

__all__ = ["ENDINGS", "columns_of", "describe", "example_names", "fit_settings"]

ENDINGS = (".csv", ".tsv", ".txt", ".xlsx", ".xlsm", ".parquet", ".fasta", ".fa", ".fna", ".faa", ".gz")
"""Endings of the files that can be uploaded."""
TASKS = {
    "regression": "measurements",
    "binary": "two classes",
    "multiclass": "several classes",
    "multilabel": "labels",
    "residue_regression": "one value per residue",
    "residue_binary": "two classes of residues",
    "residue_multiclass": "several classes of residues",
    "pairs": "base pairs",
}
SHOWN_ROWS, SHOWN_COLUMNS, SHOWN_LETTERS = 5, 6, 44


def example_names() -> list[str]:
    """Return the tables that ship with subquad."""
    return [f"example:{name}" for name in EXAMPLES]


def columns_of(path: Path | str) -> list[str]:
    """Return the columns of a table.

    Raises:
        SubquadError: The file is not a table.
    """
    return [str(name) for name in read_frame(file_of(resolve_table(path))).columns if name]


def fit_settings(
    *, target: list[str] | None, sequence: str | None, group: str | None, split_by: str, **more: Any
) -> FitSettings:
    """Return settings from the values of the page, where nothing means that it is inferred."""
    return FitSettings(
        target=tuple(target or ()),
        sequence=sequence or None,
        group=group or None,
        split_by=split_by or "random",  # pyright: ignore[reportArgumentType] (one of a list of choices)
        **more,
    )


def describe(path: Path | str, settings: FitSettings, *, seed: int = 0) -> str:
    """Return what was read from a table, how it is split, and what leaks between the parts.

    Raises:
        SubquadError: The table cannot be read or split; all its errors are listed by row.
    """
    resolved = resolve_table(path)
    read = read_table(resolved, settings, check=lambda frame: check_split_column(resolved, frame, settings))
    split = make_split(read, settings, seed=seed)
    return join(
        heading("What was read"),
        pairs(_facts(read)),
        remarks([re.sub(r"; --[^)]* overrides?(?=\))| \(--[^)]* overrides?\)", "", text) for text in read.remarks]),
        details("First rows", _first_rows(read)),
        heading("Split and leakage"),
        pairs({f"{part} rows": len(rows) for part, rows in split.parts.items()}),
        Markup("<p>{}</p>").format(f"Split: {split.how}."),
        _leakage(split),
    )


def _facts(read: Table) -> dict[str, str | int]:
    assert read.target is not None
    lengths = read.inputs.lengths
    length = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
    return {
        "rows": len(read.sequences),
        "with a target": int(read.has_target.sum()),
        "target": ", ".join(map(str, read.target.names[:3])) + " …" * (len(read.target.names) > 3),
        "kind of target": TASKS[read.target.task_type],
        "letters": read.schema.alphabet.replace("_", " with "),
        "length": length,
    }


def _first_rows(read: Table) -> Markup:
    frame = read.frame.iloc[:SHOWN_ROWS, :SHOWN_COLUMNS]
    cells = [[_short(str(value)) for value in row] for row in frame.to_numpy()]
    return table(Rows([str(name) for name in frame.columns], cells))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_LETTERS else f"{text[: SHOWN_LETTERS - 1]}…"


def _leakage(split: Split) -> Markup:
    leaks = split.leakage.as_dict()
    rows = [[text.format(**leaks), leaks[key]] for key, text in LEAK_LABELS.items() if leaks.get(key)]
    if not rows:
        return Markup("<p>No test sequence occurs in training or validation, and no sequence has several rows.</p>")
    kept = leaks["kept_because"]
    reason = f"Near-duplicates stay in the test set: {kept}." if leaks["near_duplicates"] and kept else ""
    return join(table(Rows(["leakage", "rows"], rows)), Markup("<p>{}</p>").format(reason) if reason else None)
