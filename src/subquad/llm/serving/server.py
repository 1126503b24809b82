"""The web application with OpenAI's interface: the web side waits, the engine's thread computes."""

import asyncio
import contextlib
import copy
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.serving.engine import Engine, EngineClosed
from subquad.llm.serving.handlers import RequestHandler
from subquad.llm.serving.protocol import LONE_SURROGATE, ChatRequest, CompletionRequest, RequestError, error_body
from subquad.llm.serving.settings import ServeSettings

__all__ = ["make_app"]


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
    max_context = settings.max_context or getattr(model.config, "max_position_embeddings", None)
    if max_context is None:
        raise SubquadError("the model's config has no max_position_embeddings; give --max-context")
    # a copy, since the engine's thread decodes while requests are encoded
    engine = Engine(
        model,
        copy.deepcopy(tokenizer),
        max_batch_size=settings.max_batch_size,
        prefill_chunk_size=settings.prefill_chunk_size,
    )
    handler = RequestHandler(
        engine=engine,
        tokenizer=tokenizer,
        name=name,
        max_context=max_context,
        max_waiting=settings.max_waiting,
        vocab_size=model.config.vocab_size,
    )
    app = FastAPI(title="subquad llm serve", lifespan=_lifespan)
    app.state.engine, app.state.max_context = engine, max_context
    _add_routes(app, handler)
    _add_errors(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine: Engine = app.state.engine
    thread = app.state.thread = threading.Thread(target=engine.run, name="engine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        engine.stop()
        await asyncio.to_thread(thread.join)


def _add_routes(app: FastAPI, handler: RequestHandler) -> None:
    about = {"id": handler.name, "object": "model", "created": int(time.time()), "owned_by": "subquad"}

    @app.get("/health")
    async def health() -> Response:
        is_alive, engine = app.state.thread.is_alive(), handler.engine
        body = {"status": "ok" if is_alive else "failed", "active": engine.active, "waiting": engine.waiting}
        return JSONResponse(body, status_code=200 if is_alive else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [about]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        handler.check_model(name)
        return about

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await handler.answer(body, request)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await handler.answer(body, request)


def _add_errors(app: FastAPI) -> None:
    """Give all errors OpenAI's error body."""

    def reply(message: str, *, status: int = 400, field: str | None = None, code: str | None = None) -> Response:
        return JSONResponse(error_body(message, status=status, field=field, code=code), status_code=status)

    @app.exception_handler(RequestError)
    async def rejected(request: Request, error: RequestError) -> Response:
        return reply(str(error), status=error.status, field=error.field, code=error.code)

    @app.exception_handler(EngineClosed)
    async def closed(request: Request, error: EngineClosed) -> Response:
        return reply(str(error), status=503)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        message, field = _explain(error)
        return reply(message, field=field)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return reply(f"{request.method} {request.url.path}: {error.detail}", status=error.status_code)


def _explain(error: RequestValidationError) -> tuple[str, str | None]:
    """Return the message about an invalid request, and the field that it is about."""
    errors = error.errors()
    if errors[0]["type"] == "json_invalid":
        return f"the body is not JSON: {errors[0].get('ctx', {}).get('error', errors[0]['msg'])}", None
    # a field of several types has an error for each: own checks first, then the type that fits furthest
    own = [one for one in errors if one["loc"][:2] == errors[0]["loc"][:2]]
    first = max(own, key=lambda one: (one["type"] in ("value_error", "string_unicode"), len(one["loc"])))
    field = str(first["loc"][1]) if len(first["loc"]) > 1 else None
    where = f"{field}: " if field else ""
    if first["type"] == "string_unicode":
        return f"{where}{LONE_SURROGATE}", field
    if first["type"] == "value_error":
        return where + first["msg"].removeprefix("Value error, "), field
    got = "" if first["type"] == "missing" else f", got {str(first.get('input'))[:100]}"
    return f"{where}{first['msg']}{got}", field
