"""Files of users are read in processes of their own."""

import os
import sys

import psutil
import pytest
from support.failing_readers import crash, divide, fill_memory, nap_with_a_child, refuse, repeat
from support.servers import wait_for

from subquad.app.reading import call_in_process
from subquad.app.sequence_data import columns_of
from subquad.errors import SubquadError


@pytest.mark.long
def test_the_value_and_the_error_of_a_reader_are_those_of_a_call(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("sequence,score\nACDE,1\n")
    assert call_in_process(columns_of, table) == ["sequence", "score"]
    assert call_in_process(os.getpid) != os.getpid()
    # more than a pipe holds
    assert call_in_process(repeat, "A", 500_000) == "A" * 500_000
    with pytest.raises(SubquadError, match=r"^mine: row 3: no sequence$"):
        call_in_process(refuse, "mine")
    with pytest.raises(SubquadError, match=r"the file could not be read \(ZeroDivisionError: division by zero\)"):
        call_in_process(divide, 1, 0)


@pytest.mark.long
def test_a_crash_or_a_long_time_ends_the_reader_alone(tmp_path):
    with pytest.raises(SubquadError, match="the program that read the file ended at once; the file may be damaged"):
        call_in_process(crash)
    with pytest.raises(SubquadError, match="this took more than 5 seconds; give a smaller file"):
        call_in_process(nap_with_a_child, tmp_path / "child", seconds=5)
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_a_table_that_fills_the_memory_is_refused():
    with pytest.raises(SubquadError, match="this needs more than 4 GiB of memory; give a smaller file"):
        call_in_process(fill_memory)
