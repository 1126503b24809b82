"""Jobs: commands of subquad in processes of their own, each with a folder that holds its record, log and output.

A job is known by its folder alone, so that it is found again after a reload of the page or a new start of the server.
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from subquad.runs.storage import read_json, write_json

__all__ = ["Command", "Job", "JobRunner", "State"]

State = Literal["waiting", "running", "finished", "failed", "stopped"]

SECONDS_TO_STOP = 15.0
"""Seconds that a process has to write a checkpoint after it was told to stop."""


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
        return self.record["about"]

    @property
    def out(self) -> Path:
        """Output of the command."""
        return self.folder / self.record["output"]

    @property
    def status(self) -> dict[str, Any]:
        """Contents of `status.json`: `state`, `pid`, `began`, `ended` and `exit_status`; `started` of the process."""
        path = self.folder / "status.json"
        return read_json(path) if path.is_file() else {"state": "waiting"}

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
        found = re.split(r"^subquad: ", self.log, flags=re.MULTILINE)
        if self.status.get("exit_status") == 2 and len(found) > 1:
            return found[-1].strip()
        code = self.status.get("exit_status")
        if code in (-signal.SIGKILL, 137):
            return "The system ended the command, probably because the memory did not suffice."
        return f"The command ended unexpectedly (exit status {code}). Its log says more."


def _is_alive(pid: int, started: float | None) -> bool:
    """Return whether there is a process of this number that started at this time; numbers are given again."""
    now = _start_of(pid)
    return now is not None and (started is None or abs(now - started) < 1.0)


def _start_of(pid: int) -> float | None:
    """Return when a process started, in seconds since 1970; None if there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


class JobRunner:
    """Starts jobs, a few at a time, and stops them."""

    def __init__(self, most: int = 2) -> None:
        """Prepare to run at most so many jobs at the same time."""
        self._free = threading.Semaphore(most)
        self._processes: dict[Path, subprocess.Popen] = {}
        self._stopped: set[Path] = set()
        self._latest: dict[Path, threading.Thread] = {}
        """The thread of the last start of each job."""
        self._lock = threading.Lock()
        self._is_closed = False

    def start(self, folder: Path, kind: str, command: Command) -> Job:
        """Write the record of a job into its folder, and run it as soon as there is room."""
        out = folder / command.output
        if command.continues is not None:
            shutil.copytree(command.continues, out)
        write_json(
            folder / "job.json",
            {
                "kind": kind,
                "title": command.title,
                "words": [*command.words, "--out", str(out)],
                "output": command.output,
                "created": time.time(),
                **_this_server(),
                "about": dict(command.about or {}),
            },
        )
        settings = {key: value for key, value in command.settings.items() if value not in (None, "", (), [])}
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
        job = Job(folder)
        self._begin(job)
        return job

    def resume(self, job: Job) -> None:
        """Run the command of a stopped job again; commands that train go on where they were."""
        if not job.is_active:
            write_json(job.folder / "job.json", {**job.record, **_this_server()})
            self._begin(Job(job.folder))

    def _begin(self, job: Job) -> None:
        self._stopped.discard(job.folder)
        write_json(job.folder / "status.json", {"state": "waiting"})
        thread = threading.Thread(target=self._run, args=(job,), daemon=True, name=f"job {job.name}")
        self._latest[job.folder] = thread
        thread.start()

    def _run(self, job: Job) -> None:
        with self._free:
            # stopped while it waited, and started again since
            if self._latest.get(job.folder) is not threading.current_thread():
                return
            if job.folder in self._stopped or not job.folder.is_dir():
                self._finish(job, {"state": "stopped"})
                return
            began, process = time.time(), self._open(job)
            if process is None:
                self._finish(job, {"state": "stopped"})
                return
            about = {"pid": process.pid, "started": _start_of(process.pid), "began": began}
            write_json(job.folder / "status.json", {"state": "running", **about})
            code = process.wait()
            with self._lock:
                self._processes.pop(job.folder, None)
            state = "stopped" if job.folder in self._stopped else "finished" if code == 0 else "failed"
            self._finish(job, {"state": state, **about, "ended": time.time(), "exit_status": code})

    def _finish(self, job: Job, status: Mapping[str, Any]) -> None:
        # the folder may have been deleted by its user
        if job.folder.is_dir():
            write_json(job.folder / "status.json", status)

    def _open(self, job: Job) -> subprocess.Popen | None:
        """Start the process of a job, unless it was stopped or the runner was closed."""
        config = ("--config", str(job.folder / "settings.yaml")) if _has_settings(job) else ()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "120"}
        with self._lock, (job.folder / "log.txt").open("ab") as log:
            if self._is_closed or job.folder in self._stopped:
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "subquad", *job.record["words"], *config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=job.folder,
                # a group of its own, so that processes which the command starts are stopped with it
                start_new_session=True,
            )
            self._processes[job.folder] = process
        return process

    def stop(self, job: Job, *, seconds: float = SECONDS_TO_STOP) -> None:
        """Stop a job; it can be resumed."""
        with self._lock:
            self._stopped.add(job.folder)
            process = self._processes.get(job.folder)
        if process is None:
            self._stop_other(job, seconds=seconds)
            return
        # a training saves a checkpoint then; what it has started ends with it
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        _signal(process.pid, signal.SIGKILL)
        process.wait()

    def _stop_other(self, job: Job, *, seconds: float) -> None:
        """Stop a job that waits, or whose process an earlier server started, which was killed."""
        state, status = job.state, job.status
        if state == "running":
            with suppress(ProcessLookupError):
                os.kill(status["pid"], signal.SIGTERM)
            until = time.monotonic() + seconds
            while job.state == "running" and time.monotonic() < until:
                time.sleep(0.1)
            _signal(status["pid"], signal.SIGKILL)
        if state in ("waiting", "running"):
            self._finish(job, {**status, "state": "stopped"})

    def delete(self, job: Job) -> None:
        """Stop a job, and delete its folder."""
        self.stop(job)
        # renamed first, so that the job is gone at once
        gone = job.folder.with_name(f".{job.name}{secrets.token_hex(2)}")
        if job.folder.is_dir():
            job.folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def close(self) -> None:
        """Stop all jobs, and start no other."""
        with self._lock:
            self._is_closed = True
            folders, waiting = list(self._processes), list(self._latest.values())
        stopping = [threading.Thread(target=self.stop, args=(Job(folder),)) for folder in folders]
        for thread in stopping:
            thread.start()
        for thread in (*stopping, *waiting):
            # those that waited write that they were stopped
            thread.join(SECONDS_TO_STOP)


def _has_settings(job: Job) -> bool:
    return bool(yaml.safe_load((job.folder / "settings.yaml").read_text(encoding="utf-8")))


def _this_server() -> dict[str, Any]:
    return {"server": os.getpid(), "server_started": _start_of(os.getpid())}


def _signal(pid: int, number: int) -> None:
    """Send a signal to the group of a process that was started with one of its own."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        # it has ended in the meantime
        return
