"""Files of users are read in processes of their own."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from support.failing_readers import crash, divide, fill_memory, nap_with_a_child, refuse, repeat
from support.servers import wait_for

from subquad.app import reading
from subquad.app.reading import call_in_process
from subquad.app.sequence_data import columns_of
from subquad.errors import SubquadError


@pytest.mark.long
def test_the_value_and_the_error_of_a_reader_are_those_of_a_call(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("sequence,score\nACDE,1\n")
    assert call_in_process(columns_of, table, session=1) == ["sequence", "score"]
    assert call_in_process(os.getpid, session=1) != os.getpid()
    # more than a pipe holds
    assert call_in_process(repeat, "A", 500_000, session=1) == "A" * 500_000
    with pytest.raises(SubquadError, match=r"^mine: row 3: no sequence$"):
        call_in_process(refuse, "mine", session=1)
    with pytest.raises(SubquadError, match=r"the file could not be read \(ZeroDivisionError: division by zero\)"):
        call_in_process(divide, 1, 0, session=1)


@pytest.mark.long
def test_a_crash_or_a_long_time_ends_the_reader_alone(tmp_path):
    with pytest.raises(SubquadError, match="the program that read the file ended at once; the file may be damaged"):
        call_in_process(crash, session=1)
    with pytest.raises(SubquadError, match="this took more than 5 seconds; give a smaller file"):
        call_in_process(nap_with_a_child, tmp_path / "child", seconds=5, session=1)
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_a_table_that_fills_the_memory_is_refused():
    with pytest.raises(SubquadError, match="this needs more than 4 GiB of memory; give a smaller file"):
        call_in_process(fill_memory, session=1)


@pytest.mark.parametrize("seconds", [reading.SECONDS, 2 * reading.SECONDS])
def test_a_user_with_many_slow_files_does_not_hold_up_others(monkeypatch, seconds):
    may_end, begun = threading.Event(), []

    def compute(function, arguments, _):
        begun.append(arguments[0])
        if arguments[0] != "quick":
            assert may_end.wait(20)
        return function(*arguments), None

    def call(name, session):
        try:
            return call_in_process(str, name, session=session, seconds=seconds)
        except SubquadError as error:
            return str(error)

    monkeypatch.setattr(reading, "_computed", compute)
    with ThreadPoolExecutor(50) as threads:
        slow = [threads.submit(call, f"slow {number}", "a") for number in range(10)]
        refused = f"the page is still at work on {reading.MOST_OF_SESSION} of your files or inputs; wait until it shows"
        wait_for(lambda: sum(own.done() for own in slow) == 10 - reading.MOST_OF_SESSION, seconds=20)
        assert all(own.result().startswith(refused) for own in slow if own.done())
        assert len(begun) == 1
        assert call("quick", "b") == "quick"
        # so many users that no thread would be left for others
        others = [threads.submit(call, f"other {number}", f"c{number}") for number in range(40)]
        room = reading.MOST_OF_ALL - reading.MOST_OF_SESSION
        wait_for(lambda: sum(own.done() for own in others) == 40 - room, seconds=20)
        assert all("reads files of many users now; try again" in own.result() for own in others if own.done())
        may_end.set()
        assert sorted(own.result() for own in slow if own.result().startswith("slow"))
    assert call("quick", "a") == "quick"
    assert not reading._readings._held
    assert not reading._computations._held


def test_users_get_their_turns_in_the_order_of_their_calls(monkeypatch):
    may_end, begun = threading.Semaphore(0), []
    places = reading._Places()

    def call(session):
        with places.one(session):
            begun.append(session)
            assert may_end.acquire(timeout=20)

    threads = []
    for session in "aaabbc":
        threads.append(threading.Thread(target=call, args=(session,)))
        threads[-1].start()
        wait_for(lambda: len(places._waiting) + len(begun) == len(threads), seconds=20)
    for count in range(2, 7):
        wait_for(lambda count=count: len(begun) == count, seconds=20)
        may_end.release()
    may_end.release()
    for thread in threads:
        thread.join(20)
    # of a and b, whose calls ended in any order
    assert sorted(begun[:2]) == ["a", "b"]
    assert sorted(begun) == [*"aaabbc"]
