"""Text files and files of rows as documents; memory is some blocks of text or rows, or one file for a JSON list.

The format of the rows is detected from the first row.
`datasets` is not used: it copies every file into an Arrow cache before the first row, and its errors name no line.
"""

import codecs
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from subquad.errors import SubquadError, reading, require, shortened
from subquad.llm.data.conversations import Message, Rendered, render_plain
from subquad.llm.data.record_formats import RecordFormat, detect_format

PLAIN = (".txt", ".md")
"""Ends of the names of files without rows."""
SUFFIXES = (*PLAIN, ".jsonl", ".json")
PARQUET = ".parquet"
BLOCK_SIZE = 65_536
PARQUET_ROWS = 64
"""Rows that are read at once: a text that is the same in all rows takes the space of one in the file."""
READ_AHEAD = 16
"""Blocks or rows that are read before the first of them is used."""

T = TypeVar("T")
Rows = Iterator[tuple[str, Any]]
"""Place of each row in its file, for messages, and the row; bytes are a line that is not parsed yet."""
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
        SubquadError: There is no such file, its type or the format of its rows is unknown, or, while the documents are
            read, a part cannot be read.
    """
    suffix = path.name.lower().removesuffix(".gz")
    if not suffix.endswith(SUFFIXES) and path.suffix.lower() != PARQUET:
        raise SubquadError(f"{path}: a text ends in {', '.join(SUFFIXES)} (each also with .gz) or {PARQUET}")
    if suffix.endswith(PLAIN):
        blocks = _read_ahead(path, _read_text(path, on_progress))
        whole = Document(blocks=chain([next(blocks)], blocks))
        return Source(description="plain text, one document", is_conversation=False, documents=iter([whole]))
    if suffix.endswith(PARQUET):
        with reading(path, "a text"):
            file = require("pyarrow.parquet", extra="llm").ParquetFile(path)
            record_format = detect_format(path, file.schema_arrow.names, text_key)
        rows = _read_ahead(path, _read_parquet(path, file, list(record_format.keys), on_progress))
    else:
        rows = _read_ahead(path, _read_json(path, on_progress))
        head = list(islice(rows, 1))
        row = _parsed(head[0][1]) if head else {}
        record_format = detect_format(path, row if isinstance(row, dict) else {}, text_key)
        rows = chain(head, rows)
    return Source(
        description=record_format.description,
        is_conversation=record_format.is_conversation,
        documents=_documents(path, record_format, rows, render),
    )


def _read_ahead(path: Path, parts: Iterator[T]) -> Iterator[T]:
    """Yield parts of a file; whatever is raised while they are read is an error of the file."""
    while True:
        with reading(path, "a text"):
            some = list(islice(parts, READ_AHEAD))
        if not some:
            return
        yield from some


def _documents(
    path: Path, record_format: RecordFormat, rows: Rows, render: Callable[[Sequence[Message]], Rendered]
) -> Iterator[Document]:
    for position, row in rows:
        try:
            content = record_format.read(_parsed(row))
            documents = [_document(text, render) for text in content]
        except (SubquadError, LookupError, TypeError, ValueError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else shortened(str(error))
            raise SubquadError(f"{path}, {position}: not {record_format.description} ({reason})") from error
        yield from documents


def _parsed(row: Any) -> Any:
    return json.loads(row) if isinstance(row, bytes) else row


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
        surrogate = f"U+{ord(text[error.start]):04X}"
        raise SubquadError(f"character {error.start} of the text is a lone surrogate ({surrogate})") from error


def tokenizer_errors(tokenizer: Any) -> AbstractContextManager[None]:
    """Return a context in which what a damaged tokenizer raises for a text is a `SubquadError`."""
    return reading(getattr(tokenizer, "name_or_path", None) or "the model", "a tokenizer")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[gzip.GzipFile | io.BufferedReader, Callable[[], int]]]:
    """Yield a file, unpacked if it is gzipped, and a function that returns the position in the file on the disk."""
    with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) if path.suffix.lower() == ".gz" else raw as file:
        yield file, raw.tell


def _read_text(path: Path, on_progress: OnProgress) -> Iterator[str]:
    """Yield a text file in blocks with Unix line ends; the last one is empty."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    data = b"\n"
    with _opened(path) as (file, tell):
        while data:
            data = file.read(BLOCK_SIZE)
            if b"\0" in data:
                raise SubquadError(f"{path}: contains NUL bytes; it is a binary file, or text that is not UTF-8")
            on_progress(tell())
            yield decoder.decode(data, final=not data)


def _read_json(path: Path, on_progress: OnProgress) -> Rows:
    """Yield the lines of JSON lines, or the objects of a list, or the single object of the file."""
    with _opened(path) as (file, tell):
        number, line = 1, file.readline()
        while line.isspace():
            number, line = number + 1, file.readline()
        try:
            is_whole = isinstance(json.loads(line), list)
        except ValueError:
            # the first line of an object over several lines is incomplete JSON
            is_whole = bool(line)
        if is_whole:
            content = json.loads(line + file.read())
            on_progress(tell())
            rows = content if isinstance(content, list) else [content]
            yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
            return
        for position, row in enumerate(chain([line], file), start=number):
            on_progress(tell())
            if row.strip():
                yield f"line {position}", row


def _read_parquet(path: Path, file: Any, columns: list[str], on_progress: OnProgress) -> Rows:
    number, count = 0, file.metadata.num_rows
    for batch in file.iter_batches(PARQUET_ROWS, columns=columns):
        on_progress(path.stat().st_size * (number + batch.num_rows) // count)
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row
    # pyarrow ends with the shortest column
    if number != count:
        raise SubquadError(f"{path}: a column ends after {number:,} of {count:,} rows")
