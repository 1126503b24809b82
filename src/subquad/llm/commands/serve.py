"""`subquad llm serve`: answer requests over HTTP until the process is stopped."""

import asyncio
import json
import signal
import socket
from pathlib import Path

import uvicorn

from subquad.errors import SubquadError
from subquad.llm.models.decoding import beyond_training
from subquad.llm.serving.engine import Engine
from subquad.llm.serving.generation import load_for_generation
from subquad.llm.serving.protocol import error_body
from subquad.llm.serving.server import api_key, make_app
from subquad.llm.serving.settings import ServeSettings
from subquad.llm.serving.state_files import check_state_file, read_state
from subquad.progress import say
from subquad.runs.connections import ACCEPTED_TOGETHER, BUSY, QueueingServer, bounded_protocol, connection_limit
from subquad.runs.listening import is_loopback, listen

__all__ = ["serve"]

LAST_SECONDS = 30
"""Time that requests have to send their error after they were ended."""
REFUSAL = ("application/json", json.dumps(error_body(BUSY, status=503)).encode())
"""Type and content of the reply to a connection beyond the limit."""


def serve(run: Path | str, settings: ServeSettings | None = None) -> None:
    """Serve a linearized model with OpenAI's interface until the process is stopped.

    Args:
        run: Folder of a linearized model or an adapter.
        settings: Address, sizes and limits; None for the defaults.

    Raises:
        SubquadError: The folder holds no linearized model, the port is in use, a state cannot be used, or the model
            cannot compute any more.
    """
    settings = settings or ServeSettings()
    for path in settings.state:
        check_state_file(path)
    # before the model is loaded, since that takes longer
    with listen(settings.host, settings.port) as listener:
        model, tokenizer = load_for_generation(run, settings)
        name = settings.name or Path(run).resolve().name
        app = make_app(model, tokenizer, settings, name=name)
        for path in settings.state:
            app.state.engine.keep(read_state(path, run, model))
        host, port = listener.getsockname()[:2]
        say(
            f"{name} at http://{f'[{host}]' if ':' in host else host}:{port}/v1 (up to {settings.max_batch_size} "
            f"sequences together, {app.state.engine.state_size}); Ctrl-C stops it"
        )
        if warning := beyond_training(model, app.state.max_context):
            say(f"warning: requests may be too long: {warning}; limit them with --max-context")
        if api_key(settings) is None and not is_loopback(host):
            say("warning: everyone who reaches this address can use the model; set a key with --api-key")
        config = uvicorn.Config(
            app,
            http=bounded_protocol(connection_limit(), refusal=REFUSAL),
            # a connection that became a web socket would not be limited
            ws="none",
            # uvloop accepts any number of connections together
            loop="asyncio",
            backlog=ACCEPTED_TOGETHER,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=settings.shutdown_timeout + LAST_SECONDS,
            lifespan="on",
        )
        # uvicorn ends the process by SIGTERM itself, after its requests
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            _Server(config, app.state.engine, seconds=settings.shutdown_timeout).run(sockets=[listener])
        except KeyboardInterrupt:
            # uvicorn raises it again after the shutdown
            say("stopped")
    if app.state.engine.has_failed:
        raise SubquadError("the server has ended, since its model cannot compute any more (see above); start it again")


class _Server(QueueingServer):
    """Ends the requests that are unfinished some seconds after the signal; their clients get an error.

    uvicorn would cut their connections, and print a traceback for each.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, *, seconds: int) -> None:
        super().__init__(config)
        self._engine, self._seconds = engine, seconds

    async def on_tick(self, counter: int) -> bool:
        # what starts processes again can start this one
        return await super().on_tick(counter) or self._engine.has_failed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self._seconds, self._end)
        if count := self._unfinished():
            say(
                f"waiting up to {self._seconds} s for {count} unfinished {'request' if count == 1 else 'requests'}; "
                "Ctrl-C again ends them"
            )
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def _unfinished(self) -> int:
        return self._engine.active + self._engine.waiting

    def _end(self) -> None:
        if count := self._unfinished():
            say(f"{count} unfinished {'request was' if count == 1 else 'requests were'} ended")
        self._engine.stop()
