"""A long command that is killed, terminated or short of disk space, and started again, writes what it would have.

`SUBQUAD_KILLS` is the number of kills of each command: 20 in `make test-faults`. `SUBQUAD_KILL_SEED` draws the moments.
"""

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from support.forked import Command
from support.long_commands import COMMANDS, LONGEST
from support.saved import differences

from subquad.runs.lock import LOCK

KILLS = int(os.environ.get("SUBQUAD_KILLS", "2"))
SLOWEST = ("bio bench", "bio cross-validate")
SEED = int(os.environ.get("SUBQUAD_KILL_SEED", "0"))

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="after an import of torch, processes fork safely on Linux only"),
    # those that take half of the time are killed by `make test-faults` only
    pytest.mark.parametrize("name", [name for name in COMMANDS if KILLS > 2 or name not in SLOWEST]),
]


def test_a_killed_command_ends_with_the_output_of_one_that_was_left_alone(name, whole, tmp_path):
    stop_and_start_again(whole(name), tmp_path, Command.kill, status=-signal.SIGKILL, stops=KILLS)


def test_a_terminated_command_exits_with_143_and_ends_when_it_is_started_again(name, whole, tmp_path):
    stop_and_start_again(whole(name), tmp_path, Command.terminate, status=143, stops=KILLS // 2)


def stop_and_start_again(whole, folder, stop, *, status, stops):
    """Stop a command `stops` times at drawn moments, in as many runs as that takes, and compare the outputs."""
    moments, stopped, runs = random.Random(f"{whole.name} {stop.__name__} {SEED}"), 0, 0
    while stopped < stops:
        runs += 1
        out, is_over = folder / f"run-{runs}", False
        kept = leave_files(out)
        while not is_over:
            # a checkpoint at every step, or none in so short a training
            command = whole.start(out, save_seconds=moments.choice([0.0, 20.0]))
            end = command.wait(moments.uniform(0, whole.seconds) if stopped < stops else LONGEST)
            if end is None:
                assert stopped < stops, f"still running after {LONGEST} s: {command.output()}"
                # it may have ended by itself in between, or not have begun when the signal came
                end = stop(command)
                assert end in (0, status, -signal.SIGTERM), command.output()
                stopped += end == status
            is_over = end not in (status, -signal.SIGTERM)
            if not is_over and whole.takes_files and (out / whole.out.name).is_dir():
                kept |= leave_files(out / whole.out.name)
        assert whole.is_finished(command, end), command.output()
        for path, content in kept.items():
            assert path.read_bytes() == content
            path.unlink()
            with suppress(OSError):
                path.parent.rmdir()
        assert differences(whole.out.parent, out) == []
    print(f"{whole.name}: {stopped} times {stop.__name__} in {runs} runs of {whole.seconds:.1f} s")


def leave_files(folder):
    """Write files of a user's into a folder, with names that files of subquad have or had, and return their content."""
    kept = {}
    for name in (
        "jets/t.csv",
        "checkpoint-a.safetensors",
        "states-0.bin",
        ".tmpAb3x",
        ".lock",
        ".out.1.new",
        "notes.txt",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"the user's {name}".encode())
        kept[path] = path.read_bytes()
    return kept


@pytest.fixture
def disk(tmp_path):
    """Return the function that mounts a small disk, or gives it another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size):
        options = f"{'remount,' if os.path.ismount(folder) else ''}size={size}"
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        mounted = subprocess.run(words, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no disk can be mounted here ({mounted.stderr.strip()})")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_reported_and_the_command_ends_when_there_is_space(name, whole, disk):
    command = whole(name)
    # tmpfs counts pages
    pages = sum(-(-path.stat().st_size // 4096) for path in command.out.parent.rglob("*") if path.is_file())
    folder = disk(max(pages // 2, 1) * 4096)
    full = command.start(folder)
    assert full.wait(LONGEST) == 2, full.output()
    # a task of `bio bench` reports the error of its process
    assert "the disk is full" in full.output() or "No space left" in full.output()
    assert "Traceback" not in full.output()
    disk("200m")
    command.end(folder)
    assert differences(command.out.parent, folder) == []


def test_a_second_process_on_the_same_output_is_refused(name, whole, tmp_path):
    command, folder = whole(name), tmp_path / "out"
    first = command.start(folder)
    while not any(folder.rglob(LOCK)):
        assert first.wait(0.01) is None, first.output()
    os.kill(first.process.pid, signal.SIGSTOP)
    try:
        second = command.start(folder)
        assert second.wait(LONGEST) == 2, second.output()
        assert "another process is writing to it" in second.output()
    finally:
        os.kill(first.process.pid, signal.SIGCONT)
    assert first.wait(LONGEST) == 0, first.output()
    assert differences(command.out.parent, folder) == []
