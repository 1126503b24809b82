"""Checks of text files before they are tokenized. Without torch, so that errors come at once."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from subquad.errors import SubquadError, collect_errors, raise_errors
from subquad.llm.data.conversations import Rendered
from subquad.llm.data.readers import PLAIN, open_documents
from subquad.runs.storage import fingerprint

__all__ = ["check_held_out", "check_text", "check_weights"]


def check_text(
    files: Sequence[Path],
    evaluation_files: Sequence[Path] = (),
    *,
    text_key: str = "text",
    weights: Sequence[float] = (),
) -> None:
    """Read the first row of each file, so that unusable files are reported before a model is opened.

    Raises:
        SubquadError: There is no file, files cannot be read, none has keys although one is named, or the number of
            weights is wrong.
    """
    check_weights(files, weights)
    every = (*files, *evaluation_files)
    collect_errors(*(partial(_read_first, path, text_key) for path in every))
    if text_key != "text" and all(path.name.lower().removesuffix(".gz").endswith(PLAIN) for path in every):
        raise SubquadError(f"--text-key {text_key}: all files are plain text, which has no keys; omit it")


def check_weights(files: Sequence[Path], weights: Sequence[float]) -> None:
    """Check that there are files, and a weight for each or none.

    Raises:
        SubquadError: There are not.
    """
    if not files:
        raise SubquadError("--text: no training text was given")
    if weights and len(weights) != len(files):
        names = ", ".join(path.name for path in files)
        raise SubquadError(
            f"--text-weights: {len(weights)} weights for {len(files)} files ({names}); give one for each file of --text"
        )


def check_held_out(files: Sequence[Path], evaluation_files: Sequence[Path]) -> None:
    """Check that no file is both learned and measured, whatever its names.

    Args:
        files: Training text.
        evaluation_files: Text for evaluation; without any, a part of the training text.

    Raises:
        SubquadError: A file is.
    """
    if not evaluation_files:
        # a part of one copy is held out, and the other copy is learned
        resolved = [file.resolve() for file in files]
        twice = [str(file) for place, file in enumerate(files) if resolved[place] in resolved[:place]]
        raise_errors("a text is given twice, so that what is held out of one copy would be learned:", twice)
    sizes = {file.stat().st_size for file in evaluation_files}
    known = {fingerprint(file): file for file in files if file.stat().st_size in sizes}
    same = [(path, known[mark]) for path in evaluation_files if (mark := fingerprint(path)) in known] if known else []
    raise_errors(
        "a text that the model learns says nothing about its perplexity on other texts:",
        [f"--eval-text {path} is the same text as --text {trained}; give another one" for path, trained in same],
    )


def _read_first(path: Path, text_key: str) -> None:
    # whether a role is valid depends on the tokenizer, which is not open yet
    empty = Rendered(text="", answers=(), has_special_tokens=False)
    next(open_documents(path, text_key, render=lambda messages: empty).documents)
