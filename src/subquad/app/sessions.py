"""Browser sessions: each has a folder of its own in the workspace, with its uploads and its jobs."""

import filecmp
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from subquad.app.job_records import DAMAGE, Job, link_or_copy
from subquad.app.marker import FOLDERS, MARKER, SESSION, mark_workspace
from subquad.app.reading import Busy
from subquad.errors import SubquadError
from subquad.runs.lock import LOCK
from subquad.runs.storage import check_writable

__all__ = ["Session", "Workspace", "new_token"]

UPLOADS_PER_SESSION = 10
"""Uploads of the largest size that a session can hold at a time."""
LONGEST_NAME = 80
DAYS_OF_EMPTY_SESSIONS = 1.0
"""Days after which sessions without files and jobs are deleted: each visit without a cookie begins one."""


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
    def received(self) -> Path:
        """Folder in which the files of all sessions arrive."""
        return self.folder.parents[1] / "received"

    @property
    def jobs(self) -> list[Job]:
        """The jobs of the session, newest first, without those whose record is damaged."""
        found = [Job(path.parent) for path in (self.folder / "jobs").glob("*/job.json")]
        return sorted((job for job in found if not job.is_damaged), key=lambda job: job.created, reverse=True)

    def job(self, name: str | None) -> Job | None:
        """Return a job by its name; None if this session has no such job."""
        # what a browser sends can be of any type
        if not isinstance(name, str) or not re.fullmatch(r"[0-9a-f]{16}", name):
            return None
        folder = self.folder / "jobs" / name
        return Job(folder) if (folder / "job.json").is_file() else None

    def new_job_folder(self) -> Path:
        """Return a new folder for a job."""
        folder = self.folder / "jobs" / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder

    def take(self, file: Path | str) -> Path:
        """Give the session a copy of a file that arrived, and return its path; the same one if it has it already.

        What arrived stays where it is for a while, since others may have sent the same file. The copy is on the disk
        before its path is returned; one that differs, such as after a power loss, is replaced.

        Raises:
            SubquadError: The file is gone or too large, or the session holds too many files.
        """
        # what a browser sends can be of any type
        if not isinstance(file, str | Path):
            raise SubquadError("no file is given; drop one")
        file = Path(file)
        taken = self.uploads / _upload_name(file) / _safe_name(file.name)
        if taken.is_file() and _is_same(file, taken):
            # counts as new in the list of uploads
            os.utime(taken.parent)
            return taken
        if not file.is_file():
            raise SubquadError(f"{file.name}: has been here for too long; drop the file again")
        size, most = file.stat().st_size, self.max_upload
        if size > most:
            file.unlink()
            with suppress(OSError):
                file.parent.rmdir()
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
        taken.unlink(missing_ok=True)
        link_or_copy(file, taken)
        return taken

    @contextmanager
    def trying(self, files: Iterable[Path | str]) -> Iterator[list[Path]]:
        """Take files as `take` does; if one or the `with` block refuses them, those that are new are deleted again.

        What the session had before stays, so does what a job reads, and so do all of them if the page is only busy.

        Raises:
            SubquadError: As `take` and the `with` block do.
        """
        if not files:
            raise SubquadError("no file is given; drop one")
        before, taken = {*self.files("")}, []
        try:
            for file in files:
                taken.append(self.take(file))
            yield taken
        except Busy:
            raise
        except SubquadError:
            for path in taken:
                if path not in before and not self.is_read(path):
                    self.discard(path)
            raise

    def discard(self, path: Path | str) -> None:
        """Delete one upload, also where it arrived; paths outside the session's uploads are left alone."""
        folder = Path(path).parent
        if folder.parent != self.uploads:
            return
        for arrived in self.received.glob("*/*"):
            if _upload_name(arrived) == folder.name:
                arrived.unlink(missing_ok=True)
                with suppress(OSError):
                    arrived.parent.rmdir()
        shutil.rmtree(folder, ignore_errors=True)

    def files(self, *endings: str) -> list[Path]:
        """Return the uploads with one of these endings, newest first."""
        found = [path for path in self.uploads.glob("*/*") if path.name.lower().endswith(endings)]
        return sorted(found, key=lambda path: path.parent.stat().st_mtime, reverse=True)

    @property
    def is_empty(self) -> bool:
        """Whether the session has neither uploads nor jobs."""
        return not any(any((self.folder / name).glob("*")) for name in ("uploads", "jobs"))

    def owns(self, path: Path | str) -> bool:
        """Return whether a path is that of a file of this session."""
        resolved = Path(path).resolve()
        return resolved.is_relative_to(self.folder.resolve()) and resolved.is_file()

    def readable(self, text: str) -> str:
        """Return a message without the folders of this session, which say nothing to its user."""
        text = re.sub(rf"{re.escape(str(self.uploads))}/[0-9a-f]+/", "", text)
        text = re.sub(rf"{re.escape(str(self.folder / 'jobs'))}/[0-9a-f]+/(inputs/)?", "", text)
        return text.replace(str(self.folder), "")

    def touch(self) -> None:
        """Note that the session is used."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "used").touch()

    def is_read(self, path: Path | str, *, besides: Collection[str] = ()) -> bool:
        """Return whether a job that waits or runs reads an upload, besides jobs of these names."""
        return any(job.is_active for job in self.readers(Path(path).parent, besides=besides))

    def readers(self, folder: Path, *, besides: Collection[str] = ()) -> list[Job]:
        """Return the jobs whose commands read anything in a folder, besides jobs of these names."""
        return [job for job in self.jobs if job.name not in besides and job.depends_on(folder)]

    def clear_uploads(self) -> None:
        """Delete all uploads but those that a job needs which waits, runs, or was stopped or failed and may go on."""
        jobs = [job for job in self.jobs if job.is_active or job.can_resume]
        for folder in self.uploads.glob("*"):
            if not any(job.depends_on(folder) for job in jobs):
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
            SubquadError: The folder cannot be written, or is not empty and not a workspace.
        """
        check_writable(root, flag="--workspace")
        mark_workspace(root)
        own = [root / name for name in FOLDERS]
        for folder in own:
            folder.mkdir(parents=True, exist_ok=True)
        # a folder with other files keeps its permissions, since others may need these
        is_shared = {*root.iterdir()} - {*own, root / LOCK, root / MARKER}
        for folder in own if is_shared else (root,):
            folder.chmod(0o700)
        return cls(root=root.resolve(), max_upload=max_upload)

    @property
    def received(self) -> Path:
        """Temporary folder in which files arrive."""
        return self.root / "received"

    @property
    def archives(self) -> Path:
        """Temporary folder of archives while they are downloaded."""
        return self.root / "archives"

    @property
    def sessions(self) -> Iterator[Session]:
        """All sessions, without folders of other names, which someone else put there."""
        found = [path for path in (self.root / "sessions").glob("*") if SESSION.fullmatch(path.name) and path.is_dir()]
        return (Session(path, self.max_upload) for path in found)

    def session(self, token: str) -> Session:
        """Return the session of a browser by its token, which the name of the folder does not reveal."""
        name = hashlib.sha256(token.encode()).hexdigest()[:32]
        return Session(self.root / "sessions" / name, self.max_upload)

    def remove_old(self, days: float) -> int:
        """Delete sessions that were not used for so many days and have no running job; return their number.

        Those that were used in the future, since the clock was set back, count as used now.
        """
        count = 0
        for session in self.sessions:
            used = session.folder / "used"
            age = time.time() - _changed(used if used.is_file() else session.folder)
            if age < 0:
                session.touch()
            most = 86_400 * (min(days, DAYS_OF_EMPTY_SESSIONS) if session.is_empty else days)
            # a session with damaged files does not keep those of others
            with suppress(*DAMAGE):
                if age > most and not any(job.is_active for job in session.jobs):
                    shutil.rmtree(session.folder, ignore_errors=True)
                    count += 1
        return count

    def touch_all(self) -> None:
        """Make all sessions, and what arrived or was packed, as new as if it had been used now."""
        for session in self.sessions:
            session.touch()
        for path in (*self.received.glob("*"), *self.archives.glob("*")):
            with suppress(FileNotFoundError):
                os.utime(path)

    def clear_uploads(self) -> None:
        """Delete the uploads of all sessions but those that a job may need."""
        for session in self.sessions:
            with suppress(*DAMAGE):
                session.clear_uploads()

    def clear_received(self, *, seconds: float = 0.0) -> None:
        """Delete what arrived, or was packed for a download, so many seconds ago or earlier, or far in the future."""
        for path in (*self.received.glob("*"), *self.archives.glob("*")):
            # the clock of a network file system may be slightly ahead
            if abs(time.time() - _changed(path)) < seconds:
                continue
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    """Return when a file was changed; now if it has been removed in the meantime."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _is_same(file: Path, taken: Path) -> bool:
    """Return whether a file that arrived has the content of the one that was taken, as far as it is still there."""
    try:
        return taken.samefile(file) or filecmp.cmp(file, taken, shallow=False)
    except FileNotFoundError:
        return taken.is_file()


def _upload_name(file: Path) -> str:
    """Return the name of the folder that an upload gets, from that in which it arrived, which tells its content."""
    return hashlib.sha256(f"{file.parent.name}/{file.name}".encode()).hexdigest()[:16]


def _safe_name(name: str) -> str:
    """Return a file name of letters, digits and `._-`, which no shell, page or pattern reads as anything else."""
    name = re.sub(r"[^\w.\-]+", "_", Path(name).name, flags=re.ASCII).lstrip(".-") or "file"
    stem, dot, ending = name.partition(".")
    return f"{stem[: LONGEST_NAME - len(ending)]}{dot}{ending}"[-LONGEST_NAME:]
