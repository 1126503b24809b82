"""Records of jobs: what is run, and how far it is, as the folder of the job tells it.

A job is known by its folder alone, so that it is found again after a reload of the page or a new start of the server.
"""

import os
import re
import shutil
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from subquad.errors import SubquadError
from subquad.runs.folder import METRICS
from subquad.runs.records import check_record, read_record
from subquad.runs.storage import atomic, read_json, sync
from subquad.runs.termination import TERMINATED

__all__ = ["DAMAGE", "END", "Command", "Job", "State", "link_or_copy", "start_of"]

State = Literal["waiting", "running", "finished", "failed", "stopped"]
Start = str | float
"""When a process started, in a form that identifies it; see `start_of`."""

RECORD = {"kind": str, "title": str, "words": list[str], "output": str, "created": float}
"""Entries that each `job.json` has, and their types."""
OPTIONAL = {
    **{"about": dict | None, "reads": list[str], "can_resume": bool, "has_settings": bool},
    **{"server": int | None, "server_started": str | float | None},
}
"""Entries that a `job.json` may have."""
STATUS = {
    **{"pid": int, "started": str | float | None, "began": float, "ended": float},
    **{"exit_status": int, "message": str},
}
"""Entries that a `status.json` may have beside `state`."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
"""File in which Linux names the boot of the system."""
END = "end.json"
"""Name of the file in which the process of a job notes `ended` and `exit_status`."""
DAMAGE = (SubquadError, OSError, LookupError, TypeError, ValueError, AttributeError, yaml.YAMLError)
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
    can_resume: bool = False
    """The same command goes on where it was stopped, so that what it reads is kept for it."""

    def reads(self) -> list[str]:
        """Return the paths among words and settings."""
        return list(dict.fromkeys(_paths([*self.words, *self.settings.values()])))


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
    def reads(self) -> list[Path]:
        """Files and folders that the command reads, besides those in the job's own folder."""
        paths = map(Path, self.record.get("reads", _paths(self.record["words"])))
        return [path for path in paths if not path.is_relative_to(self.folder)]

    def depends_on(self, folder: Path) -> bool:
        """Return whether the command reads anything in a folder."""
        return any(path.is_relative_to(folder) for path in self.reads)

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
            _check(self.record, self.folder / "job.json", needed=RECORD, optional=OPTIONAL)
        except (SubquadError, OSError):
            return True
        return False

    @property
    def out(self) -> Path:
        """Output of the command."""
        return self.folder / self.record["output"]

    @property
    def status(self) -> dict[str, Any]:
        """State of the job, with `pid`, `began`, `ended` and `exit_status`; `started` of the process.

        A job that could not be started has a `message` instead; so has one whose status is damaged. If the server was
        killed before the job ended, the end is the one that the process noted; without one the job was stopped. A job
        that was stopped, killed or failed when its last file was written has finished all the same.
        """
        status = self._ended
        if status["state"] in ("stopped", "failed") and (self.out / METRICS).is_file():
            return {**status, "state": "finished"}
        return status

    @property
    def is_whole(self) -> bool:
        """Whether the command has ended without an error after its last file was written; see `status`."""
        return self._ended["state"] == "finished"

    @property
    def _ended(self) -> dict[str, Any]:
        """What was noted of the job, with its end if it is over; whatever files it has written."""
        status = self._noted
        if self._is_over(status):
            if self._has_server:
                # the thread that waits for the process may be about to write its end
                time.sleep(0.2)
                status = self._noted
            if self._is_over(status):
                status = {**status, **self._end(status)}
        return status

    @property
    def _noted(self) -> dict[str, Any]:
        """Contents of `status.json`, as the server wrote it."""
        path = self.folder / "status.json"
        if not path.is_file():
            return {"state": "waiting"}
        with suppress(SubquadError):
            status = _check(read_json(path), path, needed={"state": State}, optional=STATUS)
            # signals to processes of other numbers would reach many
            if status.get("pid", 0 if status["state"] == "running" else 1) > 0:
                return status
        return {"state": "failed", "message": "The status of this job is damaged; start it again."}

    @property
    def _has_server(self) -> bool:
        """Whether the server that started the job last is running."""
        return _is_alive(self.record.get("server"), self.record.get("server_started"))

    def _is_over(self, status: Mapping[str, Any]) -> bool:
        """Return whether a job does not wait or run any more, although its status says so."""
        if status["state"] == "running":
            return not _is_alive(status["pid"], status.get("started"))
        return status["state"] == "waiting" and not self._has_server

    def _end(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """Return how a job ended, as its process noted it, or else the last sign of it."""
        if status["state"] == "waiting":
            return {"state": "stopped"}
        with suppress(SubquadError, OSError):
            end = read_record(self.folder / END, remedy="start the job again", exit_status=int, ended=float)
            code, ended = end["exit_status"], end["ended"]
            state = "finished" if code == 0 else "stopped" if code == TERMINATED else "failed"
            return {"state": state, "ended": ended, "exit_status": code}
        log, began = self.folder / "log.txt", status.get("began", 0.0)
        return {"state": "stopped", "ended": max(began, log.stat().st_mtime if log.is_file() else began)}

    @property
    def state(self) -> State:
        """State of the job; one whose process was killed together with the server counts as stopped."""
        return self.status["state"]

    @property
    def is_active(self) -> bool:
        """Whether the job waits or runs."""
        return self.state in ("waiting", "running")

    @property
    def can_resume(self) -> bool:
        """Whether the job was stopped or has failed, and its command can go on."""
        return self.record.get("can_resume", True) and self.state in ("stopped", "failed")

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


def _paths(values: Iterable[Any]) -> Iterator[str]:
    """Yield the absolute paths among texts, and lists of them."""
    for value in values:
        if isinstance(value, str):
            if os.path.isabs(value):
                yield value
        elif isinstance(value, list | tuple):
            yield from _paths(value)


def _check(value: Any, path: Path, *, needed: Mapping[str, Any], optional: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record in a file after checking its entries, of which some may be missing."""
    known = {name: kind for name, kind in optional.items() if isinstance(value, dict) and name in value}
    return check_record(value, path, remedy="start the job again", **needed, **known)


def _is_alive(pid: int | None, started: Start | None) -> bool:
    """Return whether there is a process of this number that started at this time; numbers are given again."""
    # a damaged record may have a number that no process can have
    if pid is None or pid < 1:
        return False
    # earlier records have the time in seconds
    now = start_of(pid) if isinstance(started, str) else _created(pid)
    if now is None or started is None:
        return now is not None
    return now == started if isinstance(now, str) or isinstance(started, str) else abs(now - started) < 1.0


def start_of(pid: int) -> Start | None:
    """Return when a process started; None if there is none, or it has ended.

    On Linux that is the boot of the system and the clock ticks since then, which do not change when the clock is set;
    elsewhere, it is the time in seconds since 1970.
    """
    created = _created(pid)
    if created is None or not BOOT.is_file():
        return created
    try:
        # the name of the program, in brackets, may contain spaces and brackets; 20 entries later there are the ticks
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        return f"{BOOT.read_text(encoding='utf-8').strip()} {ticks}"
    except (FileNotFoundError, ProcessLookupError):
        return None


def _created(pid: int) -> float | None:
    """Return when a process started, in seconds since 1970 by the clock as it is now set; None as for `start_of`."""
    try:
        process = psutil.Process(pid)
        # one that has ended keeps its number until its parent asks how
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def link_or_copy(file: Path, target: Path) -> None:
    """Give a file a second name, in a folder that is made if there is none; where that is not possible, copy it.

    If there is a file of that name already, it is kept. The file and its name are on the disk afterwards, so that a
    record which refers to it can be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(file)
    except FileExistsError:
        return
    except OSError:
        with atomic(target) as temporary:
            shutil.copyfile(file, temporary)
    # with the folders that may be new
    for path in (target, *[*target.parents][:3]):
        sync(path)
