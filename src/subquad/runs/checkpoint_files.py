"""Files that the folder of a transformers checkpoint names; transformers would also open those outside the folder."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError
from subquad.runs.damage import damage_as_error
from subquad.runs.storage import read_json

__all__ = ["check_no_other_files"]

INDEXES = "*.index.json"
PEFT_CONFIG = "adapter_config.json"
CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
WEIGHTS = "transformers_weights"
"""Entry of a config with the file that is opened in place of the weights."""
VERSIONS = "fast_tokenizer_files"
"""Entry of a tokenizer's config with files for versions of transformers."""
IGNORED = ("added_tokens_file", "chat_template_file", "special_tokens_map_file", "tokenizer_config_file")
"""Entries of a tokenizer's config that name places where it was once saved; transformers opens none of them."""


def check_no_other_files(folder: Path, *, of_gguf: bool = False) -> None:
    """Check that a checkpoint names no files outside its folder, and no other model, that would be opened with it.

    A folder that someone else made must not choose which files of this machine are read.

    Args:
        folder: Folder of the checkpoint; nothing is checked if there is none.
        of_gguf: The checkpoint is a GGUF file in the folder, with which transformers opens neither `config.json` nor
            other weights.

    Raises:
        SubquadError: It does.
    """
    if (folder / PEFT_CONFIG).is_file() and (of_gguf or (folder / CONFIG).is_file()):
        raise SubquadError(
            f"{folder / PEFT_CONFIG}: an adapter of PEFT beside a model, which transformers would change by it or "
            "replace by another model; move one of them to another folder"
        )
    for index in () if of_gguf else sorted(folder.glob(INDEXES)):
        with damage_as_error(f"{index}: damaged"):
            for file in sorted(set(read_json(index)["weight_map"].values())):
                _check_name(index, "weight_map", file)
    for place, name, value in _entries(folder, (TOKENIZER_CONFIG,) if of_gguf else (CONFIG, TOKENIZER_CONFIG)):
        if name in (WEIGHTS, VERSIONS):
            for file in value if isinstance(value, list) else [value]:
                _check_name(place, name, file)
        elif name in IGNORED or not name.endswith("_file") or not isinstance(value, str):
            continue
        elif _is_elsewhere(value, folder):
            raise SubquadError(f"{place}: {name} names a file outside its folder, {value}; remove this entry")


def _entries(folder: Path, files: Iterable[str]) -> Iterator[tuple[Path, str, Any]]:
    """Yield file, name and value of the entries that may name files."""
    for place in map(folder.joinpath, files):
        content = read_json(place) if place.is_file() else None
        for name, value in content.items() if isinstance(content, dict) else ():
            if value is not None and (name == WEIGHTS if place.name == CONFIG else name != WEIGHTS):
                yield place, name, value


def _check_name(place: Path, entry: str, file: Any) -> None:
    # a separator of Windows is one on Windows only, but in no name that a library writes
    if not isinstance(file, str) or Path(file).name != file or "\\" in file:
        raise SubquadError(f"{place}: {entry} names a file outside its folder, {file}; give names of files beside it")


def _is_elsewhere(file: str, folder: Path) -> bool:
    """Return whether `file` exists and is not in the folder; names of files that are gone are common and harmless."""
    # a long text is no name of a file
    try:
        # transformers looks for relative names in the folder, and then where the process is
        places = [folder / file, Path(file)]
        found = next((place for place in places if place.is_file() and _is_in(place, folder)), None)
        return found is None and Path(file).is_file()
    except (OSError, ValueError):
        return False


def _is_in(file: Path, folder: Path) -> bool:
    # the files of a model in the cache of Hugging Face are links to a folder beside it
    parent = file.parent.resolve()
    return folder.resolve() in (parent, *parent.parents)
