"""Jobs: commands of subquad in processes of their own, each with a folder that holds its record, log and output."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from subquad.app.disk import check_room
from subquad.app.job_records import DAMAGE, END, Command, Job, State, link_or_copy, start_of
from subquad.errors import SubquadError
from subquad.runs.storage import atomic, sync, write_json

__all__ = ["Command", "Job", "JobRunner", "State"]

SETTINGS = "settings.yaml"
"""Name of the file with the flags of a job's command."""
SECONDS_TO_STOP = 15.0
"""Seconds that a process has to write a checkpoint after it was told to stop."""
MOST_WAITING, MOST_WAITING_OF_SESSION = 50, 10
"""Jobs that may wait at the same time: of all sessions, and of each."""
MOST_OF_SESSION = 200
"""Jobs that a session may have, with those that have ended."""
ENDED_EARLY = ("stopped", "failed")
"""States from which a job can be started again."""


class JobRunner:
    """Starts jobs, a few at a time, and stops them."""

    def __init__(self, most: int = 2, *, keep_free: int = 0) -> None:
        """Prepare to run at most so many jobs at the same time, and to start none unless so many bytes are free."""
        self._most, self._keep_free = most, keep_free
        self._waiting: dict[threading.Thread, Path] = {}
        """Threads that wait for their turn, in the order in which they came, and their jobs."""
        self._running: list[Path] = []
        self._served: dict[Path, int] = {}
        """Number of the last turn of each folder of jobs that has any which wait or run."""
        self._turns = 0
        self._processes: dict[Path, subprocess.Popen] = {}
        self._stopped: set[Path] = set()
        self._latest: dict[Path, threading.Thread] = {}
        """The thread of the last start of each job."""
        self._turning = threading.Lock()
        """Held from the look at a job's state to the change that follows from it."""
        self._lock = threading.Condition()
        """Notified whenever it may be the turn of another job, or a job that waits was stopped."""
        self._is_closed = False

    def start(self, folder: Path, kind: str, command: Command) -> Job:
        """Write the record of a job into its folder, and run it as soon as there is room.

        Raises:
            SubquadError: Too many jobs are waiting, the session has too many, or there is no room for another one; the
                folder is removed then.
        """
        try:
            self._check_waiting(folder)
            self._check_room(folder)
            self._prepare(folder, kind, command)
        except (SubquadError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, SubquadError):
                raise
            reason = error.strerror or "some files could not be copied"
            raise SubquadError(
                f"this could not be started ({reason}); free some space if the disk is full, or choose the files again"
            ) from error
        job = Job(folder)
        self._begin(job)
        return job

    def _prepare(self, folder: Path, kind: str, command: Command) -> None:
        """Write what a job needs into its folder."""
        out = folder / command.output
        if command.continues is not None:
            shutil.copytree(command.continues, out)
            for path in (*out.rglob("*"), out):
                sync(path)
        kept = {str(path): str(folder / "inputs" / path.name) for path in command.inputs}
        for path, copy in kept.items():
            link_or_copy(Path(path), Path(copy))
        settings = {key: value for key, value in command.settings.items() if value not in (None, "", (), [])}
        # before the record, which says whether there are any
        with atomic(folder / SETTINGS) as temporary:
            temporary.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
        write_json(
            folder / "job.json",
            {
                "kind": kind,
                "title": command.title,
                "words": [*(kept.get(word, word) for word in command.words), "--out", str(out)],
                "output": command.output,
                "created": time.time(),
                **_this_server(),
                "about": dict(command.about or {}),
                "can_resume": command.can_resume,
                "has_settings": bool(settings),
                "reads": [path for path in command.reads() if path not in kept],
            },
        )
        write_json(folder / "status.json", {"state": "waiting"})

    def resume(self, job: Job) -> None:
        """Run the command of a stopped job again; commands that train go on where they were.

        Nothing happens if the job is active or has finished, such as when two windows resume it.

        Raises:
            SubquadError: Too many jobs are waiting, or there is no room for what it writes.
        """
        # before the lock too, since an end that is about to be noted is waited for
        if job.state not in ENDED_EARLY:
            return
        with self._turning:
            # as it is now, and not as another window found it
            job = Job(job.folder)
            if job.folder in self._processes or job.state not in ENDED_EARLY:
                return
            self._check_waiting(job.folder)
            check_room(job.folder, self._keep_free)
            write_json(job.folder / "job.json", {**job.record, **_this_server()})
            write_json(job.folder / "status.json", {"state": "waiting"})
            self._begin(Job(job.folder))

    def _check_waiting(self, folder: Path) -> None:
        """Check that one more job may wait in a folder of jobs."""
        with self._lock:
            waiting = [own for own in self._latest if own not in self._processes and own not in self._stopped]
        own = sum(other.parent == folder.parent for other in waiting)
        if own >= MOST_WAITING_OF_SESSION:
            raise SubquadError(f"{own} of your jobs are waiting already; stop one of them, or wait until one has ended")
        if len(waiting) >= MOST_WAITING:
            raise SubquadError(f"{len(waiting)} jobs of all users are waiting already; try again when some have ended")

    def _check_room(self, folder: Path) -> None:
        """Check that a session may have one more job, whose folder it has already."""
        count = sum(path.name != folder.name for path in folder.parent.glob("[!.]*"))
        if count >= MOST_OF_SESSION:
            raise SubquadError(f'you have {count} results; delete some in "Your files and results" first')
        check_room(folder, self._keep_free)

    def _begin(self, job: Job) -> None:
        thread = threading.Thread(target=self._run, args=(job,), daemon=True, name=f"job {job.name}")
        with self._lock:
            self._stopped.discard(job.folder)
            self._latest[job.folder] = thread
            # in the order of the starts, which is not that in which the threads begin
            self._waiting[thread] = job.folder
        thread.start()

    def _run(self, job: Job) -> None:
        try:
            with self._turn(job) as is_wanted:
                if is_wanted:
                    self._run_now(job)
        finally:
            self._forget(job)

    @contextmanager
    def _turn(self, job: Job) -> Iterator[bool]:
        """Wait for the turn of a job, which lasts for the `with` block; yield whether it was not stopped before."""
        own, session = threading.current_thread(), job.folder.parent
        with self._lock:
            self._lock.wait_for(lambda: self._is_closed or not self._is_wanted(job) or self._next() is own)
            is_wanted = self._is_wanted(job)
            del self._waiting[own]
            if is_wanted:
                self._running.append(job.folder)
                self._turns += 1
                self._served[session] = self._turns
            # there may be room for the next one too
            self._lock.notify_all()
        try:
            yield is_wanted
        finally:
            with self._lock:
                if is_wanted:
                    self._running.remove(job.folder)
                if not any(other.parent == session for other in (*self._running, *self._waiting.values())):
                    self._served.pop(session, None)
                self._lock.notify_all()

    def _next(self) -> threading.Thread | None:
        """Return the thread whose turn it is: of the session that has the fewest running jobs, or else whose last turn
        was first; within a session, and between those that had no turn, the one that came first.
        """
        if len(self._running) >= self._most:
            return None
        running = Counter(folder.parent for folder in self._running)
        waiting = {thread: folder.parent for thread, folder in self._waiting.items()}
        return min(waiting, key=lambda own: (running[waiting[own]], self._served.get(waiting[own], 0)), default=None)

    def _is_wanted(self, job: Job) -> bool:
        """Return whether this thread still has to run a job, which may have been stopped, and started again since."""
        return self._latest.get(job.folder) is threading.current_thread() and job.folder not in self._stopped

    def _forget(self, job: Job) -> None:
        with self._lock:
            if self._latest.get(job.folder) is threading.current_thread():
                del self._latest[job.folder]
                self._stopped.discard(job.folder)

    def _run_now(self, job: Job) -> None:
        # the folder may have been deleted by its user
        if not job.folder.is_dir():
            return
        began = time.time()
        try:
            process = self._open(job)
        except DAMAGE as error:
            self._finish(job, {"state": "failed", "message": f"The command could not be started: {error}."})
            return
        if process is None:
            if self._is_closed:
                self._finish(job, {"state": "stopped"})
            return
        about = {"pid": process.pid, "started": start_of(process.pid), "began": began}
        try:
            # without its status a job waits for the page, and ends like any other
            with suppress(OSError):
                write_json(job.folder / "status.json", {"state": "running", **about})
            code = process.wait()
        finally:
            with self._lock:
                self._processes.pop(job.folder, None)
                is_stopped = job.folder in self._stopped
        # one that finished while it was stopped has nothing to resume
        state = "finished" if code == 0 else "stopped" if is_stopped else "failed"
        with self._turning:
            # it may have been resumed since
            if self._latest.get(job.folder) is threading.current_thread():
                self._finish(job, {"state": state, **about, "ended": time.time(), "exit_status": code})

    def _finish(self, job: Job, status: Mapping[str, Any]) -> None:
        # the folder may have been deleted by its user
        if job.folder.is_dir():
            write_json(job.folder / "status.json", status)

    def _open(self, job: Job) -> subprocess.Popen | None:
        """Start the process of a job, unless it has one, it was stopped or the runner was closed."""
        config = ("--config", str(job.folder / SETTINGS)) if _has_settings(job) else ()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "120"}
        with self._lock, (job.folder / "log.txt").open("ab") as log:
            if self._is_closed or not self._is_wanted(job) or job.folder in self._processes:
                return None
            # of an earlier start
            (job.folder / END).unlink(missing_ok=True)
            process = subprocess.Popen(
                [sys.executable, "-m", "subquad.job_process", str(job.folder), *job.record["words"], *config],
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
            if job.folder in self._latest:
                self._stopped.add(job.folder)
                self._lock.notify_all()
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
        status = job.status
        if status["state"] == "running":
            with suppress(ProcessLookupError):
                os.kill(status["pid"], signal.SIGTERM)
            until = time.monotonic() + seconds
            while job.state == "running" and time.monotonic() < until:
                time.sleep(0.1)
            _signal(status["pid"], signal.SIGKILL)
            # it may have finished in the meantime
            if job.state == "finished":
                return
        if status["state"] in ("waiting", "running"):
            self._finish(job, {**status, "state": "stopped", "ended": time.time()})

    def delete(self, job: Job) -> None:
        """Stop a job, and delete its folder."""
        self.stop(job)
        # it may be about to write how the job ended
        with self._lock:
            thread = self._latest.get(job.folder)
        if thread is not None:
            thread.join(SECONDS_TO_STOP)
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
            self._lock.notify_all()
        stopping = [threading.Thread(target=self.stop, args=(Job(folder),)) for folder in folders]
        for thread in stopping:
            thread.start()
        for thread in (*stopping, *waiting):
            # those that waited write that they were stopped
            thread.join(SECONDS_TO_STOP)


def _has_settings(job: Job) -> bool:
    """Return whether the command of a job takes its flags from a file.

    Raises:
        SubquadError: It does, and the file is missing or empty, without which the command would run with defaults.
    """
    path, is_needed = job.folder / SETTINGS, job.record.get("has_settings")
    # earlier records do not say it
    has_any = (path.is_file() or is_needed is None) and bool(yaml.safe_load(path.read_text(encoding="utf-8")))
    if is_needed and not has_any:
        raise SubquadError(f"{path}: missing or empty, and this job has settings; start a new job with them")
    return has_any


def _this_server() -> dict[str, Any]:
    return {"server": os.getpid(), "server_started": start_of(os.getpid())}


def _signal(pid: int, number: int) -> None:
    """Send a signal to the group of a process that was started with one of its own."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        # it has ended in the meantime
        return
