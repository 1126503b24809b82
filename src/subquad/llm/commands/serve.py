"""`subquad llm serve`: answer requests over HTTP until the process is stopped."""

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from subquad.errors import SubquadError
from subquad.llm.serving.settings import ServeSettings
from subquad.progress import say
from subquad.runs.termination import Terminated

if TYPE_CHECKING:
    from subquad.llm.serving.engine import Engine

SHUTDOWN_SECONDS = 10
"""Time that requests have to finish after the first signal."""


def serve(run: Path | str, settings: ServeSettings | None = None) -> None:
    """Serve a linearized model with OpenAI's interface until the process is stopped.

    Args:
        run: Folder of a linearized model or an adapter.
        settings: Address, sizes and limits; None for the defaults.

    Raises:
        SubquadError: The folder holds no linearized model, the port is in use, or the model cannot compute any more.
    """
    settings = settings or ServeSettings()
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        # before torch is imported and the model is loaded, which takes longer
        listener = socket.create_server((settings.host, settings.port), family=family)
    except (OSError, OverflowError) as error:
        # without the address, which the message has; negative for a name that is not known
        number = getattr(error, "errno", None) or -1
        reason = os.strerror(number) if number > 0 else error
        raise SubquadError(f"cannot listen on port {settings.port} of {settings.host}: {reason}") from error
    with listener:
        from subquad.llm.models.decoding import beyond_training
        from subquad.llm.models.loading import load, place
        from subquad.llm.serving.server import make_app

        model, tokenizer = load(run)
        name = settings.name or Path(run).resolve().name
        app = make_app(place(model, settings), tokenizer, settings, name=name)
        engine: Engine = app.state.engine
        host, port = listener.getsockname()[:2]
        say(
            f"{name} at http://{f'[{host}]' if ':' in host else host}:{port}/v1 (up to {settings.max_batch_size} "
            f"sequences together, {engine.batch.bytes_per_sequence / 2**20:.1f} MiB of state each); Ctrl-C stops it"
        )
        if warning := beyond_training(model, app.state.max_context):
            say(f"warning: requests may be too long: {warning}; limit them with --max-context")
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", ws="none")
        # uvicorn raises the signal again after the shutdown
        with suppress(KeyboardInterrupt, Terminated):
            _Server(config, engine).run(sockets=[listener])
    if engine.has_failed:
        raise SubquadError("the server has ended, since its model cannot compute any more (see above)")


class _Server(uvicorn.Server):
    """Ends the requests that are unfinished some seconds after the signal; their clients get an error."""

    def __init__(self, config: uvicorn.Config, engine: "Engine") -> None:
        super().__init__(config)
        self._engine = engine

    async def on_tick(self, counter: int) -> bool:
        # what starts processes again can start this one
        return await super().on_tick(counter) or self._engine.has_failed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(SHUTDOWN_SECONDS, self._engine.stop)
        await super().shutdown(sockets)
        timer.cancel()
