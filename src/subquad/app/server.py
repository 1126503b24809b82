"""`subquad app`: the web page on this computer."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path
from typing import Any

from subquad.app.marker import check_workspace
from subquad.app.settings import AppSettings, cache_folder, read_password
from subquad.errors import require
from subquad.progress import say
from subquad.runs.examples import EXAMPLE_RUNS, run_folder
from subquad.runs.listening import check_address, is_loopback, listen, loopback_names
from subquad.runs.lock import lock_folder

__all__ = ["make_app", "serve"]

BODY_SECONDS = 60.0
"""Time in which an upload has to make progress."""


def serve(settings: AppSettings | None = None) -> None:
    """Serve the page until it is interrupted; jobs that are running are stopped then, and can be resumed.

    Raises:
        SubquadError: gradio is not installed, the port is in use, the workspace cannot be written, or the page would be
            open to other computers without a password.
    """
    settings = settings or AppSettings()
    read_password(settings)
    check_address(settings.host, settings.port)
    _prepare_gradio()
    uvicorn = require("uvicorn", "app")
    from subquad.runs.connections import ACCEPTED_TOGETHER, QueueingServer, bounded_protocol, connection_limit

    # the end of the process is an interruption too, so that jobs are stopped
    signal.signal(signal.SIGTERM, _interrupt)
    # before anything of an earlier server is cleared
    with listen(settings.host, settings.port) as listener, suppress(KeyboardInterrupt), make_app(settings) as app:
        config = uvicorn.Config(
            app,
            http=bounded_protocol(connection_limit(), body_seconds=BODY_SECONDS),
            # a connection that became a web socket would not be limited
            ws="none",
            # users of this computer could name any address as theirs, and so guess passwords without a delay
            proxy_headers=False,
            # uvloop accepts any number of connections together
            loop="asyncio",
            backlog=ACCEPTED_TOGETHER,
            log_level="warning",
            timeout_graceful_shutdown=3,
        )
        server = QueueingServer(config)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        say(f"subquad is at http://{host}:{listener.getsockname()[1]} (Ctrl-C ends it)")
        server.run(sockets=[listener])


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _prepare_gradio() -> None:
    """Import gradio without anything that it would send or load.

    Raises:
        MissingExtra: It is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    require("gradio", "app")


@contextmanager
def make_app(settings: AppSettings) -> Iterator[Any]:
    """Yield the application for an ASGI server.

    At the end jobs are stopped. Uploads are deleted, at the end and before the start, unless a job needs them to go on.

    Raises:
        SubquadError: As `serve`, or the folder is not a workspace, or another server uses it.
    """
    root = cache_folder() if settings.workspace is None else settings.workspace
    # even its lock would be a file in a folder of someone else
    check_workspace(root)
    with lock_folder(root, flag="--workspace"):
        say("opening the page …")
        yield from _app(settings, root)


def _app(settings: AppSettings, root: Path) -> Iterator[Any]:
    """Yield the application once, and clean up after it."""
    password = read_password(settings)
    from subquad.app.reading import start_early
    from subquad.app.sessions import Workspace

    start_early()
    workspace = Workspace.open(root, settings.upload_bytes)
    # of a server that was killed
    workspace.clear_uploads()
    workspace.clear_received()
    # read by gradio when it is imported
    os.environ["GRADIO_TEMP_DIR"] = str(workspace.received)
    _prepare_gradio()
    import fastapi
    import gradio as gr

    from subquad.app.access import Access
    from subquad.app.cleaning import Cleaning
    from subquad.app.files import add_routes
    from subquad.app.jobs import JobRunner
    from subquad.app.page import build_page, look
    from subquad.app.panels import Context

    runner, ended = JobRunner(settings.max_jobs, keep_free=settings.free_bytes), threading.Event()
    # behind a proxy with a password, others use a page on loopback
    is_private = is_loopback(settings.host) and password is None
    # without examples that are named again
    shared = list(dict.fromkeys(run_folder(run).resolve() for run in (*settings.runs, *EXAMPLE_RUNS)))
    context = Context(workspace=workspace, runner=runner, shared=shared, is_private=is_private)
    inner = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(inner, workspace, keep_free=settings.free_bytes)
    blocks = build_page(context)
    # gradio before 6.24 has no history of runs
    no_history = {"run_history": False} if "run_history" in signature(gr.mount_gradio_app).parameters else {}
    app = gr.mount_gradio_app(
        inner, blocks, path="/", max_file_size=settings.upload_bytes, footer_links=[], show_error=True, ssr_mode=False,
        enable_monitoring=False, pwa=False, mcp_server=False, **no_history, **look(),
    )  # fmt: skip
    hosts = loopback_names(settings.host) if is_private else None
    cleaning = Cleaning(workspace, settings.keep_days)
    threading.Thread(target=cleaning.run, args=(ended,), daemon=True, name="cleaning").start()
    try:
        yield Access(
            app, password=password, largest=settings.upload_bytes, hosts=hosts, received=workspace.received,
            keep_free=settings.free_bytes,
        )  # fmt: skip
    finally:
        ended.set()
        runner.close()
        workspace.clear_uploads()
        workspace.clear_received()
