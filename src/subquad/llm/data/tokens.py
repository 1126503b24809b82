"""Documents as one stream of tokens: 4 bytes per token (5 with a loss mask) in memory or in a file.

Axes: T tokens, D documents.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subquad.llm.data.conversations import render
from subquad.llm.data.mapped import GrowingRow
from subquad.llm.data.readers import Document, Source, open_documents, tokenizer_errors
from subquad.progress import track

TrainOn = Literal["all", "answers"]

CHUNK_CHARACTERS = 65_536
"""Characters of one text given to the tokenizer."""
BATCH_CHARACTERS, BATCH_TEXTS = 524_288, 1024
"""Characters and texts in one call of the tokenizer, at most."""
PROGRESS_BYTES = 4_000_000
"""Size of the files from which on a progress bar is shown."""

BOUNDARIES = (re.compile(r"\n(?=[^\n])"), re.compile(r"(?<=\S)(?=\s)"))
"""Where a text may be split: after a line, otherwise before white space."""
TRIALS, CONTEXT = 8, 256
"""Places tried for each kind of boundary, and characters on each side whose tokens are compared."""


@dataclass(frozen=True, kw_only=True)
class TokenStream:
    """The tokens of documents, one after the other."""

    ids: Int[Tensor, " T"]
    """The tokens, int32."""
    starts: Int[Tensor, " D"]
    """Position of each document's first token."""
    loss_mask: Bool[Tensor, " T"]
    """Whether a token counts in the loss."""
    descriptions: tuple[str, ...] = ()
    """How each file was read, for messages."""
    has_answers: bool = False
    """Whether some documents are conversations."""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> "TokenStream":
        """Return the tokens from `start` up to `stop`, without a copy."""
        within = self.starts[(self.starts >= start) & (self.starts < stop)] - start
        return TokenStream(
            ids=self.ids[start:stop],
            starts=within,
            loss_mask=self.loss_mask[start:stop],
            descriptions=self.descriptions,
            has_answers=self.has_answers,
        )


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    files: Sequence[Path],
    text_key: str = "text",
    *,
    train_on: TrainOn = "all",
    folder: Path | None = None,
    quiet: bool = False,
) -> TokenStream:
    """Tokenize the documents of files in order, each followed by the end-of-text token.

    Args:
        tokenizer: Its chat template formats conversations.
        files: Files that `open_documents` reads.
        text_key: Key or column of the text.
        train_on: `answers` limits the loss mask of conversations to their answers.
        folder: Folder for files with the tokens, which memory then does not hold; they have no names.
        quiet: Show no progress bar.

    Raises:
        SubquadError: A file cannot be read, or answers are requested and the tokenizer gives no character offsets.
    """
    sizes = [path.stat().st_size if path.is_file() else 0 for path in files]
    descriptions, has_answers = [], False
    quiet = quiet or sum(sizes) < PROGRESS_BYTES
    with (
        tokenizer_errors(tokenizer),
        closing(_StreamBuilder(tokenizer, train_on, folder)) as builder,
        track("reading text, in kB", sum(sizes) // 1000, quiet=quiet) as advance,
    ):
        shown = 0

        def on_progress(position: int, *, before: int) -> None:
            nonlocal shown
            now = (before + position) // 1000
            if now > shown:
                advance(now - shown)
                shown = now

        for number, path in enumerate(files):
            source = open_documents(
                path,
                text_key,
                render=partial(render, tokenizer, with_answers=train_on == "answers"),
                on_progress=partial(on_progress, before=sum(sizes[:number])),
            )
            for document in source.documents:
                builder.add(document)
            builder.flush()
            descriptions.append(_describe(path, source, tokenizer))
            has_answers = has_answers or source.is_conversation
        return builder.finish(tuple(descriptions), has_answers=has_answers)


def _describe(path: Path, source: Source, tokenizer: PreTrainedTokenizerBase) -> str:
    how = ""
    if source.is_conversation:
        how = ", in the chat template of the model's tokenizer"
        if not tokenizer.chat_template:
            how = ", joined by blank lines, since the model's tokenizer has no chat template"
    return f"{path.name}: {source.description}{how}"


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    text: str
    prefix_tokens: int
    """Tokens at the front to be dropped; they keep the tokenizer from treating the chunk as the start of a text."""
    answers: tuple[tuple[int, int], ...] | None
    is_first: bool
    is_last: bool
    has_special_tokens: bool


class _StreamBuilder:
    """Collects tokens in growing rows; chunks wait until there are enough for one call of the tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, train_on: TrainOn, folder: Path | None = None) -> None:
        self.tokenizer, self.train_on = tokenizer, train_on
        end = tokenizer.eos_token_id
        self.end = end if isinstance(end, int) else None
        start = tokenizer("", add_special_tokens=True)["input_ids"][:1]
        has_start = start and start[0] == tokenizer.bos_token_id and start[0] != self.end
        self.start: list[int] = list(start) if has_start else []
        self.ids, self.starts, self.loss_mask = (GrowingRow(kind, folder) for kind in "iqb")
        self.waiting: list[_Chunk] = []
        self.size = 0

    def add(self, document: Document) -> None:
        # answers are spans of the whole text, so a conversation is not split
        if document.answers is None:
            chunks = _split(self.tokenizer, document.blocks)
        else:
            chunks = iter([("", "".join(document.blocks), True)])
        for number, (prefix, text, is_last) in enumerate(chunks):
            self._put(
                _Chunk(
                    text=prefix + text,
                    prefix_tokens=len(_encode(self.tokenizer, prefix)),
                    answers=document.answers,
                    is_first=not number,
                    is_last=is_last,
                    has_special_tokens=document.has_special_tokens,
                )
            )

    def _put(self, chunk: _Chunk) -> None:
        self.waiting.append(chunk)
        self.size += len(chunk.text)
        if self.size >= BATCH_CHARACTERS or len(self.waiting) >= BATCH_TEXTS:
            self.flush()

    def flush(self) -> None:
        """Tokenize the waiting chunks."""
        if not self.waiting:
            return
        with_offsets = self.train_on == "answers"
        encoded = self.tokenizer(
            [chunk.text for chunk in self.waiting],
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=with_offsets,
            verbose=False,
        )
        for number, chunk in enumerate(self.waiting):
            self._write(chunk, encoded["input_ids"][number], encoded["offset_mapping"][number] if with_offsets else [])
        self.waiting, self.size = [], 0

    def _write(self, chunk: _Chunk, ids: list[int], offsets: list[tuple[int, int]]) -> None:
        answers = chunk.answers if self.train_on == "answers" else None
        if chunk.is_first:
            self.starts.extend([len(self.ids)])
            if not chunk.has_special_tokens and ids[: len(self.start)] != self.start:
                self._append(self.start, b"\1" if answers is None else b"\0")
        mask = b"\1" if answers is None else bytes(any(a < to and at < b for a, b in answers) for at, to in offsets)
        self._append(ids[chunk.prefix_tokens :], mask)
        if chunk.is_last and self.end is not None and not self._has_end(chunk):
            # the end token after an answer counts in the loss, or the model would never learn to stop
            is_after = answers is None or (answers and answers[-1][1] >= len(chunk.text.rstrip()))
            self._append([self.end], b"\1" if is_after else b"\0")

    def _append(self, ids: list[int], mask: bytes) -> None:
        self.ids.extend(ids)
        if self.train_on == "answers":
            self.loss_mask.extend(mask * len(ids) if len(mask) == 1 else mask)

    def _has_end(self, chunk: _Chunk) -> bool:
        if chunk.has_special_tokens and chunk.text.rstrip().endswith(str(self.tokenizer.eos_token)):
            return True
        return len(self.ids) > (self.starts.last or 0) and self.ids.last == self.end

    def close(self) -> None:
        """Close the files."""
        for row in (self.ids, self.starts, self.loss_mask):
            row.close()

    def finish(self, descriptions: tuple[str, ...], *, has_answers: bool) -> TokenStream:
        """Return all tokens."""
        ids = self.ids.finish(torch.int32)
        # without answers the mask is one value, expanded
        is_all = not len(self.loss_mask)
        return TokenStream(
            ids=ids,
            starts=self.starts.finish(torch.int64),
            loss_mask=torch.ones(1, dtype=torch.bool).expand(len(ids)) if is_all else self.loss_mask.finish(torch.bool),
            descriptions=descriptions,
            has_answers=has_answers,
        )


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []


def _split(tokenizer: PreTrainedTokenizerBase, blocks: Iterable[str]) -> Iterator[tuple[str, str, bool]]:
    """Split a text where that does not change its tokens, since one call over a long text is slow in some tokenizers.

    Yields a prefix that the chunk needs, the chunk, and whether it is the last. A text without such places stays whole.
    """
    buffer, prefix, enough = "", "", 2 * CHUNK_CHARACTERS
    for block in blocks:
        buffer += block
        while len(buffer) >= enough:
            cut = _find_cut(tokenizer, buffer)
            if cut is None:
                # the next trial waits for twice the text, so that all trials together stay cheap
                enough = 2 * len(buffer)
                break
            yield prefix, buffer[: cut[0]], False
            buffer, prefix, enough = buffer[cut[0] :], cut[1], 2 * CHUNK_CHARACTERS
    yield prefix, buffer, True


def _find_cut(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, str] | None:
    """Return a place that splits no token, and the prefix that the right side needs.

    Some tokenizers treat every chunk as the start of a text and insert a space before it, unless it follows a line end.
    """
    for boundary in BOUNDARIES:
        for match in islice(boundary.finditer(text, CHUNK_CHARACTERS), TRIALS):
            at = match.end()
            left, right = text[at - min(at, CONTEXT) : at], text[at : at + CONTEXT]
            together, alone = _encode(tokenizer, left + right), _encode(tokenizer, left)
            for prefix in ("", "\n"):
                dropped, rest = _encode(tokenizer, prefix), _encode(tokenizer, prefix + right)
                if rest[: len(dropped)] == dropped and together == alone + rest[len(dropped) :]:
                    return at, prefix
    return None
