"""Browser sessions: each has a folder of its own in the workspace, with its uploads and its jobs."""

import hashlib
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from subquad.app.jobs import Job
from subquad.errors import SubquadError
from subquad.runs.lock import LOCK
from subquad.runs.storage import check_writable

__all__ = ["Session", "Workspace", "new_token"]

UPLOADS_PER_SESSION = 10
"""Uploads of the largest size that a session can hold at a time."""
LONGEST_NAME = 80


def new_token() -> str:
    """Return a random token by which a browser is recognized again."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True)
class Session:
    """The files of one browser."""

    folder: Path
    max_upload: int
    """Largest upload in bytes."""

    @property
    def uploads(self) -> Path:
        """Folder of the uploads, each in a folder of its own."""
        return self.folder / "uploads"

    @property
    def jobs(self) -> list[Job]:
        """The jobs of the session, newest first."""
        found = [Job(path.parent) for path in (self.folder / "jobs").glob("*/job.json")]
        return sorted(found, key=lambda job: job.created, reverse=True)

    def job(self, name: str | None) -> Job | None:
        """Return a job by its name; None if this session has no such job."""
        if not name or not re.fullmatch(r"[0-9a-f]{16}", name):
            return None
        folder = self.folder / "jobs" / name
        return Job(folder) if (folder / "job.json").is_file() else None

    def new_job_folder(self) -> Path:
        """Return a new folder for a job."""
        folder = self.folder / "jobs" / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder

    def take(self, file: Path | str) -> Path:
        """Move an uploaded file into the session, and return its new path; the original is gone in any case.

        Raises:
            SubquadError: The file is gone or too large, or the session holds too many files.
        """
        file = Path(file)
        if not file.is_file():
            raise SubquadError(f"{file.name}: was used already, or has been here for too long; drop the file again")
        try:
            size, most = file.stat().st_size, self.max_upload
            if size > most:
                raise SubquadError(
                    f"{file.name}: {size / 2**20:,.0f} MB, and files of up to {most / 2**20:,.0f} MB can be uploaded; "
                    "use the command line for larger ones, or start the page with a larger --max-upload"
                )
            held = sum(path.stat().st_size for path in self.uploads.rglob("*") if path.is_file())
            if held + size > UPLOADS_PER_SESSION * most:
                raise SubquadError(
                    f"{file.name}: your files would take more than {UPLOADS_PER_SESSION * most / 2**20:,.0f} MB; "
                    "delete some of them first"
                )
            folder = self.uploads / secrets.token_hex(4)
            folder.mkdir(parents=True)
            return Path(shutil.move(file, folder / _safe_name(file.name)))
        finally:
            file.unlink(missing_ok=True)
            with suppress(OSError):
                # the folder in which it arrived, unless other files are in it
                file.parent.rmdir()

    def discard(self, path: Path | str) -> None:
        """Delete one upload; paths outside the session's uploads are left alone."""
        folder = Path(path).parent
        if folder.parent == self.uploads:
            shutil.rmtree(folder, ignore_errors=True)

    def files(self, *endings: str) -> list[Path]:
        """Return the uploads with one of these endings, newest first."""
        found = [path for path in self.uploads.glob("*/*") if path.name.lower().endswith(endings)]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)

    def owns(self, path: Path | str) -> bool:
        """Return whether a path is that of a file of this session."""
        resolved = Path(path).resolve()
        return resolved.is_relative_to(self.folder.resolve()) and resolved.is_file()

    def readable(self, text: str) -> str:
        """Return a message without the folders of this session, which say nothing to its user."""
        text = re.sub(rf"{re.escape(str(self.uploads))}/[0-9a-f]+/", "", text)
        text = re.sub(rf"{re.escape(str(self.folder / 'jobs'))}/[0-9a-f]+/", "", text)
        return text.replace(str(self.folder), "")

    def touch(self) -> None:
        """Note that the session is used."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "used").touch()

    def clear_uploads(self) -> None:
        """Delete all uploads but those that a job needs which waits, runs, or was stopped and may go on."""
        needed = " ".join(job.command for job in self.jobs if job.state in ("waiting", "running", "stopped"))
        for folder in self.uploads.glob("*"):
            if str(folder) not in needed:
                shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Workspace:
    """The folder with the files of all sessions."""

    root: Path
    max_upload: int
    """Largest upload in bytes."""

    @classmethod
    def open(cls, root: Path, max_upload: int) -> "Workspace":
        """Return the workspace in a folder, which is made if there is none; other users of the computer cannot read its
        files.

        Raises:
            SubquadError: The folder cannot be written.
        """
        check_writable(root)
        own = [root / name for name in ("sessions", "received")]
        for folder in own:
            folder.mkdir(parents=True, exist_ok=True)
        # a folder with other files keeps its permissions, since others may need these
        is_shared = {*root.iterdir()} - {*own, root / LOCK}
        for folder in own if is_shared else (root,):
            folder.chmod(0o700)
        return cls(root=root.resolve(), max_upload=max_upload)

    @property
    def received(self) -> Path:
        """Temporary folder in which files arrive."""
        return self.root / "received"

    @property
    def sessions(self) -> Iterator[Session]:
        """All sessions."""
        return (Session(path, self.max_upload) for path in (self.root / "sessions").iterdir() if path.is_dir())

    def session(self, token: str) -> Session:
        """Return the session of a browser by its token, which the name of the folder does not reveal."""
        name = hashlib.sha256(token.encode()).hexdigest()[:32]
        return Session(self.root / "sessions" / name, self.max_upload)

    def remove_old(self, days: float) -> int:
        """Delete sessions that were not used for so many days and have no running job; return their number."""
        count = 0
        for session in self.sessions:
            used = session.folder / "used"
            age = time.time() - _changed(used if used.is_file() else session.folder)
            if age > 86_400 * days and not any(job.is_active for job in session.jobs):
                shutil.rmtree(session.folder, ignore_errors=True)
                count += 1
        return count

    def clear_received(self, *, seconds: float = 0.0) -> None:
        """Delete what arrived so many seconds ago and was not used."""
        for path in self.received.iterdir():
            if time.time() - _changed(path) < seconds:
                continue
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    """Return when a file was changed; now if it has been removed in the meantime."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _safe_name(name: str) -> str:
    """Return a file name of letters, digits and `._-`, which no shell, page or pattern reads as anything else."""
    name = re.sub(r"[^\w.\-]+", "_", Path(name).name, flags=re.ASCII).lstrip(".-") or "file"
    stem, dot, ending = name.partition(".")
    return f"{stem[: LONGEST_NAME - len(ending)]}{dot}{ending}"[-LONGEST_NAME:]
