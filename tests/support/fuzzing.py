"""Readers that are called with damaged input in a process of its own, with limits of time and memory.

The only answers allowed are a value and a `SubquadError`. What else happens is reported with its input: other
exceptions, more than 10 seconds of the processor, more than 2 GB of memory (4 GB if most of it is reserved and not
used), a crash of the process, and refusals that do not name the file. Readers turn what a library raises into a
`SubquadError`, the end of the time or of the memory too; these are faults whatever comes of them. Inputs are drawn by
hypothesis, so that a seed repeats them.
"""

import json
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from support.forked import forks

SECONDS, MEMORY = 10, 2 * 2**30
"""Limits of one call."""


class OutOfTime(BaseException):
    """The end of the time of a call; no reader takes it for damage of a file, as it would a `TimeoutError`."""


@dataclass(frozen=True)
class Target:
    """A reader, and how its input is made."""

    read: Callable
    """Function of a file or folder; for `text` and `values`, of what was drawn."""
    write: Callable | None = None
    """Function of a folder that returns a valid file or folder in it, which is then damaged."""
    drawn: st.SearchStrategy | None = None
    """What is drawn in place of a damaged file."""
    files: str = "*"
    """Which files of a folder are damaged."""


def edits():
    """Return the strategy of one to four changes of a file: most of them at its start, where headers are."""
    place = st.one_of(st.integers(0, 63), st.integers(0, 1023), st.integers(0, 2**31))
    kinds = ("flip", "set", "cut", "drop", "repeat", "swap", "insert")
    return st.lists(
        st.tuples(
            st.sampled_from(kinds), place, place, st.sampled_from([0, 1, 127, 128, 255, 10, 34, 44, 58, 91, 123])
        ),
        min_size=1,
        max_size=4,
    )


def damaged(data, changes):
    """Return a file with changes."""
    for kind, place, other, value in changes:
        at, end = place % (len(data) + 1), other % (len(data) + 1)
        first, last = sorted((at, end))
        match kind:
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ (1 << other % 8)]) + data[at + 1 :]
            case "set":
                data = data[:at] + bytes([value]) * (1 + other % 8) + data[at + 1 + other % 8 :]
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:first] + data[min(last, first + 64) :]
            case "repeat":
                data = data[:last] + data[first:last][:4096] + data[last:]
            case "swap":
                data = data[last:] + data[first:last] + data[:first]
            case "insert":
                data = data[:at] + bytes([value]) * (1 + other % 32) + data[at:]
    return data


def fuzz(target, folder, *, seconds, seed=0):
    """Call a target with drawn inputs for some seconds of the processor, and return the report of that process.

    The report has the numbers of inputs `tried` and `refused`, and `faults`: the error, its place, and the input.
    """
    report = folder / "report.json"
    process = forks.Process(target=_explore, args=(target, folder, seconds, seed))
    process.start()
    # the processor may be shared
    process.join(60 * seconds + 300)
    if process.exitcode is None:
        process.kill()
        process.join()
    found = json.loads(report.read_text()) if report.is_file() else {"tried": 0, "refused": 0, "faults": []}
    if process.exitcode != 0:
        where = f"the process ended with status {process.exitcode}; its last input is in {folder}"
        found["faults"].append({"error": "crash or hang", "where": where, "input": str(folder)})
    return found


def _explore(name, folder, seconds, seed):
    from support.fuzz_targets import TARGETS

    target = TARGETS[name]
    explorer = Explorer(target, Path(folder))
    warnings.simplefilter("ignore")
    end, number = time.process_time() + seconds, 0
    while time.process_time() < end:
        options = {"max_examples": 100, "deadline": None, "database": None, "phases": [Phase.generate]}

        @hypothesis.seed(seed * 1_000_003 + number)
        @hypothesis.settings(**options, suppress_health_check=list(HealthCheck))
        @given(explorer.inputs())
        def call(drawn):
            if time.process_time() < end or not explorer.tried:
                explorer.try_one(drawn)

        call()
        number += 1
        explorer.save()
    explorer.save()


@dataclass
class Explorer:
    """The calls of one target and what came of them."""

    target: Target
    folder: Path
    seconds: float = SECONDS
    memory: int = MEMORY
    tried: int = 0
    refused: int = 0
    faults: dict = field(default_factory=dict)

    def __post_init__(self):
        self.files, self.valid, self.late, self.most = [], None, None, 0
        if self.target.write is not None:
            home = self.folder / "valid"
            home.mkdir()
            self.valid = self.target.write(home)
            found = sorted(self.valid.glob(self.target.files)) if self.valid.is_dir() else [self.valid]
            self.files = [(path, path.read_bytes()) for path in found if path.is_file()]
            # what is imported at the first call is not the memory of a call
            self.target.read(self.valid)
        # pyarrow reserves what a damaged page of Parquet claims, at most 2 GB, before it finds nothing to write there
        resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + 2 * self.memory, resource.RLIM_INFINITY))
        self.most = _memory("VmRSS") + self.memory
        signal.signal(signal.SIGPROF, self._end)

    def inputs(self):
        if self.target.drawn is not None:
            return self.target.drawn
        return st.tuples(st.integers(0, len(self.files) - 1), edits())

    def try_one(self, drawn):
        if self.target.drawn is not None:
            (self.folder / "input.txt").write_text(repr(drawn), encoding="utf-8")
            return self._call(drawn, self.folder / "input.txt", None)
        path, data = self.files[drawn[0]]
        changed = damaged(data, drawn[1])
        if changed != data:
            path.write_bytes(changed)
            try:
                self._call(self.valid, path, len(changed))
            finally:
                path.write_bytes(data)

    def _call(self, given, path, size):
        from subquad.errors import SubquadError

        self.tried += 1
        self.late, error = None, None
        _forget_peak()
        try:
            # again and again, as a library may drop the first exception
            signal.setitimer(signal.ITIMER_PROF, self.seconds, self.seconds)
            try:
                self.target.read(given)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except BaseException as raised:  # noqa: BLE001 (whatever it is, it is judged below)
            signal.setitimer(signal.ITIMER_PROF, 0)
            error = raised
        out_of_memory = next((one for one in _chain(error) if isinstance(one, MemoryError)), None)
        if self.late is not None:
            self._keep(f"OutOfTime: more than {self.seconds} seconds of the processor", _place(self.late), path)
        elif out_of_memory is not None:
            frames = traceback.extract_tb(out_of_memory.__traceback__)
            self._keep(f"{type(out_of_memory).__name__}: {out_of_memory}"[:300], _place(frames), path)
        elif _memory("VmHWM") > self.most:
            place = _place(traceback.extract_tb(error.__traceback__)) if error else ""
            self._keep(f"more than {self.memory:,} bytes of memory", place, path)
        elif isinstance(error, SubquadError):
            self.refused += 1
            # an error in the content of a folder names the folder or the file
            if size is not None and path.name not in str(error) and str(self.valid) not in str(error):
                self._keep(f"refused without the name of the file: {error}"[:300], "", path)
        elif error is not None:
            place = _place(traceback.extract_tb(error.__traceback__))
            self._keep(f"{type(error).__name__}: {error}"[:300], place, path)

    def _end(self, _, frame):
        self.late = traceback.extract_stack(frame)
        raise OutOfTime(f"more than {self.seconds} seconds of the processor")

    def _keep(self, text, where, path):
        """Keep the shortest input of each fault."""
        key = f"{text.partition(':')[0]} {where}"
        kept = self.folder / "faults" / f"{abs(hash(key)) % 10**8:08}" / path.name
        if key in self.faults and Path(self.faults[key]["input"]).stat().st_size <= path.stat().st_size:
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, kept)
        self.faults[key] = {"error": text, "where": where, "input": str(kept)}

    def save(self):
        report = {"tried": self.tried, "refused": self.refused, "faults": list(self.faults.values())}
        (self.folder / "report.json").write_text(json.dumps(report, indent=1))


def _memory(name):
    """Return a number of bytes that the system keeps for this process; `VmHWM` is the peak of `VmRSS`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def _forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def _chain(error):
    """Return an exception and those that it was raised from or while handling, innermost first."""
    found, waiting = [], [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in found:
            found.append(one)
            waiting += [one.__cause__, one.__context__]
    return found[::-1]


def _place(frames):
    """Return the innermost line of the package, or else the innermost line."""
    own = [frame for frame in frames if "/subquad/" in frame.filename]
    last = own[-1] if own else frames[-1]
    return f"{last.filename.rpartition('/src/')[2]}:{last.lineno}"
