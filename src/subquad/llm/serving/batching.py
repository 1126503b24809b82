"""Continuous batching: texts join and leave a batch between two of its tokens.

A prompt is read alone and in chunks, one chunk between two tokens of the others; then its state, whose size does not
depend on its length, takes a row of the batch. A token costs one forward pass for all rows together.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.serving.decoding import Rows, ending_tokens, forward, new_cache
from subquad.llm.serving.detokenizer import Writer
from subquad.llm.serving.sampling import Dice, Sampling, choose

__all__ = ["Engine", "EngineClosed", "Job", "Piece"]


class EngineClosed(Exception):  # noqa: N818 (it is a state)
    """The engine was stopped, or has failed; it takes no more jobs."""


class Piece(NamedTuple):
    """What one token adds to a text."""

    place: int
    """Of the text among those of its job."""
    token: int | None
    """The token; None where the engine closed."""
    text: str
    """What can be shown; empty while a character or a stop string may be unfinished."""
    finish: Literal["stop", "length", "closed"] | None
    """Why the text ended; None while it goes on."""


@dataclass(eq=False, kw_only=True)
class Job:
    """A prompt and how it is to be continued."""

    prompt: Sequence[int]
    """Tokens, at least one."""
    listen: Callable[[Piece], None]
    """Called for each token, in the engine's thread."""
    max_tokens: int
    """Tokens to add, at most."""
    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are chosen."""
    seed: int = 0
    """Of the choice."""
    n: int = 1
    """Texts to make of the prompt, which is read once."""
    stops: tuple[str, ...] = ()
    """Texts at which to end."""


class _Text:
    """One growing text."""

    def __init__(self, job: Job, index: int, tokenizer: PreTrainedTokenizerBase):
        self.job, self.index = job, index
        self.dice = Dice(job.sampling, job.seed, index)
        self.writer = Writer(tokenizer, job.prompt, job.stops)
        self.last, self.count = -1, 0


@dataclass(kw_only=True)
class _Reading:
    """A prompt of which `done` tokens are read."""

    job: Job
    cache: Cache
    done: int = 0


class Engine:
    """Jobs come in from any thread; `work`, or `run` in a thread of its own, does them."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_batch: int = 32, chunk: int = 512
    ):
        """Take the memory of the batch.

        Args:
            model: A linearized model.
            tokenizer: Of the model; used by the engine's thread alone from now on.
            max_batch: Texts that grow at once.
            chunk: Tokens of a prompt that are read between two tokens of the others.
        """
        self.max_batch, self.chunk = max_batch, chunk
        self._model, self._tokenizer = model, tokenizer
        self._endings = ending_tokens(model, tokenizer)
        self._rows = Rows(model, max_batch)
        # what other threads ask for, done by the engine's thread
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_stopping = self._is_closed = False
        self._waiting: deque[Job] = deque()
        self._reading: _Reading | None = None
        self._texts: list[_Text] = []

    @property
    def active(self) -> int:
        """Texts that grow."""
        return len(self._texts)

    @property
    def waiting(self) -> int:
        """Jobs whose prompt nobody has begun to read."""
        return len(self._waiting) + self._inbox.qsize()

    @property
    def bytes_each(self) -> int:
        """Memory of one text's state, however long it is."""
        return self._rows.bytes_each

    def submit(self, job: Job) -> None:
        """Let a job wait for its turn; first come, first served.

        Raises:
            ValueError: the job cannot be done.
            EngineClosed: no more jobs are done.
        """
        if not job.prompt or not 1 <= job.n <= self.max_batch or job.max_tokens < 1:
            raise ValueError(
                f"a job has at least one token and from 1 to {self.max_batch} texts of at least one token, got "
                f"{len(job.prompt)}, {job.n} and {job.max_tokens}"
            )
        with self._lock:
            if self._is_closed:
                raise EngineClosed("the engine was stopped")
            self._inbox.put(lambda: self._waiting.append(job))

    def cancel(self, job: Job) -> None:
        """Free what a job holds; nothing happens where it is done."""
        with self._lock:
            if not self._is_closed:
                self._inbox.put(lambda: self._forget(job))

    def work(self) -> bool:
        """Read one chunk of a prompt and add one token to every text; return whether there is more to do."""
        while not self._inbox.empty():
            self._inbox.get()()
        self._read()
        self._grow()
        return bool(self._waiting or self._reading or self._texts)

    def run(self) -> None:
        """Work until `stop`; jobs that are not done then are told so, also where a forward pass fails."""
        try:
            while not self._is_stopping:
                if not self.work():
                    self._inbox.get()()
        finally:
            self._close()

    def stop(self) -> None:
        """Let `run` return after the token that it is at."""
        self._is_stopping = True
        self._inbox.put(lambda: None)

    def _close(self) -> None:
        with self._lock:
            self._is_closed = True
        while not self._inbox.empty():
            self._inbox.get()()
        jobs = [*self._waiting, *([self._reading.job] if self._reading else ())]
        left = [(job, index) for job in jobs for index in range(job.n)]
        left += [(text.job, text.index) for text in self._texts]
        self._waiting.clear()
        self._reading, self._texts = None, []
        for job, index in left:
            job.listen(Piece(index, None, "", "closed"))

    def _forget(self, job: Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        if self._reading is not None and self._reading.job is job:
            self._reading = None
        self._remove([row for row, text in enumerate(self._texts) if text.job is job])

    def _read(self) -> None:
        if self._reading is None and self._waiting and self._waiting[0].n <= self.max_batch - len(self._texts):
            self._reading = _Reading(job=self._waiting.popleft(), cache=new_cache(self._model))
        reading = self._reading
        if reading is None:
            return
        new = reading.job.prompt[reading.done : reading.done + self.chunk]
        ids = torch.tensor(new, device=self._model.device)[None]
        positions = torch.arange(reading.done, reading.done + len(new), device=self._model.device)[None]
        logits = forward(self._model, ids, positions, reading.cache)
        reading.done += len(new)
        if reading.done == len(reading.job.prompt):
            self._reading = None
            self._begin(reading, logits)

    def _begin(self, reading: _Reading, logits: Tensor) -> None:
        job = reading.job
        texts = [_Text(job, index, self._tokenizer) for index in range(job.n)]
        tokens = choose(logits.expand(job.n, -1), [text.dice for text in texts])
        for text, token in zip(texts, tokens, strict=True):
            if not self._is_ended(text, token):
                self._rows.append(reading.cache)
                self._texts.append(text)

    def _grow(self) -> None:
        if not self._texts:
            return
        logits = self._rows.step([text.last for text in self._texts])
        tokens = choose(logits, [text.dice for text in self._texts])
        pairs = list(zip(self._texts, tokens, strict=True))
        self._remove([row for row, (text, token) in enumerate(pairs) if self._is_ended(text, token)])

    def _remove(self, rows: list[int]) -> None:
        # from the last to the first, since the last text moves into the freed row
        for row in reversed(rows):
            self._rows.remove(row)
            last = self._texts.pop()
            if row < len(self._texts):
                self._texts[row] = last

    def _is_ended(self, text: _Text, token: int) -> bool:
        """Add a token to a text, tell its listener, and return whether it was the last."""
        text.last = token
        text.count += 1
        finish = None
        if token in self._endings:
            new, finish = text.writer.end(), "stop"
        else:
            new = text.writer.add(token)
            if text.count == text.job.max_tokens and not text.writer.is_stopped:
                new, finish = new + text.writer.end(), "length"
            if text.writer.is_stopped:
                finish = "stop"
        text.job.listen(Piece(text.index, token, new, finish))
        return finish is not None
