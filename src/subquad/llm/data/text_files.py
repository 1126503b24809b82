"""Checks of text files before they are tokenized. Without torch, so that errors come at once."""

from collections.abc import Sequence
from pathlib import Path

from subquad.errors import SubquadError
from subquad.llm.data.conversations import Rendered
from subquad.llm.data.readers import open_documents
from subquad.runs.storage import fingerprint


def check_text(
    files: Sequence[Path],
    evaluation_files: Sequence[Path] = (),
    *,
    text_key: str = "text",
    weights: Sequence[float] = (),
) -> None:
    """Read the first rows of each file, so that unusable files are reported before a model is opened.

    Raises:
        SubquadError: A file cannot be read, or the number of weights is wrong.
    """
    check_weights(files, weights)
    # whether a role is valid depends on the tokenizer, which is not open yet
    empty = Rendered(text="", answers=(), has_special_tokens=False)
    for path in (*files, *evaluation_files):
        next(open_documents(path, text_key, render=lambda messages: empty).documents, None)


def check_weights(files: Sequence[Path], weights: Sequence[float]) -> None:
    """Check that there are files, and a weight for each or none.

    Raises:
        SubquadError: There are not.
    """
    if not files or (weights and len(weights) != len(files)):
        raise SubquadError(f"{len(weights)} weights for {len(files)} training texts")


def check_held_out(files: Sequence[Path], evaluation_files: Sequence[Path]) -> None:
    """Check that no file is both learned and measured, whatever its names.

    Args:
        files: Training text.
        evaluation_files: Text for evaluation; without any, a part of the training text.

    Raises:
        SubquadError: A file is.
    """
    # without a text for evaluation, a part of one copy is held out, and the other copy is learned
    pairs = [(learned, measured) for learned in files for measured in evaluation_files]
    pairs = pairs or [(file, earlier) for number, file in enumerate(files) for earlier in files[:number]]
    for learned, measured in pairs:
        is_same = learned.stat().st_size == measured.stat().st_size and fingerprint(learned) == fingerprint(measured)
        if is_same:
            raise SubquadError(f"{measured} is the same text as {learned}, which is learned; measure on another one")
