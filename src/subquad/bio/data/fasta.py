"""FASTA files: as a table with one row per record, record by record, or as a single sequence."""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pandas as pd

from subquad.errors import SubquadError, raise_errors, require
from subquad.runs.damage import no_file
from subquad.runs.unpacking import most_bytes, open_unpacked

__all__ = ["parse_fasta", "read_fasta", "read_sequence"]

SEQUENCE = re.compile(r"[A-Za-z*|-]+")
PART = 2**16
"""Letters of a line that are read at once, and of the name of a record."""
MOST_PARTS = 1000
"""Parts of a header that become columns."""
FEW_CELLS, CELLS_PER_VALUE = 10**6, 10
"""Cells of the columns of keys in headers, and cells of larger tables per value: most are empty if each has its own."""
LONGEST_SEQUENCE = 2**28
"""Bytes of a file with one sequence; a human chromosome has 2.5e8 letters."""


def read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and sequence of each record of a FASTA file (plain or gzipped), one at a time.

    Raises:
        SubquadError: There is no such file, it is empty, or it is not FASTA.
    """
    parser = require("Bio.SeqIO.FastaIO", extra="bio").SimpleFastaParser
    if not path.is_file():
        raise no_file(path)
    found = False
    with _opened(path, "") as file:
        first = file.read(1)
        if first != ">":
            what = f"starts with {first!r}" if first else "is empty"
            raise SubquadError(f"{path}: {what}; a FASTA file starts with > and a name")
        file.seek(0)
        for title, sequence in parser(_parts(path, file)):
            found = True
            yield (title.split() or ["unnamed"])[0], sequence
    if not found:
        raise SubquadError(f"{path}: the file has no sequences")


@contextmanager
def _opened(path: Path, message: str) -> Iterator[TextIO]:
    with open_unpacked(path, message) as (file, _):
        yield io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace")


def _parts(path: Path, file: TextIO) -> Iterator[str]:
    """Yield the lines of a FASTA file, long ones in parts, which are lines of the same sequence.

    Raises:
        SubquadError: A name is longer than `PART`, or a sequence is far larger than its file.
    """
    most, length, name, is_whole = most_bytes(path), 0, "", True
    while line := file.readline(PART):
        if is_whole and line.startswith(">"):
            if len(line) == PART:
                raise SubquadError(f"{path}: a name of more than {PART:,} letters, {line[:40].strip()!r} …; shorten it")
            name, length = line[1:].strip(), 0
        length += len(line)
        if length > most:
            raise SubquadError(
                f"{path}: the sequence {name[:40]!r} has more than {most:,} letters, more than such a file can hold; "
                "if that is right, give the unpacked file"
            )
        # a part does not begin a record; spaces are removed
        yield line if is_whole else f" {line}"
        is_whole = line.endswith("\n")


def read_sequence(given: str, flag: str) -> str:
    """Return a sequence in upper case from its letters, or from a file.

    Args:
        given: Letters (with `|` between a partner sequence and its sequence), or the path of a FASTA file with one
            record or of a text file with one sequence.
        flag: Flag that the value was given with, for messages.

    Raises:
        SubquadError: There is no such file, or it does not hold exactly one sequence.
    """
    letters = "".join(given.split())
    # no file has a name as long as most proteins
    if SEQUENCE.fullmatch(letters) and (len(letters) > 200 or not os.path.isfile(letters)):
        return letters.upper()
    if not os.path.isfile(given):
        raise SubquadError(
            f"{given}: no such file ({flag} takes letters, a FASTA file or a text file with one sequence)"
        )
    path = Path(given)
    message = f"{given}: not gzipped although its name ends in .gz, or damaged or truncated ({flag})"
    most = most_bytes(path, LONGEST_SEQUENCE)
    with _opened(path, message) as file:
        is_fasta = file.read(1) == ">"
        file.seek(0)
        text = "" if is_fasta else file.read(most + 1)
    if len(text) > most:
        raise SubquadError(f"{given}: has more than {most:,} letters; {flag} takes one sequence")
    text = "".join(text.split())
    if not is_fasta:
        if not SEQUENCE.fullmatch(text):
            raise SubquadError(f"{given}: neither a FASTA file nor a text file with one sequence ({flag})")
        return text.upper()
    count, only = 0, ""
    for _, sequence in read_fasta(path):
        count, only = count + 1, only or sequence
    if count != 1:
        raise SubquadError(f"{given}: holds {count} sequences; {flag} takes one")
    return only.upper()


def parse_fasta(path: Path | str, text: str) -> pd.DataFrame:
    """Return FASTA text as a table with the columns `id`, `sequence` and those of the headers.

    `key=value` in a header becomes the column `key`, unless hardly any headers have the same keys; other words become
    `word_2`, `word_3` … if all headers have the same number of them, up to 1,000, otherwise `description`. The parts of
    an id (`name|1|training`) become `id_2`, `id_3` …. If all records have additional lines as long as their sequence
    (labels, dot-brackets), these become `target`, or `target_1` …

    Raises:
        SubquadError: A record has no sequence.
    """
    blocks = [block.split("\n") for block in text.strip()[1:].split("\n>")]
    records = [[block[0].strip(), *(line.strip() for line in block[1:] if line.strip())] for block in blocks]
    raise_errors(
        f"{path}: records without a sequence; correct or remove them",
        [f"record {k + 1}: >{record[0]}" for k, record in enumerate(records) if len(record) == 1],
    )
    labels = _labels(records)
    if labels:
        columns = {"sequence": [record[1] for record in records], **labels}
    else:
        parser = require("Bio.SeqIO.FastaIO", extra="bio").SimpleFastaParser
        columns = {"sequence": [sequence for _, sequence in parser(io.StringIO(text.strip()))]}
    heads = _heads(path, [record[0] for record in records], taken=set(columns))
    return pd.DataFrame({"id": heads.pop("id"), **columns, **heads}, dtype=str)


def _labels(records: list[list[str]]) -> dict[str, list[str]]:
    lines = len(records[0])
    if not 3 <= lines <= MOST_PARTS or any(len(record) != lines for record in records):
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


def _heads(path: Path | str, titles: list[str], *, taken: set[str]) -> dict[str, list[str]]:
    ids, plain, values = [], [], []
    for title in titles:
        words = title.split() or [""]
        ids.append(words[0])
        values.append(dict(word.split("=", 1) for word in words[1:] if "=" in word.strip("=")))
        plain.append([word for word in words[1:] if "=" not in word.strip("=")])
    columns = {"id": ids}
    keys = dict.fromkeys(key for value in values for key in value)
    if len(keys) > MOST_PARTS or len(keys) * len(titles) > FEW_CELLS + CELLS_PER_VALUE * sum(map(len, values)):
        keys, plain = {}, [title.split()[1:] for title in titles]
    parts = [name.split("|") for name in ids]
    if 1 < len(parts[0]) <= MOST_PARTS and len({len(part) for part in parts}) == 1:
        columns |= {f"id_{k + 1}": [part[k] for part in parts] for k in range(1, len(parts[0]))}
    if len(plain[0]) <= MOST_PARTS and len({len(words) for words in plain}) == 1:
        columns |= {f"word_{k + 2}": [words[k] for words in plain] for k in range(len(plain[0]))}
    else:
        columns["description"] = [" ".join(words) for words in plain]
    clash = [key for key in keys if key in taken or key in columns]
    if clash:
        raise SubquadError(f"{path}: the headers have {clash[0]}=, which is the name of another column; rename it")
    return columns | {key: [value.get(key, "") for value in values] for key in keys}
