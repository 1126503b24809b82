"""The fuzzing itself: what goes over a limit is a fault, although readers answer it with an error of the user."""

import resource
import signal
import sys

import numpy as np
import pytest

pytest.importorskip("hypothesis")
from hypothesis import strategies as st
from support.fuzzing import Explorer, Target

from subquad.errors import SubquadError
from subquad.runs.damage import damage_as_error

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time as on Linux")


@pytest.fixture
def call(tmp_path):
    """Call a reader once with small limits, and return its explorer; the limits of this process are set back."""
    memory, handler = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGPROF)

    def call(read):
        target = Target(read, drawn=st.just("a"))
        explorer = Explorer(target, tmp_path, seconds=0.2, memory=64 * 2**20)
        explorer.try_one("a")
        return explorer

    try:
        yield call
    finally:
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.signal(signal.SIGPROF, handler)


def compute_forever():
    while True:
        pass


def read_slowly(_):
    with damage_as_error("table.csv: damaged"):
        compute_forever()


def read_slowly_without_an_error(_):
    try:
        compute_forever()
    except BaseException:  # noqa: BLE001 (as callbacks of libraries do)
        return


def read_all_memory(_):
    with damage_as_error("table.csv: damaged"):
        bytearray(2**30)


def read_all_memory_and_hide_it(_):
    try:
        bytearray(2**30)
    except MemoryError:
        raise SubquadError("table.csv: damaged") from None


@pytest.mark.parametrize("read", [read_slowly, read_slowly_without_an_error])
def test_a_reader_that_is_too_slow_is_a_fault(call, read):
    explorer = call(read)
    (fault,) = explorer.faults.values()
    assert fault["error"] == "OutOfTime: more than 0.2 seconds of the processor"
    assert fault["where"].partition(":")[0].endswith("test_fuzzing.py")
    assert explorer.refused == 0


@pytest.mark.parametrize("read", [read_all_memory, read_all_memory_and_hide_it])
def test_a_reader_that_takes_too_much_memory_is_a_fault(call, read):
    explorer = call(read)
    (fault,) = explorer.faults.values()
    assert fault["error"].startswith("MemoryError")
    assert explorer.refused == 0


def test_memory_counts_that_is_used_and_not_what_is_reserved(call):
    # beyond the limit of 64 MiB, below twice as much
    explorer = call(lambda _: np.empty(100 * 2**20, dtype=np.uint8))
    assert explorer.faults == {}
    explorer = call(lambda _: np.ones(100 * 2**20, dtype=np.uint8))
    (fault,) = explorer.faults.values()
    assert fault["error"] == "more than 67,108,864 bytes of memory"


def test_an_error_of_the_user_is_no_fault(call):
    def read(_):
        with damage_as_error("table.csv: damaged"):
            raise TimeoutError("the server does not answer")

    explorer = call(read)
    assert (explorer.tried, explorer.refused, explorer.faults) == (1, 1, {})


def test_another_exception_is_a_fault_at_its_place(call):
    explorer = call(lambda word: {}[word])
    (fault,) = explorer.faults.values()
    assert fault["error"] == "KeyError: 'a'"
    assert fault["where"].partition(":")[0].endswith("test_fuzzing.py")
