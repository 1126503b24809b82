"""CRC-32 of the files of a saved folder, by which damage and exchanged files are noticed; reading costs one pass."""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.damage import damage_as_error
from subquad.runs.storage import read_json, write_json

__all__ = ["check_config", "check_part", "check_parts", "checksum_of", "checksums_of_run", "write_checksums"]

CONFIG, METRICS = "config.json", "metrics.json"

PARTS = "parts"
"""Entry of `subquad` in `config.json` with the checksums of files, and of the rest of `config.json` itself."""
FILES = (
    *("*.skops", "tokenizer*", "generation_config.json", "chat_template*", "additional_chat_templates/*"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
)
"""Files of a model beside its weights, whose checksums are in `config.json`: baselines, and those of transformers."""
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
    return {CONFIG: _of_config(config), METRICS: _of_values(metrics), **_of_files(directory, FILES)}


def write_checksums(directory: Path) -> None:
    """Write the checksums of a model without an entry of a run in its `config.json`, and of samples of its weights."""
    write_json(directory / CHECKSUMS, _of_files(directory, ("*.json", f"*{WEIGHTS}", *FILES)))


def _of_files(directory: Path, patterns: Iterable[str]) -> dict[str, str]:
    files = {path for pattern in patterns for path in directory.glob(pattern) if path.is_file()}
    return {path.relative_to(directory).as_posix(): _found(path) for path in sorted(files)}


def _of_config(config: Mapping[str, Any]) -> str:
    """Return the checksum of the values in a `config.json` without its checksums of files, however it is written."""
    stamp = {name: value for name, value in config["subquad"].items() if name != PARTS}
    return _of_values({**config, "subquad": stamp})


def _of_values(values: Any) -> str:
    return checksum_of(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


def check_config(config: Mapping[str, Any], directory: Path) -> None:
    """Check that a `config.json` of subquad has the values with which it was written.

    Args:
        config: Its content.
        directory: The folder.

    Raises:
        SubquadError: It has others; one from before checksums is not checked.
    """
    expected = _parts_of(config["subquad"], directory / CONFIG).get(CONFIG)
    _check(directory / CONFIG, _of_config(config), expected, record=CONFIG)


def check_part(path: Path) -> None:
    """Check that a file of a model beside its weights, such as a fitted baseline, is that of the run in its folder.

    Raises:
        SubquadError: It is that of another run or model; a missing one is left to its reader.
    """
    found, place = _recorded(path.parent)
    if found.get(path.name) is not None and path.is_file():
        _check(path, _found(path), found[path.name], record=place)


def check_parts(directory: Path, *names: str) -> None:
    """Check all files of a folder, beside weights of a run, whose checksums were written with them.

    Args:
        directory: The folder.
        *names: Check these files only.

    Raises:
        SubquadError: One is missing, damaged or that of another model; files from before checksums are not checked, nor
            is a merged model that was saved again, for which there is a warning.
    """
    found, place = _recorded(directory)
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
            _check(path, _found(path), expected, record=place)


def _recorded(directory: Path) -> tuple[Mapping[str, Any], str]:
    """Return the checksums of the files of a folder but those of a run's config and weights, and where they are."""
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


def _check(path: Path, found: str, expected: Any, *, record: str) -> None:
    """Check that a file has the checksum that was written with it.

    Args:
        path: The file.
        found: Its checksum.
        expected: The one that was written; None for a file from before, or whose entry someone deleted.
        record: Where that is written, for the message.

    Raises:
        SubquadError: It has not.
    """
    if expected is None or found == expected:
        return
    if path.name == record:
        what = "changed since it was written (its checksum differs)"
    else:
        what = f"does not belong to {record} (their checksums differ)"
    where = f'under "{PARTS}" in {record}' if record == CONFIG else f"in {record}"
    raise SubquadError(
        f"{path}: {what}; it is damaged, or that of another model: copy the whole folder again. If it was changed on "
        f'purpose, delete the entry "{path.name}" {where}'
    )
