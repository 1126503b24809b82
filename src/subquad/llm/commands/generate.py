"""`subquad llm generate`: continue a text with a linearized model."""

from pathlib import Path

from subquad.llm.serving.generation import load_for_generation, stream_text
from subquad.llm.serving.settings import GenerateSettings

__all__ = ["generate"]


def generate(
    run: Path | str,
    prompt: str,
    settings: GenerateSettings | None = None,
    *,
    seed: int = 0,
    is_printed: bool = False,
) -> str:
    """Return the continuation of a prompt.

    Args:
        run: Folder of a linearized model or an adapter.
        prompt: Text to continue.
        settings: Number of tokens and sampling parameters; None for the defaults.
        seed: Seed of the sampled tokens.
        is_printed: Also print the prompt, and the text as it is generated.

    Raises:
        SubquadError: The folder holds no linearized model, the prompt is empty, or the text would be too long.
    """
    settings = settings or GenerateSettings()
    model, tokenizer = load_for_generation(run, settings)
    deltas = []
    if is_printed:
        print(prompt, end="", flush=True)
    for delta in stream_text(model, tokenizer, prompt, settings, seed=seed):
        deltas.append(delta)
        if is_printed:
            print(delta, end="", flush=True)
    if is_printed:
        print()
    return "".join(deltas)
