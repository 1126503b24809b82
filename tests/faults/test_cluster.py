"""A benchmark on a Ray cluster of two machines, of which one is lost: each a network namespace with its own address."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from support.bio_bench import stand_in, write_tasks

from subquad.runs.storage import read_json

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif("SUBQUAD_KILLS" not in os.environ, reason="`make test-faults` runs it"),
]
SUBQUAD = [sys.executable, "-m", "subquad"]
RAY = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--object-store-memory", "100000000"]
FIRST, SECOND = "10.77.0.1", "10.77.0.2"
TASKS = [f"nap{number}" for number in range(6)]


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no network namespace can be made here (ip {' '.join(words)}: {done.stderr.strip()})")


@pytest.fixture
def machines():
    """Return the names of two network namespaces that are joined by a cable; their processes end with the test."""
    names = [f"subquad-{os.getpid()}-{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, (FIRST, SECOND), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            kill_all(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def kill_all(name):
    """End all processes of a machine at once."""
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
    for process in found.split():
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


def cut_off(name):
    """Pull the cable; the processes go on."""
    ip("-n", name, "link", "set", "cable", "down")


def seen(events, word):
    """Return the task and the machine of each start or end of a task."""
    return [tuple(line.split()[1:]) for line in events.read_text().splitlines() if line.startswith(word)]


def tasks_of(events, word, place):
    return {name for name, own in seen(events, word) if own == place}


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("lose", [kill_all, cut_off])
def test_tasks_of_a_machine_that_is_lost_run_on_another(lose, is_shared, machines, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    stand_in(tmp_path, monkeypatch)
    events, out, log = tmp_path / "events.txt", tmp_path / "out", tmp_path / "log.txt"
    events.touch()
    out.mkdir()
    for name, value in {
        "BENCH_EVENTS": str(events),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,
        "RAY_ADDRESS": f"{FIRST}:6379",
        # Ray notices after seven minutes by default that a network is cut
        "RAY_grpc_client_keepalive_time_ms": "10000",
        "RAY_grpc_client_keepalive_timeout_ms": "10000",
    }.items():
        monkeypatch.setenv(name, value)
    tasks = write_tasks(tmp_path, dict.fromkeys(TASKS, "nap"))

    with ExitStack() as stack:
        output = stack.enter_context(log.open("w"))

        def start(machine, *words):
            command = ["ip", "netns", "exec", machine, *map(str, words)]
            process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        def start_ray(number, machine, *words):
            process = start(machine, *words)
            while log.read_text().count("Ray runtime started.") < number:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)

        first, second = machines
        head = [*RAY, "--head", "--node-ip-address", FIRST, "--port", "6379", "--include-dashboard=false"]
        start_ray(1, first, *head, "--num-cpus", "1")
        # a file system that does not have the output of the first machine
        hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs tmpfs {out} && exec "$@"', "sh"]
        worker = [*RAY, "--address", f"{FIRST}:6379", "--node-ip-address", SECOND, "--num-cpus", "2"]
        start_ray(2, second, *([] if is_shared else hide), *worker)
        bench = start(first, *SUBQUAD, "bio", "bench", tasks, "--ray", "--out", out)
        place = subprocess.check_output(
            ["ip", "netns", "exec", second, "readlink", "/proc/self/ns/net"], text=True
        ).strip()
        # the second machine has ended a task and works on another
        while not (ended := tasks_of(events, "end", place)) or not tasks_of(events, "start", place) - ended:
            assert bench.poll() is None, log.read_text()
            time.sleep(0.05)
        lose(second)
        bench.wait(600)

    assert bench.returncode == 0, log.read_text()
    results = read_json(out / "results.json")
    assert (results["failed"], len(results["tasks"])) == ([], len(TASKS)), log.read_text()
    starts = seen(events, "start")
    assert {name for name, _ in starts} == set(TASKS)
    # those of the lost machine were started again, unless it ended them on the common disk after the cable was pulled
    assert len(starts) > len(TASKS) or (lose is cut_off and is_shared)
    if is_shared:
        # and no finished one was; otherwise its files may be lost with the machine on which they lie
        assert sorted(name for name, _ in seen(events, "end")) == TASKS
    assert not [*out.rglob(".subquad-lock"), *out.rglob(".shared-*"), *out.rglob(".*subquad-*")]
