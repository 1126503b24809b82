"""Files as JSON and safetensors only, each written to a temporary name and renamed when complete."""

import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from subquad.errors import DISK_FULL, SubquadError, reading

if TYPE_CHECKING:
    # commands that read no weights start a second earlier without torch
    from torch import Tensor

TEMPORARY = re.compile(r"\.subquad-(.+)\.(\d+)")
"""Names of hidden folders: the name of the output, and the process that writes it."""


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a path of the same name in a hidden folder next to `path`; it is moved to `path` on success.

    The content is on the disk before the new name, so that after a power loss `path` is whole or as it was. An earlier
    folder is replaced as a whole. The next command removes the hidden folder of a process that was killed, with the
    temporary files of the libraries that wrote into it, and restores the earlier folder.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_temporaries(path.parent, path.name)
    hidden = path.with_name(f".subquad-{path.name}.{os.getpid()}")
    written = hidden / "new" / path.name
    try:
        written.parent.mkdir(parents=True, exist_ok=True)
        yield written
        for entry in [*written.rglob("*"), written]:
            sync(entry)
        if path.is_dir():
            os.replace(path, hidden / "earlier")
        os.replace(written, path)
    finally:
        _remove_hidden(hidden, path)
    sync(path.parent)


def _remove_hidden(hidden: Path, path: Path) -> None:
    """Remove a hidden folder, after the earlier output in it was restored if there is no new one."""
    # an error here would hide that of the work
    with suppress(OSError):
        if (hidden / "earlier").exists() and not path.exists():
            os.replace(hidden / "earlier", path)
        shutil.rmtree(hidden)


def remove_temporaries(folder: Path, name: str = "") -> None:
    """Remove what killed processes left of outputs in a folder, and restore an earlier one that was being replaced.

    Args:
        folder: The folder.
        name: Name of one output; by default all, also in folders below.
    """
    paths = folder.glob(".subquad-*") if name else folder.rglob(".subquad-*")
    for path in list(paths) if folder.is_dir() else ():
        match = TEMPORARY.fullmatch(path.name)
        if match is None or (name and match[1] != name):
            continue
        # in containers, a killed process had the number of this one
        if int(match[2]) == os.getpid() or not psutil.pid_exists(int(match[2])):
            _remove_hidden(path, path.with_name(match[1]))


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # not every system can do so with folders
        if path.is_file() or error.errno in (errno.EIO, *DISK_FULL):
            error.filename = str(path)
            raise


def as_folder(out: Path | str) -> Path:
    """Return `out` as the path of a folder to write; a file and the name of an example are refused."""
    path = Path(out)
    if str(out).startswith("example:") or path.is_file():
        raise SubquadError(f"{out}: the output must be a folder, and this is no folder")
    # a link cannot be replaced by a folder, and `.` and `..` are no names
    return path.resolve() if path.is_symlink() or path.name in ("", "..") else path


def check_writable(path: Path | str) -> None:
    """Check, before any work, that an output can be written.

    Raises:
        SubquadError: The nearest folder above it is a file, or must not be written to.
    """
    above = Path(path).absolute()
    above = next(parent for parent in (above if above.is_dir() else above.parent, *above.parents) if parent.exists())
    if not above.is_dir():
        raise SubquadError(f"{path}: {above} is a file, not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise SubquadError(f"{path}: no permission to write in {above}")


def check_output(path: Path | str, *, suffixes: tuple[str, ...] = ("",), force: bool) -> Path:
    """Return the path of a file to write, after checking that writing it is possible and destroys nothing.

    Raises:
        SubquadError: It ends in none of the suffixes, it exists and `force` is off, it is a folder, or it cannot be
            written.
    """
    path = Path(path)
    if path.is_dir():
        raise SubquadError(f"{path}: the output must be a file, and this is a folder")
    if not path.name.lower().endswith(suffixes):
        raise SubquadError(f"{path}: must end in {' or '.join(suffixes)}")
    check_writable(path)
    remove_temporaries(path.absolute().parent, path.name)
    if path.exists() and not force:
        raise SubquadError(f"{path}: exists already; choose another output, or overwrite it with --force")
    return path


def check_present(*inputs: Path | str) -> None:
    """Refuse a missing input before libraries are imported; examples and remote files count as present."""
    for path in map(str, inputs):
        files = (path, path.rpartition("#")[0], path.rpartition(":")[0])
        if not path.startswith("example:") and "://" not in path and not any(map(os.path.exists, filter(None, files))):
            raise SubquadError(f"{path}: no such file")


def check_not_inside(out: Path | str, *inputs: Path | str | None) -> None:
    """Check that an output which may be overwritten contains none of the inputs, nor a link to one.

    Raises:
        SubquadError: It does.
    """
    folder = Path(out).resolve()
    for path in filter(None, inputs):
        real = Path(path).resolve()
        links = (parent.resolve() for parent in Path(os.path.abspath(path)).parents)
        if folder in (real, *real.parents, *links):
            raise SubquadError(f"{path} lies in the output {out}, which would be overwritten; choose another output")


def check_files_not_inside(out: Path | str, settings: Any, *names: str) -> None:
    """Check that an output contains no file that settings name in these fields, with a sheet after `#` or without.

    Raises:
        SubquadError: It does.
    """
    for name in names:
        value = getattr(settings, name)
        for entry in value if isinstance(value, tuple) else (value,):
            files = (str(entry), str(entry).rpartition("#")[0])
            check_not_inside(out, next(filter(os.path.exists, files), None))


def check_report_folder(out: Path | str, *, kind: str, file: str, force: bool) -> Path:
    """Return `out` as the path of a report folder to write, after checking that writing it destroys nothing.

    An earlier report, whose JSON `file` has the entry `subquad: kind`, is replaced with `force` only.

    Raises:
        SubquadError: `out` cannot be written, has other files, or has such a report and `force` is off.
    """
    out = as_folder(out)
    check_writable(out)
    remove_temporaries(out.absolute().parent, out.name)
    if not out.is_dir() or not any(out.iterdir()):
        return out
    content = read_json(out / file) if (out / file).is_file() else None
    stamp = content.get("subquad") if isinstance(content, dict) else None
    if not isinstance(stamp, dict) or stamp.get("kind") != kind:
        raise SubquadError(f"{out}: not empty, and no {kind}; choose another output folder")
    if not force:
        raise SubquadError(f"{out}: exists already; choose another output, or overwrite it with --force")
    return out


@contextmanager
def write_report_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `out` on success and is removed on failure."""
    # the working directory may be the folder that is replaced
    with atomic(out.resolve()) as folder:
        folder.mkdir()
        yield folder


def plain(value: Any) -> Any:
    """Return settings, paths, arrays' scalars and containers of them as JSON values.

    NaN and infinity become None, since JSON has neither; `null_as_nan` is the way back.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if (scalar := getattr(value, "item", None)) is not None:
        return plain(scalar())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def null_as_nan(value: Any) -> Any:
    """Return numbers that were read from JSON, also in lists and objects, with NaN where they are null."""
    if isinstance(value, dict):
        return {key: null_as_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [null_as_nan(entry) for entry in value]
    return math.nan if value is None else value


def write_text(path: Path | str, text: str) -> None:
    """Write a text as UTF-8."""
    with atomic(path) as temporary:
        # half of a pair of surrogates, which JSON can hold as `\ud800` only
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as JSON; NaN and infinity become null."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Return the content of a JSON file.

    Raises:
        SubquadError: It cannot be read.
    """
    with reading(path, "JSON"):
        return json.loads(Path(path).read_text(encoding="utf-8"))


def write_tensors(path: Path | str, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors, with `metadata` in the header."""
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        # safetensors makes it readable by its owner only
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(_without_shared_memory(tensors), temporary, metadata=dict(metadata or {}))
        temporary.chmod(mode)


def _without_shared_memory(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return tensors that safetensors takes: it refuses those that share memory, as tied weights and views do."""
    separate, seen = {}, set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        memory = value.untyped_storage()
        # a clone of each would take the memory of a large model twice
        if memory.data_ptr() in seen or memory.nbytes() != value.nbytes:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        separate[name] = value
    return separate


def read_tensors(path: Path | str) -> "dict[str, Tensor]":
    """Return the named tensors of a safetensors file; see `read_tensors_and_metadata`."""
    return read_tensors_and_metadata(path)[0]


def read_tensors_and_metadata(path: Path | str) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Return the named tensors of a safetensors file and the entries of its header.

    Raises:
        SubquadError: It cannot be read.
    """
    import safetensors

    with reading(path, "safetensors"), safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no mapping)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(*parts: Path | bytes | str) -> str:
    """Return 16 hex digits that change when any of the files (`Path`) or contents change."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(bytes.fromhex(sha256_of(part)))
        else:
            digest.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return digest.hexdigest()[:16]
