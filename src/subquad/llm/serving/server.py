"""The web application with OpenAI's interface: the web side waits, the engine's thread computes."""

import asyncio
import contextlib
import copy
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.serving.admission import Admission, error_reply
from subquad.llm.serving.engine import Engine, EngineClosed
from subquad.llm.serving.handlers import CLIENT_GONE, ClientGone, RequestHandler
from subquad.llm.serving.invalid_requests import explain
from subquad.llm.serving.logprobs import TokenTexts
from subquad.llm.serving.openapi import describe
from subquad.llm.serving.prompts import PromptReader
from subquad.llm.serving.protocol import ChatRequest, CompletionRequest, RequestError
from subquad.llm.serving.replies import EVENTS, TEXT, ChatCompletion, Completion, Health, Model, ModelList
from subquad.llm.serving.settings import ServeSettings
from subquad.runs.listening import is_loopback, loopback_names

__all__ = ["api_key", "make_app"]

KEY_VARIABLE = "SUBQUAD_API_KEY"
"""Environment variable with the key that clients have to send."""
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
        settings: Sizes, limits and the key. On a loopback address without a key, requests for other names than those
            of loopback and `allow_host` are refused; the port is not used here.
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
        texts=TokenTexts(tokenizer),
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
    app.state.engine, app.state.handler, app.state.max_context = engine, handler, max_context
    _add_routes(app, handler)
    key = api_key(settings)
    hosts = _names(settings) if key is None and is_loopback(settings.host) else None
    app.add_middleware(Admission, key=key, hosts=hosts)
    _add_metrics(app, handler)
    _add_errors(app)
    describe(app, name=name)
    return app


def _names(settings: ServeSettings) -> frozenset[str]:
    return loopback_names(settings.host) | {name.strip("[]").lower() for name in settings.allow_host}


def api_key(settings: ServeSettings) -> str | None:
    """Return the key that clients have to send: of the settings, or of the environment; None without one.

    Raises:
        SubquadError: The variable of the environment is set and empty.
    """
    key = settings.api_key or os.environ.get(KEY_VARIABLE)
    if key is not None and not key.strip():
        raise SubquadError(f"{KEY_VARIABLE} is set but empty: give it a key, or unset it for a server without one")
    return key


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine: Engine = app.state.engine
    thread = app.state.thread = threading.Thread(target=engine.run, name="engine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        engine.stop()
        app.state.handler.close()
        await asyncio.to_thread(thread.join)


def _add_routes(app: FastAPI, handler: RequestHandler) -> None:
    """Add the routes; the models of their replies are for the description, since replies are made as bytes."""
    about = {"id": handler.name, "object": "model", "created": int(time.time()), "owned_by": "subquad"}

    @app.get(
        "/health", response_model=Health, responses={503: {"model": Health, "description": "The engine has ended."}}
    )
    async def health() -> Response:
        is_alive, engine = app.state.thread.is_alive(), handler.engine
        body = {"status": "ok" if is_alive else "failed", "active": engine.active, "waiting": handler.waiting}
        return JSONResponse(body, status_code=200 if is_alive else 503)

    @app.get("/v1/models", response_model=ModelList)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [about]}

    @app.get("/v1/models/{name:path}", response_model=Model)
    async def one_model(name: str) -> dict[str, Any]:
        handler.check_model(name)
        return about

    @app.post("/v1/completions", response_model=Completion, responses=EVENTS)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await handler.answer(body, request)

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=EVENTS)
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

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, routes: Sequence[BaseRoute]):
        self._app, self._routes = app, routes
        self._requests = Counter("subquad_requests", "Requests.", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "subquad_request_seconds", "Seconds until a reply begins.", ["route"], registry=registry, buckets=SECONDS
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = self._route(scope)
                self._requests.labels(route, str(message["status"])).inc()
                self._seconds.labels(route).observe(time.perf_counter() - start)
            await send(message)

        await self._app(scope, receive, measured)

    def _route(self, scope: Scope) -> str:
        """Return the path of a request's route, since a client can ask for any number of others."""
        # a request that was refused before has not been routed
        found = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        return getattr(scope.get("route") or next(found, None), "path", "other")


def _add_metrics(app: FastAPI, handler: RequestHandler) -> None:
    """Add /metrics in the format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_EngineMetrics(handler))
    app.add_middleware(_Measured, registry=registry, routes=app.routes)

    @app.get("/metrics", response_class=Response, responses=TEXT)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI) -> None:
    """Give all errors OpenAI's error body."""

    @app.exception_handler(RequestError)
    async def rejected(request: Request, error: RequestError) -> Response:
        return error_reply(str(error), status=error.status, field=error.field, code=error.code)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(EngineClosed)
    async def closed(request: Request, error: EngineClosed) -> Response:
        return error_reply(str(error), status=503)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        message, field = explain(error)
        return error_reply(message, field=field)

    # FastAPI's own is one of these
    @app.exception_handler(StarletteHTTPException)
    async def other(request: Request, error: StarletteHTTPException) -> Response:
        if isinstance(error.__cause__, UnicodeDecodeError):
            return error_reply("the body is not UTF-8")
        return error_reply(f"{request.method} {request.url.path}: {error.detail}", status=error.status_code)
