"""Files that the folder of a transformers checkpoint names; transformers would also open those outside the folder."""

import json
from pathlib import Path

from subquad.errors import SubquadError, reading

PEFT_CONFIG = "adapter_config.json"
IGNORED = ("added_tokens_file", "chat_template_file", "special_tokens_map_file", "tokenizer_config_file")
"""Entries that name places where a tokenizer was once saved; transformers opens none of them."""


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
    if (folder / PEFT_CONFIG).is_file() and (of_gguf or (folder / "config.json").is_file()):
        raise SubquadError(f"{folder / PEFT_CONFIG}: an adapter of PEFT next to a model; move one of them elsewhere")
    configs = ["tokenizer_config.json", *(() if of_gguf else ("config.json",))]
    indexes = [] if of_gguf else sorted(path.name for path in folder.glob("*.index.json"))
    for path in [folder / name for name in (*configs, *indexes) if (folder / name).is_file()]:
        with reading(path, "JSON"):
            content = json.loads(path.read_text(encoding="utf-8"))
            names = [*content.get("weight_map", {}).values()] if path.name in indexes else []
            for name in ("transformers_weights", "fast_tokenizer_files"):
                value = content.get(name) or []
                names += value if isinstance(value, list) else [value]
            outside = [name for name in names if Path(name).name != name or "\\" in name]
            files = [
                value
                for name, value in content.items()
                if name.endswith("_file") and name not in IGNORED and isinstance(value, str)
            ]
            outside += [value for value in files if _is_elsewhere(value, folder)]
        if outside:
            raise SubquadError(f"{path}: names a file outside its folder, {outside[0]}; remove this entry")


def _is_elsewhere(file: str, folder: Path) -> bool:
    """Return whether `file` exists and is not in the folder; names of files that are gone are common and harmless."""
    try:
        # transformers looks for relative names in the folder, and then where the process is
        return not _is_in(folder / file, folder) and Path(file).is_file() and not _is_in(Path(file), folder)
    # a long text is no name of a file
    except (OSError, ValueError):
        return False


def _is_in(file: Path, folder: Path) -> bool:
    # the files of a model in the cache of Hugging Face are links to a folder next to it
    parent = file.parent.resolve()
    return file.is_file() and folder.resolve() in (parent, *parent.parents)
