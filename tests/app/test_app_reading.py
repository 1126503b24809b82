"""Files of users are read in processes of their own."""

import os
import sys
import time

import pytest
from support.failing_readers import crash, fill_memory, nap, refuse

from subquad.app.reading import read_apart
from subquad.app.sequence_data import columns_of
from subquad.errors import SubquadError


def test_the_value_and_the_error_of_a_reader_are_those_of_a_call(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("sequence,score\nACDE,1\n")
    assert read_apart(columns_of, table) == ["sequence", "score"]
    assert read_apart(os.getpid) != os.getpid()
    with pytest.raises(SubquadError, match=r"^mine: row 3: no sequence$"):
        read_apart(refuse, "mine")


def test_a_crash_or_a_long_time_ends_the_reader_alone():
    with pytest.raises(SubquadError, match="or a library failed on it; give a smaller or another file"):
        read_apart(crash)
    began = time.monotonic()
    with pytest.raises(SubquadError, match="reading took more than 1 seconds"):
        read_apart(nap, seconds=1)
    assert time.monotonic() - began < 25


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_a_table_that_fills_the_memory_is_refused():
    with pytest.raises(SubquadError, match="more than 4 GiB of memory"):
        read_apart(fill_memory)
