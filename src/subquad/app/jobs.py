"""Jobs: commands of subquad in processes of their own, each with a folder that outlives the server.

`job.json` has the words of the command, `log.txt` what it prints, and `status` its exit status. A process locks its log
as long as it lives, so that no process number has to be trusted after a restart. The folder alone tells the
state of a job, so that none is lost or started twice when the server is killed.
"""

import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from subquad.errors import SubquadError
from subquad.runs.storage import read_json, write_json

State = Literal["waiting", "running", "finished", "failed", "interrupted"]

RECORD, LOG, STATUS, PROCESSES, OUT = "job.json", "log.txt", "status", "processes", "out"
SCRIPT = f'"$@" & echo $$ $! > "$0/{PROCESSES}"; wait $!; echo $? > "$0/{STATUS}"'
"""What runs a command: it notes the process and its exit status, also if the server has ended in the meantime."""
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_STOP = 15.0
"""Time that a command has to write a checkpoint after SIGTERM."""
INTERRUPTED = [128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)]
"""Exit statuses of commands that were stopped."""
TAIL = 20_000
"""Bytes of the end of a log that are shown."""
PROGRESS = re.compile(r"^(.+?): ([\d,]+)/([\d,]+)(.*)$", re.MULTILINE)
"""A line of `subquad.progress`, such as `Lyra: 3/10, 20 s, 40 s left, loss 0.5`."""


class Progress(NamedTuple):
    """How far a step of a command is."""

    title: str
    done: int
    total: int
    rest: str
    """Time and metrics, as the command prints them."""


class Job:
    """A job, as its folder tells it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        self.shown: tuple[State, str] | None = None
        """State in which the page last showed what the job wrote, and how."""
        self._is_finished = False

    @cached_property
    def record(self) -> dict[str, Any]:
        """Title, words of the command, output and time."""
        return read_json(self.folder / RECORD)

    @property
    def command(self) -> str:
        """Name of the command, such as `bio fit`."""
        return " ".join(self.record["words"][:2])

    @property
    def words(self) -> list[str]:
        """All words of the command line after `subquad`."""
        return [*self.record["words"], "--out", str(self.out)]

    @property
    def out(self) -> Path:
        """File or folder that the command writes."""
        return self.folder / self.record["out"]

    @property
    def time(self) -> str:
        """When the job was made."""
        return time.strftime("%d %b %H:%M", time.localtime(self.record["created"])).lstrip("0")

    @property
    def state(self) -> State:
        """Where the job stands; `interrupted` was stopped or killed, and can be resumed."""
        # for good
        if self._is_finished:
            return "finished"
        # in this order, a process that begins or ends in the meantime is not taken for one that was killed
        has_begun = (self.folder / PROCESSES).exists()
        if self.is_running:
            return "running"
        with suppress(OSError, ValueError):
            code = int((self.folder / STATUS).read_text())
            self._is_finished = code == 0
            return "finished" if code == 0 else "interrupted" if code in INTERRUPTED else "failed"
        return "interrupted" if has_begun else "waiting"

    @property
    def is_running(self) -> bool:
        """Whether the process, or any that it started, is alive."""
        try:
            with (self.folder / LOG).open("rb") as log:
                fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def log(self) -> str:
        """The end of what the command has printed."""
        try:
            with (self.folder / LOG).open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(size - TAIL, 0))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        return text if size <= TAIL else f"…{text[text.find(chr(10)) :]}"

    @property
    def progress(self) -> Progress | None:
        """The last step that was counted; None if there is none."""
        lines = PROGRESS.findall(self.log)
        if not lines:
            return None
        title, done, total, rest = lines[-1]
        return Progress(title, int(done.replace(",", "")), int(total.replace(",", "")), rest.lstrip(", "))

    @property
    def seconds(self) -> float:
        """Duration of the last run so far."""
        with suppress(OSError):
            end = self.folder / STATUS
            began = (self.folder / PROCESSES).stat().st_mtime
            return (end.stat().st_mtime if end.is_file() else time.time() if self.is_running else began) - began
        return 0.0


class Jobs:
    """The jobs of a workspace, which no other server may use; a thread starts those that wait, the oldest first."""

    def __init__(self, folder: Path, most: int, program: Sequence[str] = (sys.executable, "-m", "subquad")) -> None:
        """Read the jobs of a folder, and run at most so many at the same time."""
        self._folder, self._most, self._program = folder, most, program
        folder.mkdir(parents=True, exist_ok=True)
        self._jobs: dict[str, Job] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock, self._is_closed, self._changed = threading.Lock(), False, threading.Event()
        """Held while a job is put in the queue, taken from it, or started."""
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def list(self, field: str = "") -> list[Job]:
        """Return the jobs of a field, such as `bio`; the newest is first."""
        names = sorted((path.name for path in self._folder.iterdir()), reverse=True)
        jobs = []
        for name in names:
            job = self._jobs.setdefault(name, Job(self._folder / name))
            with suppress(SubquadError, OSError, LookupError, TypeError):
                if field in ("", job.record["words"][0]):
                    jobs.append(job)
        return jobs

    def find(self, name: str | None) -> Job | None:
        """Return the job of this name; the name comes from a browser, and is no path."""
        return next((job for job in self.list() if job.name == name), None)

    def new(self) -> Path:
        """Make the folder of a new job, for files that the command reads."""
        # names in the order of time, also when clocks are set back an hour
        now = time.time_ns()
        folder = self._folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now // 10**9))}-{now % 10**9:09}"
        folder.mkdir()
        return folder

    def start(self, folder: Path, words: Sequence[str], *, title: str, file: str = "") -> Job:
        """Put a command in the queue, in the folder of a new job.

        Args:
            folder: As `new` returned it.
            words: Words of the command line without `--out`.
            title: Name of the job on the page.
            file: Name of the file that the command writes; empty for a command that writes a folder.
        """
        if file:
            (folder / OUT).mkdir(exist_ok=True)
            out = f"{OUT}/{file}"
        else:
            # reports call a run by the name of its folder
            name = re.sub(r"[^\w.]+", "-", title).strip("-.")[:80] or OUT
            taken = {job.record["out"] for job in self.list()}
            out = next(entry for entry in (name, *(f"{name}-{n}" for n in range(2, 10**6))) if entry not in taken)
            if (folder / OUT).is_dir():
                (folder / OUT).rename(folder / out)
        record = {"title": title, "words": list(words), "out": out, "created": time.time()}
        write_json(folder / RECORD, record)
        job = self._jobs.setdefault(folder.name, Job(folder))
        self._changed.set()
        return job

    def run(self, job: Job) -> None:
        """Put a job that was interrupted or has failed in the queue again."""
        with self._lock:
            if job.state in ("interrupted", "failed"):
                for name in (STATUS, PROCESSES):
                    (job.folder / name).unlink(missing_ok=True)
        self._changed.set()

    def _work(self) -> None:
        while not self._is_closed:
            self._changed.clear()
            # takes note of those that have ended
            self._processes = [process for process in self._processes if process.poll() is None]
            states = {job: job.state for job in self.list()[::-1]}
            waiting = [job for job, state in states.items() if state == "waiting"]
            free = self._most - sum(state == "running" for state in states.values())
            for job in waiting[: max(free, 0)]:
                with self._lock:
                    # it may have been stopped in the meantime
                    if job.state == "waiting" and not self._is_closed:
                        self._try_to_launch(job)
            self._changed.wait(SECONDS_BETWEEN_LOOKS if waiting else None)

    def _try_to_launch(self, job: Job) -> None:
        """Start a job; without space or memory it goes on waiting, and any other error is its end."""
        try:
            self._launch(job)
        except OSError:
            pass
        except Exception as error:  # noqa: BLE001 (no job may stop the others)
            (job.folder / LOG).write_text(f"subquad: cannot be started ({error})\n", encoding="utf-8")
            (job.folder / STATUS).write_text("1")

    def _launch(self, job: Job) -> None:
        environment = {**os.environ, "COLUMNS": "100", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
        with (job.folder / LOG).open("ab") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            log.write(f"$ subquad {shlex.join(job.words)}\n".encode())
            log.flush()
            self._processes.append(subprocess.Popen(
                ["/bin/sh", "-c", SCRIPT, str(job.folder), *self._program, *job.words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=job.folder, env=environment,
                # a group of its own: Ctrl-C in the server's terminal reaches the server only, which stops the job
                start_new_session=True,
            ))  # fmt: skip

    def stop(self, job: Job, *, seconds: float = SECONDS_TO_STOP) -> None:
        """Stop a job with SIGTERM, after which a training saves a checkpoint, and then with SIGKILL."""
        with self._lock:
            if job.state == "waiting":
                (job.folder / STATUS).write_text(str(INTERRUPTED[0]))
        end, is_told = time.monotonic() + seconds, False
        # a process that waits for a broken disk does not end either
        while job.is_running and time.monotonic() < end + SECONDS_TO_STOP:
            with suppress(OSError, ValueError):
                group, process = map(int, (job.folder / PROCESSES).read_text().split())
                if time.monotonic() > end:
                    os.killpg(group, signal.SIGKILL)
                elif not is_told:
                    is_told = True
                    os.kill(process, signal.SIGTERM)
            time.sleep(0.05)
        self._changed.set()

    def delete(self, job: Job) -> None:
        """Stop a job and delete its folder."""
        self.stop(job)
        # without the lock, a job whose status is deleted already would be taken for one that waits
        with self._lock:
            shutil.rmtree(job.folder, ignore_errors=True)
        self._jobs.pop(job.name, None)

    def close(self) -> None:
        """Stop all jobs that are running; those that wait go on waiting for the next server."""
        self._is_closed = True
        self._changed.set()
        self._thread.join()
        running = [job for job in self.list() if job.is_running]
        with ThreadPoolExecutor(max(len(running), 1)) as pool:
            list(pool.map(self.stop, running))
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
