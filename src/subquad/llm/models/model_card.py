"""Metadata of model cards: the YAML block from which the Hugging Face Hub reads a model's licence, base and tags."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData

from subquad.llm.models.location import is_hub_name

INHERITED = ("license", "license_name", "license_link", "language")
"""Entries of the teacher's card that hold for the student too."""
GGUF_NAMES = {
    "license": "general.license",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
    "language": "general.languages",
}
"""The same entries in the header of a `.gguf` file."""
TAGS = ["linear-attention", "lolcats", "arxiv:2410.10254"]


def teacher_metadata(checkpoint: Path) -> dict[str, Any]:
    """Return licence and language from the model card in a checkpoint's folder, or from the header of a `.gguf` file.

    What is not there, or cannot be read, is left out.
    """
    if checkpoint.is_file():
        return _gguf_metadata(checkpoint)
    try:
        text = (checkpoint / "README.md").read_text(encoding="utf-8-sig").lstrip()
        content = yaml.safe_load(text.split("\n---", 1)[0]) if text.startswith("---") else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        # a card is text for people; one that cannot be read is no reason to stop
        return {}
    return _texts({key: content.get(key) for key in INHERITED} if isinstance(content, dict) else {})


def _gguf_metadata(file: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    return _texts({key: fields[name].contents() for key, name in GGUF_NAMES.items() if name in fields})


def _texts(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that are a text or a list of texts."""
    lists = {key: value if isinstance(value, list) else [value] for key, value in entries.items()}
    return {key: entries[key] for key, values in lists.items() if all(isinstance(value, str) for value in values)}


def card_metadata(model: str, teacher: Mapping[str, Any]) -> str:
    """Return the YAML block at the top of a model card.

    Args:
        model: Name or path of the teacher; a name on the Hugging Face Hub becomes the base model.
        teacher: Result of `teacher_metadata`.
    """
    data = ModelCardData(
        base_model=model if is_hub_name(model) else None,
        library_name="subquad",
        pipeline_tag="text-generation",
        tags=TAGS,
        ignore_metadata_errors=True,
        **teacher,
    )
    return f"---\n{data.to_yaml()}\n---\n"
