"""Outputs that cannot be written: a full disk, a folder that is read-only, and one that another process writes to."""

import os
import resource
import signal
import subprocess
import sys

import pytest
from support.long_commands import LONGEST, parameters
from support.saved import differences

FEW = int(os.environ.get("SUBQUAD_KILLS", "2")) < 10

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="after an import of torch, processes fork safely on Linux only"),
]


@pytest.fixture
def disk(tmp_path):
    """Return the function that mounts a small disk, or mounts it again with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        is_again = os.path.ismount(folder)
        options = f"remount,{options}" if is_again else options
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no disk can be mounted here ({done.stderr.strip()})")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", folder], check=True)


def of_few(name):
    if FEW and name not in ("hep fit", "bio embed"):
        pytest.skip("`make test-faults` runs it")


def bytes_of(folder):
    # tmpfs counts pages
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", parameters())
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_a_full_disk_is_reported_and_the_command_ends_when_there_is_space(name, part, whole, disk, tmp_path):
    of_few(name)
    own = whole(name)
    folder = disk(f"size={max(int(part * bytes_of(own.out.parent)) // 4096, 1) * 4096}")
    command = own.start(folder)
    assert command.wait(LONGEST) == 2, command.output()
    assert "the disk is full" in command.output() or "No space left on device" in command.output()
    assert "Traceback" not in command.output()
    disk("size=200m")
    own.end(folder)
    assert differences(own.out.parent, folder) == []


@pytest.mark.parametrize("name", parameters())
def test_a_file_beyond_the_limit_of_the_shell_is_reported(name, whole, tmp_path):
    of_few(name)
    own = whole(name)
    command = own.start(tmp_path / "out", prepare=limit_file_size)
    assert command.wait(LONGEST) == 2, command.output()
    assert "subquad: " in command.output()
    assert "Traceback" not in command.output()
    own.end(tmp_path / "out")
    assert differences(own.out.parent, tmp_path / "out") == []


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


@pytest.mark.parametrize("name", parameters())
def test_a_read_only_folder_is_refused_before_any_work(name, whole, disk):
    of_few(name)
    own = whole(name)
    folder = disk("ro,size=1m")
    command = own.start(folder)
    assert command.wait(LONGEST) == 2, command.output()
    assert f"{folder} is on a read-only file system; choose another --out" in command.output()
    assert "Traceback" not in command.output()


@pytest.mark.parametrize("name", parameters())
def test_a_second_process_on_the_same_output_is_refused(name, whole, tmp_path):
    of_few(name)
    own, folder = whole(name), tmp_path / "out"
    first = own.start(folder)
    while not any(folder.rglob(".lock")):
        assert first.wait(0.01) is None, first.output()
    os.kill(first.process.pid, signal.SIGSTOP)
    try:
        second = own.start(folder)
        assert second.wait(LONGEST) == 2, second.output()
        assert "another process is writing to it; wait until it has ended" in second.output()
    finally:
        os.kill(first.process.pid, signal.SIGCONT)
    assert first.wait(LONGEST) == 0, first.output()
    assert differences(own.out.parent, folder) == []
