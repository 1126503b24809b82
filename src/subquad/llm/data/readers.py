"""Files of text or of rows as documents, one after the other; memory is one block, row or (in a JSON list) one file.

What the rows hold is guessed by the first one's keys. All mistakes of a file are said at once.
"""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, raise_errors, require
from subquad.llm.data.conversations import Message, Rendered, render_plain
from subquad.llm.data.record_formats import KNOWN, Form, form_of, text_form

__all__ = ["Document", "Source", "open_documents", "read_documents"]

KINDS = (".txt", ".md", ".jsonl", ".json")
PARQUET = ".parquet"
BLOCK = 65_536
PARQUET_ROWS = 1024
MOST_MISTAKES = 1000

Rows = Iterator[tuple[str, object]]
"""Where each row stands in its file, in words, and the row; a `SubquadError` in place of a row that is broken."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text that stands for itself."""

    blocks: Iterable[str]
    """Its text, in pieces cut anywhere; to be read before the next document is."""
    answers: tuple[tuple[int, int], ...] | None = None
    """From which character to which its answers stand; nothing where it is no conversation."""
    has_marks: bool = False
    """It carries its own marks of beginning and end."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened file."""

    words: str
    """How it is read, in words."""
    is_conversation: bool
    """Its rows are questions and answers."""
    documents: Iterator[Document]
    """What is in it."""


def read_documents(path: Path, text_key: str = "text") -> Iterator[str]:
    """Yield the documents of a file as text: the whole of a `.txt` or `.md`, each row's of the others.

    Raises:
        SubquadError: no such file, an unknown kind, rows that hold no text, or bytes that are no UTF-8.
    """
    for document in open_documents(path, text_key).documents:
        yield "".join(document.blocks)


def open_documents(
    path: Path,
    text_key: str = "text",
    *,
    render: Callable[[Sequence[Message]], Rendered] = render_plain,
    seen: Callable[[int], object] = lambda position: None,
) -> Source:
    """Open a file of text, and find out how its rows are to be read.

    Args:
        path: A `.txt`, `.md`, `.jsonl` or `.json` file, each also as `.gz`, or a `.parquet` file.
        text_key: The key or column of the text; where it is not `text`, nothing else is looked for.
        render: Writes a conversation as text.
        seen: Told how many bytes of the file were read.

    Raises:
        SubquadError: no such file, an unknown kind, or nothing in it that could be read; while the documents are
            read, for all rows that cannot be used.
    """
    if not path.is_file():
        raise SubquadError(f"{path}: no such file")
    kind = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
    plain_kind = kind.lower().removesuffix(".gz")
    if plain_kind not in KINDS and kind.lower() != PARQUET:
        raise SubquadError(
            f"{path}: text comes as {', '.join(KINDS)}, each also as .gz, or as {PARQUET}; "
            f"this ends in {kind or 'nothing'}"
        )
    if not path.stat().st_size:
        raise SubquadError(f"{path}: the file is empty")
    if plain_kind in (".txt", ".md"):
        blocks = _text(path, seen)
        whole = Document(blocks=chain([next(blocks)], blocks))
        return Source(words="plain text, one document", is_conversation=False, documents=iter([whole]))
    if plain_kind == PARQUET:
        form, rows = _parquet(path, text_key, seen)
    else:
        form, rows = _peek(_json_rows(path, seen), text_key)
    return Source(
        words=form.words, is_conversation=form.is_conversation, documents=_documents(path, form, rows, render)
    )


def _peek(rows: Rows, text_key: str) -> tuple[Form, Rows]:
    head, form = [], None
    for place, row in rows:
        head.append((place, row))
        if isinstance(row, Mapping):
            form = form_of(row, text_key)
            break
        if len(head) == MOST_MISTAKES:
            break
    # rows of no known form are asked for a text, so that all of them are said
    return form or text_form(text_key), chain(head, rows)


def _documents(
    path: Path, form: Form, rows: Rows, render: Callable[[Sequence[Message]], Rendered]
) -> Iterator[Document]:
    mistakes, count = [], 0
    for place, row in rows:
        count += 1
        try:
            made = [_document(found, render) for found in _found(form, row)]
        except SubquadError as error:
            mistakes.append(f"{path}, {place}: {error}")
            if len(mistakes) == MOST_MISTAKES:
                break
            continue
        if not mistakes:
            yield from made
    if not count:
        raise SubquadError(f"{path}: the file is empty")
    of = f"of the first {count}" if len(mistakes) == MOST_MISTAKES else f"of {count}"
    # where no row can be used it is the form that is not known
    known = f"; rows may hold {KNOWN}" if len(mistakes) == count else ""
    raise_errors(f"{path}: {len(mistakes)} {of} rows cannot be used{known}", mistakes)


def _found(form: Form, row: object) -> list[str | list[Message]]:
    if isinstance(row, SubquadError):
        raise row
    if not isinstance(row, Mapping):
        raise SubquadError(f"{type(row).__name__} where an object with {form.keys[0]!r} is wanted")
    return form.read(row)


def _document(found: str | list[Message], render: Callable[[Sequence[Message]], Rendered]) -> Document:
    if isinstance(found, str):
        return Document(blocks=[found])
    rendered = render(found)
    return Document(blocks=[rendered.text], answers=rendered.answers, has_marks=rendered.has_marks)


@contextmanager
def _bytes(path: Path) -> Iterator[tuple[io.BufferedReader | gzip.GzipFile, Callable[[], int]]]:
    """Yield the file unpacked, and a function that tells how much of it was read as it lies on the disk."""
    is_packed = path.suffix.lower() == ".gz"
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) if is_packed else raw as file:
            yield file, raw.tell
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SubquadError(f"{path}: no gzip file, or cut short ({error})") from error


def _text(path: Path, seen: Callable[[int], object]) -> Iterator[str]:
    """Yield a text file in blocks; the ends of lines become those of Unix."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    is_empty, position = True, 0
    with _bytes(path) as (file, tell):
        while True:
            data = file.read(BLOCK)
            position += len(data)
            try:
                block = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                # the decoder may hold bytes of an earlier block
                start = position - len(error.object) + error.start
                raise SubquadError(f"{path}: byte {start} is not UTF-8; save the text as UTF-8") from error
            if "\0" in block:
                raise SubquadError(f"{path}: NUL characters in it; a binary file, or text that is not UTF-8")
            is_empty = is_empty and not block.strip()
            # a block of nothing at the end, so that an empty file has one block too
            if not data and is_empty:
                raise SubquadError(f"{path}: the file is empty")
            seen(tell())
            yield block
            if not data:
                return


def _json_rows(path: Path, seen: Callable[[int], object]) -> Rows:
    """Yield the objects of a list, of lines, or the one object of the file."""
    with _bytes(path) as (file, tell):
        is_first = True
        for number, line in enumerate(file, start=1):
            seen(tell())
            if not line.strip():
                continue
            if is_first and (line.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:1] == b"[" or _is_begun(line)):
                yield from _whole(path, number, line + file.read(), seen)
                return
            is_first = False
            yield f"line {number}", _parsed(line)


def _is_begun(line: bytes) -> bool:
    # an object over several lines begins with one that holds nothing else, or no more than its first keys
    text = line.decode("utf-8-sig", errors="replace").strip()
    if not text.startswith("{"):
        return False
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    return False


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return SubquadError(f"byte {error.start} of the line is not UTF-8; save the text as UTF-8")
    except json.JSONDecodeError as error:
        return SubquadError(f"this is not JSON ({error.msg})")


def _whole(path: Path, first: int, data: bytes, seen: Callable[[int], object]) -> Rows:
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = first + data.count(b"\n", 0, error.start)
        raise SubquadError(f"{path}, line {line}: bytes that are not UTF-8; save the text as UTF-8") from error
    except json.JSONDecodeError as error:
        raise SubquadError(f"{path}, line {first + error.lineno - 1}: this is not JSON ({error.msg})") from error
    rows: list[object] = content if isinstance(content, list) else [content]
    size = path.stat().st_size
    for number, row in enumerate(rows, start=1):
        seen(size * number // len(rows))
        yield f"row {number}", row


def _parquet(path: Path, text_key: str, seen: Callable[[int], object]) -> tuple[Form, Rows]:
    arrow, parquet = require("pyarrow", extra="llm"), require("pyarrow.parquet", extra="llm")
    damage = (arrow.ArrowInvalid, OSError)
    try:
        file = parquet.ParquetFile(path)
    except damage as error:
        raise SubquadError(f"{path}: not a Parquet file, or cut short ({error})") from error
    names: Collection[str] = file.schema_arrow.names
    form = form_of(names, text_key)
    if form is None:
        held = ", ".join(map(repr, names)) or "none"
        raise SubquadError(
            f"{path}: no column {text_key!r}; its columns are {held} (see --text-key); they may be {KNOWN}"
        )
    columns = form.keys

    def rows() -> Rows:
        number, groups = 0, file.num_row_groups
        try:
            for group in range(groups):
                for batch in file.iter_batches(PARQUET_ROWS, row_groups=[group], columns=list(columns)):
                    row: dict[str, Any]
                    for row in batch.to_pylist():
                        number += 1
                        yield f"row {number}", row
                seen(path.stat().st_size * (group + 1) // groups)
        except damage as error:
            raise SubquadError(f"{path}: damaged after row {number} ({error})") from error

    return form, rows()
