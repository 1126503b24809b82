"""Targets with one value per residue, and base pairs: strings of labels, lists, dot-brackets.

Axes: n rows, T positions.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.alphabet import flatten
from subquad.bio.data.dataset import Target, TaskType
from subquad.bio.data.files import sample_of
from subquad.bio.data.numbers import MISSING, to_numbers
from subquad.errors import SubquadError, raise_errors, shortened

__all__ = ["UNKNOWN", "looks_like_pairs", "looks_like_residues", "order_of_classes", "read_pairs", "read_residues"]

UNKNOWN = "-?"
BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">", **{chr(k): chr(k + 32) for k in range(ord("A"), ord("Z") + 1)}}
UNPAIRED = ".-_:,~"
MAX_LABELS = 30
MIN_PAIRING, MIN_LEAD = 0.5, 0.2
"""Pairs count from 0 if at least this fraction of them can pair, and that much more than if they count from 1; of
random bases three in eight can pair."""
FARTHEST = 2**53
"""Largest position that is read; whole numbers of float64 are exact up to it."""
NEGATIVE = ("non", "not", "neg", "no_", "no-", "no ", "false", "decoy", "control", "random", "wt", "low", "unbound")


def looks_like_pairs(text: pd.Series) -> bool:
    """Return whether most values are dot-brackets or lists of pairs."""
    sample = sample_of(text, 300).tolist()
    if sum(value.replace(" ", "").startswith(("[[", "[]")) for value in sample) > 0.5 * len(sample):
        return any("[[" in value.replace(" ", "") for value in sample)
    letters = set("".join(sample))
    brackets = {sign for pair in BRACKETS.items() for sign in pair if not sign.isalpha()}
    is_dots = sum(set(value) & set("(.") != set() and not value[:1].isdigit() for value in sample) > 0.5 * len(sample)
    others = letters - brackets - set(UNPAIRED)
    return is_dots and {"(", ")"} <= letters and all(sign.isalpha() and sign.isascii() for sign in others)


def looks_like_residues(text: pd.Series, lengths: np.ndarray) -> TaskType | None:
    """Return the task type of a column with one value per residue, or None if it has one value per row."""
    sample = sample_of(text, 300)
    lengths = pd.Series(lengths, index=text.index).loc[sample.index].to_numpy()
    values = sample.tolist()
    lists = [_as_list(value) for value in values]
    if sum(isinstance(value, list) for value in lists) > 0.9 * len(values):
        return _task_type_of([item for value in lists if isinstance(value, list) for item in value])
    is_long = np.array([len(value) for value in values]) == lengths
    if is_long.mean() < 0.9 or np.median(lengths) < 3:
        return None
    letters = Counter("".join(values))
    one_length = len(set(lengths.tolist())) == 1
    # a number may have as many digits as the sequences have letters, and so may the name of a class
    is_decimal = np.mean([value.count(".") == 1 for value in values]) > 0.5
    is_word = one_length and len(values) > 10 and len(set(values)) <= 0.1 * len(values)
    if is_decimal or is_word or len(letters) > MAX_LABELS:
        return None
    return _task_type_of([letter for letter in letters if letter not in UNKNOWN])


def _as_list(value: str) -> list | None:
    """Return a JSON list, or a list of at least two values between commas; None for anything else."""
    if value.startswith("["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, list) else None
    if value.count(",") >= 2:
        return [_item(part.strip()) for part in value.split(",")]
    return None


def _item(text: str) -> str | float | None:
    if text.lower() in (*MISSING, *UNKNOWN):
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _task_type_of(items: list) -> TaskType:
    known = {item for item in items if item is not None}
    if known <= {0, 1, "0", "1"}:
        return "residue_binary"
    if all(isinstance(item, int | float) for item in known):
        return "residue_regression"
    return "residue_binary" if len(known) <= 2 else "residue_multiclass"


def read_residues(
    path: Path | str, column: pd.Series, lengths: np.ndarray | None, has: np.ndarray, *, task_type: TaskType
) -> tuple[Target, list[str]]:
    """Return one value per residue (-1 or NaN where unknown and in the padding), and remarks.

    Args:
        path: The table, for messages.
        column: Strings with one character per residue (`-` or `?` if unknown), or lists.
        lengths: Letters of each sequence; None if the sequences are invalid.
        has: Rows with a target.
        task_type: Type of the values.

    Raises:
        SubquadError: Rows have more or fewer values than letters, or values are not numbers.
    """
    rows = np.flatnonzero(has)
    values = [column.iloc[row] for row in rows]
    lists: list = [_as_list(value) for value in values]
    is_list = sum(value is not None for value in lists) > 0.5 * len(lists)
    if is_list:
        raise_errors(
            f"{path}: not all values in column {column.name!r} are lists",
            [
                f"row {row + 1}: {value[:40]!r}"
                for row, value, found in zip(rows, values, lists, strict=True)
                if found is None
            ],
        )
    else:
        lists = values
    found = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    expected = found if lengths is None else lengths[rows]
    remarks = _check_lengths(path, str(column.name), rows, found, expected, may_be_short=is_list)
    width = int((found if lengths is None else lengths).max(initial=0))
    if task_type == "residue_regression":
        y = np.full((len(column), width), np.nan)
        flat = _flat_numbers(path, str(column.name), rows, lists, found)
        _fill(y, rows, found, flat)
        return Target(task_type=task_type, y=y, names=(str(column.name),)), remarks
    labels, flat = _flat_labels(lists, is_list=is_list)
    if task_type == "residue_binary" and len(labels) > 2:
        raise SubquadError(f"{path}: column {column.name!r} has {len(labels)} labels; {task_type} takes two")
    y = np.full((len(column), width), -1, dtype=np.int16)
    _fill(y, rows, found, flat)
    return Target(task_type=task_type, y=y, classes=labels, names=(str(column.name),)), remarks


def _check_lengths(
    path: Path | str, name: str, rows: np.ndarray, found: np.ndarray, expected: np.ndarray, *, may_be_short: bool
) -> list[str]:
    # lists that all end early, at one place per length, cover the part that was measured
    short = found < expected
    pairs = len({*zip(expected.tolist(), found.tolist(), strict=True)})
    if may_be_short and short.all() and pairs == len(set(expected.tolist())):
        shown = ", ".join(f"{f} of {e}" for f, e in sorted({*zip(found.tolist(), expected.tolist(), strict=True)})[:3])
        return [f"column {name!r} covers the first {shown} residues; the others are unknown"]
    wrong = np.flatnonzero(found != expected)
    raise_errors(
        f"{path}: column {name!r} needs one value per residue; {len(wrong):,} of {len(rows):,} rows have more or fewer",
        [f"row {rows[k] + 1}: {found[k]:,} values for {expected[k]:,} letters" for k in wrong],
    )
    return []


def _fill(y: np.ndarray, rows: np.ndarray, found: np.ndarray, flat: np.ndarray) -> None:
    end = 0
    for row, length in zip(rows.tolist(), found.tolist(), strict=True):
        y[row, :length] = flat[end : end + length]
        end += length


def _flat_numbers(path: Path | str, name: str, rows: np.ndarray, lists: list, found: np.ndarray) -> np.ndarray:
    items = [item for value in lists for item in value]
    try:
        numbers = np.array(items, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        text = pd.Series([None if item is None or str(item) in UNKNOWN else str(item) for item in items], dtype=object)
        numbers = to_numbers(text)
        numbers[np.isnan(numbers) & text.notna().to_numpy()] = np.inf
    row_of = np.repeat(rows, found)
    starts = np.repeat(np.cumsum(found) - found, found)
    wrong = np.flatnonzero(np.isinf(numbers))
    raise_errors(
        f"{path}: {len(wrong):,} values in column {name!r} are not finite numbers; unknown ones are null",
        [f"row {row_of[k] + 1}: {shortened(repr(items[k]))} at residue {k - starts[k] + 1}" for k in wrong],
    )
    return numbers


def _flat_labels(lists: list, *, is_list: bool) -> tuple[list[str], np.ndarray]:
    if not is_list:
        flat = flatten(lists)[0]
        labels = order_of_classes([chr(byte) for byte in np.unique(flat) if chr(byte) not in UNKNOWN])
        table = np.full(256, -1, dtype=np.int16)
        table[[ord(label) for label in labels]] = np.arange(len(labels))
        return labels, table[flat]
    items = [None if item is None else _label(item) for value in lists for item in value]
    labels = order_of_classes(sorted({item for item in items if item is not None}))
    place: dict[str | None, int] = {label: k for k, label in enumerate(labels)} | {None: -1}
    return labels, np.array([place[item] for item in items], dtype=np.int16)


def _label(item: object) -> str:
    return str(int(item)) if isinstance(item, float) and item.is_integer() else str(item)


def order_of_classes(names: Sequence[str]) -> list[str]:
    """Return the classes in order: numbers by size, names alphabetically; of two names, the positive class is last."""
    try:
        return sorted(names, key=float)
    except ValueError:
        ordered = sorted(names)
    if ordered == ["+", "-"]:
        return ["-", "+"]
    if len(ordered) == 2:
        first, second = (name.lower() for name in ordered)
        # active and inactive, binder and non-binder: the negated name comes first
        if (second.endswith(first) or second.startswith(NEGATIVE)) and not first.startswith(NEGATIVE):
            return ordered[::-1]
    return ordered


def read_pairs(
    path: Path | str,
    column: pd.Series,
    lengths: np.ndarray | None,
    has: np.ndarray,
    *,
    codes: np.ndarray | None = None,
) -> tuple[list[np.ndarray], list[str]]:
    """Return the paired positions of each row from 0, `(p, 2)` with the smaller one first, and remarks.

    Args:
        path: The table, for messages.
        column: Dot-brackets, with `[]{}<>` and `Aa` … for pseudoknots, or lists of pairs counted from 1 or from 0.
        lengths: Letters of each sequence; None if the sequences are invalid.
        has: Rows with a target.
        codes: `(n, T)` codes of DNA or RNA, which show whether lists count from 0 or from 1; None if there are none.

    Raises:
        SubquadError: Brackets are not balanced, or pairs lie outside the sequence; if some lists count from 0 and
            others from 1, the smaller group is reported.
    """
    pairs, errors, is_list = [], [], np.zeros(len(column), dtype=bool)
    for row, value in enumerate(column.tolist()):
        length = None if lengths is None else int(lengths[row])
        found: np.ndarray | str = np.zeros((0, 2), dtype=np.int64)
        if has[row]:
            is_list[row] = value.startswith("[") and (value[1:].strip()[:1] in ("[", "]"))
            found = _from_list(value) if is_list[row] else _from_brackets(value, length)
        if isinstance(found, str):
            errors.append(f"row {row + 1}: {found}")
            found = np.zeros((0, 2), dtype=np.int64)
        pairs.append(found)
    listed = [row for row in np.flatnonzero(is_list).tolist() if len(pairs[row])]
    first, remarks = _first_position({row: pairs[row] for row in listed}, lengths, codes)
    for row in listed:
        length = np.inf if lengths is None else lengths[row]
        pairs[row] = pairs[row] - first
        bad = (pairs[row] < 0) | (pairs[row] >= length)
        if bad.any():
            errors.append(
                f"row {row + 1}: position {pairs[row][bad][0] + first} of a pair is outside the sequence "
                f"({first} to {length - 1 + first})"
            )
        elif (pairs[row][:, 0] == pairs[row][:, 1]).any():
            errors.append(f"row {row + 1}: a base is paired with itself")
    title = f"{path}: {len(errors):,} structures in column {column.name!r} cannot be read"
    raise_errors(title, sorted(errors, key=lambda error: int(error.split()[1].rstrip(":"))))
    return [np.unique(np.sort(found, axis=1), axis=0) for found in pairs], remarks


def _from_list(value: str) -> np.ndarray | str:
    try:
        pairs = [list(map(_position, pair)) for pair in json.loads(value) if pair != []]
    except (ValueError, TypeError, OverflowError, RecursionError):
        pairs = [[]]
    if any(len(pair) != 2 for pair in pairs):
        return f"{value[:40]!r} is not a list of pairs such as [[1, 9], [2, 8]]"
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _position(item: Any) -> int:
    number = float(item)
    if not number.is_integer() or abs(number) > FARTHEST:
        raise ValueError(f"{item!r} is no position")
    return int(number)


def _first_position(
    written: dict[int, np.ndarray], lengths: np.ndarray | None, codes: np.ndarray | None
) -> tuple[int, list[str]]:
    """Return the number of the first base in the lists, 0 or 1, and remarks.

    A position 0 means 0, and one equal to the length means 1; if rows disagree the majority counts. Without either it
    is 1, unless clearly more pairs are of bases that can pair if counted from 0.

    Args:
        written: Pairs of each row that has a list, as written.
        lengths: Letters of each sequence; None if the sequences are invalid.
        codes: `(n, T)` codes of DNA or RNA; None if there are none.
    """
    if not written:
        return 1, []
    zero = sum((pairs == 0).any() for pairs in written.values())
    end = 0 if lengths is None else sum((pairs == lengths[row]).any() for row, pairs in written.items())
    if zero and end:
        return int(zero <= end), [f"pairs are counted from 0 in {zero:,} rows and from 1 in {end:,}; use one numbering"]
    why = " (one of them is 0)" if zero else " (one of them is the length)" if end else ""
    if codes is None:
        return int(not zero), [f"pairs are counted from {int(not zero)}{why}"]
    pairing = [_pairing_fraction(written, codes, first) for first in (0, 1)]
    is_clear = pairing[0] >= MIN_PAIRING and pairing[0] - pairing[1] >= MIN_LEAD
    first = 0 if zero or (is_clear and not end) else 1
    remarks = [
        f"pairs are counted from {first}{why}: {pairing[first]:.0%} of them are A-U, G-C or G-U; "
        f"from {1 - first} it would be {pairing[1 - first]:.0%}"
    ]
    if max(pairing) < MIN_PAIRING:
        remarks.append("fewer than half of the pairs are A-U, G-C or G-U: are these structures of these sequences?")
    return first, remarks


def _pairing_fraction(written: dict[int, np.ndarray], codes: np.ndarray, first: int) -> float:
    """Return the fraction of pairs whose bases can pair, if the first base has the given number."""
    row = np.repeat(list(written), [len(pairs) for pairs in written.values()])
    places = np.concatenate(list(written.values())) - first
    is_inside = ((places >= 0) & (places < codes.shape[1])).all(1)
    # in ACGT and ACGU these are the codes of A-U, C-G and G-U
    bases = np.sort(codes[row[is_inside, None], places[is_inside]], axis=1)
    return float(sum((bases == pair).all(1).sum() for pair in ((0, 3), (1, 2), (2, 3))) / len(row))


def _from_brackets(value: str, length: int | None) -> np.ndarray | str:
    if length is not None and len(value) != length:
        return f"{len(value):,} characters for {length:,} letters"
    closing = {close: opening for opening, close in BRACKETS.items()}
    stacks: dict[str, list[int]] = {}
    found = []
    for place, sign in enumerate(value):
        if sign in BRACKETS:
            stacks.setdefault(sign, []).append(place)
        elif sign in closing:
            stack = stacks.get(closing[sign])
            if not stack:
                return f"{sign!r} at position {place + 1} has no opening bracket"
            found.append((stack.pop(), place))
        elif sign not in UNPAIRED:
            return f"{sign!r} at position {place + 1} is not a dot-bracket character"
    left = [(stack[-1], sign) for sign, stack in stacks.items() if stack]
    if left:
        return f"{left[0][1]!r} at position {left[0][0] + 1} is not closed"
    return np.array(found, dtype=np.int64).reshape(-1, 2)
