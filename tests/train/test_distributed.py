"""Processes wait for one that reads or writes large files, longer than for one another's training steps."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

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


@pytest.mark.long
def test_processes_wait_longer_for_files_than_the_limit_of_their_backend():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with ExitStack() as stack:
        processes = []
        for rank in ("0", "1"):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            command = [sys.executable, "-c", PROCESS]
            processes.append(stack.enter_context(subprocess.Popen(command, env={**os.environ, **own}, **pipes)))
            stack.callback(processes[-1].kill)
        for process in processes:
            output, errors = process.communicate(timeout=250)
            assert (process.returncode, output.strip()) == (0, "of 0"), errors
