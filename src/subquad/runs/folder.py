"""Run folders: `config.json`, `model.safetensors`, `metrics.json`, `history.jsonl`, `README.md` and `report.html`."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subquad import __version__
from subquad.errors import SubquadError, flag_name
from subquad.progress import say
from subquad.runs.checksums import CONFIG, METRICS, PARTS, check_config, checksums_of_run
from subquad.runs.disk import LOCK, make_folder, remove_temporaries, sync, try_lock
from subquad.runs.lock import is_blank
from subquad.runs.storage import (
    CHECKSUM,
    as_folder,
    atomic,
    check_writable,
    is_finite,
    plain,
    read_json,
    read_tensors_and_metadata,
    verify_tensors,
    write_json,
    write_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FORMAT",
    "Run",
    "check_free",
    "check_run_folder",
    "check_weights",
    "load_config",
    "load_tensors",
    "open_run",
    "stamp_of",
]

FORMAT = 1
"""Version of the layout of a saved folder; raised when an older subquad could not read a newer folder."""

WITHOUT_FLAG = ("data", "files", "model", "processes", "table", "validation")
"""Settings of a run that the command line takes without a flag, or not at all."""
WEIGHTS, REPORT, CARD = "model.safetensors", "report.html", "README.md"
CHECKPOINTS = "checkpoint-*.safetensors"
UNFINISHED = {
    # the store of the jets
    "hep": tuple(
        f"jets/{name}"
        for name in ("particles", "jet_features", "observers", "lengths", "labels", "parts", "index.json")
    ),
    # of block-wise attention transfer
    "llm": ("feature_maps.safetensors", "feature_maps-*.safetensors", "blockwise.json", "states-*.bin"),
}
"""Kind of run → patterns of the files that it needs, beside checkpoints, until it is finished."""
ANOTHER = "; choose another folder with --out"
"""End of errors about an output folder that cannot be written."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """An output folder that is being written."""

    directory: Path
    """The folder."""
    kind: str
    """What the folder holds: `bio`, `bio folds`, `llm` or `hep`."""
    settings: Mapping[str, Any]
    """Settings of the run as JSON values; a run is resumed only with equal settings."""
    is_resumed: bool
    """The folder holds an unfinished run with these settings."""

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

        A model within the folder of another has neither card nor report. A report whose figures cannot be drawn costs
        no results: the run is finished without it, and then the error is raised.
        """
        stamp = _stamp(self.kind, self.settings)
        if tensors is not None:
            stamp[CHECKSUM] = write_tensors(self.directory / WEIGHTS, tensors, {"format": "pt"})
        if card is not None:
            self._write(CARD, card)
        config = plain({**config, "subquad": stamp})
        config["subquad"][PARTS] = checksums_of_run(self.directory, config, plain(metrics))
        text = None
        try:
            if report is not None:
                text = report()
        except Exception:
            self._mark_finished(config, metrics)
            raise
        # a full disk, unlike a figure, is a reason to resume the run
        if text is not None:
            self._write(REPORT, text)
        self._mark_finished(config, metrics)

    def _mark_finished(self, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        write_json(self.directory / CONFIG, config)
        # such as the tokenizer, which transformers wrote
        files = [*_own_files(self.directory)]
        for path in [*files, *{path.parent for path in files}]:
            sync(path)
        write_json(self.directory / METRICS, metrics)
        _remove_unneeded(self.directory, self.kind)

    def _write(self, name: str, text: str) -> None:
        with atomic(self.directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _own_files(directory: Path) -> Iterator[Path]:
    """Yield the files of a run, without those of another run below it that is in use or unfinished."""
    for folder, names, files in os.walk(directory):
        names[:] = [name for name in names if not _is_in_use(Path(folder, name))]
        yield from (path for name in files if (path := Path(folder, name)).is_file())


def _is_in_use(folder: Path) -> bool:
    return (folder / LOCK).exists() or ((folder / CONFIG).exists() and not (folder / METRICS).exists())


def _remove_unneeded(directory: Path, kind: Any) -> None:
    """Remove what a finished run no longer needs."""
    patterns = UNFINISHED.get(kind, ())
    found = [path for path in _own_files(directory) if fnmatch(path.name, CHECKPOINTS)]
    found += [path for pattern in patterns for path in directory.glob(pattern)]
    for path in found:
        # what is left is removed when the folder is refused
        with suppress(OSError):
            path.unlink()
    for folder in {(directory / pattern).parent for pattern in patterns} - {directory}:
        with suppress(OSError):
            folder.rmdir()


def _stamp(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "kind": kind, "version": __version__, "settings": plain(settings)}


def open_run(out: Path | str, *, kind: str, settings: Mapping[str, Any], force: bool = False) -> Run:
    """Open the folder `out` for a new run, or resume the unfinished run in it.

    Args:
        out: The folder to write.
        kind: What the folder holds: `bio`, `bio folds`, `llm` or `hep`.
        settings: Settings of the run, anything that `plain` turns into JSON.
        force: Delete all that is in the folder, also files that were put into it.

    Raises:
        SubquadError: The folder holds a finished run and `force` is off, holds files that subquad did not write, or an
            unfinished run with other settings.
    """
    directory, wanted = check_run_folder(out, kind=kind, settings=settings, force=force), plain(settings)
    is_resumed = (directory / CONFIG).is_file() and not force
    if is_resumed:
        begun = stamp_of(read_json(directory / CONFIG), directory).get("version")
        # its steps may have been others
        if begun != __version__:
            say(f"warning: {directory}: subquad {begun} began this run, and subquad {__version__} resumes it")
        remove_temporaries(directory)
    else:
        _clear(directory)
        write_json(directory / CONFIG, {"subquad": _stamp(kind, wanted)})
    return Run(directory=directory, kind=kind, settings=wanted, is_resumed=is_resumed)


def check_run_folder(out: Path | str, *, kind: str, settings: Mapping[str, Any], force: bool = False) -> Path:
    """Return `out` as the path of a run folder to write, after the checks of `open_run`; nothing is written."""
    directory = check_free(out, force=force)
    if not is_blank(directory, CONFIG) and not force:
        _check_same_settings(directory, kind, plain(settings))
    return directory


def check_free(out: Path | str, *, force: bool = False) -> Path:
    """Return `out` as the path of a folder in which a run can begin, or be resumed if it has the settings of before.

    `check_run_folder` checks these too.

    Raises:
        SubquadError: The folder cannot be written, holds files that subquad did not write, or a finished run and
            `force` is off, or another process writes to a folder in it and `force` is on.
    """
    directory = as_folder(out)
    check_writable(directory)
    if is_blank(directory, CONFIG):
        return directory
    if not (directory / CONFIG).is_file():
        raise SubquadError(f"{directory}: not empty and not written by subquad{ANOTHER}")
    stamp = stamp_of(read_json(directory / CONFIG), directory, ANOTHER)
    if (directory / METRICS).is_file() and not force:
        # if the run was killed after its last file was written
        _remove_unneeded(directory, stamp.get("kind"))
        raise SubquadError(f"{directory}: holds a finished run{ANOTHER}, or overwrite it with --force")
    if force:
        _check_not_in_use(directory)
    return directory


def _check_not_in_use(directory: Path) -> None:
    """Check that no process writes to a folder below one that will be cleared."""
    for path in directory.rglob(LOCK):
        if path.parent == directory:
            continue
        with try_lock(path) as is_mine:
            if is_mine is False:
                raise SubquadError(
                    f"{directory}: another process is writing to {path.parent} in it; wait until it has ended{ANOTHER}"
                )


def _check_same_settings(directory: Path, kind: str, wanted: Mapping[str, Any]) -> None:
    stamp = stamp_of(read_json(directory / CONFIG), directory, ANOTHER)
    if stamp.get("kind") != kind:
        raise SubquadError(
            f"{directory}: holds an unfinished run of subquad {stamp.get('kind')}; use --force to replace it"
        )
    begun = stamp.get("settings", {})
    if "processes" in wanted:
        # runs of earlier versions do not say it
        begun = {"processes": 1, **begun}
    changed = list(_differences(begun, wanted))
    if changed:
        if set(begun) != set(wanted):
            raise SubquadError(
                f"{directory}: holds an unfinished run of another version of subquad, which had other settings; "
                "finish it with that version, or start again with --force"
            )
        lines = "; ".join(
            "the input files have other contents"
            if "fingerprint" in name or name == "data"
            else f"{name if name in WITHOUT_FLAG else flag_name(name)} was {_shown(before)} and is {_shown(now)}"
            for name, before, now in changed
        )
        raise SubquadError(
            f"{directory}: holds an unfinished run with other settings ({lines}); "
            "use the same settings to resume it, or --force to start again"
        )


def _shown(value: Any) -> str:
    return "not given" if value is None else repr(value)


def _differences(
    begun: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name and both values of each setting that differs, also inside others, as in `attention.window`."""
    for name in sorted({*begun, *wanted}):
        before, now = begun.get(name), wanted.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{prefix}{name}.")
        elif before != now:
            yield prefix + name, before, now


def _clear(directory: Path) -> None:
    make_folder(directory)
    # metrics first: without them the folder counts as unfinished, whenever this is interrupted
    (directory / METRICS).unlink(missing_ok=True)
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in (CONFIG, LOCK):
            entry.unlink()
    # and the file that shows whose folder it is last
    (directory / CONFIG).unlink(missing_ok=True)


def stamp_of(config: Any, directory: Path | str, remedy: str = "") -> dict[str, Any]:
    """Return the entry of a `config.json` by which subquad recognises its own folders.

    Args:
        config: Content of the file.
        directory: The folder.
        remedy: End of the error.

    Raises:
        SubquadError: There is no such entry.
    """
    stamp = config.get("subquad") if isinstance(config, dict) else None
    if not isinstance(stamp, dict):
        raise SubquadError(f"{directory}: its {CONFIG} was not written by subquad{remedy}")
    return stamp


def load_config(directory: Path | str, kind: str) -> dict[str, Any]:
    """Return the `config.json` of a finished run of the field `kind`.

    Raises:
        SubquadError: There is no such folder, or the run in it is unfinished, lacks its weights, belongs to another
            field or has a newer format.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise SubquadError(f"{directory}: no such model folder; give a folder that `subquad {kind}` wrote")
    if not (directory / CONFIG).is_file():
        raise SubquadError(f"{directory}: no {CONFIG} in it; give a folder that `subquad {kind}` wrote")
    config = read_json(directory / CONFIG)
    stamp = stamp_of(config, directory)
    check_config(config, directory)
    if stamp.get("kind") != kind:
        if stamp.get("kind") == "bio folds":
            raise SubquadError(f"{directory}: holds a cross-validation; give one of its folds, {directory / 'fold-0'}")
        raise SubquadError(f"{directory}: holds a model of `subquad {stamp.get('kind')}`, not of `subquad {kind}`")
    if not isinstance(stamp.get("format"), int) or stamp["format"] < 1:
        raise SubquadError(
            f"{directory}: {CONFIG} has no valid format number ({stamp.get('format')!r}); the folder is damaged, or "
            "from a version before the first release; make it again"
        )
    if stamp["format"] > FORMAT:
        raise SubquadError(
            f"{directory}: format {stamp.get('format')} is newer than this subquad {__version__} reads "
            f"(up to {FORMAT}); upgrade subquad"
        )
    if not (directory / METRICS).is_file():
        raise SubquadError(f"{directory}: this run is not finished; run the command that started it again")
    if not (directory / WEIGHTS).is_file():
        raise SubquadError(f"{directory}: no {WEIGHTS} in it; the weights are missing")
    return config


def load_tensors(directory: Path | str) -> "dict[str, Tensor]":
    """Return the weights of a model folder.

    Raises:
        SubquadError: They are missing or damaged, not finite, or those of another run.
    """
    tensors, metadata = read_tensors_and_metadata(Path(directory) / WEIGHTS)
    _check_same_run(Path(directory), metadata)
    _check_finite(Path(directory), [name for name, tensor in tensors.items() if not is_finite(tensor)])
    return tensors


def check_weights(directory: Path | str) -> None:
    """Check the weights of a model folder that another library will read.

    Raises:
        SubquadError: They are missing or damaged, not finite, or those of another run.
    """
    metadata, wrong = verify_tensors(Path(directory) / WEIGHTS)
    _check_same_run(Path(directory), metadata)
    _check_finite(Path(directory), wrong)


def _check_finite(directory: Path, wrong: Sequence[str]) -> None:
    if wrong:
        raise SubquadError(f"{directory / WEIGHTS}: {wrong[0]} holds values that are not finite; train it again")


def _check_same_run(directory: Path, metadata: Mapping[str, str]) -> None:
    expected = stamp_of(read_json(directory / CONFIG), directory).get(CHECKSUM)
    if expected is not None and metadata.get(CHECKSUM) != expected:
        raise SubquadError(
            f"{directory}: {WEIGHTS} does not belong to {CONFIG} (their checksums differ); copy the whole folder again"
        )
