"""A table of sequences with measurements, read and checked: all mistakes are said at once. Costs one pass.

`codes` are letters as their places in the alphabet, one row a sequence, padded with -1 at the end.
"""

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from subquad.bio.settings import ALPHABETS
from subquad.errors import SubquadError, raise_mistakes, unknown

__all__ = ["Column", "encode", "find_sequences", "find_target", "letters_of", "read_frame", "read_measurements"]

SEQUENCE_NAMES = ("sequence", "seq", "mutated_sequence", "protein", "guide", "peptide", "x")
TARGET_NAMES = ("target", "score", "dms_score", "label", "fitness", "activity", "y")
NAMES_OF = {
    "dna": "DNA alphabet",
    "rna": "RNA alphabet",
    "protein": "protein alphabet",
    "protein_stop": "protein alphabet with stop",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table, and whether it was guessed."""

    name: str
    is_guessed: bool


def read_frame(path: Path | str) -> pd.DataFrame:
    """Return a CSV or TSV file, plain or gzipped, as text: nothing is converted.

    Raises:
        SubquadError: no such file, no table, no rows, or a column twice.
    """
    path = Path(path)
    if path.is_dir():
        raise SubquadError(f"{path}: a folder; give the CSV or TSV file in it")
    if not path.is_file():
        raise SubquadError(f"{path}: no such file")
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise SubquadError(f"{path}: damaged or cut short ({error})") from error
    except UnicodeDecodeError:
        raise SubquadError(f"{path}: not a text file in UTF-8; export the table as CSV") from None
    return _parse(path, text)


def _parse(path: Path, text: str) -> pd.DataFrame:
    head = text.split("\n", 1)[0]
    if not head.strip():
        raise SubquadError(f"{path}: empty; a header line and one row a sequence are needed")
    separator = max("\t,;", key=head.count)
    try:
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except pd.errors.ParserError as error:
        raise SubquadError(f"{path}: not a table ({str(error).strip()})") from error
    if not len(frame):
        raise SubquadError(f"{path}: no rows under the header")
    return frame


def find_sequences(path: Path | str, frame: pd.DataFrame, name: str | None) -> Column:
    """Return the column of the sequences: the named one, one with a usual name, or the only one that looks like it.

    Raises:
        SubquadError: no such column, none looks like sequences, or several do.
    """
    if name is not None:
        return Column(name=_known(path, frame, name, "--sequence"), is_guessed=False)
    likely = [column for column in frame.columns if _looks_like_sequences(frame[column])]
    # where none does, the name counts, so that wrong letters are shown and not hidden behind the column
    named = [column for usual in SEQUENCE_NAMES for column in likely or frame.columns if column.lower() == usual]
    if named:
        return Column(name=named[0], is_guessed=True)
    if len(likely) == 1:
        return Column(name=likely[0], is_guessed=True)
    shown = ", ".join(likely or frame.columns)
    what = "several columns may be the sequences" if likely else "no column looks like sequences"
    raise SubquadError(f"{path}: {what} ({shown}); name it with --sequence")


def find_target(path: Path | str, frame: pd.DataFrame, name: str | None, taken: Sequence[str]) -> Column:
    """Return the column of the measurements: the named one, one with a usual name, or the only one that is left.

    Raises:
        SubquadError: no such column, none is left, or several are.
    """
    if name is not None:
        return Column(name=_known(path, frame, name, "--target"), is_guessed=False)
    left = [column for column in frame.columns if column not in taken]
    named = [column for usual in TARGET_NAMES for column in left if column.lower() == usual]
    numbers = [column for column in left if pd.to_numeric(frame[column], errors="coerce").notna().mean() > 0.9]
    for candidates in (named, left if len(left) == 1 else [], numbers if len(numbers) == 1 else []):
        if candidates:
            return Column(name=candidates[0], is_guessed=True)
    shown = ", ".join(numbers or left or frame.columns)
    what = "several columns may be the measurements" if left else "no column is left for the measurements"
    raise SubquadError(f"{path}: {what} ({shown}); name it with --target")


def _known(path: Path | str, frame: pd.DataFrame, name: str, flag: str) -> str:
    if name not in frame.columns:
        raise SubquadError(f"{path}: {unknown('column', name, frame.columns)} ({flag})")
    return name


def _looks_like_sequences(column: pd.Series) -> bool:
    some = column[column.str.len() > 0].head(200).str.strip().str.upper()
    if some.empty or some.str.len().median() < 4:
        return False
    letters = Counter("".join(some))
    allowed = set(ALPHABETS["protein_stop"]) | set("UN")
    good = sum(count for letter, count in letters.items() if letter in allowed)
    # words such as "train" are made of amino acids too, but they repeat
    return good >= 0.95 * letters.total() and some.nunique() > min(10, len(some) // 4)


def read_measurements(path: Path | str, column: pd.Series, task: str) -> tuple[np.ndarray, str, list[str], np.ndarray]:
    """Return the target as numbers, the task, the names of the classes, and which rows have a target.

    Raises:
        SubquadError: words among numbers, or as many classes as rows.
    """
    text = column.str.strip()
    has_target = ~text.str.lower().isin(["", "na", "nan", "null", "none"]).to_numpy()
    if not has_target.any():
        raise SubquadError(f"{path}: column {column.name!r} is empty; name the measurements with --target")
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, copy=True)
    numbers[~np.isfinite(numbers)] = np.nan
    is_number = ~np.isnan(numbers)
    if task == "auto":
        is_binary = set(numbers[has_target & is_number]) <= {0.0, 1.0} and is_number[has_target].all()
        is_words = is_number[has_target].mean() < 0.5
        task = "classification" if is_binary or is_words else "regression"
    if task == "regression":
        wrong = np.flatnonzero(has_target & ~is_number)
        raise_mistakes(
            f"{path}: not all measurements in column {column.name!r} are numbers ({len(wrong)}); mend or empty them",
            [f"row {row + 1}: {column.iloc[row]!r}" for row in wrong],
        )
        return numbers, task, [], has_target
    classes = sorted(set(text[has_target]))
    if not 2 <= len(classes) <= min(100, has_target.sum() // 2):
        shown = ", ".join(classes[:5])
        raise SubquadError(
            f"{path}: column {column.name!r} has {len(classes)} classes ({shown}{', …' if len(classes) > 5 else ''}); "
            "a classification needs two to a hundred, with several rows each; name the target with --target"
        )
    place = {name: k for k, name in enumerate(classes)}
    return text.map(place).fillna(0).to_numpy(dtype=np.int64, copy=True), task, classes, has_target


def letters_of(sequences: Sequence[str], alphabet: str) -> tuple[str, bool]:
    """Return the alphabet's name, the smallest that holds all letters or nearly so, and whether it was guessed."""
    if alphabet != "auto":
        return alphabet, False
    counts = Counter("".join(sequences))
    strange = {
        name: sum(count for letter, count in counts.items() if letter not in letters)
        for name, letters in ALPHABETS.items()
    }
    least = min(strange.values())
    # a few wrong letters in DNA are mistakes to be shown, and no reason to take it for a protein
    for name in ("dna", "rna"):
        if strange[name] <= 0.02 * counts.total():
            return name, True
    return next(name for name, count in strange.items() if count == least), True


def encode(path: Path | str, sequences: Sequence[str], alphabet: str, *, length: int | None = None) -> np.ndarray:
    """Return the codes of the sequences, padded with -1 to the longest.

    Args:
        path: the table, for messages.
        sequences: one of each row, in upper case.
        alphabet: name of the alphabet.
        length: all must have this length, where it is given.

    Raises:
        SubquadError: letters outside the alphabet, empty sequences or wrong lengths, each with its row.
    """
    letters = ALPHABETS[alphabet]
    table = np.full(128, -1, dtype=np.int16)
    table[[ord(letter) for letter in letters]] = np.arange(len(letters))
    # longer than any code table: what is not ASCII is no letter either
    codes = np.full((len(sequences), max(map(len, sequences))), -1, dtype=np.int16)
    mistakes = []
    for row, sequence in enumerate(sequences):
        points = np.frombuffer(sequence.encode("utf-32-le"), dtype=np.uint32)
        codes[row, : len(points)] = np.where(points < 128, table[np.minimum(points, 127)], -1)
        wrong = np.flatnonzero(codes[row, : len(points)] < 0)
        if not len(points):
            mistakes.append(f"row {row + 1}: the sequence is empty")
        elif len(wrong):
            place = int(wrong[0])
            more = f" (and {len(wrong) - 1} more in this row)" if len(wrong) > 1 else ""
            mistakes.append(
                f"row {row + 1}: {sequence[place]!r} at position {place + 1} is no letter of the "
                f"{NAMES_OF[alphabet]} ({letters}){more}"
            )
        elif length is not None and len(points) != length:
            mistakes.append(f"row {row + 1}: {len(points)} letters, but the model was fitted on sequences of {length}")
    raise_mistakes(f"{path}: {len(mistakes)} of {len(sequences)} rows cannot be read; mend or remove them", mistakes)
    return codes.astype(np.int8)
