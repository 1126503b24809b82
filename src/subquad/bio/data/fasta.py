"""FASTA: as a table, one row a record; record by record; or one sequence alone. Costs one pass over the text."""

import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from subquad.errors import SubquadError, raise_errors, require

__all__ = ["parse_fasta", "read_fasta", "read_sequence"]


def read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and sequence of each record of a FASTA file, plain or gzipped, one record in memory at a time.

    Raises:
        SubquadError: no such file, nothing in it, or it is no FASTA.
    """
    parser = require("Bio.SeqIO.FastaIO", extra="bio").SimpleFastaParser
    if not path.is_file():
        raise SubquadError(f"{path}: no such file")
    found = False
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", errors="replace") as file:
            first = file.read(1)
            if first != ">":
                what = f"starts with {first!r}" if first else "is empty"
                raise SubquadError(f"{path}: {what}; a FASTA file starts with > and a name")
            file.seek(0)
            for title, sequence in parser(file):
                found = True
                yield (title.split() or ["unnamed"])[0], sequence
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SubquadError(f"{path}: no gzip file, or cut short ({error})") from error
    if not found:
        raise SubquadError(f"{path}: no sequences in it")


def read_sequence(given: str, flag: str) -> str:
    """Return the letters that were given, or those of a FASTA file with one record, in upper case.

    Args:
        given: letters, with `|` between the two channels of a pair, or the name of a file.
        flag: that they were given with, for messages.

    Raises:
        SubquadError: no such file, or several records in it.
    """
    text = "".join(given.split())
    # no file has a name as long as most proteins
    if re.fullmatch(r"[A-Za-z*|-]+", text) and (len(text) > 200 or not os.path.isfile(text)):
        return text.upper()
    if not os.path.isfile(given):
        raise SubquadError(f"{given}: no such file ({flag} takes letters, or a FASTA file)")
    records = list(read_fasta(Path(given)))
    if len(records) != 1:
        raise SubquadError(f"{given}: holds {len(records)} sequences, and {flag} takes one")
    return records[0][1].upper()


def parse_fasta(path: Path | str, text: str) -> pd.DataFrame:
    r"""Return `id`, `sequence` and what else the records hold.

    `key=value` in a header becomes the column `key`; further words become `word_2`, `word_3` … where all headers have
    as many, else `description`. An id of several parts (`name|1|training`) gives `id_2`, `id_3` … too. Where all
    records have further lines as long as their sequence (labels, dot-brackets), these are `target`, or `target_1` …

    Raises:
        SubquadError: a record without a sequence.
    """
    blocks = [block.split("\n") for block in text.strip()[1:].split("\n>")]
    records = [[block[0].strip(), *(line.strip() for line in block[1:] if line.strip())] for block in blocks]
    raise_errors(
        f"{path}: records without a sequence; mend or remove them",
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
    if lines < 3 or any(len(record) != lines for record in records):
        return {}
    # ViennaRNA writes the energy behind a structure
    rows = [[line.split(" ", 1)[0] for line in record[2:]] for record in records]
    if any(len(line) != len(record[1]) for record, row in zip(records, rows, strict=True) for line in row):
        return {}
    # sequences wrapped into equal lines look the same, unless the lines differ or hold no letters
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
    parts = [name.split("|") for name in ids]
    if len(parts[0]) > 1 and len({len(part) for part in parts}) == 1:
        columns |= {f"id_{k + 1}": [part[k] for part in parts] for k in range(1, len(parts[0]))}
    if len({len(words) for words in plain}) == 1:
        columns |= {f"word_{k + 2}": [words[k] for words in plain] for k in range(len(plain[0]))}
    else:
        columns["description"] = [" ".join(words) for words in plain]
    keys = dict.fromkeys(key for value in values for key in value)
    clash = [key for key in keys if key in taken or key in columns]
    if clash:
        raise SubquadError(f"{path}: {clash[0]}= in the headers is the name of a column that is made here; rename it")
    return columns | {key: [value.get(key, "") for value in values] for key in keys}
