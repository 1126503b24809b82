"""The web application with OpenAI's interface: the event loop waits, the engine's thread computes."""

import asyncio
import contextlib
import copy
import json
import random
import secrets
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.serving.engine import STOPPED, Delta, Engine, EngineClosed, Job
from subquad.llm.serving.sampling import TokenSampler
from subquad.llm.serving.settings import LOOPBACK, ServeSettings
from subquad.llm.serving.tokenization import chat_text, encode

COMPLETION_TOKENS = 16
"""Default length of an answer of /v1/completions; OpenAI's value."""
OPEN_PATHS = ("/health", "/metrics")
"""Paths that need no key."""
UNSUPPORTED = (
    *("echo", "frequency_penalty", "functions", "logit_bias", "logprobs", "presence_penalty", "response_format"),
    *("suffix", "tools", "top_logprobs"),
)
"""Fields that would change the reply; other unknown ones, such as `user`, are ignored."""
SECONDS_BETWEEN_CHECKS = 1.0
"""A request whose tokens take longer looks so often whether its client is still there."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, le=2**31)
    min_p: float = Field(0.0, ge=0, le=1)
    seed: int = Field(default_factory=lambda: random.getrandbits(62))
    stop: str | Annotated[list[str], Field(fail_fast=True)] = ""
    n: Literal[1] = 1
    stream: bool = False
    stream_options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, body: Any) -> Any:
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body

    @model_validator(mode="after")
    def _supported(self) -> "_Request":
        if wrong := [name for name in UNSUPPORTED if (self.model_extra or {}).get(name)]:
            raise ValueError(f"{wrong[0]} is not supported")
        return self


class CompletionRequest(_Request):
    """Body of /v1/completions."""

    prompt: str | list[Any]
    """A text or its tokens, also in a list of one, as lm-eval sends them."""

    def read(self, tokenizer: PreTrainedTokenizerBase, room: int) -> tuple[list[int], int]:
        """Return the tokens of the prompt, and how many may follow; prompt and answer have at most `room`."""
        prompt = self.prompt
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
            prompt = prompt[0]
        tokens = encode(tokenizer, prompt) if isinstance(prompt, str) else prompt
        if not all(isinstance(token, int) and 0 <= token < len(tokenizer) for token in tokens):
            raise SubquadError(f"prompt: must be one text, or tokens from 0 to {len(tokenizer) - 1}")
        return tokens, self.max_tokens or min(room - len(tokens), COMPLETION_TOKENS)


class ChatMessage(BaseModel):
    """A message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(_Request):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1)

    def read(self, tokenizer: PreTrainedTokenizerBase, room: int) -> tuple[list[int], int]:
        """Return the tokens of the prompt, and how many may follow; prompt and answer have at most `room`."""
        text = chat_text(tokenizer, [message.model_dump() for message in self.messages])
        tokens = encode(tokenizer, text, add_special_tokens=False)
        return tokens, self.max_completion_tokens or self.max_tokens or room - len(tokens)


def make_app(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: ServeSettings = ServeSettings(),
    *,
    name: str = "linear",
) -> FastAPI:
    """Return the web application; its engine, `state.engine`, runs in a thread while the application runs.

    Args:
        model: A linearized model.
        tokenizer: Its tokenizer.
        settings: Sizes, limits and the key; the port is not used here.
        name: Model name for clients.

    Raises:
        SubquadError: The maximum context is unknown, or the model's sequences cannot share a batch.
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    max_context = settings.max_context or longest
    if max_context is None or (longest and max_context > longest):
        raise SubquadError(f"the maximum context is {max_context}, and the model supports {longest} tokens")
    sizes = {"max_batch_size": settings.max_batch_size, "prefix_states": settings.prefix_states}
    # a copy, since the engine's thread decodes while requests are encoded
    engine = Engine(model, copy.deepcopy(tokenizer), **sizes)
    handler = _Handler(engine, tokenizer, name=name, max_context=max_context, max_waiting=settings.max_waiting)
    thread = threading.Thread(target=engine.run, name="engine", daemon=True)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        thread.start()
        yield
        engine.stop()
        await asyncio.to_thread(thread.join)

    app = FastAPI(title="subquad llm serve", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.engine, app.state.max_context = engine, max_context
    registry = CollectorRegistry()
    registry.register(_EngineMetrics(engine))

    @app.get("/health")
    async def health() -> Response:
        is_alive = thread.is_alive()
        body = {"status": "ok" if is_alive else "failed", "active": engine.active, "waiting": handler.waiting}
        return JSONResponse(body, 200 if is_alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "subquad"}]}

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await handler.answer(body, request)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await handler.answer(body, request)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, error.detail)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return _error(400, f"{field}: {first['msg']}".removeprefix(": Value error, "))

    @app.exception_handler(SubquadError)
    async def impossible(request: Request, error: SubquadError) -> Response:
        return _error(400, str(error))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    app.add_middleware(_Gate, key=settings.key, registry=registry)
    if settings.key is None:
        # a page on another host, whose name resolves to this computer, must not use the server
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK)
    return app


def _error_body(status: int, message: str) -> dict[str, Any]:
    error_type = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": error_type}}


def _error(status: int, message: str) -> Response:
    return JSONResponse(_error_body(status, message), status, {"retry-after": "1"} if status == 429 else None)


class _Gate:
    """Refuses requests without the key before their bodies are read, and counts replies by status."""

    def __init__(self, app: ASGIApp, *, key: str | None, registry: CollectorRegistry):
        self._app, self._key = app, key
        self._requests = Counter("subquad_requests", "Requests by status of the reply.", ["status"], registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests.labels(str(message["status"])).inc()
            await send(message)

        app = self._app
        if self._key is not None and scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            sent = Headers(scope=scope).get("authorization", "")
            # in constant time, so that the delay does not tell how much of a key is right
            if not secrets.compare_digest(sent.encode(), f"Bearer {self._key}".encode()):
                app = _error(401, "the API key is missing or wrong; send the header `Authorization: Bearer KEY`")
        await app(scope, receive, counted)


class _EngineMetrics(Collector):
    """Reads the engine's counts whenever Prometheus asks."""

    def __init__(self, engine: Engine):
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        engine = self._engine
        yield GaugeMetricFamily("subquad_active_sequences", "Sequences in the batch.", engine.active)
        yield GaugeMetricFamily("subquad_waiting_requests", "Requests that wait for a row.", engine.waiting)
        yield CounterMetricFamily("subquad_prompt_tokens", "Tokens of prompts.", engine.prompt_tokens)
        yield CounterMetricFamily(
            "subquad_cached_prompt_tokens", "Those that were not read again.", engine.cached_tokens
        )
        yield CounterMetricFamily("subquad_generated_tokens", "Tokens that were generated.", engine.generated_tokens)


class _Handler:
    """Answers requests: from a request to a job for the engine, and from the engine's deltas to a reply or a stream."""

    def __init__(
        self, engine: Engine, tokenizer: PreTrainedTokenizerBase, *, name: str, max_context: int, max_waiting: int
    ):
        self._engine, self._tokenizer, self._name = engine, tokenizer, name
        self._max_context, self._max_waiting = max_context, max_waiting
        # one thread, since not all tokenizers can be used in several
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._reading = 0
        """Number of requests whose prompts are being tokenized."""

    @property
    def waiting(self) -> int:
        """Number of requests whose prompts have not been started."""
        return self._engine.waiting + self._reading

    async def answer(self, body: CompletionRequest | ChatRequest, request: Request) -> Response:
        """Return the reply to a request.

        Raises:
            HTTPException: The request cannot be answered.
            ClientDisconnect: The client has closed the connection.
        """
        if body.model != self._name:
            raise HTTPException(404, f"no model {body.model!r:.99}; this server has {self._name!r}")
        if self.waiting >= self._max_waiting:
            raise HTTPException(429, f"{self.waiting} requests are waiting already; try again later")
        self._reading += 1
        try:
            job = await asyncio.get_running_loop().run_in_executor(self._thread, self._job, body)
        finally:
            self._reading -= 1
        is_chat, identity = isinstance(body, ChatRequest), uuid.uuid4().hex
        head = {
            "id": f"chatcmpl-{identity}" if is_chat else f"cmpl-{identity}",
            "object": "text_completion" if not is_chat else f"chat.completion{'.chunk' if body.stream else ''}",
            "created": int(time.time()),
            "model": self._name,
        }
        if body.stream:
            has_usage = bool(body.stream_options.get("include_usage"))
            events = self._events(job, head, is_chat=is_chat, has_usage=has_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        text, reason = "", None
        async with contextlib.aclosing(self._deltas(job, request)) as deltas:
            async for delta in deltas:
                text, reason = text + delta.text, delta.finish_reason
        content = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        return JSONResponse({**head, "choices": [_choice(content, reason)], "usage": _usage(job)})

    def _job(self, body: CompletionRequest | ChatRequest) -> Job:
        tokens, most = body.read(self._tokenizer, self._max_context)
        if not tokens:
            raise HTTPException(400, "the prompt is empty; there is no text to continue")
        if len(tokens) + max(most, 1) > self._max_context:
            raise HTTPException(
                400,
                f"the prompt ({len(tokens):,} tokens) and the answer ({max(most, 1):,}) exceed the maximum of "
                f"{self._max_context:,} tokens",
            )
        # vLLM's top_k of -1 means all as well
        sampling = {"temperature": body.temperature, "top_p": body.top_p, "top_k": max(body.top_k, 0)}
        stops = tuple(filter(None, [body.stop] if isinstance(body.stop, str) else body.stop))
        sampler = TokenSampler(**sampling, min_p=body.min_p, seed=body.seed)
        return Job(prompt=tokens, max_tokens=most, sampler=sampler, stops=stops)

    async def _deltas(self, job: Job, request: Request | None = None) -> AsyncGenerator[Delta]:
        """Submit a job and yield what its tokens add; the job of a client that has gone is cancelled.

        Raises:
            HTTPException: The computation failed, or the engine has stopped.
            ClientDisconnect: The client of the request has closed the connection.
        """
        loop, arrived = asyncio.get_running_loop(), asyncio.Queue[Delta]()

        def arrive(delta: Delta) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, delta)

        job.on_delta = arrive
        try:
            self._engine.submit(job)
            reason = None
            while reason is None:
                with contextlib.suppress(TimeoutError):
                    delta = await asyncio.wait_for(arrived.get(), SECONDS_BETWEEN_CHECKS)
                    if delta.error:
                        raise HTTPException(503 if delta.error == STOPPED else 500, delta.error)
                    reason = delta.finish_reason
                    yield delta
                if request is not None and await request.is_disconnected():
                    raise ClientDisconnect
        except EngineClosed as error:
            raise HTTPException(503, str(error)) from error
        finally:
            self._engine.cancel(job)

    async def _events(self, job: Job, head: dict[str, Any], *, is_chat: bool, has_usage: bool) -> AsyncIterator[str]:
        """Yield the events of a stream."""

        def event(content: dict[str, Any], reason: str | None = None) -> str:
            return _event({**head, "choices": [_choice(content, reason)]})

        try:
            if is_chat:
                yield event({"delta": {"role": "assistant", "content": ""}})
            async with contextlib.aclosing(self._deltas(job)) as deltas:
                async for delta in deltas:
                    if delta.text or delta.finish_reason:
                        content = {"delta": {"content": delta.text}} if is_chat else {"text": delta.text}
                        yield event(content, delta.finish_reason)
            if has_usage:
                yield _event({**head, "choices": [], "usage": _usage(job)})
            yield "data: [DONE]\n\n"
        except HTTPException as error:
            yield _event(_error_body(error.status_code, error.detail))


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _choice(content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}


def _usage(job: Job) -> dict[str, Any]:
    return {
        "prompt_tokens": len(job.prompt),
        "completion_tokens": len(job.tokens),
        "total_tokens": len(job.prompt) + len(job.tokens),
        "prompt_tokens_details": {"cached_tokens": job.cached_tokens},
    }
