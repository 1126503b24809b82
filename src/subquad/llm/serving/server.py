"""The web application with OpenAI's interface: the web side waits, the engine's thread computes."""

import asyncio
import contextlib
import copy
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.serving.engine import Engine, EngineClosed
from subquad.llm.serving.handlers import RequestHandler
from subquad.llm.serving.invalid_requests import explain
from subquad.llm.serving.openapi import describe
from subquad.llm.serving.prompts import PromptReader
from subquad.llm.serving.protocol import TOO_MANY, ChatRequest, CompletionRequest, RequestError, error_body
from subquad.llm.serving.settings import ServeSettings

__all__ = ["api_key", "make_app"]

KEY_VARIABLE = "SUBQUAD_API_KEY"
"""Environment variable with the key that clients have to send."""
LARGEST_BODY = 4 * 2**20
"""Largest body of a request in bytes; while one is read, a second at most, no other request is answered."""
BODY_SECONDS = 60
"""Time for sending a body."""
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
"""Upper limits of the histogram of durations."""


def make_app(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: ServeSettings = ServeSettings(),
    *,
    name: str = "linear",
) -> FastAPI:
    """Return the web application; its engine runs in a thread while the application runs.

    Args:
        model: A linearized model.
        tokenizer: Its tokenizer.
        settings: Sizes and limits; host and port are not used here.
        name: Model name for clients.

    Raises:
        SubquadError: The maximum context is unknown, or the model's sequences cannot share a batch.
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    max_context = settings.max_context or longest
    if max_context is None:
        raise SubquadError("the model's config has no max_position_embeddings; give --max-context")
    if longest is not None and max_context > longest:
        raise SubquadError(f"--max-context {max_context}: the model supports at most {longest:,} tokens")
    # a copy, since the engine's thread decodes while requests are encoded
    engine = Engine(
        model,
        copy.deepcopy(tokenizer),
        max_batch_size=settings.max_batch_size,
        prefill_chunk_size=settings.prefill_chunk_size,
        prefix_states=settings.prefix_states,
    )
    handler = RequestHandler(
        engine=engine,
        tokenizer=tokenizer,
        reader=PromptReader(
            tokenizer,
            max_context=max_context,
            vocab_size=model.config.vocab_size,
            is_closed=lambda: engine.is_stopping,
        ),
        name=name,
        max_waiting=settings.max_waiting,
    )
    app = FastAPI(title="subquad llm serve", lifespan=_lifespan, docs_url=None, redoc_url=None)
    app.state.engine, app.state.reader, app.state.max_context = engine, handler.reader, max_context
    _add_routes(app, handler, guard=Depends(_key_check(api_key(settings))))
    app.add_middleware(_Bounded)
    _add_metrics(app, handler)
    _add_errors(app)
    describe(app, name=name)
    return app


def api_key(settings: ServeSettings) -> str | None:
    """Return the key that clients have to send: of the settings, or of the environment; None without one.

    Raises:
        SubquadError: The variable of the environment is set and empty.
    """
    key = settings.api_key or os.environ.get(KEY_VARIABLE)
    if key is not None and not key.strip():
        raise SubquadError(f"{KEY_VARIABLE} is set but empty: give it a key, or unset it for a server without one")
    return key


def _key_check(key: str | None) -> Callable[[Request], None]:
    """Return a check of a request's key; without a key it lets all pass."""

    def check(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # in constant time, so that an answer's delay does not tell how much of a key is right
        if key is None or (scheme.lower() == "bearer" and secrets.compare_digest(given.encode(), key.encode())):
            return
        is_missing = scheme.lower() != "bearer" or not given
        reason = "there is no Authorization header with a Bearer key" if is_missing else "the API key is wrong"
        raise RequestError(
            f"{reason}; this server was started with --api-key: send the header "
            "`Authorization: Bearer KEY`, which OpenAI's clients make of their api_key",
            status=401,
            code="invalid_api_key",
        )

    return check


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine: Engine = app.state.engine
    thread = app.state.thread = threading.Thread(target=engine.run, name="engine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        engine.stop()
        app.state.reader.close()
        await asyncio.to_thread(thread.join)


def _add_routes(app: FastAPI, handler: RequestHandler, guard: Any) -> None:
    """Add the routes; all but /health need the key."""
    about = {"id": handler.name, "object": "model", "created": int(time.time()), "owned_by": "subquad"}

    @app.get("/health")
    async def health() -> Response:
        is_alive, engine = app.state.thread.is_alive(), handler.engine
        body = {"status": "ok" if is_alive else "failed", "active": engine.active, "waiting": handler.waiting}
        return JSONResponse(body, status_code=200 if is_alive else 503)

    @app.get("/v1/models", dependencies=[guard])
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [about]}

    @app.get("/v1/models/{name:path}", dependencies=[guard])
    async def one_model(name: str) -> dict[str, Any]:
        handler.check_model(name)
        return about

    @app.post("/v1/completions", dependencies=[guard])
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await handler.answer(body, request)

    @app.post("/v1/chat/completions", dependencies=[guard])
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await handler.answer(body, request)


class _EngineMetrics(Collector):
    """Reads the engine's counts whenever Prometheus asks."""

    def __init__(self, handler: RequestHandler):
        self._handler = handler

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        engine, waiting = self._handler.engine, self._handler.waiting
        yield GaugeMetricFamily("subquad_active_sequences", "Sequences in the batch.", engine.active)
        yield GaugeMetricFamily("subquad_waiting_requests", "Prompts that have not been started.", waiting)
        yield CounterMetricFamily("subquad_prompt_tokens", "Tokens of prompts.", engine.prompt_tokens)
        yield CounterMetricFamily(
            "subquad_cached_prompt_tokens",
            "Prompt tokens whose state was kept from an earlier request.",
            engine.cached_tokens,
        )
        yield CounterMetricFamily("subquad_generated_tokens", "Tokens that were generated.", engine.generated_tokens)


class _Measured:
    """Counts requests by route and status, and measures the time until their reply begins."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry):
        self._app = app
        self._requests = Counter("subquad_requests", "Requests.", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "subquad_request_seconds", "Seconds until a reply begins.", ["route"], registry=registry, buckets=SECONDS
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                # the path of the route, since a client can ask for any number of others
                route = getattr(scope.get("route"), "path", "other")
                self._requests.labels(route, str(message["status"])).inc()
                self._seconds.labels(route).observe(time.perf_counter() - start)
            await send(message)

        await self._app(scope, receive, measured)


class _Bounded:
    """Refuses bodies that are too large, are sent too slowly, or do not say how large they are and could fill the
    memory.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        length, reply = headers.get("content-length", "0"), None
        if "transfer-encoding" in headers:
            reply = _error_reply("a request has to say how long it is (Content-Length)", status=411)
        elif not length.isdigit() or int(length) > LARGEST_BODY:
            reply = _error_reply(f"the body has more than {LARGEST_BODY // 2**20} MiB", status=413)
        await (reply or self._app)(scope, _in_time(receive) if scope["type"] == "http" else receive, send)


def _in_time(receive: Receive) -> Receive:
    """Return a `receive` that raises status 408 if the body is not complete in time."""
    is_complete, end = False, time.monotonic() + BODY_SECONDS

    async def timed() -> Message:
        nonlocal is_complete
        if is_complete:
            # what comes then is that the client has gone, at any time
            return await receive()
        try:
            # what has arrived is read, however late
            message = await asyncio.wait_for(receive(), max(0.05, end - time.monotonic()))
        except TimeoutError:
            raise HTTPException(408, f"the body was not complete within {BODY_SECONDS} seconds") from None
        is_complete = not message.get("more_body", False)
        return message

    return timed


def _add_metrics(app: FastAPI, handler: RequestHandler) -> None:
    """Add /metrics in the format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_EngineMetrics(handler))
    app.add_middleware(_Measured, registry=registry)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _error_reply(message: str, *, status: int = 400, field: str | None = None, code: str | None = None) -> Response:
    return JSONResponse(error_body(message, status=status, field=field, code=code), status_code=status)


def _add_errors(app: FastAPI) -> None:
    """Give all errors OpenAI's error body."""

    @app.exception_handler(RequestError)
    async def rejected(request: Request, error: RequestError) -> Response:
        response = _error_reply(str(error), status=error.status, field=error.field, code=error.code)
        if error.status == TOO_MANY:
            response.headers["retry-after"] = "1"
        return response

    @app.exception_handler(EngineClosed)
    async def closed(request: Request, error: EngineClosed) -> Response:
        return _error_reply(str(error), status=503)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        message, field = explain(error)
        return _error_reply(message, field=field)

    # FastAPI's own is one of these
    @app.exception_handler(StarletteHTTPException)
    async def other(request: Request, error: StarletteHTTPException) -> Response:
        if isinstance(error.__cause__, UnicodeDecodeError):
            return _error_reply("the body is not UTF-8")
        return _error_reply(f"{request.method} {request.url.path}: {error.detail}", status=error.status_code)
