"""A command that is killed or terminated at any moment and started again ends with the output of one left alone.

`SUBQUAD_KILLS` is the number of kills of each command: 20 in `make test-faults`.
"""

import os
import random
import signal
import sys

import pytest
from support.forked import Command
from support.long_commands import COMMANDS, LONGEST, parameters
from support.saved import differences

KILLS = int(os.environ.get("SUBQUAD_KILLS", "2"))
SEED = int(os.environ.get("SUBQUAD_KILL_SEED", "0"))
FEW = KILLS < 10

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="after an import of torch, processes fork safely on Linux only"),
]


@pytest.mark.parametrize("name", parameters())
def test_a_killed_command_ends_with_the_output_of_one_that_was_left_alone(name, whole, tmp_path):
    if FEW and COMMANDS[name].workers is not None:
        pytest.skip("its workers import everything anew; `make test-faults` runs it")
    stop_and_start_again(whole(name), tmp_path, Command.kill, statuses=(-9,), stops=KILLS)


@pytest.mark.parametrize("name", parameters())
def test_a_terminated_command_exits_with_143_and_ends_when_it_is_started_again(name, whole, tmp_path):
    if FEW and name not in ("llm linearize", "bio rounds"):
        pytest.skip("`make test-faults` runs it")
    # -15: before the command has begun
    stop_and_start_again(whole(name), tmp_path, Command.terminate, statuses=(143, -15), stops=KILLS // 2)


def stop_and_start_again(whole, folder, stop, *, statuses, stops):
    """Stop a command `stops` times at drawn moments, in as many runs as that takes, and compare the outputs."""
    moments, done, runs, seen = random.Random(f"{whole.name} {stop.__name__} {SEED}"), 0, 0, set()
    while done < stops:
        runs += 1
        out = folder / f"run-{runs}"
        is_stopped = True
        while is_stopped:
            before = moments_of_change(out)
            # a checkpoint at every step, or none in so short a training
            command = whole.start(out, save_seconds=moments.choice([0.0, 20.0]))
            status = command.wait(moments.uniform(0, whole.seconds)) if done < stops else command.wait(LONGEST)
            if is_stopped := status is None:
                assert done < stops, f"still running after {LONGEST} s: {command.output()}"
                status = stop(command)
                # it may have ended by itself in between
                is_stopped = status != 0
                done += is_stopped
                assert status in (0, *statuses), command.output()
                # without a handler of its own only before the command has begun
                assert status != -signal.SIGTERM or moments_of_change(out) == before, command.output()
                seen.add(status)
        assert whole.is_finished(command, status), command.output()
        assert differences(whole.out.parent, out) == []
    assert statuses[0] in seen
    print(f"{whole.name}: {done} times {stop.__name__} in {runs} runs of {whole.seconds:.1f} s")


def moments_of_change(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
