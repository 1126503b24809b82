"""Settings of the web page. Imports nothing heavy, so that the command line starts fast."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import Group, Parameter

from subquad.errors import SubquadError, validate_minima
from subquad.runs.examples import run_folder
from subquad.runs.listening import is_loopback

__all__ = ["PASSWORD_VARIABLE", "AppSettings", "cache_folder", "read_password"]

T = TypeVar("T")

PASSWORD_VARIABLE = "SUBQUAD_APP_PASSWORD"
"""Environment variable with the password of the page."""
SHORTEST_PASSWORD = 8

Server = Annotated[T, Parameter(group=Group("Server", sort_key=1))]
"""A flag about where the page is served, and to whom."""
Work = Annotated[T, Parameter(group=Group("Work", sort_key=2))]
"""A flag about files and jobs."""


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """Where the page is served, who may use it, and where it keeps its files."""

    host: Server[str] = "127.0.0.1"
    """Address to listen on. Any other address than this computer's own (127.0.0.1, ::1, localhost) needs a password."""
    port: Server[int] = 7860
    """Port to listen on; 0 picks a free one."""
    password_file: Server[Path | None] = None
    """File whose first line is the password of the page. Default: the environment variable SUBQUAD_APP_PASSWORD;
    without either, none, and then only this computer can be served."""
    workspace: Work[Path | None] = None
    """Folder for uploads and jobs: a new or empty one, or that of an earlier page. Default: subquad/app in the user's
    cache folder."""
    runs: Work[tuple[Path, ...]] = ()
    """Folders of fitted models, linearized models and taggers that all users of the page may open."""
    max_upload: Work[int] = 50
    """Largest file that can be uploaded, in MB."""
    max_jobs: Work[int] = 2
    """Number of jobs that run at the same time; further ones wait."""
    keep_days: Work[float] = 30.0
    """Days after which the files of a browser that was not used any more are deleted."""

    keep_free: Work[float] = 1.0
    """Space of the disk in GB that stays free: with less, no file is uploaded, no job starts and nothing is packed."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        validate_minima(self, max_upload=1, max_jobs=1, keep_days=0, keep_free=0)
        if not 0 <= self.port <= 65535:
            raise SubquadError(f"--port must be from 0 to 65535, got {self.port}")
        for folder in self.runs:
            if not run_folder(folder).is_dir():
                raise SubquadError(f"{folder}: no such folder (--runs)")

    @property
    def upload_bytes(self) -> int:
        """Largest file that can be uploaded, in bytes."""
        return self.max_upload * 2**20

    @property
    def free_bytes(self) -> int:
        """Space of the disk that stays free, in bytes."""
        return int(self.keep_free * 2**30)


def read_password(settings: AppSettings) -> str | None:
    """Return the password of the page; None if there is none.

    Raises:
        SubquadError: The file cannot be used, the password is too short, or there is none for a page that other
            computers can reach.
    """
    password = os.environ.get(PASSWORD_VARIABLE)
    if settings.password_file is not None:
        try:
            lines = settings.password_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SubquadError(f"{settings.password_file}: cannot be read ({error}) (--password-file)") from error
        password = lines[0].strip() if lines else ""
    if password is None:
        if is_loopback(settings.host):
            return None
        raise SubquadError(
            f"--host {settings.host} lets other computers use this one; protect the page with --password-file FILE or "
            f"the environment variable {PASSWORD_VARIABLE}"
        )
    if len(password) < SHORTEST_PASSWORD:
        raise SubquadError(f"the password of the page must have at least {SHORTEST_PASSWORD} characters")
    return password


def cache_folder() -> Path:
    """Return the default workspace, in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "subquad" / "app"
