"""Power loss: what is on the disk before what, as strace sees it, and disks that fail at any write to them.

`SUBQUAD_KILLS` divided by four is the number of faults of each kind in each command. Commands whose files are written
by workers are left out, as strace injects faults into one process.
"""

import ctypes
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.long_commands import LONGEST, parameters
from support.saved import differences

FAULTS = max(int(os.environ.get("SUBQUAD_KILLS", "2")) // 4, 1)
SEED = int(os.environ.get("SUBQUAD_KILL_SEED", "0"))
WRITES = ("write", "writev", "pwrite64", "pwritev", "ftruncate", "sendfile", "copy_file_range")
RENAMES = ("rename", "renameat", "renameat2")
TRACED = (*WRITES, *RENAMES, "fsync", "fdatasync", "unlink", "unlinkat", "mkdir", "mkdirat")
LAST = ("metrics.json", "evaluation.json")
"""Files that mark an output as finished."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="after an import of torch, processes fork safely on Linux only"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]


def wait_to_be_traced():
    """Stop this process until strace is attached to it, which any process of this user may do."""
    pr_set_ptracer, any_process = 0x59616D61, ctypes.c_ulong(-1)
    ctypes.CDLL(None).prctl(pr_set_ptracer, any_process, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)


def status_of(process, name):
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def run_traced(whole, folder, log, *options):
    """Return a command that ran under strace, and its exit status."""
    command = whole.start(folder, prepare=wait_to_be_traced)
    process = command.process.pid
    while status_of(process, "State") != "T":
        time.sleep(0.01)
    words = ["strace", "-f", "-y", "-s", "0", "-o", log, *options, "-p", str(process)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            while status_of(process, "TracerPid") == "0":
                if tracer.poll() is not None:
                    pytest.skip(f"strace cannot attach to a process here ({tracer.stderr.read().strip()})")
                time.sleep(0.01)
            os.kill(process, signal.SIGCONT)
            status = command.wait(LONGEST)
            assert status is not None, command.output()
        finally:
            command.kill()
            with suppress(ProcessLookupError):
                tracer.terminate()
    return command, status


def calls_of(log):
    """Yield process, name, arguments and result of each system call that succeeded."""
    begun = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        process, text = line.split(maxsplit=1)
        if text.endswith("<unfinished ...>"):
            begun[process] = text.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text):
            text = begun.pop(process) + resumed[1]
        if found := re.match(r"(\w+)\((.*)\) += (\d+)", text):
            yield process, found[1], found[2]


def paths_in(arguments):
    """Return the paths of the open files of a call, and those of the names that it gives."""
    opened, named = [], []
    for path, name in re.findall(r"<(/[^>]*)>|\"([^\"]*)\"", arguments):
        if path:
            opened.append(path.removesuffix("(deleted)").strip())
        elif name:
            named.append(str(Path(opened[-1] if opened else "/", name)))
    return opened, named


class Disk:
    """What of an output would be on the disk after a power loss, and what is wrong with that."""

    def __init__(self, output):
        self.output = output
        self.unsynced, self.unnamed, self.mistakes, self.renamed = set(), {}, [], 0

    def is_own(self, path):
        return Path(path).is_relative_to(self.output)

    def take(self, name, arguments):
        """Take one system call."""
        opened, named = paths_in(arguments)
        if name in WRITES and any(map(self.is_own, opened)):
            # of calls that copy, the second file is written
            self.unsynced.add(opened[name == "copy_file_range"])
        elif name in ("fsync", "fdatasync"):
            self.unsynced.discard(opened[0])
            self.unnamed = {path: how for path, how in self.unnamed.items() if str(Path(path).parent) != opened[0]}
        elif name in RENAMES and any(map(self.is_own, named)):
            self.rename(*named)
        elif name in ("mkdir", "mkdirat") and self.is_own(named[-1]):
            self.unnamed[named[-1]] = "made"
        elif name in ("unlink", "unlinkat") and self.is_own(named[-1]):
            self.remove(named[-1])

    def rename(self, old, new):
        def moved(path):
            return new + path.removeprefix(old) if Path(path).is_relative_to(old) else path

        self.renamed += 1
        if ".subquad-" in new:
            # libraries have temporary files of their own
            self.unsynced = set(map(moved, self.unsynced))
            self.unnamed = {moved(path): how for path, how in self.unnamed.items()}
            return
        inside = [path for path in self.unsynced if Path(path).is_relative_to(old)]
        self.mistakes += [f"{path} was renamed to {new} before it was on the disk" for path in inside]
        self.unnamed = {moved(path): how for path, how in self.unnamed.items()}
        self.unnamed[new] = "renamed"
        folder = Path(new).parent
        if Path(new).name in LAST:
            self.mistakes += [
                f"{path} was not on the disk when {new} marked the end"
                for path in self.unsynced
                if Path(path).is_relative_to(folder) and not Path(path).name.endswith(".lock")
            ]
        if Path(new).name.startswith("checkpoint-") and str(folder / "history.jsonl") in self.unsynced:
            self.mistakes.append(f"{new} refers to entries of history.jsonl that are not on the disk")

    def remove(self, path):
        self.unsynced.discard(path)
        was_new = self.unnamed.pop(path, None)
        waiting = [own for own in self.unnamed if Path(own).parent == Path(path).parent and "subquad-" not in own]
        if "subquad-" not in path and was_new is None and Path(path).name != ".lock":
            self.mistakes += [f"{path} was removed before the name of {own} was on the disk" for own in waiting]

    def end(self):
        """Return the mistakes after the command has ended."""
        left = [path for path in self.unnamed if Path(path).exists()]
        unwritten = [path for path in self.unsynced if Path(path).exists()]
        self.mistakes += [
            f"{path} was {self.unnamed[path]}, and its name was not on the disk at the end" for path in left
        ]
        self.mistakes += [f"{path} was not on the disk at the end" for path in unwritten]
        return self.mistakes


@pytest.mark.parametrize("name", parameters(with_workers=False))
def test_files_are_on_the_disk_before_their_names_and_before_what_refers_to_them(name, whole, tmp_path):
    own, folder = whole(name), tmp_path / "out"
    command, status = run_traced(own, folder, tmp_path / "calls", "-e", f"trace={','.join(TRACED)}")
    assert status == 0, command.output()
    disk = Disk(folder)
    for _, call, arguments in calls_of(tmp_path / "calls"):
        disk.take(call, arguments)
    assert disk.end() == []
    assert disk.renamed > 5
    assert differences(own.out.parent, folder) == []


@pytest.mark.parametrize(
    ("calls", "fault"),
    [
        ("fsync", "error=EIO"),
        # before a file has its name
        (",".join(RENAMES), "signal=SIGKILL"),
        # and before the name is on the disk
        ("fsync", "signal=SIGKILL"),
    ],
    ids=["a disk that fails", "killed before a rename", "killed before a sync"],
)
@pytest.mark.parametrize("name", parameters(with_workers=False))
def test_a_command_whose_disk_fails_ends_with_the_output_of_an_undisturbed_one(name, calls, fault, whole, tmp_path):
    own, chance = whole(name), random.Random(f"{name} {calls} {fault} {SEED}")
    command, status = run_traced(own, tmp_path / "counted", tmp_path / "calls", "-e", f"trace={calls}")
    assert status == 0, command.output()
    # strace counts those of each thread and name
    process = str(command.process.pid)
    made = [name for thread, name, _ in calls_of(tmp_path / "calls") if thread == process]
    for number in range(FAULTS):
        folder, which = tmp_path / f"run-{number}", chance.randrange(len(made))
        call = made[which]
        options = ("-e", f"trace={calls}", "-e", f"inject={call}:{fault}:when={made[: which + 1].count(call)}")
        command, status = run_traced(own, folder, tmp_path / f"calls-{number}", *options)
        what = f"{calls} {fault} at {which + 1} of {len(made)}"
        if "error" in fault:
            assert (status, "Input/output error" in command.output()) == (2, True), f"{what}: {command.output()}"
            assert "Traceback" not in command.output()
        else:
            assert status == -signal.SIGKILL, f"{what}: {command.output()}"
        again = own.start(folder)
        status = again.wait(LONGEST)
        assert own.is_finished(again, status), f"{what}: {again.output()}"
        assert differences(own.out.parent, folder) == [], what
        print(f"{name}: {what}, then equal")
