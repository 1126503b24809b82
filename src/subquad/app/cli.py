"""`subquad app`: its flags. Everything else is imported when it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import Group, Parameter

from subquad.runs.options import Count, Natural, Settings

__all__ = ["AppSettings", "app_command"]

T = TypeVar("T")

FLAGS = Parameter(name="*", consume_multiple=1)
Server = Annotated[T, Parameter(group=Group("Server", sort_key=1))]
"""A flag about where the page is served, and to whom."""
Work = Annotated[T, Parameter(group=Group("Work", sort_key=2))]
"""A flag about files and jobs."""


@dataclass(frozen=True, kw_only=True)
class AppSettings(Settings):
    """Where the page is served, who may use it, and where it keeps its files."""

    host: Server[str] = "127.0.0.1"
    """Address to listen on. Any other address than this computer's own needs --password-file."""
    port: Server[Natural] = 7860
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


def app_command(settings: Annotated[AppSettings, FLAGS] = AppSettings()) -> None:
    """Open the web page; its help stands in `subquad.cli`, which does not import this module."""
    from subquad.app.server import serve

    serve(settings)
