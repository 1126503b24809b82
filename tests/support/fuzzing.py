"""Readers that are called with damaged input in a process of its own, with limits of time and memory.

The only answers allowed are a value and a `SubquadError`. What else happens is reported with its input: other
exceptions, more than 10 seconds of the processor, more than 2 GB of memory (4 GB if most of it is reserved and not
used), a crash of the process, and refusals that name neither the file nor its folder. Readers turn what a library
raises into a `SubquadError`, the end of the time or of the memory too; these are faults whatever comes of them. Inputs
are drawn by hypothesis, so that a seed repeats them.

Half of the inputs made of a JSON file stay well-formed. Of a saved run, a quarter has the checksums of its files, by
which nearly all damage is refused; of the others, those in `config.json` are left out, so that damage goes deeper.
"""

import copy
import json
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from support.forked import forks

SECONDS, MEMORY = 10, 2 * 2**30 + 2**26
"""Limits of one call: of the memory, the 2 GB that pyarrow takes if a page of Parquet claims them, and the rest."""


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
    files: tuple[str, ...] = ()
    """Files of a folder that are damaged, each of which the reader reads, as is checked; by default all files in it."""


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


JSON_VALUES = st.one_of(
    st.sampled_from([None, True, 0, -1, 3, 2**63, 10**400, -1e308, 0.5, float("nan"), float("inf")]),
    st.sampled_from(["", "x", "x" * 5000, "\ud800", "../..", [], {}, [[]], [[[[1]]]], {"a": {"b": []}}, [-1.5, "a"]]),
    st.integers(2, 300).map(lambda depth: json.loads("[" * depth + "]" * depth)),
)
JSON_KINDS = ("replace", "replace", "delete", "rename", "repeat")


def json_edits():
    """Return the strategy of one to three changes of a JSON value: a kind, the way to a place in it, and a value."""
    way = st.lists(st.integers(0, 2**16), max_size=7)
    return st.lists(st.tuples(st.sampled_from(JSON_KINDS), way, JSON_VALUES), min_size=1, max_size=3)


def edited(data, edits, *, is_lines):
    """Return a JSON file with changes that keep it well-formed.

    Args:
        data: The file.
        edits: See `json_edits`.
        is_lines: Each line is a value.
    """
    text = data.decode()
    root = [[json.loads(line) for line in text.splitlines()] if is_lines else json.loads(text)]
    for kind, way, new in edits:
        place, key = root, 0
        for step in way:
            inner = place[key]
            if not isinstance(inner, list | dict) or not inner:
                break
            place, key = inner, (list(inner)[step % len(inner)] if isinstance(inner, dict) else step % len(inner))
        if place is root and is_lines:
            continue
        match kind:
            case "replace":
                place[key] = copy.deepcopy(new)
            case "delete" if place is not root:
                del place[key]
            case "rename" if isinstance(place, dict):
                place[f"{key}_"] = place.pop(key)
            case "repeat" if isinstance(place, list) and place is not root:
                place.insert(key, copy.deepcopy(place[key]))
    lines = [json.dumps(value) for value in root[0]] if is_lines else [json.dumps(root[0], indent=1)]
    return "".join(f"{line}\n" for line in lines).encode()


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
        self.files, self.valid, self.late, self.most, self.configs = [], None, None, 0, None
        if self.target.write is not None:
            home = self.folder / "valid"
            home.mkdir()
            self.valid = self.target.write(home)
            self.files = [(path, path.read_bytes()) for path in self._damaged_files()]
            # what is imported at the first call is not the memory of a call
            self.target.read(self.valid)
            self.configs = self._configs()
            if self.target.files:
                self._check_files_are_read()
        # pyarrow reserves what a damaged page of Parquet claims, at most 2 GB, before it finds nothing to write there
        resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + 2 * self.memory, resource.RLIM_INFINITY))
        self.most = _memory("VmRSS") + self.memory
        signal.signal(signal.SIGPROF, self._end)

    def _damaged_files(self):
        if not self.valid.is_dir():
            return [self.valid]
        if self.target.files:
            return [self.valid / name for name in self.target.files]
        return sorted(path for path in self.valid.glob("*") if path.is_file())

    def _configs(self):
        """Return `config.json` of a saved run without the checksums of its files and with them; None if it is none."""
        from subquad.runs.checksums import CONFIG, METRICS, PARTS, checksums_of_run

        folder = self.valid
        if not (folder.is_dir() and (folder / CONFIG).is_file() and (folder / METRICS).is_file()):
            return None
        config, metrics = (json.loads((folder / name).read_text("utf-8")) for name in (CONFIG, METRICS))
        config["subquad"].pop(PARTS, None)
        without = json.dumps(config, indent=1).encode()
        config["subquad"][PARTS] = checksums_of_run(folder, config, metrics)
        return without, json.dumps(config, indent=1).encode()

    def _check_files_are_read(self):
        """Check that the reader refuses a run in which any of the files that are damaged is none of its format."""
        with self._config(is_sealed=False):
            for path, data in self.files:
                # transformers takes a generation_config.json that is not JSON for a missing one
                if not any(self._is_refused(path, data, content) for content in (b"garbage", b"[]")):
                    raise AssertionError(f"{path.name} may hold anything: the reader does not read it")

    def _is_refused(self, path, data, content):
        from subquad.errors import SubquadError

        path.write_bytes(content)
        try:
            self.target.read(self.valid)
        except SubquadError:
            return True
        finally:
            path.write_bytes(data)
        return False

    @contextmanager
    def _config(self, *, is_sealed):
        """Let the `config.json` of a saved run be one with the checksums of its files or without."""
        if self.configs is None:
            yield
            return
        path = self.valid / "config.json"
        before = path.read_bytes()
        path.write_bytes(self.configs[is_sealed])
        try:
            yield
        finally:
            path.write_bytes(before)

    def inputs(self):
        """Return the strategy of what is drawn; of a file: its number, its change, and whether there are checksums."""
        if self.target.drawn is not None:
            return self.target.drawn
        return st.sampled_from(range(len(self.files))).flatmap(
            lambda number: st.tuples(
                st.just(number), self._changes(self.files[number][0]), st.sampled_from([False, False, False, True])
            )
        )

    def _changes(self, path):
        """Return the strategy of functions that change the content of a file."""
        bytewise = edits().map(lambda changes: partial(damaged, changes=changes))
        if path.suffix not in (".json", ".jsonl"):
            return bytewise
        is_lines = path.suffix == ".jsonl"
        return st.one_of(bytewise, json_edits().map(lambda changes: partial(edited, edits=changes, is_lines=is_lines)))

    def try_one(self, drawn):
        if self.target.drawn is not None:
            (self.folder / "input.txt").write_text(repr(drawn), encoding="utf-8")
            return self._call(drawn, self.folder / "input.txt", None)
        number, change, is_sealed = drawn
        path = self.files[number][0]
        with self._config(is_sealed=is_sealed):
            data = path.read_bytes()
            changed = change(data)
            if changed == data:
                return
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
