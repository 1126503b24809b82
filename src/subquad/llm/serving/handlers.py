"""Request handlers: from a request to jobs for the engine, and from the engine's deltas to a reply or a stream."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from transformers import PreTrainedTokenizerBase

from subquad.errors import SubquadError
from subquad.llm.serving.engine import Delta, Engine, EngineClosed, Job
from subquad.llm.serving.protocol import (
    ChatRequest,
    CompletionRequest,
    RequestError,
    choice_body,
    delta_body,
    error_body,
    usage_body,
)
from subquad.llm.serving.tokenization import chat_text, encode

__all__ = ["RequestHandler"]

COMPLETION_TOKENS = 16
"""Default length of an answer of /v1/completions; OpenAI's value."""
CLIENT_GONE = 499
STOPPED = "the server was stopped, or has failed; see /health and the server's log"


@dataclass(kw_only=True)
class _Pending:
    """A request whose jobs the engine decodes."""

    jobs: list[Job]
    deltas: asyncio.Queue[Delta]
    head: dict[str, Any]
    is_chat: bool
    has_usage: bool

    @property
    def sequences(self) -> int:
        return sum(job.n for job in self.jobs)

    def usage(self, tokens: int) -> dict[str, int]:
        return usage_body([job.prompt for job in self.jobs], tokens)


@dataclass(kw_only=True)
class RequestHandler:
    """Answers requests for one model."""

    engine: Engine
    """Runs in a thread of its own."""
    tokenizer: PreTrainedTokenizerBase
    """A copy of the engine's, which decodes at the same time."""
    name: str
    """Model name for clients."""
    max_context: int
    """Maximum number of tokens of prompt and answer together."""
    max_waiting: int
    """Maximum number of waiting requests."""
    vocab_size: int
    """Size of the model's vocabulary."""

    def check_model(self, name: str) -> None:
        """Check the model's name.

        Raises:
            RequestError: It is another model's.
        """
        if name != self.name:
            raise RequestError(
                f"no model {name!r}; this server has {self.name!r}", field="model", status=404, code="model_not_found"
            )

    async def answer(self, body: ChatRequest | CompletionRequest, request: Request) -> Response:
        """Return the reply to a request.

        Raises:
            RequestError: The request cannot be answered.
        """
        self.check_model(body.model)
        body.check_supported()
        if self.engine.waiting >= self.max_waiting:
            raise RequestError(f"{self.engine.waiting} requests are waiting already; try again later", status=429)
        pending = self._pending(body)
        if len(pending.jobs) > self.max_waiting:
            raise RequestError(
                f"prompt: {len(pending.jobs)} prompts in one request, and at most {self.max_waiting} may wait",
                field="prompt",
            )
        if body.stream:
            events = self._events(pending)
            return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        return await self._whole(pending, request)

    def _pending(self, body: ChatRequest | CompletionRequest) -> _Pending:
        is_chat, n, seed = isinstance(body, ChatRequest), body.n or 1, body.seed_or_random()
        if n > self.engine.max_batch_size:
            raise RequestError(
                f"n: {n} sequences, and this server decodes at most {self.engine.max_batch_size} together", field="n"
            )
        prompts = [self._chat(body)] if isinstance(body, ChatRequest) else self._prompts(body)
        deltas: asyncio.Queue[Delta] = asyncio.Queue()
        jobs = [
            Job(
                prompt=prompt,
                on_delta=_enqueue(deltas, place * n),
                max_tokens=self._max_tokens(prompt, body),
                sampling=body.sampling(),
                seed=seed,
                n=n,
                stops=body.stops(),
            )
            for place, prompt in enumerate(prompts)
        ]
        head = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": f"chat.completion{'.chunk' if body.stream else ''}" if is_chat else "text_completion",
            "created": int(time.time()),
            "model": self.name,
        }
        return _Pending(jobs=jobs, deltas=deltas, head=head, is_chat=is_chat, has_usage=body.has_usage())

    def _chat(self, body: ChatRequest) -> list[int]:
        try:
            text = chat_text(self.tokenizer, [message.plain() for message in body.messages])
        except SubquadError as error:
            raise RequestError(str(error), field="messages") from error
        return encode(self.tokenizer, text, add_special_tokens=False)

    def _prompts(self, body: CompletionRequest) -> list[list[int]]:
        prompts = [encode(self.tokenizer, prompt) if isinstance(prompt, str) else prompt for prompt in body.prompts()]
        if not prompts or not all(prompts):
            raise RequestError("prompt: it is empty; there is no text to continue", field="prompt")
        wrong = next((token for prompt in prompts for token in prompt if not 0 <= token < self.vocab_size), None)
        if wrong is not None:
            raise RequestError(
                f"prompt: {wrong} is not a token; the model's tokens are 0 to {self.vocab_size - 1}", field="prompt"
            )
        return prompts

    def _max_tokens(self, prompt: Sequence[int], body: ChatRequest | CompletionRequest) -> int:
        left = self.max_context - len(prompt)
        is_chat = isinstance(body, ChatRequest)
        wanted = body.most_tokens() if is_chat else body.max_tokens or max(1, min(left, COMPLETION_TOKENS))
        if (wanted or 1) > left:
            raise RequestError(
                f"the {len(prompt)} tokens of the prompt and {wanted or 1} of the answer exceed the maximum of "
                f"{self.max_context} tokens (--max-context)",
                field="messages" if is_chat else "prompt",
                code="context_length_exceeded",
            )
        return wanted or left

    def _submit(self, pending: _Pending) -> None:
        for job in pending.jobs:
            self.engine.submit(job)

    def _cancel(self, pending: _Pending) -> None:
        for job in pending.jobs:
            self.engine.cancel(job)

    async def _whole(self, pending: _Pending, request: Request) -> Response:
        texts, reasons, tokens = [""] * pending.sequences, [""] * pending.sequences, 0

        async def gather() -> None:
            nonlocal tokens
            while not all(reasons):
                delta = await pending.deltas.get()
                if delta.finish_reason == "closed":
                    raise RequestError(STOPPED, status=503)
                texts[delta.index] += delta.text
                reasons[delta.index] = delta.finish_reason or ""
                tokens += 1

        self._submit(pending)
        tasks = [asyncio.create_task(gather()), asyncio.create_task(_disconnected(request))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0] not in done:
                # the client does not read it
                return Response(status_code=CLIENT_GONE)
            tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()
            self._cancel(pending)
        choices = [
            choice_body(index, text, reason, is_chat=pending.is_chat)
            for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        return JSONResponse({**pending.head, "choices": choices, "usage": pending.usage(tokens)})

    async def _events(self, pending: _Pending) -> AsyncIterator[str]:
        started: set[int] = set()
        tokens, unfinished = 0, pending.sequences
        extra = {"usage": None} if pending.has_usage else {}
        try:
            # submitted here: if the client does not read the stream, this never runs
            self._submit(pending)
            while unfinished:
                delta = await pending.deltas.get()
                if delta.finish_reason == "closed":
                    yield _event(error_body(STOPPED, status=503))
                    return
                tokens += 1
                unfinished -= delta.finish_reason is not None
                if delta.text or delta.finish_reason:
                    choice = delta_body(delta, is_chat=pending.is_chat, is_first=delta.index not in started)
                    started.add(delta.index)
                    yield _event({**pending.head, "choices": [choice], **extra})
            if extra:
                yield _event({**pending.head, "choices": [], "usage": pending.usage(tokens)})
            yield "data: [DONE]\n\n"
        except EngineClosed:
            yield _event(error_body(STOPPED, status=503))
        finally:
            # also if the client disconnects, which closes this generator
            self._cancel(pending)


def _enqueue(deltas: asyncio.Queue[Delta], first: int) -> Callable[[Delta], None]:
    """Return a function that moves deltas from the engine's thread into the queue, numbered from `first`."""
    loop = asyncio.get_running_loop()

    def on_delta(delta: Delta) -> None:
        loop.call_soon_threadsafe(deltas.put_nowait, replace(delta, index=first + delta.index))

    return on_delta


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def _disconnected(request: Request) -> None:
    """Return when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
