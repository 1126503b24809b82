"""A clock that is set back by an hour while a command runs, as by a time server, changes nothing but the times."""

import os
import sys
import time
from functools import partial

import pytest
from support.long_commands import LONGEST, parameters
from support.saved import differences

FEW = int(os.environ.get("SUBQUAD_KILLS", "2")) < 10

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="after an import of torch, processes fork safely on Linux only"),
]


def set_back(after):
    """Set the clock of this process back by an hour in some seconds."""
    clocks, began = (time.time, time.time_ns), time.monotonic()
    time.time, time.time_ns = (
        lambda clock=clock, hour=hour: clock() - hour * (time.monotonic() - began > after)
        for clock, hour in zip(clocks, (3600, 3600 * 10**9), strict=True)
    )


@pytest.mark.long
@pytest.mark.parametrize("name", parameters())
def test_a_command_whose_clock_is_set_back_writes_the_same(name, whole, tmp_path):
    if FEW and name not in ("hep fit", "bio embed"):
        pytest.skip("`make test-faults` runs it")
    own = whole(name)
    command = own.start(tmp_path / "out", prepare=partial(set_back, own.seconds / 2))
    assert command.wait(LONGEST) == 0, command.output()
    assert "Traceback" not in command.output()
    assert differences(own.out.parent, tmp_path / "out") == []
