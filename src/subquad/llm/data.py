"""Text files as sequences of tokens: read whole, tokenised once, packed end to end; memory is 8 bytes a token.

Axes: N sequences, T positions.
"""

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subquad.errors import SubquadError, raise_mistakes

__all__ = ["Text", "order", "prepare", "read_documents"]

HELD_OUT = 0.1
VALIDATION_SEQUENCES = 8
PIECE = 65_536
KINDS = (".txt", ".md", ".jsonl", ".json")


@dataclass(frozen=True, kw_only=True)
class Text:
    """Sequences to learn from, and sequences that are never learnt from."""

    train: Int[Tensor, "N T"]
    """Training sequences."""
    validation: Int[Tensor, "M T"]
    """Sequences put aside from the end of the training text; empty where nobody asked for them."""
    held_out: Int[Tensor, "K T"]
    """Sequences that perplexities are measured on."""
    held_out_from: str
    """What the held-out text is, in words."""


def prepare(
    tokenizer: PreTrainedTokenizerBase,
    files: Sequence[Path],
    evaluation_files: Sequence[Path] = (),
    *,
    length: int,
    text_key: str = "text",
    has_validation: bool = False,
) -> Text:
    """Return the files' text as sequences of `length` tokens.

    Held out is the text of `evaluation_files`, else the last tenth of the text by position.

    Raises:
        SubquadError: a file is missing, empty or of an unknown kind, or a part is shorter than one sequence.
    """
    tokens = _tokenise(tokenizer, files, text_key)
    names = ", ".join(path.name for path in files)
    if evaluation_files:
        held_out = _tokenise(tokenizer, evaluation_files, text_key)
        held_out_from = ", ".join(path.name for path in evaluation_files)
    else:
        cut = len(tokens) - max(int(len(tokens) * HELD_OUT), min(length, len(tokens) // 2))
        tokens, held_out = tokens[:cut], tokens[cut:]
        held_out_from = f"the last tenth of {names}"
    remedy = "give more text, or a smaller --length"
    if len(tokens) < length:
        part = "" if evaluation_files else " (after the last tenth was held out)"
        raise SubquadError(
            f"{names}: {len(tokens)} tokens to learn from{part}, shorter than one sequence of {length}; {remedy}"
        )
    if len(held_out) < length:
        raise SubquadError(
            f"{held_out_from}: {len(held_out)} held-out tokens, shorter than one sequence of {length}; {remedy}"
        )
    train = _pack(tokens, length)
    aside = min(VALIDATION_SEQUENCES, len(train) // 10) if has_validation else 0
    if has_validation and not aside:
        raise SubquadError(
            f"{names}: {len(train)} training sequences are too few to put some aside for --validate-every; {remedy}"
        )
    return Text(
        train=train[: len(train) - aside],
        validation=train[len(train) - aside :],
        held_out=_pack(held_out, length),
        held_out_from=held_out_from,
    )


def order(sequences: int, *, batch: int, seed: int, epoch: int) -> list[Int[Tensor, " B"]]:
    """Return an epoch's batches as indices of sequences: a shuffle that depends on seed and epoch alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled = torch.randperm(sequences, generator=generator)
    whole = [shuffled[start : start + batch] for start in range(0, sequences, batch)]
    # a short last batch would weigh its sequences more than the others
    return whole[:-1] if len(whole) > 1 and len(whole[-1]) < batch else whole


def read_documents(path: Path, text_key: str = "text") -> Iterator[str]:
    """Yield the documents of a text file: the whole of a `.txt`, each object's text of a `.jsonl` or `.json`.

    Raises:
        SubquadError: no such file, an unknown kind, no text under `text_key`, or bytes that are no UTF-8.
    """
    if not path.is_file():
        raise SubquadError(f"{path}: no such file")
    kind = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    plain_kind = kind.removesuffix(".gz").lower()
    if plain_kind not in KINDS:
        raise SubquadError(
            f"{path}: text comes as {', '.join(KINDS)}, each also as .gz; this ends in {path.suffix or 'nothing'}"
        )
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            content = file.read()
    except UnicodeDecodeError as error:
        raise SubquadError(f"{path}: byte {error.start} is not UTF-8; save the text as UTF-8") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise SubquadError(f"{path}: no gzip file, or cut short ({error})") from error
    if not content.strip():
        raise SubquadError(f"{path}: the file is empty")
    if plain_kind in (".txt", ".md"):
        yield content
    else:
        yield from _objects(path, content, text_key)


def _objects(path: Path, content: str, text_key: str) -> Iterator[str]:
    rows, mistakes = list(_rows(path, content)), []
    for number, row in rows:
        if not isinstance(row, dict):
            mistakes.append(f"{path}, row {number}: {type(row).__name__} where an object with {text_key!r} is wanted")
        elif not isinstance(row.get(text_key), str):
            held = ", ".join(map(repr, row)) or "nothing"
            mistakes.append(f"{path}, row {number}: no text under {text_key!r}; it holds {held} (see --text-key)")
    raise_mistakes(f"{path}: {len(mistakes)} of {len(rows)} rows cannot be used", mistakes)
    for _, row in rows:
        yield row[text_key]


def _rows(path: Path, content: str) -> Iterator[tuple[int, object]]:
    # a `.json` may hold one list, one object, or an object a line
    if content.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(content), start=1)
        except json.JSONDecodeError as error:
            raise SubquadError(f"{path}, line {error.lineno}: this is not JSON ({error.msg})") from error
        return
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise SubquadError(f"{path}, line {number}: this is not JSON ({error.msg})") from error


def _tokenise(tokenizer: PreTrainedTokenizerBase, files: Sequence[Path], text_key: str) -> Int[Tensor, " T"]:
    end = tokenizer.eos_token_id
    parts: list[int] = []
    for path in files:
        for document in read_documents(path, text_key):
            ids = _ids(tokenizer, document)
            parts += ids
            if end is not None and (not ids or ids[-1] != end):
                parts.append(end)
    return torch.tensor(parts, dtype=torch.long)


def _ids(tokenizer: PreTrainedTokenizerBase, document: str) -> list[int]:
    ids = tokenizer(_pieces(document), add_special_tokens=False, verbose=False)["input_ids"]
    start = tokenizer("", add_special_tokens=True)["input_ids"][:1]
    is_begun = start and start[0] == tokenizer.bos_token_id and start[0] != tokenizer.eos_token_id
    return [*(start if is_begun else []), *(token for piece in ids for token in piece)]


def _pieces(document: str) -> list[str]:
    # one call over a long text is slow in some tokenizers; a cut after a line's end leaves the tokens as they are
    pieces, start = [], 0
    for line_end in re.finditer(r"(?<=\S)\n(?=\w)", document):
        if line_end.end() - start >= PIECE:
            pieces.append(document[start : line_end.end()])
            start = line_end.end()
    return [*pieces, document[start:]]


def _pack(tokens: Int[Tensor, " T"], length: int) -> Int[Tensor, "N T"]:
    return tokens[: len(tokens) // length * length].reshape(-1, length)
