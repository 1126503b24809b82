"""A checkpoint of transformers with an adapter of PEFT beside it, of which transformers would open another model."""

from pathlib import Path

from subquad.errors import SubquadError


def check_no_adapter(folder: Path, *, of_gguf: bool = False) -> None:
    """Refuse a model, in `config.json` or a GGUF file, with an adapter beside it: the base of that would be opened."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and (of_gguf or (folder / "config.json").is_file()):
        raise SubquadError(f"{adapter}: an adapter of PEFT next to a model; move one of them elsewhere")
