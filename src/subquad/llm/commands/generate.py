"""`subquad llm generate`: continue a text with a linearized model."""

import sys
from pathlib import Path

from transformers.cache_utils import Cache

from subquad.errors import SubquadError
from subquad.llm.data.readers import check_characters
from subquad.llm.serving.generation import load_for_generation, stream_text
from subquad.llm.serving.settings import GenerateSettings
from subquad.llm.serving.state_files import check_has_state, check_state_file, read_state, write_state
from subquad.runs.storage import as_file, check_output

__all__ = ["generate"]


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
        is_printed: Also print the prompt, unless it is standard input whose state is saved, and the text as it is
            generated.

    Raises:
        SubquadError: The folder holds no linearized model, the prompt is empty or not UTF-8, the text would be too
            long, or a state cannot be used or written.
    """
    settings = settings or GenerateSettings()
    target = None
    if save_state is not None:
        target = check_output(as_file(save_state, flag="--save-state"), force=force, flag="--save-state")
    if state is not None:
        check_state_file(Path(state))
    if prompt is None and sys.stdin.isatty():
        raise SubquadError("give the text to continue with --prompt, or on standard input")
    text = _standard_input() if prompt is None else prompt
    try:
        check_characters(text)
    except SubquadError as error:
        raise SubquadError(f"--prompt: {error}") from error
    model, tokenizer = load_for_generation(run, settings)
    if state is not None or target is not None:
        check_has_state(model)
    after = None if state is None else read_state(Path(state), run, model)

    def save(tokens: list[int], cache: Cache) -> None:
        if target is not None:
            write_state(target, run, model, tokens, cache)

    deltas = []
    # a text that is only read is not repeated
    echo = text if is_printed and not (prompt is None and target is not None) else ""
    for delta in stream_text(model, tokenizer, text, settings, seed=seed, after=after, on_read=save):
        if is_printed:
            # the prompt too only after it was checked
            print(echo + delta, end="", flush=True)
            echo = ""
        deltas.append(delta)
    if is_printed:
        print()
    return "".join(deltas)


def _standard_input() -> str:
    try:
        text = sys.stdin.read()
        # in some locales Python passes other bytes on as lone surrogates
        text.encode()
    except UnicodeEncodeError as error:
        raise SubquadError(
            f"standard input: the byte at character {error.start} is not UTF-8; give the text as UTF-8"
        ) from error
    except UnicodeDecodeError as error:
        raise SubquadError(
            f"standard input: byte {error.start} is not {error.encoding}; give the text as UTF-8"
        ) from error
    return text
