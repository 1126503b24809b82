"""A linearized model from its folder, and text from it; each new token costs the same, however long the text is."""

import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, TextStreamer
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.adapter import ADAPTER_TYPE, open_adapter
from subquad.llm.models.auto import MODEL_TYPE
from subquad.llm.models.convert import open_folder
from subquad.llm.settings import GenerateSettings
from subquad.runs.folder import load_config
from subquad.runs.storage import as_folder, read_json

__all__ = ["continue_text", "generate", "load", "merge"]


def load(directory: Path | str, *, base: str | Path | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer of a folder that `linearize` wrote, ready for transformers' `generate`.

    Args:
        directory: The folder of a model, or of an adapter.
        base: The checkpoint that an adapter belongs to; None for the place where it was.

    Raises:
        SubquadError: the folder is missing, unfinished or not of this kind, or the checkpoint is another one.
    """
    path = Path(directory) / "config.json"
    if path.is_file() and read_json(path).get("model_type") == ADAPTER_TYPE:
        return open_adapter(Path(directory), load_config(directory, "llm"), base=base)
    if base is not None:
        raise SubquadError(f"{directory}: a whole model and no adapter; it needs no --base")
    return open_folder(directory)


def merge(adapter: Path | str, out: Path | str, *, base: str | Path | None = None, force: bool = False) -> None:
    """Write the whole model of an adapter, a folder as `save_pretrained` writes it.

    Args:
        adapter: The folder of the adapter.
        out: A new folder.
        base: The checkpoint; None for the place where it was.
        force: Replace what is in the folder.

    Raises:
        SubquadError: as `load` does, or the folder is not empty.
    """
    out = as_folder(out)
    if out.exists() and any(out.iterdir()) and not force:
        raise SubquadError(f"{out}: not empty; name another folder with --out, or replace it with --force")
    if out.exists() and any(out.iterdir()) and not _is_linear(out):
        raise SubquadError(f"{out}: holds other things than a linearized model; name another folder with --out")
    model, tokenizer = load(adapter, base=base)
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    if out.exists():
        shutil.rmtree(out)
    temporary.rename(out)


def _is_linear(folder: Path) -> bool:
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("model_type") in (MODEL_TYPE, ADAPTER_TYPE)


def generate(
    directory: Path | str,
    prompt: str,
    settings: GenerateSettings = GenerateSettings(),
    *,
    seed: int = 0,
    is_printed: bool = False,
) -> str:
    """Return the prompt's continuation by the model in `directory`; where `is_printed`, it is printed as it grows.

    Raises:
        SubquadError: the folder is no finished model, or the prompt has no token in it.
    """
    model, tokenizer = load(directory)
    return continue_text(model, tokenizer, prompt, settings, seed=seed, is_printed=is_printed)


def continue_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    settings: GenerateSettings = GenerateSettings(),
    *,
    seed: int = 0,
    is_printed: bool = False,
) -> str:
    """Return the prompt's continuation by a model, in whatever mode its attention is."""
    device = next(model.parameters()).device
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(device).long()
    if not ids.shape[1]:
        raise SubquadError("--prompt: there is no text to continue in it")
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and ids.shape[1] + settings.max_new_tokens > longest:
        raise SubquadError(
            f"--max-new-tokens {settings.max_new_tokens}: with the prompt's {ids.shape[1]} tokens more than the "
            f"{longest} that the model was made for"
        )
    is_sampled = settings.temperature > 0
    base = model.generation_config
    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=is_sampled,
        temperature=settings.temperature if is_sampled else None,
        top_k=0 if is_sampled else None,
        bos_token_id=base.bos_token_id,
        eos_token_id=base.eos_token_id,
        # the first ending token, where the model has no padding of its own: one text needs no padding
        pad_token_id=base.pad_token_id if base.pad_token_id is not None else _first(base.eos_token_id),
    )
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if is_printed else None
        given = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=streamer
        )
    return tokenizer.decode(given[0, ids.shape[1] :], skip_special_tokens=True)


def _first(token: int | list[int] | None) -> int | None:
    return token[0] if isinstance(token, list) else token
