"""Documents as one stream of tokens, tokenised once in batches; memory is 4 bytes a token, 5 with answers, and a batch.

Axes: T tokens, D documents.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from re import Pattern
from re import compile as pattern
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from subquad.errors import SubquadError
from subquad.llm.data.conversations import render
from subquad.llm.data.readers import Document, Source, open_documents
from subquad.progress import Advance, track

__all__ = ["Learn", "Tokens", "tokenise"]

Learn = Literal["all", "answers"]

# characters of one text given to the tokenizer, of one batch of texts, and texts of one batch
PIECE, BATCH, BATCH_TEXTS = 65_536, 524_288, 1024
# bytes that are read in a moment
SHORT = 4_000_000

# where a text may be cut: after the end of a line, else before a space
CUTS: tuple[Pattern[str], ...] = (pattern(r"\n(?=[^\n])"), pattern(r"(?<=\S)(?=\s)"))
TRIALS, AROUND = 8, 256


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Documents end to end."""

    ids: Int[Tensor, " T"]
    """The tokens, of 4 bytes each."""
    starts: Int[Tensor, " D"]
    """Where each document begins."""
    is_learnt: Bool[Tensor, " T"]
    """Whether a token is one to be learnt, or what is given for it."""
    words: tuple[str, ...] = ()
    """How each file was read."""
    has_answers: bool = False
    """Some documents were questions with answers."""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> "Tokens":
        """Return the tokens from `start` up to `stop`; memory is shared."""
        within = self.starts[(self.starts >= start) & (self.starts < stop)] - start
        return Tokens(
            ids=self.ids[start:stop], starts=within, is_learnt=self.is_learnt[start:stop],
            words=self.words, has_answers=self.has_answers,
        )  # fmt: skip


def tokenise(
    tokenizer: PreTrainedTokenizerBase,
    files: Sequence[Path],
    text_key: str = "text",
    *,
    learn: Learn = "all",
    quiet: bool = False,
) -> Tokens:
    """Return the documents of the files, one file after the other, each closed by the token of the end.

    Args:
        tokenizer: Its chat template writes conversations.
        files: What `open_documents` reads.
        text_key: The key or column of the text.
        learn: `answers` asks which tokens are answers; of a text that is no conversation all are learnt.
        quiet: No progress bar.

    Raises:
        SubquadError: a file cannot be used, or the tokenizer does not tell where answers stand.
    """
    if learn == "answers" and not tokenizer.is_fast:
        raise SubquadError(
            "--learn answers: the model's tokenizer does not say where its tokens stand; use --learn all"
        )
    size = sum(path.stat().st_size for path in files if path.is_file())
    stream, words, has_answers = _Stream(tokenizer, learn), [], False
    with track("reading text, in kB", size // 1000, quiet=quiet or size < SHORT) as advance:
        meter = _Meter(advance)
        for path in files:
            source = open_documents(
                path, text_key, render=partial(render, tokenizer, has_answers=learn == "answers"), seen=meter
            )
            for document in source.documents:
                stream.add(document)
            stream.flush()
            meter.next_file(path)
            words.append(_words(path, source, tokenizer))
            has_answers = has_answers or source.is_conversation
    return stream.tokens(tuple(words), has_answers=has_answers)


def _words(path: Path, source: Source, tokenizer: PreTrainedTokenizerBase) -> str:
    how = ""
    if source.is_conversation:
        how = ", in the chat template of the model's tokenizer"
        if not tokenizer.chat_template:
            how = ", with blank lines between, since the model's tokenizer has no chat template"
    return f"{path.name}: {source.words}{how}"


class _Meter:
    """Moves a bar over several files."""

    def __init__(self, advance: Advance) -> None:
        self.advance, self.before, self.shown = advance, 0, 0

    def __call__(self, position: int) -> None:
        now = (self.before + position) // 1000
        if now > self.shown:
            self.advance(now - self.shown)
            self.shown = now

    def next_file(self, path: Path) -> None:
        self.before += path.stat().st_size
        self(0)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    text: str
    given: int
    """Tokens at the front that only keep the tokenizer from taking the piece for the start of a text."""
    answers: tuple[tuple[int, int], ...] | None
    is_first: bool
    is_last: bool
    has_marks: bool


class _Stream:
    """Tokens as they come, in arrays that grow; pieces wait until they are worth a call of the tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, learn: Learn) -> None:
        self.tokenizer, self.learn = tokenizer, learn
        end = tokenizer.eos_token_id
        self.end = end if isinstance(end, int) else None
        start = tokenizer("", add_special_tokens=True)["input_ids"][:1]
        is_begun = start and start[0] == tokenizer.bos_token_id and start[0] != self.end
        self.begin: list[int] = list(start) if is_begun else []
        self.ids, self.starts, self.is_learnt = array("i"), array("q"), bytearray()
        self.waiting: list[_Piece] = []
        self.size = 0

    def add(self, document: Document) -> None:
        # answers are places in the whole text, so a conversation stays in one piece
        if document.answers is None:
            pieces = _pieces(self.tokenizer, document.blocks)
        else:
            pieces = iter([("", "".join(document.blocks), True)])
        for number, (lead, text, is_last) in enumerate(pieces):
            self._put(
                _Piece(
                    text=lead + text,
                    given=len(_ids(self.tokenizer, lead)),
                    answers=document.answers,
                    is_first=not number,
                    is_last=is_last,
                    has_marks=document.has_marks,
                )
            )

    def _put(self, piece: _Piece) -> None:
        self.waiting.append(piece)
        self.size += len(piece.text)
        if self.size >= BATCH or len(self.waiting) >= BATCH_TEXTS:
            self.flush()

    def flush(self) -> None:
        """Tokenise what waits."""
        if not self.waiting:
            return
        is_asked = self.learn == "answers"
        made = self.tokenizer(
            [piece.text for piece in self.waiting],
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=is_asked,
            verbose=False,
        )
        for number, piece in enumerate(self.waiting):
            self._write(piece, made["input_ids"][number], made["offset_mapping"][number] if is_asked else [])
        self.waiting, self.size = [], 0

    def _write(self, piece: _Piece, ids: list[int], places: list[tuple[int, int]]) -> None:
        answers = piece.answers if self.learn == "answers" else None
        if piece.is_first:
            self.starts.append(len(self.ids))
            if not piece.has_marks and ids[: len(self.begin)] != self.begin:
                self._append(self.begin, b"\1" if answers is None else b"\0")
        flags = b"\1" if answers is None else bytes(any(a < to and at < b for a, b in answers) for at, to in places)
        self._append(ids[piece.given :], flags)
        if piece.is_last and self.end is not None and not self._is_ended(piece):
            # after an answer the end is learnt too, or the model would never stop
            is_after = answers is None or (answers and answers[-1][1] >= len(piece.text.rstrip()))
            self._append([self.end], b"\1" if is_after else b"\0")

    def _append(self, ids: list[int], flags: bytes) -> None:
        self.ids.extend(ids)
        if self.learn == "answers":
            self.is_learnt += flags * len(ids) if len(flags) == 1 else flags

    def _is_ended(self, piece: _Piece) -> bool:
        if piece.has_marks and piece.text.rstrip().endswith(str(self.tokenizer.eos_token)):
            return True
        return len(self.ids) > self.starts[-1] and self.ids[-1] == self.end

    def tokens(self, words: tuple[str, ...], *, has_answers: bool) -> Tokens:
        """Return all that was added."""
        ids = torch.frombuffer(self.ids, dtype=torch.int32) if self.ids else torch.empty(0, dtype=torch.int32)
        starts = torch.tensor(self.starts, dtype=torch.long)
        is_learnt = (
            torch.frombuffer(self.is_learnt, dtype=torch.bool)
            if self.is_learnt
            else torch.ones(1, dtype=torch.bool).expand(len(ids))
        )
        return Tokens(ids=ids, starts=starts, is_learnt=is_learnt, words=words, has_answers=has_answers)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []


def _pieces(tokenizer: PreTrainedTokenizerBase, blocks: Iterable[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield a text cut where that leaves its tokens as they are: what goes before a piece, it, whether it is the last.

    One call over a long text is slow in some tokenizers. A text that can be cut nowhere stays whole.
    """
    held, lead, enough = "", "", 2 * PIECE
    for block in blocks:
        held += block
        while len(held) >= enough:
            cut = _cut(tokenizer, held)
            if cut is None:
                # later trials are ever rarer, so that they cost little together
                enough = 2 * len(held)
                break
            yield lead, held[: cut[0]], False
            held, lead, enough = held[cut[0] :], cut[1], 2 * PIECE
    yield lead, held, True


def _cut(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, str] | None:
    """Return a place where both sides have the tokens that they have together, and what the right one needs before it.

    Some tokenizers take any piece for the start of a text, and put a space before it, unless a line's end stands there.
    """
    for kind in CUTS:
        for match in islice(kind.finditer(text, PIECE), TRIALS):
            at = match.end()
            left, right = text[at - min(at, AROUND) : at], text[at : at + AROUND]
            together, alone = _ids(tokenizer, left + right), _ids(tokenizer, left)
            for lead in ("", "\n"):
                given, rest = _ids(tokenizer, lead), _ids(tokenizer, lead + right)
                if rest[: len(given)] == given and together == alone + rest[len(given) :]:
                    return at, lead
    return None
