"""FASTA files: as a table with one row per record, record by record, or as a single sequence."""

import gzip
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from subquad.errors import SubquadError, reading, require, shortened

__all__ = ["parse_fasta", "read_fasta", "read_sequence"]

SEQUENCE = re.compile(r"[A-Za-z*|-]+")
MOST_PARTS = 1000
"""Parts of a header that become columns; more take minutes."""


def read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and sequence of each record of a FASTA file (plain or gzipped), one at a time.

    Raises:
        SubquadError: There is no such file, or it is not FASTA.
    """
    parser = require("Bio.SeqIO.FastaIO", extra="bio").SimpleFastaParser
    is_empty, opened = True, gzip.open if path.suffix.lower() == ".gz" else open
    with reading(path, "FASTA"), opened(path, "rt", encoding="utf-8-sig", errors="replace") as file:
        for title, sequence in parser(file):
            is_empty = False
            yield (title.split() or ["unnamed"])[0], sequence
    if is_empty:
        raise SubquadError(f"{path}: has no sequence; a FASTA file starts with > and a name")


def read_sequence(text: str, flag: str) -> str:
    """Return a sequence in upper case from its letters, or from a file.

    Args:
        text: Letters (with `|` between a partner sequence and its sequence), or the path of a FASTA file with one
            record or of a text file with one sequence.
        flag: Flag that the value was given with, for messages.

    Raises:
        SubquadError: There is no such file, or it does not have exactly one sequence.
    """
    letters = "".join(text.split())
    # no file has a name as long as most proteins
    if SEQUENCE.fullmatch(letters) and (len(letters) > 200 or not os.path.isfile(letters)):
        return letters.upper()
    if not os.path.isfile(text):
        raise SubquadError(f"{shortened(text)}: no such file; {flag} takes letters, or a file with one sequence")
    path = Path(text)
    with reading(path, "a sequence"):
        opened = gzip.open if path.suffix.lower() == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig") as file:
            content = file.read()
    is_fasta = content[:1] == ">"
    sequences = [sequence for _, sequence in read_fasta(path)] if is_fasta else ["".join(content.split())]
    if len(sequences) != 1 or not SEQUENCE.fullmatch(sequences[0]):
        raise SubquadError(f"{path}: {flag} takes one sequence, as FASTA or as text")
    return sequences[0].upper()


def parse_fasta(text: str) -> pd.DataFrame:
    """Return FASTA text as a table with the columns `id`, `sequence` and those of the headers.

    `key=value` in a header becomes the column `key`, if there are at most 1,000 keys; other words become
    `word_2`, `word_3` … if all headers have the same number of them, otherwise `description`. The parts of
    an id (`name|1|training`) become `id_2`, `id_3` …. If all records have additional lines as long as their sequence
    (labels, dot-brackets), these become `target`, or `target_1` …
    """
    blocks = [block.split("\n") for block in text.strip()[1:].split("\n>")]
    records = [[block[0].strip(), *(line.strip() for line in block[1:] if line.strip())] for block in blocks]
    labels = _labels(records)
    if labels:
        columns = {"sequence": [record[1] for record in records], **labels}
    else:
        parser = require("Bio.SeqIO.FastaIO", extra="bio").SimpleFastaParser
        columns = {"sequence": [sequence for _, sequence in parser(io.StringIO(text.strip()))]}
    heads = _heads([record[0] for record in records], taken={*columns})
    return pd.DataFrame({"id": heads.pop("id"), **columns, **heads}, dtype=str)


def _labels(records: list[list[str]]) -> dict[str, list[str]]:
    lines = len(records[0])
    if lines < 3 or any(len(record) != lines for record in records):
        return {}
    # ViennaRNA writes the energy after a structure
    rows = [[line.split(" ", 1)[0] for line in record[2:]] for record in records]
    if any(len(line) != len(record[1]) for record, row in zip(records, rows, strict=True) for line in row):
        return {}
    # wrapped sequences look the same, unless the lengths differ or the lines are not letters
    has_lengths = len({len(record[1]) for record in records}) > 1
    if not has_lengths and any(line.isalpha() for row in rows for line in row):
        return {}
    names = ["target"] if lines == 3 else [f"target_{k}" for k in range(1, lines - 1)]
    return {name: [row[k] for row in rows] for k, name in enumerate(names)}


def _heads(titles: list[str], *, taken: set[str]) -> dict[str, list[str]]:
    ids, plain, values = [], [], []
    for title in titles:
        words = title.split() or [""]
        ids.append(words[0])
        values.append(dict(word.split("=", 1) for word in words[1:] if "=" in word.strip("=")))
        plain.append([word for word in words[1:] if "=" not in word.strip("=")])
    columns = {"id": ids}
    keys = dict.fromkeys(key for value in values for key in value)
    if len(keys) > MOST_PARTS:
        keys, plain = {}, [title.split()[1:] for title in titles]
    parts = [name.split("|") for name in ids]
    if 1 < len(parts[0]) <= MOST_PARTS and len({len(part) for part in parts}) == 1:
        columns |= {f"id_{k + 1}": [part[k] for part in parts] for k in range(1, len(parts[0]))}
    if len(plain[0]) <= MOST_PARTS and len({len(words) for words in plain}) == 1:
        columns |= {f"word_{k + 2}": [words[k] for words in plain] for k in range(len(plain[0]))}
    else:
        columns["description"] = [" ".join(words) for words in plain]
    names = [key for key in keys if key not in taken and key not in columns]
    return columns | {key: [value.get(key, "") for value in values] for key in names}
