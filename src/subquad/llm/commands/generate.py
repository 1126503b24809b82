"""`subquad llm generate`: continue a text with a linearized model.

A long text is read once: a file keeps its tokens and the state of each layer after them, whose size does not depend on
the length of the text. The file is safetensors.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError, reading
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.cache import hybrid_layer
from subquad.llm.models.checkpoints import model_fingerprint
from subquad.llm.models.decoding import has_softmax_layers, new_cache
from subquad.llm.models.loading import load, place
from subquad.llm.models.location import folder_of_run
from subquad.llm.serving.generation import stream_text
from subquad.llm.serving.settings import GenerateSettings
from subquad.ops.linattn_state import HybridState
from subquad.runs.storage import check_output, check_present, read_tensors_and_metadata, write_tensors


def generate(
    run: Path | str,
    prompt: str | None = None,
    settings: GenerateSettings | None = None,
    *,
    state: Path | str | None = None,
    save_state: Path | str | None = None,
    force: bool = False,
    seed: int = 0,
    is_printed: bool = False,
) -> str:
    """Return the continuation of a prompt.

    Args:
        run: Folder of a linearized model or an adapter.
        prompt: Text to continue; None reads it from standard input.
        settings: Number of tokens and sampling parameters; None for the defaults.
        state: State of a text that the prompt follows, from `save_state`.
        save_state: File for the state after the prompt.
        force: Overwrite `save_state`.
        seed: Seed of the sampled tokens.
        is_printed: Also print the text as it is generated, after the prompt, unless that is standard input whose state
            is saved.

    Raises:
        SubquadError: The folder holds no linearized model, the prompt is empty or not UTF-8, the text would be too
            long, or a state cannot be used or written.
    """
    settings = settings or GenerateSettings()
    if state is not None:
        check_present(state)
    target = None if save_state is None else check_output(save_state, force=force)
    is_repeated = is_printed and (prompt is not None or target is None)
    text = prompt or ""
    if prompt is None:
        if sys.stdin.isatty():
            raise SubquadError("there is no text to continue; give a prompt, or a text on standard input")
        with reading("standard input", "UTF-8"):
            text = sys.stdin.read()
    model, tokenizer = load(run)
    model = place(model, settings)
    if (state or target) and has_softmax_layers(model):
        raise SubquadError(f"{run}: some layers keep softmax attention, so the model has no state of constant size")
    about = {"model": model_fingerprint(folder_of_run(run)), "dtype": str(model.dtype)}
    before = None if state is None else _read_state(Path(state), model, about, run)
    on_read = None if target is None else partial(_write_state, target, about)
    deltas = []
    for delta in stream_text(model, tokenizer, text, settings, seed=seed, before=before, on_read=on_read):
        if is_printed:
            # the prompt too only after it was checked
            print(text + delta if is_repeated and not deltas else delta, end="", flush=True)
        deltas.append(delta)
    if is_printed:
        print()
    return "".join(deltas)


def _write_state(path: Path, about: dict[str, str], tokens: list[int], cache: Cache) -> None:
    tensors = {"tokens": torch.tensor(tokens)}
    for index in range(len(cache.layers)):
        state = hybrid_layer(cache, index).state
        assert state is not None
        tensors |= {f"layers.{index}.{name}": tensor for name, tensor in state._asdict().items()}
    write_tensors(path, tensors, about)


def _read_state(path: Path, model: PreTrainedModel, about: dict[str, str], run: Path | str) -> tuple[list[int], Cache]:
    with reading(path, "a state of a text"):
        tensors, metadata = read_tensors_and_metadata(path)
        if metadata.get("model") != about["model"]:
            raise SubquadError(f"{path}: not a state of the model {run}")
        if metadata["dtype"] != about["dtype"]:
            raise SubquadError(f"{path}: a state of {metadata['dtype']}, and the model is opened in {about['dtype']}")
        tokens, cache = [int(token) for token in tensors["tokens"].tolist()], new_cache(model)
        for index, attention in enumerate(attention_layers(model)):
            empty = attention.hybrid.empty_state(1, dtype=model.dtype)
            state = [tensors[f"layers.{index}.{name}"].to(model.device) for name in HybridState._fields]
            if [(x.shape, x.dtype) for x in state] != [(x.shape, x.dtype) for x in empty]:
                raise ValueError("it does not fit the model")
            layer = hybrid_layer(cache, index)
            layer.state, layer.length = HybridState(*state), len(tokens)
        return tokens, cache
