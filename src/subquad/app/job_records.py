"""Records of jobs: what is run, and how far it is, as the folder of the job tells it.

A job is known by its folder alone, so that it is found again after a reload of the page or a new start of the server.
"""

import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from subquad.errors import SubquadError
from subquad.runs.storage import atomic, read_json

__all__ = ["DAMAGE", "Command", "Job", "State", "link_or_copy", "start_of"]

State = Literal["waiting", "running", "finished", "failed", "stopped"]

RECORD = frozenset(("kind", "title", "words", "output", "created"))
"""Entries that each `job.json` has."""
DAMAGE = (SubquadError, OSError, KeyError, TypeError, ValueError, yaml.YAMLError)
"""What reading the files of a job raises if they are damaged."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a job runs: words of the command line, and settings that may hold any text."""

    words: Sequence[str]
    """Words of the command line, such as `bio fit FILE`; none of them is text that a user wrote."""
    settings: Mapping[str, Any]
    """Flags, which are passed in a file, so that no text of a user is read as a flag."""
    title: str
    """Name of the job on the page."""
    output: str = "out"
    """Name of the output in the job's folder."""
    about: Mapping[str, Any] | None = None
    """What the page needs to know of the job, as JSON values."""
    continues: Path | None = None
    """Output of an earlier job, a copy of which the command continues."""
    inputs: Sequence[Path] = ()
    """Files of different names among the words that the job keeps for as long as its results: it reads copies of its
    own."""


@dataclass(frozen=True)
class Job:
    """A job, by its folder."""

    folder: Path

    @property
    def name(self) -> str:
        """Name of the job, which identifies it within its session."""
        return self.folder.name

    @cached_property
    def record(self) -> dict[str, Any]:
        """Contents of `job.json`: kind, title, words of the command, time of the start."""
        return read_json(self.folder / "job.json")

    @property
    def kind(self) -> str:
        """What the job does, such as `bio fit`."""
        return self.record["kind"]

    @property
    def command(self) -> str:
        """Words and settings of the command, as text."""
        settings = self.folder / "settings.yaml"
        return " ".join([*self.record["words"], settings.read_text(encoding="utf-8") if settings.is_file() else ""])

    @property
    def created(self) -> float:
        """Time of the first start, in seconds since 1970."""
        return self.record["created"]

    @property
    def about(self) -> dict[str, Any]:
        """What the page noted about the job."""
        return self.record.get("about") or {}

    @property
    def inputs(self) -> list[Path]:
        """Copies of the files that the job keeps."""
        return sorted((self.folder / "inputs").glob("*"))

    @property
    def is_damaged(self) -> bool:
        """Whether the record of the job cannot be read."""
        try:
            return not self.record.keys() >= RECORD
        except (SubquadError, OSError, AttributeError):
            return True

    @property
    def out(self) -> Path:
        """Output of the command."""
        return self.folder / self.record["output"]

    @property
    def status(self) -> dict[str, Any]:
        """Contents of `status.json`: `state`, `pid`, `began`, `ended` and `exit_status`; `started` of the process.

        A job that could not be started has a `message` instead; so has one whose status is damaged.
        """
        path = self.folder / "status.json"
        if not path.is_file():
            return {"state": "waiting"}
        with suppress(SubquadError):
            status = read_json(path)
            if isinstance(status, dict) and "state" in status:
                return status
        return {"state": "failed", "message": "The status of this job is damaged; start it again."}

    @property
    def state(self) -> State:
        """State of the job; one whose process ended together with the server counts as stopped."""
        status = self.status
        if status["state"] == "running" and not _is_alive(status["pid"], status.get("started")):
            # the thread that waits for the process may be about to write its end
            time.sleep(0.2)
            status = self.status
        if status["state"] == "running" and not _is_alive(status["pid"], status.get("started")):
            return "stopped"
        if status["state"] == "waiting" and not _is_alive(self.record["server"], self.record.get("server_started")):
            return "stopped"
        return status["state"]

    @property
    def is_active(self) -> bool:
        """Whether the job waits or runs."""
        return self.state in ("waiting", "running")

    @property
    def seconds(self) -> float:
        """Seconds that the job has run since its last start."""
        status = self.status
        return max(0.0, status.get("ended", time.time()) - status["began"]) if "began" in status else 0.0

    @property
    def log(self) -> str:
        """What the command printed."""
        path = self.folder / "log.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    @property
    def warnings(self) -> list[str]:
        """What the command warned of, each once."""
        lines = [line.strip() for line in self.log.split("\n")]
        found = [
            line for line in lines if re.match(r"(warning|caution)\b", line, re.IGNORECASE) or "extrapolat" in line
        ]
        return list(dict.fromkeys(re.sub(r"^warning: ", "", line, flags=re.IGNORECASE) for line in found))

    @property
    def message(self) -> str:
        """Why the job failed, as the command said it."""
        if "message" in self.status:
            return self.status["message"]
        found = re.split(r"^subquad: ", self.log, flags=re.MULTILINE)
        if self.status.get("exit_status") == 2 and len(found) > 1:
            return found[-1].strip()
        code = self.status.get("exit_status")
        if code in (-signal.SIGKILL, 137):
            return "The system ended the command, probably because the memory did not suffice."
        return f"The command ended unexpectedly (exit status {code}). Its log says more."


def _is_alive(pid: int, started: float | None) -> bool:
    """Return whether there is a process of this number that started at this time; numbers are given again."""
    now = start_of(pid)
    return now is not None and (started is None or abs(now - started) < 1.0)


def start_of(pid: int) -> float | None:
    """Return when a process started, in seconds since 1970; None if there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def link_or_copy(file: Path, target: Path) -> None:
    """Give a file a second name, in a folder that is made if there is none; where that is not possible, copy it.

    If there is a file of that name already, it is kept.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(file)
    except FileExistsError:
        return
    except OSError:
        with atomic(target) as temporary:
            shutil.copyfile(file, temporary)
