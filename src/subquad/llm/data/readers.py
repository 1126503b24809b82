"""Text files and files of rows as documents; memory is one block of text, one row, or one file for a JSON list.

The format of the rows is detected from the first row. All invalid rows of a file are reported together.
`datasets` is not used: it copies every file into an Arrow cache before the first row, and its errors name no line.
"""

import codecs
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, raise_errors, require
from subquad.llm.data.conversations import Message, Rendered, render_plain
from subquad.llm.data.record_formats import KNOWN_FORMATS, RecordFormat, detect_format, text_format
from subquad.runs.damage import no_file, panics_as_errors
from subquad.runs.markup import parse_json
from subquad.runs.unpacking import (
    check_expansion,
    check_line,
    lines_within,
    most_bytes,
    open_unpacked,
    parquet_batches,
    parquet_bytes,
    read_within,
)

__all__ = ["PLAIN", "Document", "Source", "check_characters", "open_documents", "tokenizer_errors"]

PLAIN = (".txt", ".md")
"""Ends of the names of files without rows."""
SUFFIXES = (*PLAIN, ".jsonl", ".json")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
PARQUET = ".parquet"
BLOCK_SIZE = 65_536
PARQUET_ROWS = 64
"""Rows that are read at once: a text that is the same in all rows takes the space of one in the file."""
LARGEST_GROUP = 2**30
"""Bytes that a group of rows may have however small its file is; these are read in parts."""
LONGEST_LINE = 2**28
"""Bytes of a row in JSON lines."""
MAX_ERRORS = 1000
"""Invalid rows after which a file is not read further."""

Rows = Iterator[tuple[str, object]]
"""Place of each row in its file, for messages, and the row; a `SubquadError` stands for a row that cannot be parsed."""
OnProgress = Callable[[int], object]
"""Called with the number of bytes of the file that have been read."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text."""

    blocks: Iterable[str]
    """The text, split at arbitrary places; to be read before the next document."""
    answers: tuple[tuple[int, int], ...] | None = None
    """Character spans of the answers; None if the text is not a conversation."""
    has_special_tokens: bool = False
    """The text contains its own beginning and end tokens."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened file."""

    description: str
    """How it is read, for messages."""
    is_conversation: bool
    """Whether its rows are questions and answers."""
    documents: Iterator[Document]
    """Its documents."""


def open_documents(
    path: Path,
    text_key: str = "text",
    *,
    render: Callable[[Sequence[Message]], Rendered] = render_plain,
    on_progress: OnProgress = lambda position: None,
) -> Source:
    """Open a text file and detect the format of its rows.

    Args:
        path: A `.txt`, `.md`, `.jsonl` or `.json` file, also as `.gz`, or a `.parquet` file.
        text_key: Key or column of the text; if it is not `text`, no other format is tried.
        render: Writes a conversation as text.
        on_progress: Called with the number of bytes read.

    Raises:
        SubquadError: There is no such file, its type is unknown, or it has no text; while the documents are read, for
            all invalid rows.
    """
    if path.is_dir():
        raise SubquadError(f"{path}: is a folder; name its files, such as {path / '*.txt'}")
    if not path.is_file():
        raise no_file(path)
    suffix = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
    plain_suffix = suffix.lower().removesuffix(".gz")
    if plain_suffix not in SUFFIXES and suffix.lower() != PARQUET:
        raise SubquadError(
            f"{path}: text files end in {', '.join(SUFFIXES)} (each also with .gz) or {PARQUET}; "
            f"this one ends in {suffix or 'nothing'}"
        )
    if not path.stat().st_size:
        raise SubquadError(f"{path}: the file is empty")
    if plain_suffix in PLAIN:
        blocks = _read_text(path, on_progress)
        whole = Document(blocks=chain([next(blocks)], blocks))
        return Source(description="plain text, one document", is_conversation=False, documents=iter([whole]))
    if plain_suffix == PARQUET:
        record_format, rows = _read_parquet(path, text_key, on_progress)
    else:
        record_format, rows = _detect(_read_json(path, on_progress), text_key)
    return Source(
        description=record_format.description,
        is_conversation=record_format.is_conversation,
        documents=_documents(path, record_format, rows, render),
    )


def _detect(rows: Rows, text_key: str) -> tuple[RecordFormat, Rows]:
    first_rows, record_format = [], None
    for place, row in rows:
        first_rows.append((place, row))
        if isinstance(row, Mapping):
            record_format = detect_format(row, text_key)
            break
        if len(first_rows) == MAX_ERRORS:
            break
    # rows of an unknown format are read as texts, so that each of them is reported
    return record_format or text_format(text_key), chain(first_rows, rows)


def _documents(
    path: Path, record_format: RecordFormat, rows: Rows, render: Callable[[Sequence[Message]], Rendered]
) -> Iterator[Document]:
    errors, count = [], 0
    for place, row in rows:
        count += 1
        try:
            documents = [_document(content, render) for content in _contents(record_format, row)]
        except SubquadError as error:
            errors.append(f"{path}, {place}: {error}")
            if len(errors) == MAX_ERRORS:
                break
            continue
        if not errors:
            yield from documents
    if not count:
        raise SubquadError(f"{path}: the file has no rows")
    of = f"of the first {count}" if len(errors) == MAX_ERRORS else f"of {count}"
    # if all rows are invalid, their format is unknown
    known = f"; rows may have {KNOWN_FORMATS}" if len(errors) == count else ""
    raise_errors(f"{path}: {len(errors)} {of} rows are invalid{known}", errors)


def _contents(record_format: RecordFormat, row: object) -> list[str | list[Message]]:
    if isinstance(row, SubquadError):
        raise row
    if not isinstance(row, Mapping):
        raise SubquadError(f"{type(row).__name__} where an object with {record_format.keys[0]!r} is expected")
    return record_format.read(row)


def _document(content: str | list[Message], render: Callable[[Sequence[Message]], Rendered]) -> Document:
    if isinstance(content, str):
        check_characters(content)
        return Document(blocks=[content])
    rendered = render(content)
    check_characters(rendered.text)
    return Document(blocks=[rendered.text], answers=rendered.answers, has_special_tokens=rendered.has_special_tokens)


def check_characters(text: str) -> None:
    """Check that a text has whole characters only, as tokenizers need.

    Raises:
        SubquadError: It contains a lone surrogate: one half of a character that was cut in two, or a byte that is not
            UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SubquadError(
            f"character {error.start} of the text is a lone surrogate (U+{ord(text[error.start]):04X}): half a "
            "character, or a byte that is not UTF-8; remove or replace it"
        ) from error


def tokenizer_errors(tokenizer: Any) -> AbstractContextManager[None]:
    """Return a context in which what a damaged tokenizer raises for a text is a `SubquadError`."""
    name = getattr(tokenizer, "name_or_path", None) or "the model"
    return panics_as_errors(f"{name}: its tokenizer cannot be used; tokenizer.json is damaged")


def _read_text(path: Path, on_progress: OnProgress) -> Iterator[str]:
    """Yield a text file in blocks with Unix line ends."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    is_empty, position = True, 0
    with open_unpacked(path) as (file, tell):
        while True:
            data = file.read(BLOCK_SIZE)
            if not position and data.startswith(UTF_16):
                raise SubquadError(f"{path}: is UTF-16; save the file as UTF-8")
            if b"\0" in data:
                raise SubquadError(f"{path}: contains NUL bytes; it is a binary file, or text that is not UTF-8")
            position += len(data)
            try:
                block = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                # the decoder may have kept bytes of an earlier block
                start = position - len(error.object) + error.start
                raise SubquadError(f"{path}: byte {start} is not UTF-8; save the file as UTF-8") from error
            is_empty = is_empty and not block.strip()
            # an empty last block, so that an empty file has a block as well
            if not data and is_empty:
                raise SubquadError(f"{path}: the file {'has no text, only white space' if position else 'is empty'}")
            on_progress(tell())
            yield block
            if not data:
                return


def _read_json(path: Path, on_progress: OnProgress) -> Rows:
    """Yield the objects of a list, of JSON lines, or the single object of the file."""
    with open_unpacked(path) as (file, tell):
        start, longest = 1, most_bytes(path, LONGEST_LINE)
        while (first := file.readline(longest + 1)).isspace():
            start += 1
        is_list = first.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:1] == b"["
        if not is_list:
            check_line(path, first, longest, start)
        if is_list or _starts_object(first):
            content = first + read_within(path, file, most_bytes(path) - len(first))
            yield from _parse_whole(path, start, content, on_progress)
            return
        lines = chain([first], lines_within(path, file, longest, first=start + 1))
        for number, line in enumerate(lines, start=start):
            on_progress(tell())
            if line.strip():
                yield f"line {number}", _parse_line(line)


def _starts_object(line: bytes) -> bool:
    # the first line of an object over several lines is incomplete JSON
    text = line.decode("utf-8-sig", errors="replace").strip()
    if not text.startswith("{"):
        return False
    try:
        parse_json(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    return False


def _parse_line(line: bytes) -> object:
    try:
        return parse_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return SubquadError(f"byte {error.start} of the line is not UTF-8; save the file as UTF-8")
    except json.JSONDecodeError as error:
        return SubquadError(f"not JSON ({error.msg})")


def _parse_whole(path: Path, first: int, data: bytes, on_progress: OnProgress) -> Rows:
    try:
        content = parse_json(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = first + data.count(b"\n", 0, error.start)
        raise SubquadError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise SubquadError(f"{path}, line {first + error.lineno - 1}: not JSON ({error.msg})") from error
    rows: list[object] = content if isinstance(content, list) else [content]
    size = path.stat().st_size
    for number, row in enumerate(rows, start=1):
        on_progress(size * number // len(rows))
        yield f"row {number}", row


def _read_parquet(path: Path, text_key: str, on_progress: OnProgress) -> tuple[RecordFormat, Rows]:
    arrow, parquet = require("pyarrow", extra="llm"), require("pyarrow.parquet", extra="llm")
    damage = (arrow.ArrowException, OSError, ValueError)
    try:
        file = parquet.ParquetFile(path)
        names: Collection[str] = file.schema_arrow.names
    except damage as error:
        raise SubquadError(f"{path}: not a Parquet file, or damaged ({error})") from error
    record_format = detect_format(names, text_key)
    if record_format is None:
        found = ", ".join(map(repr, names)) or "none"
        raise SubquadError(
            f"{path}: no column {text_key!r}; its columns are {found} (see --text-key); rows may have {KNOWN_FORMATS}"
        )
    columns = list(record_format.keys)
    try:
        largest = max(parquet_bytes(file, path, columns), default=0)
        check_expansion(path, "a group of rows", largest, path.stat().st_size, least=LARGEST_GROUP)
    except damage as error:
        raise SubquadError(f"{path}: not a Parquet file, or damaged ({error})") from error

    def rows() -> Rows:
        number, groups = 0, file.num_row_groups
        try:
            for group in range(groups):
                for batch in parquet_batches(file, PARQUET_ROWS, group=group, columns=columns):
                    row: dict[str, Any]
                    for row in batch.to_pylist():
                        number += 1
                        yield f"row {number}", row
                on_progress(path.stat().st_size * (group + 1) // groups)
        except damage as error:
            raise SubquadError(f"{path}: damaged after row {number} ({error})") from error

    return record_format, rows()
