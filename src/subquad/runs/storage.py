"""Files as JSON and safetensors only, each written to a temporary name and renamed when complete."""

import dataclasses
import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from subquad.errors import SubquadError, flag_name
from subquad.runs.damage import damage_as_error, system_errors
from subquad.runs.disk import (
    DISK_FULL,
    clean_up,
    is_read_only,
    make_folder,
    sync,
    temporary_folder,
)
from subquad.runs.markup import parse_json

if TYPE_CHECKING:
    # commands that read no weights start a second earlier without torch
    from torch import Tensor

__all__ = [
    "CHECKSUM",
    "DISK_FULL",
    "as_file",
    "as_folder",
    "atomic",
    "check_files_not_inside",
    "check_not_inside",
    "check_output",
    "check_present",
    "check_writable",
    "create_output_folder",
    "fingerprint",
    "is_finite",
    "null_as_nan",
    "plain",
    "read_json",
    "read_tensors",
    "read_tensors_and_metadata",
    "sync",
    "verify_tensors",
    "write_json",
    "write_tensors",
]


CHECKSUM = "crc32"
"""Entry in the header of safetensors files, against accidental changes of header and numbers."""


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path` that is renamed to `path` on success and removed on failure.

    The content is on the disk before the new name, so that after a power loss `path` is whole or as it was. What killed
    processes left of the same path is removed.
    """
    path = Path(path)
    with temporary_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        for written in [*temporary.rglob("*"), temporary]:
            sync(written)
        os.replace(temporary, path)
    sync(path.parent)


def check_writable(path: Path | str, *, flag: str = "--out") -> None:
    """Check that an output, which `flag` names, can be written, before any work.

    Raises:
        SubquadError: The nearest folder above it is a file, or must not be written to.
    """
    above = Path(path).absolute()
    above = next(parent for parent in (above if above.is_dir() else above.parent, *above.parents) if parent.exists())
    if not above.is_dir():
        raise SubquadError(f"{path}: {above} is a file, not a folder; choose another {flag}")
    if not os.access(above, os.W_OK | os.X_OK):
        if is_read_only(above):
            raise SubquadError(f"{path}: {above} is on a read-only file system; choose another {flag}")
        raise SubquadError(f"{path}: no permission to write in {above}; choose another {flag}")


def create_output_folder(path: Path, *, flag: str = "--out") -> None:
    """Create an output folder, which `flag` names, and those above it, unless it exists.

    Raises:
        SubquadError: The system does not allow it, as in /proc.
    """
    try:
        make_folder(path)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise SubquadError(
            f"{path}: cannot create the output folder ({error.strerror}); choose another {flag}"
        ) from error


def check_output(path: Path | str, *, force: bool, flag: str = "--out") -> Path:
    """Return the path of an output, after checking that it can be written and that writing it destroys nothing.

    What killed processes left of it is removed.

    Args:
        path: A file or folder that a command is about to write. An empty folder counts as absent.
        force: Allow an existing output to be overwritten.
        flag: The flag that names it.

    Raises:
        SubquadError: The output exists and `force` is off, or it cannot be written.
    """
    path = Path(path)
    check_writable(path, flag=flag)
    clean_up(path)
    is_there = any(path.iterdir()) if path.is_dir() else path.exists()
    if is_there and not force:
        raise SubquadError(f"{path}: exists already; choose another {flag}, or overwrite it with --force")
    return path


def check_present(*inputs: Path | str) -> None:
    """Check that inputs exist, before libraries are imported for seconds; the readers check the rest.

    Raises:
        SubquadError: Some are missing.
    """
    missing = [str(path) for path in inputs if not Path(path).exists()]
    if missing:
        raise SubquadError("\n".join(f"{path}: no such file" for path in missing))


def check_not_inside(out: Path | str, *inputs: Path | str | None, flag: str) -> None:
    """Check that an output which may be overwritten contains none of the inputs.

    Args:
        out: The output.
        *inputs: Files and folders that are read.
        flag: The flag that names them.

    Raises:
        SubquadError: One of them is `out`, or lies in it, also if only a link to it does.
    """
    folder = Path(out).resolve()
    for given in filter(None, inputs):
        real = Path(given).resolve()
        links = (parent.resolve() for parent in Path(os.path.abspath(given)).parents)
        if folder in (real, *real.parents, *links):
            raise SubquadError(f"{flag} {given} lies in --out {out}, which would be overwritten; choose another --out")


def check_files_not_inside(out: Path | str, settings: Any, *names: str) -> None:
    """Check that an output which may be overwritten contains no file that settings name.

    Args:
        out: The output.
        settings: A settings class.
        *names: Its fields with a path, or with several; the name of a sheet may follow after `#`. Other values, such as
            the letters of a wild type, are allowed.

    Raises:
        SubquadError: One of the files lies in `out`.
    """
    for name in names:
        value = getattr(settings, name)
        for given in value if isinstance(value, tuple) else (value,):
            paths = (str(given), str(given).rpartition("#")[0])
            check_not_inside(out, next(filter(os.path.exists, paths), None), flag=flag_name(name))


def as_folder(out: Path | str) -> Path:
    """Return `out` as the path of a folder to write.

    Raises:
        SubquadError: `out` is a file, or has the form of an example's name.
    """
    path = Path(out)
    if str(out).startswith("example:"):
        raise SubquadError(f"{out}: --out must be a folder, and this is the name of an example")
    if path.is_file():
        raise SubquadError(f"{out}: --out must be a folder, and this is a file")
    # a link cannot be replaced by a folder, and `.` and `..` are no names
    return path.resolve() if path.is_symlink() or path.name in ("", "..") else path


def as_file(out: Path | str, *, flag: str = "--out") -> Path:
    """Return `out` as the path of a file to write, which `flag` names.

    Raises:
        SubquadError: `out` is a folder.
    """
    if Path(out).is_dir():
        raise SubquadError(f"{out}: {flag} must be a file, and this is a folder")
    return Path(out)


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
        own = scalar()
        return None if isinstance(own, float) and not math.isfinite(own) else own
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def null_as_nan(value: Any) -> Any:
    """Return numbers that were read from JSON, also in lists and objects, with NaN where they are null."""
    if isinstance(value, dict):
        return {key: null_as_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [null_as_nan(entry) for entry in value]
    return math.nan if value is None else value


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as JSON; NaN and infinity become null."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic(path) as temporary:
        # half of a pair of surrogates, which JSON can hold as `\ud800` only
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def read_json(path: Path | str) -> Any:
    """Return the content of a JSON file.

    Raises:
        SubquadError: There is no such file, it is a folder, pipe or device, or it is not JSON.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise SubquadError(f"{path}: must be a file, and is a folder, a pipe or a device")
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SubquadError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SubquadError(f"{path}: not JSON ({error}); the file is damaged or was written by another tool") from error


def write_tensors(path: Path | str, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None) -> str:
    """Write named tensors as safetensors, with `metadata` and a checksum in the header; return the checksum."""
    from safetensors.torch import save_file

    owned, header = _without_shared_memory(tensors), dict(metadata or {})
    checksum = _checksum(owned, owned.__getitem__, header)
    with atomic(path) as temporary:
        # created here, with the permissions of other files; safetensors makes it readable by its owner only
        temporary.touch()
        mode = temporary.stat().st_mode
        with system_errors(path):
            save_file(owned, temporary, metadata={**header, CHECKSUM: checksum})
        _sort_metadata(temporary)
        temporary.chmod(mode)
    return checksum


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header of a safetensors file, whose order is random, so that equal files are equal."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        # a header of another length would move the numbers
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def _checksum(names: Iterable[str], tensor: "Callable[[str], Tensor]", metadata: Mapping[str, str]) -> str:
    """Return 8 hex digits that depend on the metadata and on the names, types, shapes and numbers of tensors."""
    from torch import uint8

    texts = sorted(item for item in metadata.items() if item[0] != CHECKSUM)
    value = zlib.crc32(json.dumps(texts).encode())
    for name in sorted(names):
        own = tensor(name)
        value = zlib.crc32(f"{name} {own.dtype} {tuple(own.shape)}".encode(), value)
        value = zlib.crc32(own.reshape(-1).view(uint8).numpy().data, value)
    return f"{value:08x}"


def _without_shared_memory(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return tensors that safetensors takes: it refuses those that share memory, as tied weights and views do."""
    owned, seen = {}, set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        memory = own.untyped_storage()
        # a clone of each would take the memory of a large model twice
        if memory.data_ptr() in seen or memory.nbytes() != own.nbytes:
            own = own.clone()
        seen.add(own.untyped_storage().data_ptr())
        owned[name] = own
    return owned


def read_tensors(path: Path | str) -> "dict[str, Tensor]":
    """Return the named tensors of a safetensors file; see `read_tensors_and_metadata`."""
    return read_tensors_and_metadata(path)[0]


def read_tensors_and_metadata(path: Path | str) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Return the named tensors of a safetensors file and the entries of its header.

    Raises:
        SubquadError: There is no such file, or it is damaged, also if only by the checksum of `write_tensors`.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return tensors, _verified(path, tensors, tensors.__getitem__, file.metadata())


def verify_tensors(path: Path | str) -> tuple[dict[str, str], list[str]]:
    """Check the content of a safetensors file, one tensor at a time.

    Returns:
        The entries of its header, and the tensors that are not finite, unless it has no checksum and is not read.

    Raises:
        SubquadError: There is no such file, or it is damaged; see `read_tensors_and_metadata`.
    """
    wrong: list[str] = []
    with _opened(path) as file:

        def inspected(name: str) -> "Tensor":
            tensor: Tensor = file.get_tensor(name)
            if not is_finite(tensor):
                wrong.append(name)
            return tensor

        return _verified(path, file.keys(), inspected, file.metadata()), wrong


def is_finite(tensor: "Tensor") -> bool:
    """Return whether all values of a tensor are finite numbers, in less time than a checksum of it takes."""
    if tensor.is_complex():
        return is_finite(tensor.real) and is_finite(tensor.imag)
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # both are NaN if any value is
    return all(math.isfinite(float(limit)) for limit in tensor.aminmax())


@contextmanager
def _opened(path: Path | str) -> Iterator[Any]:
    if not Path(path).is_file():
        raise SubquadError(f"{path}: no such file")
    with (
        damage_as_error(f"{path}: not a safetensors file, or cut short"),
        safetensors.safe_open(path, framework="pt") as file,
    ):
        yield file


def _verified(
    path: Path | str, names: Iterable[str], tensor: "Callable[[str], Tensor]", metadata: dict[str, str] | None
) -> dict[str, str]:
    """Return the metadata of a file, whose checksum, if it has one, is that of its content."""
    found = metadata or {}
    if CHECKSUM in found and found[CHECKSUM] != _checksum(names, tensor, found):
        raise SubquadError(f"{path}: damaged (its checksum does not match its content); copy or make it again")
    return found


def fingerprint(*parts: Path | bytes | str) -> str:
    """Return 16 hex digits that change when any of the files (`Path`) or contents change."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        else:
            digest.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return digest.hexdigest()[:16]
