"""Continuous batching: sequences join and leave the batch between two decoding steps.

A prompt is prefilled alone and in chunks, one chunk between two decoding steps of the other sequences; then its state
takes a row of the batch, whatever the length of the prompt. One forward pass decodes one token of each row.

Axes: B sequences, H heads, T tokens, D channels of a head, V vocabulary.
"""

import copy
import threading
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.cache import HybridLayer, hybrid_layer
from subquad.llm.models.decoding import eos_tokens, forward, has_softmax_layers, new_cache
from subquad.llm.serving.sampling import NOT_FINITE, TokenSampler, sample
from subquad.llm.serving.tokenization import Detokenizer
from subquad.ops.linattn import HybridState

FAILED = "the computation failed, for example because memory ran out; see the server's log"
STOPPED = "the server was stopped, or its model cannot compute any more"
LENGTH_DEPENDENT_ROTARY = {"dynamic", "longrope"}
"""Rotary position types whose angles depend on the longest sequence of a batch."""


class EngineClosed(Exception):  # noqa: N818 (it is a state)
    """The engine was stopped or has failed; it accepts no more jobs."""


@dataclass(frozen=True)
class Delta:
    """What one token adds to a sequence."""

    text: str
    """Text that is final; empty while a character or a stop string may be incomplete."""
    finish_reason: Literal["stop", "length", "error"] | None = None
    """Why the sequence ended; None while it continues."""
    error: str = ""
    """Message, if it ended by an error."""


@dataclass(eq=False, kw_only=True)
class Job:
    """A prompt and how it is continued."""

    prompt: Sequence[int]
    """Tokens, at least one."""
    max_tokens: int
    """Maximum number of new tokens, at least 1."""
    sampler: TokenSampler = field(default_factory=TokenSampler)
    """Chooses the tokens."""
    stops: tuple[str, ...] = ()
    """Stop strings."""
    on_delta: Callable[[Delta], None] = lambda delta: None
    """Called for each token, in the engine's thread."""
    is_cancelled: bool = False
    """Whether nobody waits for the answer any more."""
    tokens: list[int] = field(default_factory=list)
    """Tokens that were generated."""
    cached_tokens: int = 0
    """First tokens of the prompt that were not read, since their state was kept."""
    detokenizer: Detokenizer | None = None
    """Turns the tokens into text."""


class StateBatch:
    """What the layers keep of the sequences that are decoded together, one row of every layer per sequence.

    States of hybrid attention are allocated at the start. Keys and values of layers with softmax attention are aligned
    at their last token, so that all rows grow in the same place; a mask hides what lies before a shorter sequence.
    """

    def __init__(self, model: PreTrainedModel, size: int):
        """Allocate the states of `size` rows.

        Raises:
            SubquadError: The rotary positions depend on the batch.
        """
        rotary = getattr(getattr(model.base_model, "rotary_emb", None), "rope_type", "default")
        # one per kind of layer in some models
        types = set(rotary.values()) if isinstance(rotary, dict) else {rotary}
        if size > 1 and types & LENGTH_DEPENDENT_ROTARY:
            raise SubquadError("the model's rotary positions depend on the longest sequence; use a batch of 1")
        self._model, self._cache = model, new_cache(model)
        self._needs_mask = has_softmax_layers(model)
        # one token shows the shapes and types of the states
        token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        forward(model, token, token, self._cache)
        self._layers: list[Any] = self._cache.layers
        self._states = [
            HybridState(*(tensor.new_zeros(size, *tensor.shape[1:]) for tensor in layer.state))
            if isinstance(layer, HybridLayer) and layer.state is not None
            else None
            for layer in self._layers
        ]
        self._lengths: list[int] = []
        """Tokens of each row."""
        self.bytes_per_sequence = sum(tensor.nbytes for states in self._states if states for tensor in states) // size
        """Size of the states of one sequence."""

    def append(self, cache: Cache) -> None:
        """Copy the cache of one sequence into the next row."""
        row, filled_layers = len(self._lengths), cache.layers
        for states, layer, filled in zip(self._states, self._layers, filled_layers, strict=True):
            new: Any = filled
            if states is not None:
                for rows, tensor in zip(states, new.state, strict=True):
                    rows[row] = tensor[0]
            elif row == 0:
                layer.keys, layer.values = new.keys, new.values
            else:
                layer.keys, layer.values = _stacked(layer.keys, new.keys), _stacked(layer.values, new.values)
        self._lengths.append(cache.get_seq_length())
        self._set_lengths()

    def cache(self, row: int) -> Cache:
        """Return a copy of a row as the cache of a single sequence."""
        cache, length = new_cache(self._model), self._lengths[row]
        for index, (states, layer) in enumerate(zip(self._states, self._layers, strict=True)):
            if states is not None:
                hybrid = hybrid_layer(cache, index)
                hybrid.state, hybrid.length = HybridState(*(rows[row : row + 1].clone() for rows in states)), length
            else:
                keys, values = (_last(x[row : row + 1], layer, length).clone() for x in (layer.keys, layer.values))
                cache.update(keys, values, index)
                _set_length(cache.layers[index], length)
        return cache

    def remove(self, row: int) -> None:
        """Free a row; the last row moves into its place."""
        last = self._lengths.pop()
        rows = [*range(len(self._lengths))]
        if row < len(rows):
            self._lengths[row], rows[row] = last, len(rows)
        for states, layer in zip(self._states, self._layers, strict=True):
            if states is None:
                longest = max(self._lengths, default=0)
                layer.keys, layer.values = (_last(x[rows], layer, longest) for x in (layer.keys, layer.values))
            elif row < len(rows):
                for tensor in states:
                    tensor[row] = tensor[len(rows)]
        self._set_lengths()

    def clear(self) -> None:
        """Free all rows, also after a step that failed halfway."""
        self._lengths = []

    def step(self, tokens: list[int]) -> Float[Tensor, "B V"]:
        """Return the logits after one more token of each sequence."""
        longest = max(self._lengths)
        for states, layer in zip(self._states, self._layers, strict=True):
            if states is not None:
                # without gradients a step updates these views, and so the rows, in place
                layer.state, layer.length = HybridState(*(rows[: len(tokens)] for rows in states)), longest
        ids = torch.tensor(tokens, device=self._model.device)[:, None]
        positions = torch.tensor(self._lengths, device=self._model.device)[:, None]
        mask = None
        if self._needs_mask and min(self._lengths) < longest:
            mask = torch.arange(longest + 1, device=self._model.device) >= longest - positions
        self._lengths = [length + 1 for length in self._lengths]
        return forward(self._model, ids, positions, self._cache, mask)

    def _set_lengths(self) -> None:
        for states, layer in zip(self._states, self._layers, strict=True):
            if states is None:
                _set_length(layer, max(self._lengths, default=0))


def _stacked(rows: Float[Tensor, "B H T D"], new: Float[Tensor, "1 H S D"]) -> Tensor:
    longest = max(rows.shape[2], new.shape[2])
    return torch.cat([pad(x, (0, 0, longest - x.shape[2], 0)) for x in (rows, new)])


def _last(x: Float[Tensor, "B H T D"], layer: Any, length: int) -> Tensor:
    """Return the keys or values that a layer keeps of texts of so many tokens."""
    stored = min(length, layer.sliding_window - 1) if layer.is_sliding else length
    return x[:, :, x.shape[2] - stored :]


def _set_length(layer: Any, length: int) -> None:
    if layer.is_sliding:
        # tokens that have left the window count too
        layer.cumulative_length = length


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
            model: A language model, linearized or not.
            tokenizer: Its tokenizer; from now on used by the engine's thread only.
            max_batch_size: Maximum number of sequences decoded together.
            prefill_chunk_size: Tokens of a new prompt that are processed between two decoding steps of the others.
            prefix_states: Number of states of earlier prompts and answers that are kept: a prompt that begins with one
                of these texts, as every turn of a chat does, is read only from there on.

        Raises:
            SubquadError: The model's sequences cannot share a batch.
        """
        self._max_batch_size, self._chunk_size, self._prefix_states = max_batch_size, prefill_chunk_size, prefix_states
        self._model, self._tokenizer, self.eos = model, tokenizer, eos_tokens(model, tokenizer)
        self.batch = StateBatch(model, max_batch_size)
        self.kept: OrderedDict[tuple[int, ...], Cache] = OrderedDict()
        """Caches of the texts that were read last, by their tokens; the one that was used last is the last one."""
        self._changed = threading.Condition()
        """Held while `_waiting` or `_is_stopping` is changed."""
        self._is_stopping = False
        self.has_failed = False
        """Whether `run` has ended without `stop`."""
        self._waiting: deque[Job] = deque()
        self._reading: Job | None = None
        """The job whose prompt is read into `_cache`."""
        self._cache = new_cache(model)
        self._decoding: list[Job] = []
        """Jobs of the rows of the batch."""
        self._is_prefilling = False
        """Whether a prompt is processed, which has a cache of its own; otherwise the batch is."""
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        """Tokens since the start: of prompts, those of them that were not read again, and of answers."""

    @property
    def active(self) -> int:
        """Number of sequences in the batch."""
        return len(self._decoding)

    @property
    def waiting(self) -> int:
        """Number of jobs whose prompt has not been started."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Queue a job; jobs are started in the order of arrival.

        Raises:
            EngineClosed: The engine accepts no more jobs.
        """
        with self._changed:
            if self._is_stopping:
                raise EngineClosed(STOPPED)
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Free the row of a job before the next step; nothing happens if it is done."""
        job.is_cancelled = True
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def stream(self, job: Job, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Decode a job in this thread, and yield its text until it ends or `is_stopped`.

        Raises:
            SubquadError: The logits are not finite.
        """
        deltas: deque[Delta] = deque()
        job.on_delta = deltas.append
        self.submit(job)
        try:
            while not is_stopped() and (self.work() or deltas):
                while deltas:
                    delta = deltas.popleft()
                    if delta.error:
                        raise SubquadError(f"token {len(job.prompt) + len(job.tokens) + 1:,}: {delta.error}")
                    yield delta.text
        finally:
            self.cancel(job)
        if job.detokenizer is not None:
            # nothing, unless it was stopped
            yield job.detokenizer.finish()

    def run(self) -> None:
        """Work until `stop`, or until the model cannot compute any more; unfinished jobs get an error then.

        If a computation raises an error, such as one about memory, the jobs that need its result get an error.
        """
        try:
            while not self._is_stopping:
                try:
                    is_busy = self.work()
                except Exception:  # noqa: BLE001 (models and devices raise what they want, and other requests go on)
                    traceback.print_exc()
                    is_busy = self._recover()
                if not is_busy:
                    with self._changed:
                        self._changed.wait_for(lambda: self._waiting or self._is_stopping)
        except Exception:  # noqa: BLE001
            traceback.print_exc()
        finally:
            with self._changed:
                self.has_failed, self._is_stopping = not self._is_stopping, True
            _fail([*self._take_all(), *self._waiting], STOPPED)

    def stop(self) -> None:
        """Let `run` return after the current step."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def work(self) -> bool:
        """Prefill one chunk of a prompt and decode one token of every sequence; return whether work is left."""
        if self._reading is not None and self._reading.is_cancelled:
            self._reading = None
        for row in reversed(range(len(self._decoding))):
            if self._decoding[row].is_cancelled:
                self._remove(row)
        self._prefill()
        self._decode()
        return bool(self._waiting or self._reading or self._decoding)

    def _recover(self) -> bool:
        """End the jobs that need the result of a step that failed; raises if the model cannot process a token."""
        if self._is_prefilling and self._reading is not None:
            lost, self._reading = [self._reading], None
        else:
            lost = self._take_all()
        _fail(lost, FAILED)
        # they take memory too
        self.kept.clear()
        token = torch.zeros(1, 1, dtype=torch.long, device=self._model.device)
        forward(self._model, token, token, new_cache(self._model))
        return True

    def _take_all(self) -> list[Job]:
        """Return the jobs that were started, and forget them."""
        jobs = [*self._decoding, *([self._reading] if self._reading else ())]
        self._reading, self._decoding = None, []
        self.batch.clear()
        return jobs

    def _prefill(self) -> None:
        """Process the next chunk of a prompt; after the last one the prompt takes a row of the batch."""
        self._is_prefilling = True
        if self._reading is None:
            with self._changed:
                if not self._waiting or len(self._decoding) == self._max_batch_size:
                    return
                self._reading = self._waiting.popleft()
            self._cache = self._kept_cache(self._reading.prompt)
            self._reading.cached_tokens = self._cache.get_seq_length()
            self.prompt_tokens += self._reading.cached_tokens
            self.cached_tokens += self._reading.cached_tokens
        job, start = self._reading, self._cache.get_seq_length()
        chunk = job.prompt[start : start + self._chunk_size]
        ids = torch.tensor(chunk, device=self._model.device)[None]
        positions = torch.arange(start, start + len(chunk), device=self._model.device)[None]
        logits = forward(self._model, ids, positions, self._cache)
        self.prompt_tokens += len(chunk)
        self._is_prefilling = False
        if start + len(chunk) < len(job.prompt):
            return
        (token,) = sample(logits, [job.sampler])
        job.detokenizer = Detokenizer(self._tokenizer, job.prompt, job.stops)
        # a state that is not finite would spoil later prompts that begin alike
        if token is not None:
            self._keep(job.prompt, self._cache)
        if not self._add(job, token):
            self.batch.append(self._cache)
            self._decoding.append(job)
        self._reading = None

    def _decode(self) -> None:
        if not self._decoding:
            return
        logits = self.batch.step([job.tokens[-1] for job in self._decoding])
        tokens = sample(logits, [job.sampler for job in self._decoding])
        ended = [self._add(job, token) for job, token in zip(self._decoding, tokens, strict=True)]
        # from the last to the first, since the last sequence moves into the free row
        for row in reversed(range(len(ended))):
            if ended[row]:
                self._remove(row, is_finite=tokens[row] is not None)

    def _add(self, job: Job, token: int | None) -> bool:
        """Add a token to a sequence, pass its text on, and return whether it was the last."""
        if token is None:
            _fail([job], NOT_FINITE)
            return True
        assert job.detokenizer is not None
        job.tokens.append(token)
        self.generated_tokens += 1
        is_eos = token in self.eos
        text = job.detokenizer.finish() if is_eos else job.detokenizer.add(token)
        is_full = len(job.tokens) == job.max_tokens
        if is_full and not is_eos and not job.detokenizer.is_stopped:
            text += job.detokenizer.finish()
        reason = "stop" if is_eos or job.detokenizer.is_stopped else "length" if is_full else None
        job.on_delta(Delta(text, reason))
        return reason is not None

    def _remove(self, row: int, *, is_finite: bool = True) -> None:
        job = self._decoding[row]
        if self._prefix_states and is_finite:
            # the last token has not been through the model
            self._keep([*job.prompt, *job.tokens[:-1]], self.batch.cache(row))
        self.batch.remove(row)
        last = self._decoding.pop()
        if row < len(self._decoding):
            self._decoding[row] = last

    def _keep(self, tokens: Sequence[int], cache: Cache) -> None:
        """Keep the cache of a text, in place of the one that was not used for the longest time."""
        self.kept[tuple(tokens)] = cache
        self.kept.move_to_end(tuple(tokens))
        while len(self.kept) > self._prefix_states:
            self.kept.popitem(last=False)

    def _kept_cache(self, prompt: Sequence[int]) -> Cache:
        """Return a copy of the cache of the longest beginning of a prompt that was kept, or an empty one."""
        prompt = tuple(prompt)
        # at least one token is left to read, since it gives the logits of the next one
        known = [tokens for tokens in self.kept if len(tokens) < len(prompt) and prompt[: len(tokens)] == tokens]
        if not known:
            return new_cache(self._model)
        self.kept.move_to_end(tokens := max(known, key=len))
        return copy.deepcopy(self.kept[tokens])


def _fail(jobs: Sequence[Job], message: str) -> None:
    for job in jobs:
        job.on_delta(Delta("", "error", message))
