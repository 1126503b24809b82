"""Processes that simulate jets, one file at a time each.

A worker is a process of its own (`subquad.hep.simulation.shard`), so that the caller's script needs no guard for
multiprocessing and the worker does not import torch.
"""

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError

# kinds of messages of a worker
_JETS, _DONE, _REFUSED, _FAILED = "jets", "done", "refused", "failed"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A file to simulate."""

    name: str
    """The class."""
    jets: int
    shard: int
    """Number of the file among those of its class."""
    seed: int
    path: Path

    def line(self) -> str:
        """Return the job as a line of JSON."""
        return json.dumps({**dataclasses.asdict(self), "path": str(self.path)}) + "\n"


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], workers: int, advance: Callable[[int], None]) -> None:
    """Simulate all files, each worker one at a time.

    Args:
        jobs: The files.
        workers: Number of processes; 0 uses all cores.
        advance: Called with the number of new jets.

    Raises:
        OSError: A file cannot be written.
        SubquadError: A worker ended before its job was done.
    """
    todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    processes = [_Worker() for _ in range(min(workers or _cores(), len(jobs)))]
    threads = [threading.Thread(target=worker.drive, args=(todo, messages), daemon=True) for worker in processes]
    try:
        for thread in threads:
            thread.start()
        done = 0
        while done < len(jobs):
            kind, value = messages.get()
            if kind == _FAILED:
                raise SubquadError(value)
            if kind == _REFUSED:
                number, path = value
                raise OSError(number, os.strerror(number), path)
            if kind == _JETS:
                advance(value)
            else:
                done += 1
    finally:
        for worker in processes:
            worker.stop()
        for thread in threads:
            thread.join()
        for worker in processes:
            worker.close()


class _Worker:
    """A process that simulates one file after the other."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # a file, because a pipe that is not read fills up and blocks
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "subquad.hep.simulation.shard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def drive(self, todo: "queue.SimpleQueue[Job]", messages: "queue.SimpleQueue[tuple[str, Any]]") -> None:
        """Send jobs to the process, one at a time, and forward its answers."""
        while True:
            try:
                job = todo.get_nowait()
            except queue.Empty:
                return
            try:
                self._stdin.write(job.line())
                self._stdin.flush()
                is_done = any(self._forward(line, messages) for line in self._stdout)
            except (BrokenPipeError, ValueError):
                is_done = False
            if not is_done:
                messages.put((_FAILED, self._failure(job)))
                return

    def _forward(self, line: str, messages: "queue.SimpleQueue[tuple[str, Any]]") -> bool:
        """Forward an answer; return whether the file is done."""
        answer = json.loads(line)
        for kind, value in answer.items():
            messages.put((kind, value))
        return _DONE in answer

    def _failure(self, job: Job) -> str:
        status = self._process.wait()
        self._stderr.seek(0)
        last = self._stderr.read().decode(errors="replace").strip().splitlines()[-8:]
        return "\n".join([f"{job.path.name}: the simulation ended with status {status}", *last])

    def stop(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()

    def close(self) -> None:
        """Close the pipes."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._stdout.close()
        self._stderr.close()
