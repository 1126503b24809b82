"""Request handlers: from a request to jobs for the engine, and from the engine's deltas to a reply or a stream."""

import asyncio
import io
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from subquad.llm.serving.engine import Engine, EngineClosed
from subquad.llm.serving.jobs import Delta, Job
from subquad.llm.serving.logprobs import TokenLogprob, TokenTexts, chat_logprobs, completion_logprobs
from subquad.llm.serving.prompts import Prompt, PromptReader
from subquad.llm.serving.protocol import (
    TOO_MANY,
    ChatRequest,
    CompletionRequest,
    RequestError,
    choice_body,
    delta_body,
    error_body,
    usage_body,
)
from subquad.llm.serving.sampling import NOT_FINITE

__all__ = ["CLIENT_GONE", "ClientGone", "RequestHandler"]

MOST_VALUES = 2**20
"""Maximum number of log-probabilities in a reply: of its tokens and of the most likely ones in their places. A reply
with so many has some 35 MB, and takes up another 150 MB while it is written."""
CLIENT_GONE = 499
"""Status of a reply that no client reads."""
STOPPED = "the server was stopped, or has failed; see /health and the server's log"
ENDED = {
    "closed": (STOPPED, 503),
    "failed": (NOT_FINITE, 500),
    "error": ("the computation failed, for example because memory ran out; see the server's log", 500),
}
"""Why a sequence has ended before its time → error message and status."""

T = TypeVar("T")


@dataclass(kw_only=True)
class _Pending:
    """A request whose jobs the engine decodes."""

    jobs: list[Job]
    deltas: asyncio.Queue[Delta]
    head: dict[str, Any]
    is_chat: bool
    has_usage: bool
    echoes: list[str] | None
    """Texts of the prompts, if the replies begin with them."""
    replies: "list[_Reply]" = field(init=False)

    def __post_init__(self) -> None:
        echoes = self.echoes or [""] * len(self.jobs)
        self.replies = [_Reply(job, echo) for job, echo in zip(self.jobs, echoes, strict=True) for _ in range(job.n)]

    def usage(self, tokens: int) -> dict[str, Any]:
        cached = sum(job.cached_tokens for job in self.jobs)
        return usage_body([job.prompt for job in self.jobs], tokens, cached=cached)


class _Reply:
    """The text of one sequence and its log-probabilities, as they arrive."""

    def __init__(self, job: Job, echo: str):
        self.text, self.finish_reason = "", ""
        self._job, self._echo, self._length = job, echo, 0
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob | None] = []

    def add(self, delta: Delta) -> str:
        """Add a delta, the first one behind the prompt if it is echoed, and return the new text."""
        text = self._echo + delta.text
        self._echo, self.text, self.finish_reason = "", self.text + text, delta.finish_reason or ""
        if delta.prompt is not None:
            self._tokens += self._job.prompt
            self._logprobs += [None, *delta.prompt]
        if delta.logprob is not None:
            self._tokens.append(delta.logprob.token)
            self._logprobs.append(delta.logprob)
        return text

    def logprobs(self, texts: TokenTexts, *, is_chat: bool) -> dict[str, Any] | None:
        """Return the log-probabilities since the last call; None if the request has not asked for them."""
        if self._job.logprobs is None:
            return None
        tokens, found = self._tokens, self._logprobs
        self._tokens, self._logprobs = [], []
        if is_chat:
            return chat_logprobs(texts, [one for one in found if one is not None])
        body = completion_logprobs(texts, found, tokens, offset=self._length)
        self._length += sum(map(len, body["tokens"]))
        return body


@dataclass(kw_only=True)
class RequestHandler:
    """Answers requests for one model."""

    engine: Engine
    """Runs in a thread of its own."""
    texts: TokenTexts
    """Of single tokens; their tokenizer is not that of the engine or the reader, which use theirs at the same time."""
    name: str
    """Model name for clients."""
    reader: PromptReader
    """Tokenizes prompts, in a thread of its own too."""
    max_waiting: int
    """Maximum number of waiting prompts."""
    _reading: int = field(default=0, init=False)
    """Number of prompts that are being tokenized, or wait for it."""
    _writer: ThreadPoolExecutor = field(init=False)
    """Writes replies with log-probabilities, one after the other, which can take seconds each."""

    def __post_init__(self) -> None:
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="replies")

    def close(self) -> None:
        """End the threads after what they do now."""
        self.reader.close()
        self._writer.shutdown(wait=False, cancel_futures=True)

    def check_model(self, name: str) -> None:
        """Check the model's name.

        Raises:
            RequestError: It is another model's.
        """
        if name != self.name:
            raise RequestError(
                f"no model {name!r}; this server has {self.name!r}", field="model", status=404, code="model_not_found"
            )

    @property
    def waiting(self) -> int:
        """Number of prompts that have not been started."""
        return self.engine.waiting + self._reading

    async def answer(self, body: ChatRequest | CompletionRequest, request: Request) -> Response:
        """Return the reply to a request.

        Raises:
            RequestError: The request cannot be answered.
            ClientGone: The client has closed the connection.
        """
        self._check(body)
        count = 1 if isinstance(body, ChatRequest) else len(body.prompts())
        prompts = await self.queued(lambda: self.reader.read(body), request, count=count)
        pending = self._pending(body, _within_values(body, prompts))
        if body.stream:
            events = self._events(pending)
            return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        return await self._whole(pending, request)

    async def queued(self, read: Callable[[], Coroutine[Any, Any, T]], request: Request, *, count: int = 1) -> T:
        """Return what reading the prompts of a request gives; meanwhile they count as waiting.

        Raises:
            RequestError: There are too many prompts.
            ClientGone: The client has closed the connection, and the reading was cancelled.
        """
        if count > self.max_waiting:
            raise RequestError(
                f"prompt: {count:,} prompts in one request, and at most {self.max_waiting:,} may wait", field="prompt"
            )
        if self.waiting + count > self.max_waiting:
            own = "" if count == 1 else f", and at most {self.max_waiting} may wait with the {count} of this one"
            waiting = "1 prompt is" if self.waiting == 1 else f"{self.waiting} prompts are"
            raise RequestError(f"{waiting} waiting already{own}; try again later", status=TOO_MANY)
        self._reading += count
        try:
            return await _while_connected(read(), request)
        finally:
            self._reading -= count

    def _check(self, body: ChatRequest | CompletionRequest) -> None:
        """Check what does not depend on the prompts."""
        self.check_model(body.model)
        body.check_supported()
        if body.n and body.n > self.engine.max_batch_size:
            raise RequestError(
                f"n: {body.n} sequences, and this server decodes at most {self.engine.max_batch_size} together",
                field="n",
            )

    def _pending(self, body: ChatRequest | CompletionRequest, prompts: Sequence[Prompt]) -> _Pending:
        is_chat, n, seed = isinstance(body, ChatRequest), body.n or 1, body.seed_or_random()
        logprobs = body.most_likely()
        echoes = [prompt.echo for prompt in prompts if prompt.echo is not None]
        deltas: asyncio.Queue[Delta] = asyncio.Queue()
        jobs = [
            Job(
                prompt=prompt.tokens,
                on_delta=_enqueue(deltas, place * n),
                max_tokens=prompt.max_tokens,
                sampling=body.sampling(),
                seed=seed,
                n=n,
                stops=body.stops(),
                logprobs=logprobs,
                has_prompt_logprobs=prompt.echo is not None and logprobs is not None,
            )
            for place, prompt in enumerate(prompts)
        ]
        head = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": f"chat.completion{'.chunk' if body.stream else ''}" if is_chat else "text_completion",
            "created": int(time.time()),
            "model": self.name,
        }
        return _Pending(
            jobs=jobs, deltas=deltas, head=head, is_chat=is_chat, has_usage=body.has_usage(), echoes=echoes or None
        )

    def _submit(self, pending: _Pending) -> None:
        for job in pending.jobs:
            self.engine.submit(job)

    def _cancel(self, pending: _Pending) -> None:
        for job in pending.jobs:
            self.engine.cancel(job)

    async def _whole(self, pending: _Pending, request: Request) -> Response:
        replies, tokens = pending.replies, 0

        async def gather() -> None:
            nonlocal tokens
            while not all(reply.finish_reason for reply in replies):
                delta = await pending.deltas.get()
                if delta.finish_reason in ENDED:
                    message, status = ENDED[delta.finish_reason]
                    raise RequestError(message, status=status)
                replies[delta.index].add(delta)
                tokens += delta.token is not None

        try:
            self._submit(pending)
            await _while_connected(gather(), request)
            if any(job.logprobs is not None for job in pending.jobs):
                content = await _while_connected(self._in_writer(lambda: self._content(pending, tokens)), request)
            else:
                content = self._content(pending, tokens)
        finally:
            self._cancel(pending)
        return Response(content, media_type="application/json")

    def _content(self, pending: _Pending, tokens: int) -> bytes:
        """Return the body of a whole reply with so many new tokens."""
        choices = [
            choice_body(
                index,
                reply.text,
                reply.finish_reason,
                is_chat=pending.is_chat,
                logprobs=reply.logprobs(self.texts, is_chat=pending.is_chat),
            )
            for index, reply in enumerate(pending.replies)
        ]
        return _encoded({**pending.head, "choices": choices, "usage": pending.usage(tokens)}).encode()

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    async def _events(self, pending: _Pending) -> AsyncIterator[str]:
        started: set[int] = set()
        tokens, unfinished = 0, len(pending.replies)
        extra = {"usage": None} if pending.has_usage else {}
        try:
            # submitted here: if the client does not read the stream, this never runs
            self._submit(pending)
            while unfinished:
                delta = await pending.deltas.get()
                if delta.finish_reason in ENDED:
                    message, status = ENDED[delta.finish_reason]
                    yield _event(error_body(message, status=status))
                    return
                tokens += delta.token is not None
                unfinished -= delta.finish_reason is not None
                # the log-probabilities of a prompt can be many
                is_large = delta.prompt is not None
                event = self._delta_event(pending, delta, is_first=delta.index not in started)
                if text := await self._in_writer(event) if is_large else event():
                    started.add(delta.index)
                    yield text
            if extra:
                yield _event({**pending.head, "choices": [], "usage": pending.usage(tokens)})
            yield "data: [DONE]\n\n"
        except EngineClosed:
            yield _event(error_body(STOPPED, status=503))
        finally:
            # also if the client disconnects, which closes this generator
            self._cancel(pending)

    def _delta_event(self, pending: _Pending, delta: Delta, *, is_first: bool) -> Callable[[], str]:
        """Return a function that adds a delta to its reply and returns its event; empty text if it has nothing new."""

        def event() -> str:
            reply = pending.replies[delta.index]
            text = reply.add(delta)
            logprobs = reply.logprobs(self.texts, is_chat=pending.is_chat)
            if not (text or logprobs or delta.finish_reason):
                return ""
            how: Any = {"is_chat": pending.is_chat, "is_first": is_first, "logprobs": logprobs}
            choice = delta_body(delta.index, text, delta.finish_reason, **how)
            extra = {"usage": None} if pending.has_usage else {}
            return _event({**pending.head, "choices": [choice], **extra})

        return event


def _within_values(body: ChatRequest | CompletionRequest, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """Return the prompts with answers whose log-probabilities can be held at once; a stream's are sent one by one.

    Raises:
        RequestError: There are more, and the request itself sets the length of the answers, or none would fit.
    """
    likely, n = body.most_likely(), body.n or 1
    if likely is None:
        return prompts
    read = sum(len(prompt.tokens) for prompt in prompts if prompt.echo is not None)
    answered = 0 if body.stream else sum(prompt.max_tokens for prompt in prompts)
    places = n * (read + answered)
    if places * (likely + 1) > MOST_VALUES:
        fitting = (MOST_VALUES // (n * (likely + 1)) - read) // len(prompts)
        if body.most_tokens() is None and not body.stream and fitting > 0:
            return [replace(prompt, max_tokens=min(prompt.max_tokens, fitting)) for prompt in prompts]
        limit = "max_completion_tokens" if isinstance(body, ChatRequest) else "max_tokens"
        raise RequestError(
            f"logprobs: {places * (likely + 1):,} log-probabilities ({places:,} tokens, {likely + 1} for each), and a "
            f"reply can have {MOST_VALUES:,}; ask for fewer most likely tokens, a smaller {limit} or n, or send the "
            "prompts one by one",
            field="logprobs",
        )
    return prompts


def _enqueue(deltas: asyncio.Queue[Delta], first: int) -> Callable[[Delta], None]:
    """Return a function that moves deltas from the engine's thread into the queue, numbered from `first`."""
    loop = asyncio.get_running_loop()

    def on_delta(delta: Delta) -> None:
        loop.call_soon_threadsafe(deltas.put_nowait, replace(delta, index=first + delta.index))

    return on_delta


def _encoded(body: dict[str, Any]) -> str:
    """Return a body as JSON, in steps that let other threads run; at once, a large one would stop them for seconds."""
    text = io.StringIO()
    json.dump(body, text, ensure_ascii=False, separators=(",", ":"))
    return text.getvalue()


def _event(body: dict[str, Any]) -> str:
    return f"data: {_encoded(body)}\n\n"


class ClientGone(Exception):  # noqa: N818 (it is no fault)
    """The client has closed the connection."""


async def _while_connected(work: Coroutine[Any, Any, T], request: Request) -> T:
    """Return the result of work that is cancelled when the client closes the connection.

    Raises:
        ClientGone: The client has closed it.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        # until then, text that waits for the tokenizer is still in its queue
        await asyncio.wait([task, gone])


async def _disconnected(request: Request) -> None:
    """Return when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
