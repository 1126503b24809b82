"""`subquad llm generate`: continue a text with a linearized model."""

import sys
from pathlib import Path

from subquad.errors import SubquadError, reading
from subquad.llm.models.loading import load, place
from subquad.llm.serving.generation import stream_text
from subquad.llm.serving.settings import GenerateSettings

__all__ = ["generate"]


def generate(
    run: Path | str,
    prompt: str | None = None,
    settings: GenerateSettings | None = None,
    *,
    seed: int = 0,
    is_printed: bool = False,
) -> str:
    """Return the continuation of a prompt.

    Args:
        run: Folder of a linearized model or an adapter.
        prompt: Text to continue; None reads it from standard input.
        settings: Number of tokens and sampling parameters; None for the defaults.
        seed: Seed of the sampled tokens.
        is_printed: Also print the prompt, and the text as it is generated.

    Raises:
        SubquadError: The folder holds no linearized model, the prompt is empty or not UTF-8, or the text would be too
            long.
    """
    settings = settings or GenerateSettings()
    if prompt is None:
        if sys.stdin.isatty():
            raise SubquadError("there is no text to continue; give a prompt, or a text on standard input")
        with reading("standard input", "UTF-8"):
            prompt = sys.stdin.read()
    model, tokenizer = load(run)
    deltas = []
    for delta in stream_text(place(model, settings), tokenizer, prompt, settings, seed=seed):
        if is_printed:
            # the prompt too only after it was checked
            print(delta if deltas else prompt + delta, end="", flush=True)
        deltas.append(delta)
    if is_printed:
        print()
    return "".join(deltas)
