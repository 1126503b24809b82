"""From a request to jobs for the engine, and from the engine's pieces to a reply, whole or as a stream."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from transformers import PreTrainedTokenizerBase

from subquad.errors import SubquadError
from subquad.llm.serving.batching import Engine, EngineClosed, Job, Piece
from subquad.llm.serving.detokenizer import chat_text, tokens_of
from subquad.llm.serving.protocol import ChatRequest, CompletionRequest, Refusal, choice, error, part, usage

__all__ = ["Desk"]

COMPLETION_TOKENS = 16
"""Of an answer of /v1/completions where the request says nothing; OpenAI's number."""
CLIENT_GONE = 499
STOPPED = "the server was stopped, or has failed; /health and its log tell which"


@dataclass(kw_only=True)
class _Asked:
    """What one request asks of the engine."""

    jobs: list[Job]
    pieces: asyncio.Queue[Piece]
    head: dict[str, Any]
    is_chat: bool
    has_usage: bool

    @property
    def texts(self) -> int:
        return sum(job.n for job in self.jobs)

    def usage(self, tokens: int) -> dict[str, int]:
        return usage([job.prompt for job in self.jobs], tokens)


@dataclass(kw_only=True)
class Desk:
    """Takes requests for one model."""

    engine: Engine
    """It runs in a thread of its own."""
    tokenizer: PreTrainedTokenizerBase
    """Not the engine's own, which decodes at the same time."""
    name: str
    """What clients call the model."""
    max_context: int
    """Tokens of prompt and answer together, at most."""
    max_waiting: int
    """Requests that may wait for a place."""
    words: int
    """Size of the model's vocabulary."""

    def check_model(self, name: str) -> None:
        """Check the name of a model.

        Raises:
            Refusal: it is another model's.
        """
        if name != self.name:
            raise Refusal(
                f"no model {name!r}; this server has {self.name!r}", field="model", status=404, code="model_not_found"
            )

    async def answer(self, body: ChatRequest | CompletionRequest, request: Request) -> Response:
        """Return the reply to a request.

        Raises:
            Refusal: the request cannot be answered.
        """
        self.check_model(body.model)
        body.refuse_unsupported()
        if self.engine.waiting >= self.max_waiting:
            raise Refusal(f"{self.engine.waiting} requests wait already; come again later", status=429)
        asked = self._asked(body)
        if len(asked.jobs) > self.max_waiting:
            raise Refusal(
                f"prompt: {len(asked.jobs)} texts in one request; {self.max_waiting} may wait", field="prompt"
            )
        if body.stream:
            events = self._events(asked)
            return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        return await self._whole(asked, request)

    def _asked(self, body: ChatRequest | CompletionRequest) -> _Asked:
        is_chat, n, seed = isinstance(body, ChatRequest), body.n or 1, body.given_seed()
        if n > self.engine.max_batch:
            raise Refusal(f"n: {n} texts at once; this server has room for {self.engine.max_batch}", field="n")
        prompts = [self._chat(body)] if isinstance(body, ChatRequest) else self._prompts(body)
        pieces: asyncio.Queue[Piece] = asyncio.Queue()
        jobs = [
            Job(
                prompt=prompt,
                listen=_listener(pieces, place * n),
                max_tokens=self._room(prompt, body),
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
        return _Asked(jobs=jobs, pieces=pieces, head=head, is_chat=is_chat, has_usage=body.has_usage())

    def _chat(self, body: ChatRequest) -> list[int]:
        try:
            text = chat_text(self.tokenizer, [message.plain() for message in body.messages])
        except SubquadError as problem:
            raise Refusal(str(problem), field="messages") from problem
        return tokens_of(self.tokenizer, text, is_plain=False)

    def _prompts(self, body: CompletionRequest) -> list[list[int]]:
        prompts = [
            tokens_of(self.tokenizer, prompt, is_plain=True) if isinstance(prompt, str) else prompt
            for prompt in body.prompts()
        ]
        if not prompts or not all(prompts):
            raise Refusal("prompt: there is no text to continue in it", field="prompt")
        wrong = next((token for prompt in prompts for token in prompt if not 0 <= token < self.words), None)
        if wrong is not None:
            raise Refusal(f"prompt: {wrong} is no token; the model has {self.words}, from 0", field="prompt")
        return prompts

    def _room(self, prompt: Sequence[int], body: ChatRequest | CompletionRequest) -> int:
        """Return how long the answer may be."""
        left = self.max_context - len(prompt)
        is_chat = isinstance(body, ChatRequest)
        asked = body.most_tokens() if is_chat else body.max_tokens or max(1, min(left, COMPLETION_TOKENS))
        if (asked or 1) > left:
            raise Refusal(
                f"the prompt's {len(prompt)} tokens and {asked or 1} of the answer are more than the "
                f"{self.max_context} that this server takes (--max-context)",
                field="messages" if is_chat else "prompt",
                code="context_length_exceeded",
            )
        return asked or left

    def _submit(self, asked: _Asked) -> None:
        for job in asked.jobs:
            self.engine.submit(job)

    def _cancel(self, asked: _Asked) -> None:
        for job in asked.jobs:
            self.engine.cancel(job)

    async def _whole(self, asked: _Asked, request: Request) -> Response:
        texts, finishes, tokens = [""] * asked.texts, [""] * asked.texts, 0

        async def gather() -> None:
            nonlocal tokens
            while not all(finishes):
                piece = await asked.pieces.get()
                if piece.finish == "closed":
                    raise Refusal(STOPPED, status=503)
                texts[piece.place] += piece.text
                finishes[piece.place] = piece.finish or ""
                tokens += 1

        self._submit(asked)
        tasks = [asyncio.create_task(gather()), asyncio.create_task(_gone(request))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0] not in done:
                # nobody reads it
                return Response(status_code=CLIENT_GONE)
            tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()
            self._cancel(asked)
        rows = zip(texts, finishes, strict=True)
        choices = [choice(index, text, finish, is_chat=asked.is_chat) for index, (text, finish) in enumerate(rows)]
        return JSONResponse({**asked.head, "choices": choices, "usage": asked.usage(tokens)})

    async def _events(self, asked: _Asked) -> AsyncIterator[str]:
        begun: set[int] = set()
        tokens, unfinished = 0, asked.texts
        extra = {"usage": None} if asked.has_usage else {}
        try:
            # here and not before: where nobody reads the stream, this never runs
            self._submit(asked)
            while unfinished:
                piece = await asked.pieces.get()
                if piece.finish == "closed":
                    yield _event(error(STOPPED, status=503))
                    return
                tokens += 1
                unfinished -= piece.finish is not None
                if piece.text or piece.finish:
                    one = part(piece, is_chat=asked.is_chat, is_first=piece.place not in begun)
                    begun.add(piece.place)
                    yield _event({**asked.head, "choices": [one], **extra})
            if extra:
                yield _event({**asked.head, "choices": [], "usage": asked.usage(tokens)})
            yield "data: [DONE]\n\n"
        except EngineClosed:
            yield _event(error(STOPPED, status=503))
        finally:
            # also where the client is gone, which ends this generator
            self._cancel(asked)


def _listener(pieces: asyncio.Queue[Piece], first: int) -> Callable[[Piece], None]:
    """Return what carries pieces from the engine's thread into the queue, counting texts from `first`."""
    loop = asyncio.get_running_loop()

    def listen(piece: Piece) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, piece._replace(place=first + piece.place))

    return listen


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def _gone(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
