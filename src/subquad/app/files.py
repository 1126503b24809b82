"""Downloads: files of a session's own jobs, single or as one zip archive."""

import os
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from subquad.app.access import token_of
from subquad.app.disk import as_sentence, check_room
from subquad.app.jobs import Job
from subquad.app.sessions import Workspace
from subquad.errors import SubquadError

__all__ = ["add_routes", "file_url", "zip_url"]

# what stands in the report and nothing else; its script runs in an origin of its own
REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "sandbox allow-scripts allow-popups"
)


MOST_ARCHIVES = 8
"""Archives that are packed or downloaded at a time, by all users together; each takes as much room as a result."""


def file_url(job: Job, path: Path, *, download: bool = False) -> str:
    """Return the address of a file in the folder of a job."""
    return f"/files/{job.name}/{path.relative_to(job.folder).as_posix()}{'?download=1' * download}"


def zip_url(job: Job) -> str:
    """Return the address of the output of a job, a folder or a file, as a zip archive."""
    return f"/archives/{job.name}.zip"


class _Archive(FileResponse):
    """A file that is deleted when it was sent, or cannot be."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            Path(self.path).unlink(missing_ok=True)


def add_routes(app: Any, workspace: Workspace, *, keep_free: int = 0) -> None:
    """Add the routes of downloads to a FastAPI application; archives leave so many bytes of the disk free."""
    packing = Lock()
    sizes: list[int] = []
    """Bytes of the outputs that are being packed."""

    def job_of(request: Request, name: str) -> Job | None:
        token = token_of(request.scope)
        job = None if token is None else workspace.session(token).job(name)
        return None if job is None or job.is_damaged else job

    @app.get("/files/{name}/{path:path}")
    def file(request: Request, name: str, path: str) -> Response:
        job = job_of(request, name)
        found = None if job is None else _file_in(job.folder, path)
        if job is None or found is None:
            return PlainTextResponse("There is no such file.", 404)
        headers = {"cache-control": "no-cache"}
        if found.suffix == ".html":
            headers["content-security-policy"] = REPORT_POLICY
        name = f"{found.stem}-{job.name[:6]}{found.suffix}" if "download" in request.query_params else found.name
        how = "attachment" if "download" in request.query_params else "inline"
        text = "text/plain; charset=utf-8" if found.suffix in (".txt", ".jsonl", ".md") else None
        return FileResponse(found, filename=name, content_disposition_type=how, headers=headers, media_type=text)

    @app.get("/archives/{name}.zip")
    def archive(request: Request, name: str) -> Response:
        job = job_of(request, name)
        if job is None or not job.out.exists():
            return PlainTextResponse("There is no such job.", 404)
        if len([*workspace.archives.iterdir()]) >= MOST_ARCHIVES:
            return PlainTextResponse("Too many archives are being downloaded; try again in a minute.", 503)
        size = _size(job.out)
        try:
            with packing:
                check_room(workspace.archives, keep_free, sum(sizes) + size)
                sizes.append(size)
        except SubquadError as error:
            return PlainTextResponse(as_sentence(error), 507)
        try:
            path = _packed(job, workspace.archives)
        finally:
            with packing:
                sizes.remove(size)
        return _Archive(path, filename=f"subquad-{job.kind.replace(' ', '-')}-{job.name[:6]}.zip")


def _file_in(folder: Path, path: str) -> Path | None:
    """Return a file in a folder; None if there is none of that name, or there can be none."""
    try:
        found = (folder / path).resolve()
        return found if found.is_relative_to(folder.resolve()) and found.is_file() else None
    except (OSError, ValueError):
        return None


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    count = 0
    for own in _files(path):
        # it may be deleted meanwhile
        with suppress(FileNotFoundError):
            count += own.stat().st_size
    return count


def _files(path: Path) -> list[Path]:
    """Return a file, or all files in a folder; without those that are deleted meanwhile."""
    found = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    return [path] if path.is_file() else sorted(own for own in found if own.is_file())


def _packed(job: Job, folder: Path) -> Path:
    """Return a new archive in a folder, with the output of a job."""
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".zip", delete=False) as temporary:
        path = Path(temporary.name)
        try:
            _pack(job, temporary)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return path


def _pack(job: Job, file: Any) -> None:
    folder = Path(job.kind.replace(" ", "-"))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in _files(job.out):
            name = path.name if path == job.out else path.relative_to(job.out)
            with suppress(FileNotFoundError):
                archive.write(path, folder / name)
