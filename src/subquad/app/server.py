"""`subquad app`: the web page on this computer. The modules of the page are imported when it is served."""

import asyncio
import gc
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import Group, Parameter

from subquad.errors import SubquadError, reading, require
from subquad.progress import say
from subquad.runs.examples import write_python_topics
from subquad.runs.lock import lock_folder
from subquad.runs.options import Count, Ge, Lt, Settings

T = TypeVar("T")

FLAGS = Parameter(name="*", consume_multiple=1)
THIS_COMPUTER = ("localhost", "127.0.0.1", "::1")
"""Addresses that no other computer reaches."""
Server = Annotated[T, Parameter(group=Group("Server", sort_key=1))]
"""A flag about where the page is served, and to whom."""
Work = Annotated[T, Parameter(group=Group("Work", sort_key=2))]
"""A flag about files and jobs."""

UPLOADS = 20
"""Space of all uploads, in largest files."""
SECONDS_KEPT = 3600.0
"""Age at which an upload that no job reads may be removed to make space."""
LOGINS, SECONDS_OF_LOGIN = 4, 1.0
"""Passwords that are looked at at the same time, and how long each takes."""


@dataclass(frozen=True, kw_only=True)
class AppSettings(Settings):
    """Where the page is served, who may use it, and where it keeps its files."""

    host: Server[str] = "127.0.0.1"
    """Address to listen on. Any other address than this computer's own needs --password-file."""
    port: Server[Annotated[int, Ge(0), Lt(2**16)]] = 7860
    """Port to listen on; 0 picks a free one."""
    password_file: Server[Path | None] = None
    """File with one line NAME:PASSWORD per user; the page then asks for both. All users see the same jobs."""
    workspace: Work[Path | None] = None
    """Folder for uploads and jobs. Default: subquad/app in the user's cache folder."""
    data: Work[tuple[Path, ...]] = ()
    """Folders whose data files and saved models the page offers, so that they need no upload."""
    max_upload: Work[Count] = 200
    """Largest file that can be uploaded, in MB."""
    max_jobs: Work[Count] = 2
    """Number of jobs that run at the same time; further ones wait."""


def serve(settings: Annotated[AppSettings, FLAGS] = AppSettings()) -> None:
    """Serve the page until it is interrupted; jobs that are running are stopped then, and can be resumed.

    Raises:
        SubquadError: gradio is not installed, the port or the workspace is in use, or other computers could open the
            page without a password.
    """
    users, uvicorn = read_users(settings), require("uvicorn", "app")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = (settings.workspace or cache / "subquad" / "app").resolve()
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        # a browser that is faster than the server waits
        listener = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise SubquadError(f"port {settings.port} of {settings.host}: {error.strerror or error}") from error
    with listener, lock_folder(root):
        # a fifth of the start would go into the search for garbage, of which there is none yet
        gc.disable()
        app, jobs = make_app(settings, root, users)
        gc.freeze()
        gc.enable()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        say(f"subquad is at http://{host}:{listener.getsockname()[1]} (Ctrl-C ends it)")
        # the command line turns SIGTERM into an exception, which would end uvicorn before it has closed anything
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            pass
        finally:
            jobs.close()


def make_app(settings: AppSettings, root: Path, users: list[tuple[str, str]] | None) -> tuple[Any, Any]:
    """Return the application for an ASGI server, and the jobs of its workspace.

    Args:
        settings: Limits of the page.
        root: The workspace.
        users: Names and passwords; None if everyone who reaches the page may use it.
    """
    uploads = root / "uploads"
    uploads.mkdir(parents=True, exist_ok=True)
    # read by gradio when it is imported: uploads stay as long as jobs may need them, and nothing is sent
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_DEFAULT_CONCURRENCY_LIMIT"] = "20"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    gr, fastapi = require("gradio", "app"), require("fastapi", "app")
    trusted_host = import_module("starlette.middleware.trustedhost").TrustedHostMiddleware

    from subquad.app.inputs import Inputs
    from subquad.app.jobs import Jobs
    from subquad.app.page import build_page, look
    from subquad.app.tab import Context

    jobs = Jobs(root / "jobs", settings.max_jobs)
    write_python_topics(uploads / "example" / "python-help-topics.txt")
    inner = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if users is None:
        # a name that another web site lets point to this computer is refused
        inner.add_middleware(trusted_host, allowed_hosts=["[::1]", *THIS_COMPUTER])
    most = settings.max_upload * 2**20
    inner.add_middleware(Guard, uploads=uploads, jobs=jobs, most=most)
    blocks = build_page(Context(jobs, Inputs(uploads, settings.data, jobs)))
    # gradio before 6.24 has no history of runs
    no_history = {"run_history": False} if "run_history" in signature(gr.mount_gradio_app).parameters else {}
    app = gr.mount_gradio_app(
        inner, blocks, path="/", auth=users, allowed_paths=[str(root / "jobs")],
        max_file_size=most, footer_links=[], show_error=True, ssr_mode=False,
        enable_monitoring=False, pwa=False, mcp_server=False, **no_history, **look(),
    )  # fmt: skip
    # what turns on gradio's check of the paths that a browser names
    blocks.has_launched = True
    return app, jobs


def read_users(settings: AppSettings) -> list[tuple[str, str]] | None:
    """Return names and passwords of the users; None if there is no password file.

    Raises:
        SubquadError: The file has no line NAME:PASSWORD, or there is none and other computers can reach the page.
    """
    if settings.password_file is None:
        if settings.host not in THIS_COMPUTER:
            raise SubquadError(f"--host {settings.host}: other computers could use this one; add --password-file FILE")
        return None
    with reading(settings.password_file, "lines NAME:PASSWORD"):
        lines = settings.password_file.read_text(encoding="utf-8").splitlines()
    users = [(name, password) for name, _, password in (line.strip().partition(":") for line in lines) if password]
    if not users:
        raise SubquadError(f"{settings.password_file}: has no line NAME:PASSWORD")
    return users


class Guard:
    """Refuses what other sites send, as browsers tell in two headers; slows passwords; bounds the uploads."""

    def __init__(self, app: Callable[..., Any], uploads: Path, jobs: Any, most: int) -> None:
        """Guard an ASGI application whose largest upload has `most` bytes."""
        self.app, self._uploads, self._jobs, self._most = app, uploads, jobs, most
        self._logins = asyncio.Semaphore(LOGINS)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
            is_foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
            if is_foreign or site not in ("same-origin", "none"):
                await _reply(403, "This request comes from another site.", send)
                return
            if scope["path"].endswith("/login"):
                async with self._logins:
                    await asyncio.sleep(SECONDS_OF_LOGIN)
            if scope["path"].endswith("/upload") and not await asyncio.to_thread(self._make_space):
                await _reply(413, "The space for uploads is full; delete jobs.", send)
                return
        await self.app(scope, receive, send)

    def _make_space(self) -> bool:
        """Remove old uploads that no job reads as long as one more has no space; return whether it has."""
        folders = [path for path in self._uploads.iterdir() if path.is_dir() and path.name != "example"]
        sizes = {path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in folders}
        used, read = sum(sizes.values()), str([job.words for job in self._jobs.list()])
        for path in sorted(folders, key=lambda path: path.stat().st_mtime):
            is_old = time.time() - path.stat().st_mtime > SECONDS_KEPT
            if used + self._most > UPLOADS * self._most and is_old and str(path) not in read:
                shutil.rmtree(path, ignore_errors=True)
                used -= sizes[path]
        return used + self._most <= UPLOADS * self._most


async def _reply(status: int, text: str, send: Callable[..., Any]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})
