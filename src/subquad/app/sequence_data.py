"""What the page shows of a table of sequences: columns as they were inferred, the split and its leakage.

Messages of the commands name flags; the page names its fields in their place.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from subquad.app.markup import details, heading, join, pairs, remarks, table
from subquad.bio.data.columns import find_inputs
from subquad.bio.data.examples import EXAMPLES, resolve_table
from subquad.bio.data.files import read_frame
from subquad.bio.data.table import MIN_ROWS, Table, read_table
from subquad.bio.plots.split_section import LEAK_LABELS
from subquad.bio.settings import FitSettings
from subquad.bio.splits.split import Split, make_split
from subquad.bio.splits.split_column import check_split_column
from subquad.errors import SubquadError, require
from subquad.reporting.page import Table as Rows
from subquad.runs.damage import damage_as_error

__all__ = [
    "ENDINGS", "LENGTHS", "SPLITS", "Choices", "columns_of", "describe", "description", "example_names",
    "in_page_words", "letters", "table_in", "with_sheet",
]  # fmt: skip

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
SPLITS = {
    "random rows": "random",
    "groups of a column": "group",
    "clusters of similar sequences": "homology",
    "variants with the most mutations": "mutations",
    "mutated positions": "position",
    "whole sequences": "sequence",
}
"""What the page calls the ways to hold out test rows."""
LENGTHS = {"refuse a few that differ": "auto", "accept any lengths": "vary"}
"""What the page calls the ways to read sequences of different lengths."""
PLACE = ' under "Columns and split"'
TABLE_FIELDS = {
    "--target": "Target columns",
    "--sequence": "Column of the sequences",
    "--mutant": "Column of the variants",
    "--wild-type": "Wild type",
    "--offset": "First position of the wild type",
    "--lengths": "Lengths of the sequences",
    "--error": "Column of the standard errors",
    "--split-by": "How test rows are held out",
    "--group": "Column of the groups",
}
"""Fields of the page under "Columns and split", by the flags of the commands that they set."""
FIELDS = {
    **TABLE_FIELDS,
    "--models": "Models",
    "--train-rows": "Training rows, at most",
    "--seed": "Seed",
    "--direction": "Direction of the target",
    "--number": "Number of designs",
    "--propose": "Variants to propose",
    "--max-mutations": "Mutations, at most",
    "--fixed": "Positions that stay",
    "--only": "The only positions that mutate",
    "--allow": "Substitutions allowed at positions",
    "--forbid-letters": "Letters never introduced",
}
FLAG = r"(?<![\w-])--[a-z][a-z-]*"
PHRASES = {
    r"(?:reading sheet ('[^\n]{0,80}?'); )[^\s#]*#NAME selects another": rf"reading sheet \1; choose another{PLACE}",
    r"(?:\binputs/)?((?<![\w.-])[\w.-]+\.xls[xm])#([^:\n]*)(?=:)": r"\1, sheet '\2'",
    r"give their wild type with --wild-type(?: \([^)]*\))?": f"paste their wild type{PLACE}",
    r" \(letters, or a FASTA or text file\)": "",
    # a table to predict has no fields for its columns
    r", or name the column of the sequences(?: or variants)? with --sequence": "",
    r"--mutant (\S+) shows (why|where)": r'choose \1 as "Column of the variants" to see \2',
    r"--models (?=[\w-]+ (?:does|needs))": "the model ",
    r"accept it with --lengths vary": f'choose "accept any lengths" in "Lengths of the sequences"{PLACE}',
    r"another --split-by": f"another way to hold out test rows{PLACE}",
    r"--offset (-?\d+) fits ([^;\n]*)": rf"offset \1 fits \2; set it{PLACE}",
    r"\b(?:name|select) ((?:it|the|their|them)\b[^;:,]{0,80}?) with (?=--)": r"choose \1 with ",
}
"""What the page says in place of phrases of the commands."""
OFFSET = r"(?<=offset )-?\d+|(?<=offset if )-?\d+|(?<=so does )-?\d+|(?<!\d)-?\d+(?= \([\d,]+ of [\d,]+ rows\))"
"""An offset in a message: the position of the first letter of the wild type is by one larger."""
LONGEST_MESSAGE, LONGEST_WORD = 10_000, 200
"""Letters of a message that are shown, and of a word in it, such as the name of a column."""


def example_names() -> list[str]:
    """Return the tables that ship with subquad."""
    return [f"example:{name}" for name in EXAMPLES]


def columns_of(path: Path | str) -> list[str]:
    """Return the columns of a table.

    Raises:
        SubquadError: The file is not a table.
    """
    return [str(name) for name in read_frame(resolve_table(path)).columns if name]


def table_in(path: Path | str, sheet: str | None = None) -> tuple[list[str], str | None, list[str]]:
    """Return the sheets of a file if it has several, the one to read, and the columns of the table.

    Args:
        path: The file.
        sheet: The sheet that was chosen. Default: the first one in which sequences or variants are recognized.

    Raises:
        SubquadError: The file is not a table, nor a workbook with several sheets.
    """
    sheets = _sheets(path)
    if not sheets:
        return [], None, columns_of(path)
    own = sheet if sheet in sheets else _recognized(path, sheets)
    try:
        return sheets, own, columns_of(with_sheet(path, own))
    except SubquadError:
        # another sheet can be chosen
        return sheets, own, []


def _sheets(path: Path | str) -> list[str]:
    """Return the sheets of an Excel file that has several."""
    path = Path(path)
    if path.suffix.lower() not in (".xlsx", ".xlsm") or not path.is_file():
        return []
    data = path.read_bytes()
    if data[:4] != b"PK\x03\x04":
        return []
    openpyxl = require("openpyxl", extra="bio")
    with damage_as_error(f"{path}: not a readable Excel file"):
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True)
        names = [sheet.title for sheet in book.worksheets if not re.search(r"[/\\]", sheet.title)]
    return names if len(names) > 1 else []


def _recognized(path: Path | str, sheets: Sequence[str]) -> str:
    """Return the first sheet with sequences or variants, and with enough rows if there is one."""
    found = None
    for sheet in sheets:
        own = with_sheet(path, sheet)
        try:
            frame = read_frame(own)
            find_inputs(own, frame, sequence=None, mutant=None, partner=None)
        except SubquadError:
            continue
        if len(frame) >= MIN_ROWS:
            return sheet
        found = found or sheet
    return found or sheets[0]


def with_sheet(path: Path | str, sheet: str | None) -> Path | str:
    """Return a table with the name of its sheet, as the readers of tables take it."""
    if not sheet:
        return path
    if re.search(r"[/\\]", sheet):
        raise SubquadError(f"there is no sheet {sheet!r}; choose one{PLACE}")
    return Path(f"{path}#{sheet}")


def letters(text: str | None) -> str | None:
    """Return a sequence that was pasted, plain or as FASTA; a path, which the command line would read, is none.

    Raises:
        SubquadError: There are other characters than letters, `*` and `-`.
    """
    found = re.sub(r"\s", "", re.sub(r"\A\s*>[^\n]*(\n|\Z)", "", text or ""))
    if not re.fullmatch(r"[A-Za-z*\-]*", found):
        raise SubquadError(f"{found[:40]!r} is not a sequence; give letters only")
    return found.upper() or None


class Choices(NamedTuple):
    """What is chosen under "Columns and split"; nothing means that it is inferred."""

    sheet: str | None = None
    target: Sequence[str] | None = None
    sequence: str | None = None
    mutant: str | None = None
    wild_type: str | None = None
    first_position: int | None = None
    """Position of the first letter of the wild type, as the variants count."""
    lengths: str | None = None
    error: str | None = None
    split_by: str | None = None
    group: str | None = None

    def flags(self) -> dict[str, Any]:
        """Return what is chosen as settings of a fit.

        Raises:
            SubquadError: The wild type is no sequence.
        """
        return {
            "target": list(self.target or ()),
            "sequence": self.sequence or None,
            "mutant": self.mutant or None,
            "wild_type": letters(self.wild_type),
            "offset": None if self.first_position is None else int(self.first_position) - 1,
            "lengths": self.lengths or "auto",
            "error": self.error or None,
            "split_by": self.split_by or "random",
            "group": self.group or None,
        }

    def settings(self, **more: Any) -> FitSettings:
        """Return the settings of a fit.

        Raises:
            SubquadError: They cannot work.
        """
        return FitSettings.from_dict({**self.flags(), **more})


def in_page_words(text: str, **fields: str) -> str:
    """Return a message of a command with the fields of the page in place of flags.

    Args:
        text: The message; of a long one the beginning is returned, and of each long word in it.
        fields: Fields by the flags that they set where these differ, such as `sequence`.
    """
    # what a file has in place of a name may be long, and the patterns are for messages of some lines
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[:LONGEST_MESSAGE]} …"
    text = re.sub(rf"(?<!\S)(\S{{{LONGEST_WORD}}})\S+", r"\1…", text)
    for pattern, words in PHRASES.items():
        text = re.sub(pattern, words, text)
    for label, name in SPLITS.items():
        text = re.sub(rf"--split-by {name}\b", f'"{label}"', text)
    text = re.sub(OFFSET, lambda found: str(int(found[0]) + 1), text)
    text = re.sub(r"(?<![\w-])offset(?= -?\d)|(?<=\bno )offset(?= aligns)", "first position", text)
    labels = {**FIELDS, **{f"--{name.replace('_', '-')}": label for name, label in fields.items()}}
    several = rf"{FLAG}(?:(?:, or |, | or | and ){FLAG})*"
    text = re.sub(rf"(\bwith )?({several})", lambda found: _labelled(found[1], found[2], labels), text)
    left = list(dict.fromkeys(re.findall(FLAG, text)))
    more = f"\nThis page has no field for {', '.join(left)}; use the command line for it." if left else ""
    return f"{text}{more}"


def _labelled(how: str | None, flags: str, labels: Mapping[str, str]) -> str:
    """Return the labels of flags; after `with` the place of the fields on the page too."""
    found = re.findall(FLAG, flags)
    named = re.sub(FLAG, lambda own: f'"{labels[own[0]]}"' if own[0] in labels else own[0], flags)
    if not how or any(flag not in labels for flag in found):
        return f"{how or ''}{named}"
    is_of_table = all(labels[flag] == TABLE_FIELDS.get(flag) for flag in found)
    return f"in {named}{PLACE if is_of_table else ''}"


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
        remarks([_remark(text) for text in read.remarks]),
        details("First rows", _first_rows(read)),
        heading("Split and leakage"),
        pairs({f"{part} rows": len(rows) for part, rows in split.parts.items()}),
        Markup("<p>{}</p>").format(f"Split: {split.how}."),
        _leakage(split),
    )


def description(path: Path | str, settings: FitSettings) -> tuple[str, str]:
    """Return what `describe` returns; or nothing, and why the table cannot be read or split."""
    try:
        return describe(path, settings), ""
    except SubquadError as error:
        return "", str(error)


def _remark(text: str) -> str:
    text = re.sub(r"; --[^)]* overrides?(?=\))| \(--[^)]* overrides?\)", "", text)
    # what the page cannot change is left out
    return in_page_words(re.sub(rf" \((?!--mutant)[^()]*{FLAG}[^()]*\)", "", text)).partition("\n")[0]


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
