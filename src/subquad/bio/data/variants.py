"""Parsing of variants of a wild type.

Supported are `A24G:K30R` (also with commas, semicolons or spaces), `p.Ala24Gly`, `p.[Ala24Gly;Lys30Arg]`,
`p.Trp24Ter`, `p.=`, `c.12A>G`, and names for the wild type; an accession before a variant (`NP_000537.3:p.Ala24Gly`) is
skipped. Only substitutions are supported; insertions and deletions are reported as errors.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from subquad.bio.data.files import sample_of
from subquad.errors import raise_errors, require, shortened

__all__ = [
    "Variants",
    "canonical",
    "check_unread",
    "differences",
    "looks_like_variants",
    "parse_variants",
    "renumbered",
]

WILD_TYPE_NAMES = {"_WT", "WT", "_SY", "WILDTYPE", "WILD-TYPE", "WILD TYPE", "WILD_TYPE", "=", "REF", "REFERENCE"}
PREFIX = re.compile(r"^[pcngmr]\.")
ACCESSION = re.compile(r"^([^\s:;,]+):(?=[pcngmr]\.)")
SEPARATORS = re.compile(r"[:;,\s+/&|]+")
# no sequence has a position of ten digits, and no array one of twenty
ONE_LETTER = re.compile(r"([A-Z*])(-?\d{1,9})([A-Z*=])")
THREE_LETTERS = re.compile(r"([A-Za-z]{3})(-?\d{1,9})([A-Za-z]{3}|=|\*)")
BASE = re.compile(r"(-?\d{1,9})([ACGTU])(?:>([ACGTU])|=)")


@dataclass(frozen=True, kw_only=True)
class Variants:
    """Substitutions of all rows as flat arrays, sorted by row."""

    rows: int
    """Number of rows of the table."""
    row: np.ndarray
    """Row of each substitution, from 0."""
    position: np.ndarray
    """Position of each substitution, as written in the table."""
    old: np.ndarray
    """Wild-type letter, as a byte."""
    new: np.ndarray
    """Mutant letter, as a byte."""
    text: Sequence[str]
    """Text of each row."""
    unread: Mapping[int, str] = field(default_factory=dict)
    """Rows that are not substitutions, from 0, and their text."""

    def translated(self, old: str, new: str) -> "Variants":
        """Return the variants with one letter replaced by another."""
        swap = {name: getattr(self, name).copy() for name in ("old", "new")}
        for letters in swap.values():
            letters[letters == ord(old)] = ord(new)
        return replace(self, **swap)


def looks_like_variants(column: pd.Series) -> bool:
    """Return whether most values of a column are variants."""
    parts = [_parts(value) for value in sample_of(column)]
    found = sum(bool(part) and all(_substitution(word) is not None for word in part) for part in parts)
    return found > 0 and found >= 0.7 * sum(map(bool, parts))


def parse_variants(column: pd.Series) -> tuple[Variants, list[str]]:
    """Return the substitutions in a column, and remarks; other values are collected in `unread`."""
    texts = column.str.strip().tolist()
    rows, found, unread = [], [], {}
    for row, text in enumerate(texts):
        for part in _parts(text):
            substitution = _substitution(part)
            if substitution is None:
                unread[row] = text
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
    empty = [row + 1 for row, text in enumerate(texts) if not text]
    remarks = []
    if empty:
        shown = ", ".join(map(str, empty[:3])) + (", …" if len(empty) > 3 else "")
        remarks.append(f"empty cells in column {column.name!r} are read as the wild type: {len(empty):,} (row {shown})")
    return variants, remarks


def check_unread(path: Path | str, variants: Variants, column: str) -> None:
    """Raise an error about the values of the column that are not substitutions, if there are any."""
    raise_errors(
        f"{path}: {len(variants.unread):,} of {variants.rows:,} variants in column {column!r} are no substitutions, "
        "such as A24G, A24G:K30R, p.Ala24Gly or c.12A>G",
        [f"row {row + 1}: {shortened(text)!r}" for row, text in variants.unread.items()],
    )


def _parts(text: str) -> list[str]:
    body = PREFIX.sub("", _without_accession(text.strip()))
    if body[:1] in ("[", "("):
        body = body.strip("[]()")
    if not body or body.upper() in WILD_TYPE_NAMES:
        return []
    return [PREFIX.sub("", part).strip("()") for part in SEPARATORS.split(body) if part]


def _without_accession(text: str) -> str:
    before = ACCESSION.match(text)
    # what precedes the colon may be a variant too
    if before is None or PREFIX.match(text) or _substitution(before[1]) is not None:
        return text
    return text[before.end() :]


@lru_cache(maxsize=1 << 20)
def _substitution(word: str) -> tuple[int, int, int] | None:
    """Return the old letter, the position and the new letter, or None if it is not a substitution."""
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


def canonical(row: np.ndarray, place: np.ndarray, old: np.ndarray, new: np.ndarray, *, rows: int) -> list[str]:
    """Return the variant of each row as `A24G:K30R`, sorted by position; empty for the wild type.

    Args:
        row: Row of each substitution, from 0.
        place: Place in the wild type, from 0; it is written from 1.
        old: Wild-type letters, as bytes.
        new: Mutant letters; equal letters are skipped.
        rows: Number of rows of the table.
    """
    keep = np.flatnonzero(old != new)
    keep = keep[np.lexsort((place[keep], row[keep]))]
    key = (place[keep].astype(np.int64) << 16) | (old[keep].astype(np.int64) << 8) | new[keep]
    unique, inverse = np.unique(key, return_inverse=True)
    words = [f"{chr(number >> 8 & 255)}{(number >> 16) + 1}{chr(number & 255)}" for number in unique.tolist()]
    names = [words[number] for number in inverse.tolist()]
    ends = np.searchsorted(row[keep], np.arange(rows), side="right").tolist()
    return [":".join(names[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def renumbered(mutants: str, offset: int) -> str:
    """Return variants counted from 1 in the wild type, such as `A24G:K30R`, in the numbering of a table."""
    return re.sub(r"\d+", lambda number: str(int(number[0]) + offset), mutants) if offset else mutants


def differences(letters: np.ndarray, wild_type: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return row, place, old and new letter of all differences of `(n, T)` letters from the `(T,)` of the wild type."""
    row, place = np.nonzero(letters != wild_type)
    return row, place, wild_type[place], letters[row, place]
