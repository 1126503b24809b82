"""An HTTP server with OpenAI's interface; the web side waits, the engine's thread computes."""

import asyncio
import contextlib
import copy
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.serving.batching import Engine, EngineClosed
from subquad.llm.serving.decoding import open_linear
from subquad.llm.serving.handlers import Desk
from subquad.llm.serving.protocol import ChatRequest, CompletionRequest, Refusal, error
from subquad.llm.serving.settings import ServeSettings
from subquad.progress import say

__all__ = ["make_app", "serve"]


def serve(directory: Path | str, settings: ServeSettings = ServeSettings()) -> None:
    """Answer requests until the process is told to stop.

    Raises:
        SubquadError: the folder is no linearized model, or the port is taken.
    """
    # before the model is opened, since that takes longer
    with _listen(settings.host, settings.port) as listener:
        model, tokenizer = open_linear(directory, settings.precision)
        name = settings.name or Path(directory).resolve().name
        app = make_app(model, tokenizer, settings, name=name)
        host, port = listener.getsockname()[:2]
        say(
            f"{name} at http://{f'[{host}]' if ':' in host else host}:{port}/v1 ({settings.max_batch} texts at once, "
            f"{app.state.engine.bytes_each / 2**20:.1f} MiB each, however long); Ctrl-C stops it"
        )
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=settings.grace, lifespan="on"
        )
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            # raised once more by uvicorn, after all was ended
            say("stopped")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as problem:
        # Python writes the address into the words; names that lead nowhere have negative numbers and words of their own
        why = os.strerror(problem.errno) if problem.errno and problem.errno > 0 else problem.strerror
        raise SubquadError(
            f"cannot listen on port {port} of {host} ({why}); choose others with --host and --port, "
            "--port 0 takes a free one"
        ) from problem


def make_app(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: ServeSettings = ServeSettings(),
    *,
    name: str = "linear",
) -> FastAPI:
    """Return the web application; its engine runs in a thread from the application's start to its end.

    Args:
        model: A linearized model.
        tokenizer: Of the model.
        settings: How; host and port are of no use here.
        name: What clients call the model.

    Raises:
        SubquadError: nothing says how long a text may be.
    """
    max_context = settings.max_context or getattr(model.config, "max_position_embeddings", None)
    if max_context is None:
        raise SubquadError("the model's config has no max_position_embeddings; give --max-context")
    # a copy, since the engine's thread decodes while requests are encoded
    engine = Engine(model, copy.deepcopy(tokenizer), max_batch=settings.max_batch, chunk=settings.chunk)
    desk = Desk(
        engine=engine,
        tokenizer=tokenizer,
        name=name,
        max_context=max_context,
        max_waiting=settings.max_waiting,
        words=model.config.vocab_size,
    )
    app = FastAPI(title="subquad llm serve", lifespan=_lifespan)
    app.state.engine = engine
    _add_routes(app, desk)
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


def _add_routes(app: FastAPI, desk: Desk) -> None:
    about = {"id": desk.name, "object": "model", "created": int(time.time()), "owned_by": "subquad"}

    @app.get("/health")
    async def health() -> Response:
        is_alive, engine = app.state.thread.is_alive(), desk.engine
        body = {"status": "ok" if is_alive else "failed", "active": engine.active, "waiting": engine.waiting}
        return JSONResponse(body, status_code=200 if is_alive else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [about]}

    @app.get("/v1/models/{asked:path}")
    async def one_model(asked: str) -> dict[str, Any]:
        desk.check_model(asked)
        return about

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await desk.answer(body, request)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await desk.answer(body, request)


def _add_errors(app: FastAPI) -> None:
    """Let all errors have OpenAI's shape."""

    def reply(message: str, *, status: int = 400, field: str | None = None, code: str | None = None) -> Response:
        return JSONResponse(error(message, status=status, field=field, code=code), status_code=status)

    @app.exception_handler(Refusal)
    async def refused(request: Request, problem: Refusal) -> Response:
        return reply(str(problem), status=problem.status, field=problem.field, code=problem.code)

    @app.exception_handler(EngineClosed)
    async def closed(request: Request, problem: EngineClosed) -> Response:
        return reply(str(problem), status=503)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> Response:
        errors = problem.errors()
        if errors[0]["type"] == "json_invalid":
            return reply(f"the body is not JSON: {errors[0].get('ctx', {}).get('error', errors[0]['msg'])}")
        # of a field's possible types, the one that the value came nearest to
        first = max((one for one in errors if one["loc"][:2] == errors[0]["loc"][:2]), key=lambda one: len(one["loc"]))
        field = str(first["loc"][1]) if len(first["loc"]) > 1 else None
        where = f"{field}: " if field else ""
        got = "" if first["type"] == "missing" else f", got {str(first.get('input'))[:100]}"
        return reply(f"{where}{first['msg']}{got}", field=field)

    @app.exception_handler(HTTPException)
    async def other(request: Request, problem: HTTPException) -> Response:
        return reply(f"{request.method} {request.url.path}: {problem.detail}", status=problem.status_code)
