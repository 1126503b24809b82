"""Folders that subquad writes, as JSON and safetensors only, each file renamed into place when it is whole."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from subquad import __version__
from subquad.errors import SubquadError

__all__ = [
    "FORMAT",
    "Run",
    "as_file",
    "as_folder",
    "atomic",
    "fingerprint",
    "load_config",
    "load_tensors",
    "open_run",
    "plain",
    "read_json",
    "read_tensors",
    "write_json",
    "write_tensors",
]

FORMAT = 1
"""The number of the layout of a saved folder; it grows when an older subquad could not read a newer folder."""

CONFIG, WEIGHTS, METRICS, HISTORY, REPORT, CARD = (
    "config.json",
    "model.safetensors",
    "metrics.json",
    "history.jsonl",
    "report.html",
    "README.md",
)


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` on success and removed on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the same suffix, since writers such as uproot and numpy look at it
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


def as_folder(out: Path | str) -> Path:
    """Return `out`, which is to become a folder, as a path.

    Raises:
        SubquadError: there is a file.
    """
    if Path(out).is_file():
        raise SubquadError(f"{out}: --out names a folder, and this is a file")
    return Path(out)


def as_file(out: Path | str) -> Path:
    """Return `out`, which is to become a file, as a path.

    Raises:
        SubquadError: there is a folder.
    """
    if Path(out).is_dir():
        raise SubquadError(f"{out}: names a file, and this is a folder")
    return Path(out)


def plain(value: Any) -> Any:
    """Return settings, paths and numbers as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as JSON."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Return what a JSON file holds.

    Raises:
        SubquadError: there is no such file, or it is no JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SubquadError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SubquadError(
            f"{path}: this is not JSON ({error}); the file is damaged or was written by another tool"
        ) from error


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors; `metadata` goes into the header."""
    # clones: safetensors refuses tensors that share memory, as tied weights and views do
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(owned, temporary, metadata=dict(metadata or {}))
        except safetensors.SafetensorError as error:
            # it hides which error of the system it was
            if f"os error {errno.ENOSPC}" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Return the named tensors of a safetensors file.

    Raises:
        SubquadError: there is no such file, or it is damaged.
    """
    return read_tensors_and_metadata(path)[0]


def read_tensors_and_metadata(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the named tensors of a safetensors file and the entries of its header."""
    path = Path(path)
    if not path.is_file():
        raise SubquadError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return tensors, file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise SubquadError(f"{path}: not a safetensors file, or cut short ({error})") from error


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """An output folder between its first file and its last."""

    directory: Path
    """Where it is."""
    kind: str
    """The field: `bio`, `llm` or `hep`."""
    settings: Mapping[str, Any]
    """What was asked for, as JSON knows it."""
    is_resumed: bool
    """An earlier run with these settings was stopped in here."""

    def finish(
        self,
        *,
        config: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None,
        metrics: Mapping[str, Any],
        card: str,
        report: str,
    ) -> None:
        """Write what the run leaves behind; `metrics.json` comes last, and says that the run is finished."""
        if tensors is not None:
            write_tensors(self.directory / WEIGHTS, tensors, {"format": "pt"})
        for name, text in ((CARD, card), (REPORT, report)):
            with atomic(self.directory / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        write_json(self.directory / CONFIG, {**config, "subquad": _stamp(self.kind, self.settings)})
        write_json(self.directory / METRICS, metrics)
        for checkpoint in self.directory.rglob("checkpoint-*.safetensors"):
            checkpoint.unlink()


def _stamp(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "kind": kind, "version": __version__, "settings": plain(settings)}


def open_run(out: Path | str, *, kind: str, settings: Mapping[str, Any], force: bool = False) -> Run:
    """Return the run that writes into the folder `out`: a new one, or an unfinished one with equal settings.

    Raises:
        SubquadError: `out` is finished and `force` is off, holds other things, or was begun with other settings.
    """
    directory, wanted = as_folder(out), plain(settings)
    if directory.is_dir() and any(directory.iterdir()):
        _check_begun(directory, kind, wanted, force)
    is_resumed = (directory / CONFIG).is_file() and not force
    if not is_resumed:
        _clear(directory)
        write_json(directory / CONFIG, {"subquad": _stamp(kind, wanted)})
    return Run(directory=directory, kind=kind, settings=wanted, is_resumed=is_resumed)


def _check_begun(directory: Path, kind: str, wanted: Mapping[str, Any], force: bool) -> None:
    if not (directory / CONFIG).is_file():
        raise SubquadError(f"{directory}: not empty, and not written by subquad; name another folder with --out")
    stamp = read_json(directory / CONFIG).get("subquad")
    if stamp is None:
        raise SubquadError(f"{directory}: its {CONFIG} was not written by subquad; name another folder with --out")
    if force:
        return
    if (directory / METRICS).is_file():
        raise SubquadError(
            f"{directory}: holds a finished run; name another folder with --out, or replace it with --force"
        )
    if stamp.get("kind") != kind:
        raise SubquadError(
            f"{directory}: holds an unfinished run of subquad {stamp.get('kind')}; use --force to replace it"
        )
    begun = stamp.get("settings", {})
    changed = sorted(name for name in {*begun, *wanted} if begun.get(name) != wanted.get(name))
    if changed:
        if set(begun) != set(wanted):
            raise SubquadError(
                f"{directory}: an unfinished run of another version of subquad, which had other settings; finish it "
                "with that version, or start anew with --force"
            )
        lines = "; ".join(f"{name} was {begun[name]!r} and is {wanted[name]!r}" for name in changed)
        raise SubquadError(
            f"{directory}: an unfinished run with other settings ({lines}); "
            "give the same ones to go on, or --force to start anew"
        )


def _clear(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    # the figures first: without them the folder is unfinished, whenever this is stopped
    (directory / METRICS).unlink(missing_ok=True)
    for entry in directory.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def load_config(directory: Path | str, kind: str) -> dict[str, Any]:
    """Return the `config.json` of a finished model folder of the field `kind`.

    Raises:
        SubquadError: no such folder, not finished, no weights, of another field, or of a newer format.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise SubquadError(f"{directory}: no such model folder")
    if not (directory / CONFIG).is_file():
        raise SubquadError(f"{directory}: no {CONFIG} in it; give the folder that --out of `subquad {kind}` wrote")
    config = read_json(directory / CONFIG)
    stamp = config.get("subquad") if isinstance(config, dict) else None
    if not isinstance(stamp, dict):
        raise SubquadError(f"{directory}: its {CONFIG} was not written by subquad")
    if stamp.get("kind") != kind:
        raise SubquadError(f"{directory}: holds a model of `subquad {stamp.get('kind')}`, not of `subquad {kind}`")
    if not isinstance(stamp.get("format"), int) or stamp["format"] > FORMAT:
        raise SubquadError(
            f"{directory}: format {stamp.get('format')} is newer than this subquad {__version__} reads "
            f"(up to {FORMAT}); upgrade subquad"
        )
    if not (directory / METRICS).is_file():
        raise SubquadError(f"{directory}: this run is not finished; give the command that began it once more")
    if not (directory / WEIGHTS).is_file():
        raise SubquadError(f"{directory}: no {WEIGHTS} in it; the weights are missing")
    return config


def load_tensors(directory: Path | str) -> dict[str, Tensor]:
    """Return the weights of a model folder."""
    return read_tensors(Path(directory) / WEIGHTS)
