"""CRC-32 of the files of a saved folder, by which damage and exchanged files are noticed; reading costs one pass.

Every file that is in a run's folder when the run is finished gets a checksum, unless `UNCHECKED` lists it, and all of
them are compared whenever the run is opened.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.damage import damage_as_error
from subquad.runs.storage import read_json, write_json

__all__ = [
    "UNCHECKED",
    "check_all",
    "check_config",
    "check_if_present",
    "check_values",
    "checksum_of",
    "checksums_of_run",
    "is_checked",
    "write_checksums",
]

CONFIG, METRICS = "config.json", "metrics.json"

PARTS = "parts"
"""Entry of `subquad` in `config.json` with the checksums of files, and of the rest of `config.json` itself."""
UNCHECKED = (
    # with a checksum of their own: in config.json, or in the header
    *(CONFIG, METRICS, "model.safetensors", "test_scores.safetensors"),
    # texts, pages, tables and logs, which people may change or keep there
    *("*.md", "*.html", "*.csv", "*.log", "*.out", "*.err"),
    # records of a fit, from which pages are written and unfinished runs are resumed
    *("history.jsonl", "test.json", "bootstrap.json", "validation.json", "evaluations.json", "budget.json"),
    *("learning_rate.json", "fold-*/*", "rows-*/*"),
    # of unfinished runs, removed at their end
    *("checkpoint-*.safetensors", "feature_maps*.safetensors", "blockwise.json", "states-*.bin", "jets/*"),
)
"""Patterns of the files of a run that have no entry under `parts`, which all others have."""
CHECKSUMS = "subquad_checksums.json"
"""The checksums of a model that has no entry of a run in its `config.json`, as `subquad llm merge` writes it."""
WEIGHTS = ".safetensors"
"""End of the names of weights, of which samples are compared: by them a model that was saved again is recognised."""
SAMPLES, SAMPLE = 64, 4096
"""Number of samples of a file of weights, and bytes of each."""
CHUNK = 1 << 22
"""Bytes that are read at once."""


def checksum_of(content: Path | bytes) -> str:
    """Return the CRC-32 of a file or of a content, 8 hex digits."""
    if isinstance(content, bytes):
        return f"{zlib.crc32(content):08x}"
    value = 0
    with content.open("rb") as file:
        while part := file.read(CHUNK):
            value = zlib.crc32(part, value)
    return f"{value:08x}"


def checksums_of_run(directory: Path, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksums of a run's files beside its weights.

    Args:
        directory: Its folder, with the files of the model.
        config: `config.json` as JSON values, which is written later.
        metrics: `metrics.json` as JSON values, which is written later.
    """
    return {CONFIG: _of_config(config), METRICS: _of_values(metrics), **_of_files(directory, is_checked)}


def write_checksums(directory: Path) -> None:
    """Write the checksums of a model without an entry of a run in its `config.json`, and of samples of its weights."""
    found = _of_files(directory, lambda name: is_checked(name) or name == CONFIG or name.endswith(WEIGHTS))
    write_json(directory / CHECKSUMS, found)


def is_checked(name: str) -> bool:
    """Return whether a file of a run, given relative to its folder, has an entry under `parts`; see `UNCHECKED`."""
    return not any(fnmatch(name, pattern) for pattern in UNCHECKED)


def _of_files(directory: Path, is_wanted: Callable[[str], bool]) -> dict[str, str]:
    names = (path.relative_to(directory).as_posix() for path in _files(directory))
    return {name: _found(directory / name) for name in sorted(names) if is_wanted(name)}


def _files(directory: Path) -> Iterator[Path]:
    """Yield the files of a folder without hidden ones, such as locks, and those of runs and other models below it."""
    for folder, names, files in os.walk(directory):
        names[:] = [name for name in names if name[0] != "." and not Path(folder, name, CONFIG).exists()]
        yield from (path for name in files if name[0] != "." and (path := Path(folder, name)).is_file())


def _of_config(config: Mapping[str, Any]) -> str:
    """Return the checksum of the values in a `config.json` without its checksums of files, however it is written."""
    stamp = {name: value for name, value in config["subquad"].items() if name != PARTS}
    return _of_values({**config, "subquad": stamp})


def _of_values(values: Any) -> str:
    return checksum_of(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


def check_values(config: Mapping[str, Any], directory: Path) -> None:
    """Check that a `config.json` of subquad has the values with which it was written.

    Args:
        config: Its content.
        directory: The folder.

    Raises:
        SubquadError: It has others; one from before checksums is not checked.
    """
    expected = _parts_of(config["subquad"], directory / CONFIG).get(CONFIG)
    _check(directory, CONFIG, _of_config(config), expected, record=CONFIG)


def check_config(config: Mapping[str, Any], directory: Path) -> None:
    """Check the values of a run's `config.json`, and all files whose checksums are in it but `metrics.json`.

    That one is left to those who read it, since a run without it is unfinished.

    Args:
        config: Content of `config.json`.
        directory: The folder.

    Raises:
        SubquadError: A file is missing, damaged or that of another run; files from before checksums are not checked.
    """
    check_values(config, directory)
    names = [name for name in _parts_of(config["subquad"], directory / CONFIG) if name not in (CONFIG, METRICS)]
    if names and (directory / METRICS).is_file():
        check_all(directory, *names)


def check_if_present(path: Path) -> None:
    """Check that a file of a model beside its weights, such as a fitted baseline, is that of the run in its folder.

    A missing file is left to its reader; `check_all` refuses it.

    Raises:
        SubquadError: It is that of another run or model.
    """
    found, place = _checksums_in(path.parent)
    if found.get(path.name) is not None and path.is_file():
        _check(path.parent, path.name, _found(path), found[path.name], record=place)


def check_all(directory: Path, *names: str) -> None:
    """Check that all files of a folder, beside weights of a run, are there with the checksums that were written.

    Args:
        directory: The folder.
        *names: Check these files only.

    Raises:
        SubquadError: One is missing, damaged or that of another model; files from before checksums are not checked, nor
            is a merged model that was saved again, for which there is a warning.
    """
    found, place = _checksums_in(directory)
    with damage_as_error(f"{directory / place}: its checksums are damaged; copy the whole folder again"):
        changed = _changed_weights(directory, found) if place == CHECKSUMS else None
    if changed:
        if not names:
            say(
                f"warning: {directory / changed}: differs from {CHECKSUMS}, as if the model was saved again after "
                f"`subquad llm merge`; its files are not compared. Delete {CHECKSUMS} if that is right, and copy the "
                "folder again if not."
            )
        return
    for name in names or found:
        path, expected = directory / name, found.get(name)
        with damage_as_error(f"{directory / place}: its checksums are damaged; copy the whole folder again"):
            is_missing = expected is not None and not path.is_file()
        if is_missing:
            raise SubquadError(
                f"{path}: missing, and {place} has its checksum; copy the whole folder again. If it was deleted on "
                f'purpose, delete the entry "{name}" in {place}'
            )
        if expected is not None:
            _check(directory, name, _found(path), expected, record=place)


def _checksums_in(directory: Path) -> tuple[Mapping[str, Any], str]:
    """Return the checksums that were written into a folder, by file, and the name of the file that holds them.

    The second is `config.json` for a run, whose config and weights are checked elsewhere and have no entry here, and
    `subquad_checksums.json` for any other model; without that file there are no checksums.
    """
    record = directory / CHECKSUMS
    config = read_json(directory / CONFIG) if (directory / CONFIG).is_file() else None
    if isinstance(config, dict) and "subquad" in config:
        return {**_parts_of(config["subquad"], directory / CONFIG), CONFIG: None}, CONFIG
    return (_parts_of({PARTS: read_json(record)}, record) if record.is_file() else {}), CHECKSUMS


def _changed_weights(directory: Path, found: Mapping[str, Any]) -> str | None:
    """Return the first file of weights that is missing or differs from its checksum; None if there is none."""
    for name in found:
        path = directory / name
        if name.endswith(WEIGHTS) and (not path.is_file() or _found(path) != found[name]):
            return name
    return None


def _found(path: Path) -> str:
    if path.suffix == WEIGHTS:
        return _of_samples(path)
    # the checksum of metrics is taken before they are written
    return _of_values(read_json(path)) if path.name == METRICS else checksum_of(path)


def _of_samples(path: Path) -> str:
    """Return the checksum of samples of a file at even distances, which are quick to read however large it is."""
    last, value = max(path.stat().st_size - SAMPLE, 0), 0
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(last * number // (SAMPLES - 1))
            value = zlib.crc32(file.read(SAMPLE), value)
    return f"{value:08x}"


def _parts_of(stamp: Any, path: Path) -> Mapping[str, Any]:
    parts = stamp.get(PARTS, {}) if isinstance(stamp, dict) else None
    if not isinstance(parts, dict):
        raise SubquadError(f"{path}: its checksums are damaged; copy the whole folder again")
    return parts


def _check(directory: Path, name: str, found: str, expected: Any, *, record: str) -> None:
    """Check that a file has the checksum that was written with it.

    Args:
        directory: The folder.
        name: The file, relative to the folder.
        found: Its checksum.
        expected: The one that was written; None for a file from before, or whose entry someone deleted.
        record: Where that is written, for the message.

    Raises:
        SubquadError: It has not.
    """
    if expected is None or found == expected:
        return
    if name == record:
        what = "changed since it was written (its checksum differs)"
    else:
        what = f"does not belong to {record} (their checksums differ)"
    where = f'under "{PARTS}" in {record}' if record == CONFIG else f"in {record}"
    raise SubquadError(
        f"{directory / name}: {what}; it is damaged, or that of another model: copy the whole folder again. If it was "
        f'changed on purpose, delete the entry "{name}" {where}'
    )
