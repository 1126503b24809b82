"""Variants of a wild type, in the ways that people write them. Costs one look at each row.

Read are `A24G:K30R` (also with commas, semicolons or spaces), `p.Ala24Gly`, `p.[Ala24Gly;Lys30Arg]`, `p.Trp24Ter`,
`p.=`, `c.12A>G`, and words for the wild type; an accession before them (`NP_000537.3:p.Ala24Gly`) is left out. Only
substitutions: what changes the length is refused by its row.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from subquad.errors import raise_errors, require

__all__ = [
    "Variants",
    "canonical",
    "differences",
    "looks_like_variants",
    "parse_variants",
    "refuse_unread",
    "renumbered",
]

WILD_WORDS = {"_WT", "WT", "_SY", "WILDTYPE", "WILD-TYPE", "WILD TYPE", "WILD_TYPE", "=", "REF", "REFERENCE"}
LONGER_OR_SHORTER = {
    "delins": "replaces letters by another number of letters",
    "del": "is a deletion",
    "ins": "is an insertion",
    "dup": "is a duplication",
    "fs": "is a frameshift",
    "ext": "is an extension",
}
PREFIX = re.compile(r"^[pcngmr]\.")
ACCESSION = re.compile(r"^([^\s:;,]+):(?=[pcngmr]\.)")
BETWEEN = re.compile(r"[:;,\s+/&|]+")
ONE_LETTER = re.compile(r"([A-Z*])(-?\d+)([A-Z*=])")
THREE_LETTERS = re.compile(r"([A-Za-z]{3})(-?\d+)([A-Za-z]{3}|=|\*)")
BASE = re.compile(r"(-?\d+)([ACGTU])(?:>([ACGTU])|=)")


@dataclass(frozen=True, kw_only=True)
class Variants:
    """Substitutions of all rows one after the other, rows in rising order."""

    rows: int
    """Of the table."""
    row: np.ndarray
    """That each substitution belongs to, from 0."""
    position: np.ndarray
    """As written in the table."""
    old: np.ndarray
    """Letter of the wild type, as a byte."""
    new: np.ndarray
    """Letter in its place, as a byte."""
    text: Sequence[str]
    """Of each row, as in the table."""
    unread: Mapping[int, str] = field(default_factory=dict)
    """Rows with words that are no substitutions, from 0, and what is wrong with each."""

    def translated(self, old: str, new: str) -> "Variants":
        """Return the variants with one letter for another."""
        swap = {name: getattr(self, name).copy() for name in ("old", "new")}
        for letters in swap.values():
            letters[letters == ord(old)] = ord(new)
        return replace(self, **swap)


def looks_like_variants(column: pd.Series) -> bool:
    """Say whether most words of a column are variants."""
    text = column[column.str.len() > 0]
    # tables are often sorted, so some of all parts are looked at
    some = text.iloc[:: max(1, len(text) // 200)].head(400).tolist()
    parts = [_parts(value) for value in some]
    found = sum(bool(part) and all(_substitution(word) is not None for word in part) for part in parts)
    return found > 0 and found >= 0.7 * sum(map(bool, parts))


def parse_variants(column: pd.Series) -> tuple[Variants, list[str]]:
    """Return the substitutions in a column, and remarks; words that are none stand in `unread`."""
    texts = column.str.strip().tolist()
    rows, found, unread = [], [], {}
    for row, text in enumerate(texts):
        for part in _parts(text):
            substitution = _substitution(part)
            if substitution is None:
                unread[row] = f"{text!r} {_why(text)}"
                continue
            rows.append(row)
            found.append(substitution)
    numbers = np.array(found, dtype=np.int64).reshape(len(found), 3)
    variants = Variants(
        rows=len(texts),
        row=np.array(rows, dtype=np.int64),
        position=numbers[:, 1],
        old=numbers[:, 0].astype(np.uint8),
        new=numbers[:, 2].astype(np.uint8),
        text=texts,
        unread=unread,
    )
    empty = texts.count("")
    remarks = [f"{empty:,} rows without a word in column {column.name!r} are taken as the wild type"] if empty else []
    return variants, remarks


def refuse_unread(path: Path | str, variants: Variants, column: str) -> None:
    """Raise where there are words that are no substitutions.

    Args:
        path: the table, for messages.
        variants: of all rows.
        column: that they stand in, for messages.

    Raises:
        SubquadError: such words, each with its row.
    """
    raise_errors(
        f"{path}: {len(variants.unread):,} of {variants.rows:,} variants in column {column!r} cannot be read; "
        "mend or remove them",
        [f"row {row + 1}: {mistake}" for row, mistake in variants.unread.items()],
    )


def _parts(text: str) -> list[str]:
    body = PREFIX.sub("", _without_accession(text.strip()))
    if body[:1] in ("[", "("):
        body = body.strip("[]()")
    if not body or body.upper() in WILD_WORDS:
        return []
    return [PREFIX.sub("", part).strip("()") for part in BETWEEN.split(body) if part]


def _without_accession(text: str) -> str:
    before = ACCESSION.match(text)
    # a variant may stand there too
    if before is None or PREFIX.match(text) or _substitution(before[1]) is not None:
        return text
    return text[before.end() :]


@lru_cache(maxsize=1 << 20)
def _substitution(word: str) -> tuple[int, int, int] | None:
    """Return the old letter, the position and the new letter, or None for what is no substitution."""
    upper = word.upper()
    if match := ONE_LETTER.fullmatch(upper):
        old, position, new = match.groups()
    elif match := THREE_LETTERS.fullmatch(word):
        letters = _one_letter()
        old, new = (letters.get(part.capitalize(), part) for part in match.group(1, 3))
        position = match[2]
        if len(old) > 1 or len(new) > 1:
            return None
    elif match := BASE.fullmatch(upper):
        position, old, new = match[1], match[2], match[3] or "="
    else:
        return None
    return ord(old), int(position), ord(old if new == "=" else new)


@lru_cache(maxsize=1)
def _one_letter() -> dict[str, str]:
    tables = require("Bio.Data.IUPACData", extra="bio")
    return {**tables.protein_letters_3to1_extended, "Ter": "*", "Stp": "*"}


def _why(text: str) -> str:
    """Return what is wrong with a variant that is no substitution."""
    kinds: Sequence[str] = ()
    text = _without_accession(text)
    if PREFIX.match(text):
        hgvs = require("mavehgvs", extra="bio")
        try:
            task_type = hgvs.Variant(text).variant_type
            kinds = [task_type] if isinstance(task_type, str) else task_type
        except hgvs.MaveHgvsParseError:
            kinds = ()
    # words that the standard does not know are often near to it
    kinds = kinds or [word for word in LONGER_OR_SHORTER if word in text.lower()]
    reason = next((LONGER_OR_SHORTER[task_type] for task_type in kinds if task_type in LONGER_OR_SHORTER), None)
    if reason is None:
        return "is no variant such as A24G, A24G:K30R, p.Ala24Gly or c.12A>G"
    return f"{reason}; only substitutions can be read with a wild type, give such rows as full sequences"


def canonical(row: np.ndarray, place: np.ndarray, old: np.ndarray, new: np.ndarray, *, rows: int) -> list[str]:
    """Return the variants of each row as `A24G:K30R`, in the order of their places; empty for the wild type.

    Args:
        row: of each substitution, from 0.
        place: in the wild type, from 0; it is written from 1.
        old: letters of the wild type, as bytes.
        new: letters in their place; where they are equal nothing is written.
        rows: of the table.
    """
    keep = np.flatnonzero(old != new)
    keep = keep[np.lexsort((place[keep], row[keep]))]
    key = (place[keep].astype(np.int64) << 16) | (old[keep].astype(np.int64) << 8) | new[keep]
    unique, inverse = np.unique(key, return_inverse=True)
    words = [f"{chr(number >> 8 & 255)}{(number >> 16) + 1}{chr(number & 255)}" for number in unique.tolist()]
    written = [words[number] for number in inverse.tolist()]
    ends = np.searchsorted(row[keep], np.arange(rows), side="right").tolist()
    return [":".join(written[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def renumbered(mutants: str, offset: int) -> str:
    """Return variants that count places from 1, such as `A24G:K30R`, in the numbers of a table."""
    return re.sub(r"\d+", lambda number: str(int(number[0]) + offset), mutants) if offset else mutants


def differences(letters: np.ndarray, wild_type: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return row, place, old and new letter of all differences of `(n, T)` letters from the `(T,)` of the wild type."""
    row, place = np.nonzero(letters != wild_type)
    return row, place, wild_type[place], letters[row, place]
