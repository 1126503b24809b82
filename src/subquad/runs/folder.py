"""Run folders: `config.json`, `model.safetensors`, `metrics.json`, `history.jsonl`, `README.md` and `report.html`."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subquad import __version__
from subquad.errors import SubquadError
from subquad.runs.lock import LOCK, is_blank
from subquad.runs.storage import (
    as_folder,
    check_writable,
    plain,
    read_json,
    read_tensors,
    remove_temporaries,
    sha256_of,
    sync,
    write_json,
    write_tensors,
    write_text,
)

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
"""Version of the layout of a saved folder; raised when an older subquad could not read a newer folder."""
CONFIG, METRICS = "config.json", "metrics.json"
WEIGHTS, REPORT, CARD = "model.safetensors", "report.html", "README.md"
WORK = ".subquad-work"
"""Folder in a run's folder of all that the run needs only until it is finished."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """An output folder that is being written."""

    directory: Path
    """The folder."""
    kind: str
    """What the folder has: `bio`, `bio folds`, `llm` or `hep`."""
    settings: Mapping[str, Any]
    """Settings of the run as JSON values; a run is resumed only with equal settings."""
    is_resumed: bool
    """The folder has an unfinished run with these settings."""

    def finish(
        self,
        *,
        config: Mapping[str, Any],
        tensors: "Mapping[str, Tensor] | None",
        metrics: Mapping[str, Any],
        card: str | None = None,
        report: Callable[[], str] | None = None,
    ) -> None:
        """Write the results of the run; `metrics.json` comes last and marks the run as finished.

        A report whose figures cannot be drawn costs no results: the run is finished without it, and the error raised.
        """
        stamp = _stamp(self.kind, self.settings)
        if tensors is not None:
            write_tensors(self.directory / WEIGHTS, tensors, {"format": "pt"})
            stamp["sha256"] = sha256_of(self.directory / WEIGHTS)
        if card is not None:
            write_text(self.directory / CARD, card)
        write_json(self.directory / CONFIG, {**config, "subquad": stamp})
        # such as the tokenizer, which transformers wrote
        for path in self.directory.iterdir():
            sync(path)
        failed = None
        try:
            if report is not None:
                write_text(self.directory / REPORT, report())
        except OSError:  # such as a full disk; the same command writes the report
            raise
        except Exception as error:  # noqa: BLE001
            failed = error
        write_json(self.directory / METRICS, metrics)
        shutil.rmtree(self.directory / WORK, ignore_errors=True)
        if failed is not None:
            raise failed


def _stamp(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "kind": kind, "version": __version__, "settings": plain(settings)}


def open_run(out: Path | str, *, kind: str, settings: Mapping[str, Any], force: bool = False) -> Run:
    """Open the folder `out` for a new run, or resume the unfinished run in it.

    With `force`, all that is in the folder is deleted, also files that were put into it.

    Raises:
        SubquadError: As `check_run_folder`.
    """
    directory = check_run_folder(out, kind=kind, settings=settings, force=force)
    is_resumed = (directory / CONFIG).is_file() and not force
    if is_resumed:
        remove_temporaries(directory)
    else:
        directory.mkdir(parents=True, exist_ok=True)
        # metrics first: without them the folder counts as unfinished, whenever this is interrupted
        (directory / METRICS).unlink(missing_ok=True)
        for entry in [entry for entry in directory.iterdir() if entry.name not in (CONFIG, LOCK)]:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        write_json(directory / CONFIG, {"subquad": _stamp(kind, settings)})
    return Run(directory=directory, kind=kind, settings=plain(settings), is_resumed=is_resumed)


def check_run_folder(out: Path | str, *, kind: str, settings: Mapping[str, Any], force: bool = False) -> Path:
    """Return `out` as the path of a run folder to write; nothing is written.

    Raises:
        SubquadError: As `check_free`, or the folder has an unfinished run with other settings.
    """
    directory = check_free(out, force=force)
    if not is_blank(directory, CONFIG) and not force:
        stamp = stamp_of(directory)
        if stamp.get("kind") != kind:
            raise SubquadError(f"{directory}: has an unfinished {stamp.get('kind')} run; --force replaces it")
        begun, wanted = flat_settings(stamp.get("settings", {})), flat_settings(plain(settings))
        differing = [name for name in sorted({*begun, *wanted}) if begun.get(name) != wanted.get(name)]
        is_input = [name for name in differing if "fingerprint" in name or name.split(".")[0] == "data"]
        changed = ["the input files changed"] * bool(is_input)
        changed += [
            f"{name} was {begun.get(name)!r} and is {wanted.get(name)!r}" for name in differing if name not in is_input
        ]
        if changed:
            shown = "; ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise SubquadError(f"{directory}: has an unfinished run with other settings ({shown}); --force replaces it")
    return directory


def check_free(out: Path | str, *, force: bool = False) -> Path:
    """Return `out` as the path of a folder in which a run can begin, or be resumed if its settings are the same.

    Raises:
        SubquadError: The folder cannot be written, has files that subquad did not write, or a finished run and `force`
            is off.
    """
    directory = as_folder(out)
    check_writable(directory)
    if is_blank(directory, CONFIG):
        return directory
    if not (directory / CONFIG).is_file():
        raise SubquadError(f"{directory}: not empty and not written by subquad; choose another output folder")
    stamp_of(directory)
    # a run that was killed after its last file is resumed, and removes its work
    if (directory / METRICS).is_file() and not (directory / WORK).is_dir() and not force:
        raise SubquadError(f"{directory}: has a finished run; choose another folder, or overwrite it with --force")
    return directory


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings with those inside others by names such as `attention.window`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= (
            flat_settings(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
        )
    return flat


def stamp_of(directory: Path | str) -> dict[str, Any]:
    """Return the entry of a folder's `config.json` by which subquad recognises its own folders.

    Raises:
        SubquadError: There is no such file or entry.
    """
    config = read_json(Path(directory) / CONFIG)
    stamp = config.get("subquad") if isinstance(config, dict) else None
    if not isinstance(stamp, dict):
        raise SubquadError(f"{directory}: its {CONFIG} was not written by subquad")
    return stamp


def load_config(directory: Path | str, kind: str) -> dict[str, Any]:
    """Return the `config.json` of a finished run of the field `kind`.

    Raises:
        SubquadError: There is no such folder, or the run in it is unfinished, belongs to another field or has a newer
            format.
    """
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        what = f"no run of `subquad {kind}`, since it has no {CONFIG}" if directory.exists() else "no such folder"
        raise SubquadError(f"{directory}: {what}")
    stamp = stamp_of(directory)
    if stamp.get("kind") != kind:
        raise SubquadError(f"{directory}: is a run of `subquad {stamp.get('kind')}`, not of `subquad {kind}`")
    if stamp.get("format") != FORMAT:
        raise SubquadError(f"{directory}: has format {stamp.get('format')!r}, and this subquad reads {FORMAT}")
    if not (directory / METRICS).is_file():
        raise SubquadError(f"{directory}: this run is not finished; run the command that started it again")
    return read_json(directory / CONFIG)


def check_weights(directory: Path | str) -> None:
    """Check that the weights of a model folder are those that were saved with its `config.json`.

    Raises:
        SubquadError: They are missing or others.
    """
    path = Path(directory) / WEIGHTS
    if not path.is_file():
        raise SubquadError(f"{path}: no such file; the weights are missing")
    if stamp_of(directory).get("sha256", sha256 := sha256_of(path)) != sha256:
        raise SubquadError(f"{path}: damaged, or of another model (its SHA-256 differs); copy the whole folder again")


def load_tensors(directory: Path | str) -> "dict[str, Tensor]":
    """Return the weights of a model folder.

    Raises:
        SubquadError: As `check_weights`, or they cannot be read.
    """
    check_weights(directory)
    return read_tensors(Path(directory) / WEIGHTS)
