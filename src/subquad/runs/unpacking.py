"""Limits of the memory that content of a file takes, since a few bytes can expand to more than a computer has.

What is read in parts needs no limit; what is held at once is limited if it is much larger than its file.
"""

import bz2
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from subquad.errors import SubquadError

__all__ = [
    "OpenedFile",
    "array_header",
    "bytes_of_array",
    "check_expansion",
    "check_line",
    "lines_within",
    "most_bytes",
    "open_unpacked",
    "parquet_batches",
    "parquet_bytes",
    "read_within",
]

OpenedFile = io.BufferedReader | gzip.GzipFile | bz2.BZ2File
"""A file that is read as bytes."""
LARGEST_UNPACKED = 2**26
"""Bytes that content may have however small its file is."""
MOST_EXPANDED = 100
"""Bytes of larger content per byte of its file: text, tables and numbers have 2 to 30, zeros 1000."""
READ_BLOCK = 2**22
"""Bytes that are asked for at once."""
PARQUET_BLOCK = 2**16
"""Bytes of a column that are read at once where its first row is looked at; its first pages may be a few megabytes."""
LARGE_GROUP = 2**31
"""Bytes of a group of rows of a Parquet file whose columns are not looked at one by one."""
LONGEST_HEADER = 2**16
"""Bytes of the header of an array; numpy reads headers of up to 10,000 bytes."""


def most_bytes(path: Path, most: int | None = None) -> int:
    """Return how many bytes the content of a file may have that is held at once.

    Args:
        path: The file.
        most: Further limit, for lines and sequences.
    """
    allowed = max(LARGEST_UNPACKED, MOST_EXPANDED * path.stat().st_size)
    return allowed if most is None else min(allowed, most)


def check_expansion(
    path: Path,
    what: str,
    unpacked: int,
    packed: int,
    *,
    least: int | None = None,
    most: int | None = None,
    remedy: str = "without empty or repeated parts",
) -> None:
    """Check the size of content before it is unpacked.

    Args:
        path: The file, for messages.
        what: The part of it, for messages.
        unpacked: Bytes that it becomes, as the file says.
        packed: Bytes that it has in the file.
        least: Bytes that it may have however small the file is; by default `LARGEST_UNPACKED`.
        most: Bytes of larger content per byte of the file; by default `MOST_EXPANDED`.
        remedy: How to write the file again, for the message.

    Raises:
        SubquadError: It is larger.
    """
    least, most = least or LARGEST_UNPACKED, most or MOST_EXPANDED
    if unpacked > max(least, most * packed):
        raise SubquadError(
            f"{path}: {what} would become {unpacked:,} bytes from {packed:,} bytes in the file, more than {most:,} "
            "times as many, so that nearly all of it is empty or repeated; check the file, and write it again "
            f"{remedy}"
        )


@contextmanager
def open_unpacked(
    path: Path, message: str = "", *, is_packed: bool | None = None
) -> Iterator[tuple[OpenedFile, Callable[[], int]]]:
    """Yield a file, unpacked if it is gzipped, and a function that returns the position in the file on the disk.

    Args:
        path: The file.
        message: The file and what is wrong if it cannot be unpacked; the reason follows in brackets.
        is_packed: Whether it is gzipped; by default its name says so.

    Raises:
        SubquadError: It cannot be unpacked; also while it is read in the `with` block.
    """
    is_packed = path.suffix.lower() == ".gz" if is_packed is None else is_packed
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) if is_packed else raw as file:
            yield file, raw.tell
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SubquadError(f"{message or f'{path}: not a gzip file, or truncated'} ({error})") from error


def lines_within(path: Path, file: OpenedFile, most: int, *, first: int = 1) -> Iterator[bytes]:
    """Yield the lines of an opened file with their ends.

    Args:
        path: The file, for messages.
        file: The same, opened.
        most: Bytes that a line may have.
        first: Number of the next line, for messages.

    Raises:
        SubquadError: A line is longer.
    """
    number = first
    while line := file.readline(most + 1):
        check_line(path, line, most, number)
        yield line
        number += 1


def check_line(path: Path, line: bytes, most: int, number: int) -> None:
    """Check the length of a line, of which at most a byte more than `most` was read.

    Raises:
        SubquadError: It is longer.
    """
    if len(line) > most:
        raise SubquadError(f"{path}, line {number:,}: has more than {most:,} bytes; divide it, or check the file")


def read_within(path: Path, file: OpenedFile, most: int) -> bytes:
    """Return the rest of an opened file.

    Args:
        path: The file, for messages.
        file: The same, opened.
        most: Bytes that it may have.

    Raises:
        SubquadError: It has more.
    """
    data = bytearray()
    # a file reserves the memory for all that it is asked for
    while len(data) <= most and (block := file.read(min(READ_BLOCK, most + 1 - len(data)))):
        data += block
    if len(data) > most:
        raise SubquadError(
            f"{path}: expands to more than {most:,} bytes, far more than such files do; if that is right, give the "
            "unpacked file"
        )
    return bytes(data)


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether the order is Fortran's, and type of an array in numpy's format; its numbers are not read.

    Raises:
        ValueError: It is not such an array.
    """
    magic = np.lib.format.read_magic(io.BytesIO(file.read(np.lib.format.MAGIC_LEN)))
    if magic not in [(1, 0), (2, 0), (3, 0)]:
        raise ValueError(f"version {magic} of the format of an array is unknown")
    length = file.read(2 if magic == (1, 0) else 4)
    if int.from_bytes(length, "little") > LONGEST_HEADER:
        raise ValueError(f"the header of an array has more than {LONGEST_HEADER:,} bytes")
    content: Any = io.BytesIO(length + file.read(int.from_bytes(length, "little")))
    read = np.lib.format.read_array_header_1_0 if magic == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(content)
    if min(shape, default=0) < 0:
        raise ValueError(f"the shape {shape} is negative")
    return shape, is_fortran, dtype


def bytes_of_array(shape: Sequence[int], dtype: np.dtype) -> int:
    """Return the size of an array in memory."""
    return math.prod(map(int, shape)) * dtype.itemsize


def parquet_bytes(file: Any, given: Any, names: Sequence[str] | None = None, *, of_value: int = 8) -> list[int]:
    """Return the size in memory of each group of rows of a Parquet file; the first pages of its columns are read.

    Repeated values take no space in the file, neither packed nor unpacked.

    Args:
        file: An open `ParquetFile` of pyarrow.
        given: The path or file from which it was opened.
        names: Columns to count; by default all.
        of_value: Bytes that a value has at least.

    Raises:
        OSError, ValueError: The description of a column is damaged.
    """
    metadata, sizes = file.metadata, []
    # a nested column is stored as several, whose paths begin with its name
    begins = tuple(f"{name}." for name in names or ())
    paths = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    places = [place for place, path in enumerate(paths) if names is None or f"{path}.".startswith(begins)]
    # else pyarrow reads the whole columns for one row
    options: dict[str, Any] = {"metadata": metadata, "pre_buffer": False, "buffer_size": PARQUET_BLOCK}
    with type(file)(given, **options) as look:
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if not group.num_rows or group.total_byte_size > LARGE_GROUP:
                sizes.append(group.total_byte_size)
                continue
            # damage is an error here; pyarrow ends the process where the description itself is asked for
            next(look.iter_batches(1, row_groups=[number], columns=None if names is None else list(names)), None)
            columns = map(group.column, places)
            sizes.append(sum(max(own.total_uncompressed_size, of_value * own.num_values) for own in columns))
    return sizes


def parquet_batches(
    file: Any, rows: int, *, group: int | None = None, columns: list[str] | None = None
) -> Iterator[Any]:
    """Yield batches of a Parquet file, and check that they have all its rows, since pyarrow ends with a short column.

    Args:
        file: An open `ParquetFile` of pyarrow.
        rows: Largest number of rows in a batch.
        group: Number of a group of rows; None for all.
        columns: Columns to read; None for all.

    Raises:
        OSError, ValueError: A column is damaged or ends early.
    """
    metadata, found = file.metadata, 0
    groups = None if group is None else [group]
    for batch in file.iter_batches(rows, row_groups=groups, columns=columns):
        found += batch.num_rows
        yield batch
    expected = metadata.num_rows if group is None else metadata.row_group(group).num_rows
    if found != expected:
        raise ValueError(f"a column ends after {found:,} of {expected:,} rows")
