"""Labelled jets of JetClass's ten classes from Pythia 8, in JetClass's branch layout: 90 jets per second and core.

Collisions come from Pythia 8 (arXiv:2203.11601), go through an emulation of a detector like CMS without pile-up, and
are clustered by FastJet into anti-kT jets of radius 0.8 with 500 < pT < 1000 GeV and |η| < 2, matched to the decays
that made them (arXiv:2202.03772). The rooms behind it are in `subquad.hep.simulation`.
"""

import contextlib
import dataclasses
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, require
from subquad.hep.simulation.generator import pythia
from subquad.hep.simulation.settings import SimulateSettings
from subquad.progress import say, track

__all__ = ["simulate"]

RECORD = "simulation.json"
"""What was asked for; with it in the folder, a stopped simulation goes on."""

PHYSICS = 2
"""The version of collisions and detector: another one makes other jets of the same seed. Version 1, which records do
not name, kept K⁰S and hyperons whole and counted particles that curl up in the field among the tracks."""

# kinds of a worker's message
_JETS, _DONE, _FAILED = "jets", "done", "failed"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One file."""

    name: str
    jets: int
    shard: int
    seed: int
    path: Path

    def line(self) -> str:
        return json.dumps({**dataclasses.asdict(self), "path": str(self.path)}) + "\n"


def simulate(
    out: Path | str,
    settings: SimulateSettings | None = None,
    *,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> list[Path]:
    """Return the ROOT files of labelled jets in the folder `out`, after making those that are not there yet.

    The jets depend on `seed` and on the settings, not on the number of workers. A stopped call goes on when it is given
    again: whole files are kept, and no file is ever half-written.

    Raises:
        MissingExtra: Pythia, FastJet or uproot is not installed.
        SubquadError: `out` holds jets that were asked for otherwise, or of another version of the physics, and `force`
            is off.
    """
    settings = settings or SimulateSettings()
    if seed < 0:
        raise SubquadError(f"seed is {seed}; give 0 or more")
    pythia()
    for module in ("fastjet", "awkward", "uproot"):
        require(module, extra="hep")
    out = Path(out)
    jobs = _jobs(out, settings, seed)
    _open(out, jobs, settings, seed=seed, force=force)
    missing = [job for job in jobs if not job.path.is_file()]
    total, left = sum(job.jets for job in jobs), sum(job.jets for job in missing)
    if len(missing) < len(jobs):
        say(f"{len(jobs) - len(missing)} of {len(jobs)} files are there already", quiet=quiet)
    if missing:
        # the long ones first, so that no core waits for the last
        missing.sort(key=lambda job: -job.jets)
        with track("simulating jets", total=total, done=total - left, quiet=quiet) as advance:
            _run(missing, settings.workers or _cores(), advance)
    return [job.path for job in jobs]


def _jobs(out: Path, settings: SimulateSettings, seed: int) -> list[_Job]:
    jobs = []
    for name in settings.classes:
        for shard, start in enumerate(range(0, settings.jets_per_class, settings.jets_per_file)):
            jets = min(settings.jets_per_file, settings.jets_per_class - start)
            jobs.append(_Job(name=name, jets=jets, shard=shard, seed=seed, path=out / f"{name}_{shard:03d}.root"))
    return jobs


def _open(out: Path, jobs: Sequence[_Job], settings: SimulateSettings, *, seed: int, force: bool) -> None:
    """Check that what is in the folder was asked for in the same way, or clear it away."""
    asked = {"physics": PHYSICS, "seed": seed, **dataclasses.asdict(settings), "classes": list(settings.classes)}
    del asked["workers"]
    if out.exists() and not out.is_dir():
        raise SubquadError(f"{out}: a file is in the way; --out names a folder")
    record = out / RECORD
    there = [job.path for job in jobs if job.path.exists()]
    before = _read(record)
    if before != asked and not force:
        if before is not None and (version := before.get("physics", 1)) != PHYSICS:
            raise SubquadError(
                f"{out}: holds jets of version {version} of the simulated physics, and this is version {PHYSICS}; "
                "take another folder, so that one does not hold both, or --force to make them anew"
            )
        if before is not None:
            changed = ", ".join(
                f"{key} {before.get(key)!r} → {value!r}" for key, value in asked.items() if before.get(key) != value
            )
            raise SubquadError(
                f"{out}: holds jets that were asked for otherwise ({changed}); "
                "give the same again to go on, take another folder, or --force to make them anew"
            )
        if there:
            raise SubquadError(
                f"{there[0]}: is there already, and was not made by this command; take another folder, or --force"
            )
    if force:
        for path in [*_files_of(before, out), *there]:
            path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        # what a killed worker left behind
        for folder in out.glob(f".{job.path.name}.*"):
            shutil.rmtree(folder)
    if force or before is None:
        temporary = record.with_suffix(".partial")
        temporary.write_text(json.dumps(asked, indent=1), encoding="utf-8")
        os.replace(temporary, record)


def _read(record: Path) -> dict[str, Any] | None:
    if not record.is_file():
        return None
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SubquadError(f"{record}: is no JSON ({error}); remove it, or take another folder") from error


def _files_of(before: dict[str, Any] | None, out: Path) -> list[Path]:
    """Return the files of an earlier call, so that none of its jets stay behind."""
    if before is None:
        return []
    return [path for name in before["classes"] for path in sorted(out.glob(f"{name}_[0-9][0-9][0-9]*.root"))]


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _run(jobs: Sequence[_Job], workers: int, advance: Callable[[int], None]) -> None:
    """Make all files, each worker one at a time.

    Raises:
        SubquadError: a worker ended before its work was done.
    """
    todo: queue.SimpleQueue[_Job] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    processes = [_Worker() for _ in range(min(workers, len(jobs)))]
    threads = [threading.Thread(target=worker.drive, args=(todo, messages), daemon=True) for worker in processes]
    try:
        for thread in threads:
            thread.start()
        done = 0
        while done < len(jobs):
            kind, value = messages.get()
            if kind == _FAILED:
                raise SubquadError(value)
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
    """A process that makes one file after the other."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # a file, since a pipe that nobody reads would fill and block
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "subquad.hep.simulation.shard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=environment,
            text=True,
            encoding="utf-8",
        )

    def drive(self, todo: "queue.SimpleQueue[_Job]", messages: "queue.SimpleQueue[tuple[str, Any]]") -> None:
        """Give the process its jobs, one at a time, and pass on what it answers."""
        while True:
            try:
                job = todo.get_nowait()
            except queue.Empty:
                return
            try:
                self._process.stdin.write(job.line())
                self._process.stdin.flush()
                is_done = any(self._passed_on(line, messages) for line in self._process.stdout)
            except (BrokenPipeError, ValueError):
                is_done = False
            if not is_done:
                messages.put((_FAILED, self._why(job)))
                return

    def _passed_on(self, line: str, messages: "queue.SimpleQueue[tuple[str, Any]]") -> bool:
        """Pass one answer on; return whether the file is done."""
        answer = json.loads(line)
        for kind, value in answer.items():
            messages.put((kind, value))
        return _DONE in answer

    def _why(self, job: _Job) -> str:
        status = self._process.wait()
        self._complaints.seek(0)
        last = self._complaints.read().decode(errors="replace").strip().splitlines()[-8:]
        return "\n".join([f"{job.path.name}: the simulation ended with status {status}", *last])

    def stop(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()

    def close(self) -> None:
        """Close what was open between here and the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._complaints.close()
