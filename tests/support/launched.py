"""Modules that `torchrun` or `accelerate launch` runs by two processes of one thread each."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil

TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m")
# without GPUs too, of which --cpu would start a single process
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "-m")


def start(*words, launcher=TORCHRUN):
    """Start a module by two processes."""
    command = (sys.executable, "-m", *launcher)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([*command, *map(str, words)], **pipes)


def torchrun(*words, launcher=TORCHRUN):
    """Run a module by two processes, and return its exit status and what it printed."""
    with start(*words, launcher=launcher) as process:
        output, errors = process.communicate(timeout=280)
    return SimpleNamespace(returncode=process.returncode, stdout=output, stderr=errors)


def kill_second_process(words, is_time):
    """Run a module by two processes, kill the second one when it is time, and check that the others end soon."""
    with start(*words) as agent:
        while not is_time():
            assert agent.poll() is None, agent.stderr.read()
            time.sleep(0.05)
        children = psutil.Process(agent.pid).children(recursive=True)
        (second,) = (child for child in children if child.environ().get("RANK") == "1")
        second.kill()
        began = time.monotonic()
        _, errors = agent.communicate(timeout=280)
    assert agent.returncode == 1
    assert time.monotonic() - began < 60
    assert "SIGKILL" in errors
    assert not psutil.wait_procs(children, timeout=10)[1]
