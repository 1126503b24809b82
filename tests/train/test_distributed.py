"""Processes wait for one that reads or writes large files, longer than for one another's training steps."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
from torch import distributed

from subquad.train.distributed import wait_for_everyone

PROCESS = """
import time
from datetime import timedelta
from accelerate import PartialState
from torch import distributed
# a second group would need addresses by which all machines reach one another with gloo
distributed.new_group = None
state = PartialState(cpu=True, timeout=timedelta(seconds=3))
from subquad.train.distributed import broadcast_object, wait_for_everyone
if state.is_main_process:
    time.sleep(8)
print(broadcast_object(f"of {state.process_index}"))
if state.is_main_process:
    time.sleep(8)
wait_for_everyone()
"""


WAITING = """
import signal, sys, time
from accelerate import PartialState
from subquad.train.distributed import broadcast_object
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
is_first = PartialState(cpu=True).is_main_process
print("ready", flush=True)
time.sleep(600 * is_first)
broadcast_object(1)
"""


@contextmanager
def two_processes(program):
    """Start a program as two processes that find one another."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with ExitStack() as stack:
        processes = []
        for rank in ("0", "1"):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            command = [sys.executable, "-c", program]
            processes.append(stack.enter_context(subprocess.Popen(command, env={**os.environ, **own}, **pipes)))
            stack.callback(processes[-1].kill)
        yield processes


@pytest.mark.long
def test_processes_wait_longer_for_files_than_the_limit_of_their_backend():
    with two_processes(PROCESS) as processes:
        for process in processes:
            output, errors = process.communicate(timeout=250)
            assert (process.returncode, output.strip()) == (0, "of 0"), errors


@pytest.mark.long
def test_a_process_that_waits_for_another_ends_at_sigterm():
    with two_processes(WAITING) as (first, second):
        for process in (first, second):
            assert process.stdout.readline() == "ready\n", process.communicate()
        time.sleep(1)
        second.terminate()
        began = time.monotonic()
        _, errors = second.communicate(timeout=250)
        assert (second.returncode, "Traceback" in errors) == (143, False), errors
        # torchrun sends SIGKILL after 30 seconds
        assert time.monotonic() - began < 20


@pytest.fixture
def other_process(monkeypatch):
    """Let this process be one of two, of which the other never calls."""
    monkeypatch.setattr("subquad.train.distributed.processes", lambda: SimpleNamespace(num_processes=2))
    store = distributed.HashStore()
    monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", lambda: store)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def test_a_wait_for_other_processes_handles_sigterm(other_process):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(SystemExit):
        wait_for_everyone()
    timer.join()
