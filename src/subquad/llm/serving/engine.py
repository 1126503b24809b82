"""Continuous batching: sequences join and leave the batch between two decoding steps.

A prompt is prefilled alone and in chunks, one chunk between two decoding steps of the other sequences; then its state
takes a row of the batch, whatever the length of the prompt. One forward pass decodes one token of each row.
"""

import math
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.models.decoding import eos_tokens, forward, forward_all, new_cache
from subquad.llm.serving.jobs import DecodedSequence, Delta, Job
from subquad.llm.serving.logprobs import TokenLogprob, token_logprobs
from subquad.llm.serving.prefix_states import PrefixStates, cache_of, states_of
from subquad.llm.serving.sampling import sample
from subquad.llm.serving.state_batch import StateBatch
from subquad.llm.serving.state_files import TextState

__all__ = ["Engine", "EngineClosed", "EngineFailed"]


class EngineClosed(Exception):  # noqa: N818 (it is a state)
    """The engine was stopped or has failed; it accepts no more jobs."""


class EngineFailed(Exception):  # noqa: N818 (it is a state)
    """The model cannot compute any more, not even a single token."""


@dataclass(kw_only=True)
class _Prefill:
    """A prompt of which the first `done` tokens are processed."""

    job: Job
    cache: Cache
    done: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the processed tokens but the first, if the job asks for them."""
    last: Tensor | None = None
    """Logits after the last processed token."""

    @property
    def is_read(self) -> bool:
        """Whether all tokens are processed."""
        return self.done == len(self.job.prompt)


class Engine:
    """Decodes jobs that any thread submits; call `run` in a thread of its own, or `work` for one step."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_batch_size: int = 32,
        prefill_chunk_size: int = 512,
        prefix_states: int = 0,
    ):
        """Allocate the states of the batch.

        Args:
            model: A linearized model.
            tokenizer: Its tokenizer; from now on used by the engine's thread only.
            max_batch_size: Maximum number of sequences decoded together.
            prefill_chunk_size: Tokens of a new prompt that are processed between two decoding steps of the others.
            prefix_states: Number of states of earlier prompts and answers that are kept for prompts that begin alike.

        Raises:
            SubquadError: The model's sequences cannot share a batch.
        """
        self.max_batch_size, self.prefill_chunk_size = max_batch_size, prefill_chunk_size
        self._model, self._tokenizer = model, tokenizer
        self._eos = eos_tokens(model, tokenizer)
        self._batch = StateBatch(model, max_batch_size)
        # requests of other threads, executed by the engine's thread
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_stopping = self._is_closed = False
        self.has_failed = False
        """Whether `run` has ended without `stop`."""
        self._submitted = 0
        self._waiting: deque[Job] = deque()
        self._prefill: _Prefill | None = None
        self._sequences: list[DecodedSequence] = []
        self._kept = PrefixStates(prefix_states)
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        """Tokens since the start: of prompts, those of them that were not read again, and of answers."""

    @property
    def active(self) -> int:
        """Number of sequences in the batch."""
        return len(self._sequences)

    @property
    def waiting(self) -> int:
        """Number of jobs whose prompt has not been started."""
        return len(self._waiting) + self._submitted

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called, or `run` has ended."""
        return self._is_stopping

    @property
    def state_size(self) -> str:
        """Memory that a sequence needs, in words."""
        size = f"{self._batch.bytes_per_sequence / 2**20:.1f} MiB"
        if token := self._batch.bytes_per_token:
            return f"{size} of state each and {token / 2**10:.1f} KiB for each token in layers with softmax attention"
        return f"{size} of state each, whatever their length"

    def submit(self, job: Job) -> None:
        """Queue a job; jobs are started in the order of arrival.

        Raises:
            ValueError: The job has no prompt, or more sequences than the batch has rows.
            EngineClosed: The engine accepts no more jobs.
        """
        if not job.prompt or not 1 <= job.n <= self.max_batch_size or job.max_tokens < 0:
            raise ValueError(
                f"a job needs a prompt of at least one token, 1 to {self.max_batch_size} sequences and no negative "
                f"number of new tokens; got {len(job.prompt)}, {job.n} and {job.max_tokens}"
            )
        with self._lock:
            if self._is_closed:
                raise EngineClosed("the engine was stopped")
            self._submitted += 1
            self._inbox.put(lambda: self._accept(job))

    def _accept(self, job: Job) -> None:
        self._waiting.append(job)
        with self._lock:
            self._submitted -= 1

    def keep(self, text: TextState) -> None:
        """Keep the state after a text for good, for prompts that begin with it; before `run` only."""
        self._kept.pin(text.tokens, text.states)

    def cancel(self, job: Job) -> None:
        """Free the rows of a job; nothing happens if it is done."""
        with self._lock:
            if not self._is_closed:
                self._inbox.put(lambda: self._drop(job))

    def work(self) -> bool:
        """Prefill one chunk of a prompt and decode one token of every sequence; return whether work is left.

        If a computation raises an error, such as one about memory, the jobs that need its result get an `error` delta.

        Raises:
            EngineFailed: After an error the model cannot process a single token either.
        """
        steps = ((self._receive, self._fail_batch), (self._prefill_chunk, self._fail_prompt))
        for step, fail in (*steps, (self._add_sequences, self._fail_batch), (self._decode, self._fail_batch)):
            if not _succeeds(step):
                fail()
                # they take memory too
                self._kept.clear()
                self._check_model()
        return bool(self._waiting or self._prefill or self._sequences)

    def run(self) -> None:
        """Work until `stop`; unfinished jobs get a `closed` delta then, also if the model cannot compute any more."""
        try:
            while not self._is_stopping:
                if not self.work():
                    self._inbox.get()()
        except EngineFailed:
            traceback.print_exc()
        finally:
            self.has_failed = not self._is_stopping
            self._is_stopping = True
            self._close()

    def stop(self) -> None:
        """Let `run` return after the current step."""
        self._is_stopping = True
        self._inbox.put(lambda: None)

    def _close(self) -> None:
        with self._lock:
            self._is_closed = True
        while not self._inbox.empty():
            # freeing the rows of a job may fail too, and the others get their last delta all the same
            _succeeds(self._inbox.get())
        jobs = [*self._waiting, *([self._prefill.job] if self._prefill else ())]
        self._waiting.clear()
        self._end(jobs, "closed")

    def _end(self, jobs: Sequence[Job], reason: Literal["closed", "error"]) -> None:
        """End all sequences, and jobs that have not been started."""
        decoded = [(sequence.job, sequence.index) for sequence in self._sequences]
        # a prompt whose sequences could not all be started has some of both
        unfinished = decoded + [(job, index) for job in jobs for index in range(job.n) if (job, index) not in decoded]
        self._prefill, self._sequences = None, []
        for job, index in unfinished:
            job.on_delta(Delta(index, None, "", reason))

    def _receive(self) -> None:
        while not self._inbox.empty():
            self._inbox.get()()

    def _fail_prompt(self) -> None:
        """Give up the prompt that is read, or that would be the next one."""
        job = self._waiting.popleft() if self._prefill is None else self._prefill.job
        self._prefill = None
        for index in range(job.n):
            job.on_delta(Delta(index, None, "", "error"))

    def _fail_batch(self) -> None:
        """Give up all sequences, whose states may be changed in part; a prompt that is read has a state of its own."""
        prefill = self._prefill
        self._batch.clear()
        self._end([prefill.job] if prefill is not None and prefill.is_read else [], "error")
        if prefill is not None and not prefill.is_read:
            self._prefill = prefill

    def _check_model(self) -> None:
        token = torch.zeros(1, 1, dtype=torch.long, device=self._model.device)
        try:
            forward(self._model, token, token, new_cache(self._model))
        except Exception as error:
            raise EngineFailed("after an error the model cannot process a single token either") from error

    def _drop(self, job: Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        if self._prefill is not None and self._prefill.job is job:
            self._prefill = None
        self._remove([row for row, sequence in enumerate(self._sequences) if sequence.job is job])

    def _begin(self, job: Job) -> _Prefill:
        """Return the start of a prompt, behind the longest beginning whose state was kept."""
        # log-probabilities need all logits
        found = None if job.has_prompt_logprobs else self._kept.find(job.prompt)
        if found is None:
            return _Prefill(job=job, cache=new_cache(self._model))
        job.cached_tokens, states = found
        self.prompt_tokens += job.cached_tokens
        self.cached_tokens += job.cached_tokens
        return _Prefill(job=job, cache=cache_of(self._model, states, job.cached_tokens), done=job.cached_tokens)

    def _prefill_chunk(self) -> None:
        free = self.max_batch_size - len(self._sequences)
        if self._prefill is None and self._waiting and self._waiting[0].n <= free:
            # it waits until then, so that it is told if that fails
            self._prefill = self._begin(self._waiting[0])
            self._waiting.popleft()
        prefill = self._prefill
        if prefill is None:
            return
        chunk = prefill.job.prompt[prefill.done : prefill.done + self.prefill_chunk_size]
        ids = torch.tensor(chunk, device=self._model.device)[None]
        positions = torch.arange(prefill.done, prefill.done + len(chunk), device=self._model.device)[None]
        if prefill.job.has_prompt_logprobs:
            logits = forward_all(self._model, ids, positions, prefill.cache)[0]
            self._score(prefill, chunk, logits)
            # a copy, so that the others are not held
            prefill.last = logits[-1:].clone()
        else:
            prefill.last = forward(self._model, ids, positions, prefill.cache)
        prefill.done += len(chunk)
        self.prompt_tokens += len(chunk)

    def _score(self, prefill: _Prefill, chunk: Sequence[int], logits: Tensor) -> None:
        """Keep the log-probabilities of a chunk's tokens, each under the logits before it."""
        before = logits[:-1] if prefill.last is None else torch.cat((prefill.last, logits[:-1]))
        if len(before):
            prefill.logprobs += token_logprobs(before, chunk[-len(before) :], prefill.job.logprobs or 0)

    def _add_sequences(self) -> None:
        """Start the sequences of a prompt that is read."""
        prefill = self._prefill
        if prefill is not None and prefill.is_read and prefill.last is not None:
            self._start(prefill, prefill.last)
            self._prefill = None

    def _start(self, prefill: _Prefill, logits: Tensor) -> None:
        job = prefill.job
        sequences = [DecodedSequence(job, index, self._tokenizer) for index in range(job.n)]
        tokens = sample(logits.expand(job.n, -1), [sequence.sampler for sequence in sequences])
        has_failed = None in tokens or any(math.isnan(one.logprob) for one in prefill.logprobs)
        # a state that is not finite would spoil later prompts that begin alike
        if self._kept.size and not has_failed:
            self._kept.add(job.prompt, states_of(prefill.cache))
        prompt = tuple(prefill.logprobs) if job.has_prompt_logprobs else None
        if has_failed or job.max_tokens == 0:
            for index in range(job.n):
                job.on_delta(Delta(index, None, "", "failed" if has_failed else "length", None, prompt))
            return
        self.generated_tokens += len(tokens)
        for sequence, token in zip(sequences, tokens, strict=True):
            if not sequence.add(token, logits[0], self._eos, prompt):
                self._batch.append(prefill.cache)
                self._sequences.append(sequence)

    def _decode(self) -> None:
        if not self._sequences:
            return
        logits = self._batch.step([sequence.tokens[-1] for sequence in self._sequences])
        tokens = sample(logits, [sequence.sampler for sequence in self._sequences])
        self.generated_tokens += sum(token is not None for token in tokens)
        rows = enumerate(zip(self._sequences, tokens, logits, strict=True))
        self._remove([row for row, (sequence, token, own) in rows if sequence.add(token, own, self._eos)])

    def _remove(self, rows: list[int]) -> None:
        # from the last to the first, since the last sequence moves into the free row
        for row in reversed(rows):
            sequence = self._sequences[row]
            if self._kept.size and not sequence.has_failed:
                # the last token has not been through the model
                self._kept.add([*sequence.job.prompt, *sequence.tokens[:-1]], self._batch.states(row))
            self._batch.remove(row)
            last = self._sequences.pop()
            if row < len(self._sequences):
                self._sequences[row] = last


def _succeeds(step: Callable[[], None]) -> bool:
    """Compute, and return whether that raised no error; an error is printed, and what it holds is free then."""
    try:
        step()
    except Exception:  # noqa: BLE001 (models and devices raise what they want, and other requests go on)
        traceback.print_exc()
        return False
    return True
