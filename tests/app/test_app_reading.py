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
from subquad.app.reading import Busy, call_in_process
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
        except Busy as error:
            return str(error)

    monkeypatch.setattr(reading, "_computed", compute)
    with ThreadPoolExecutor(120) as threads:
        slow = [threads.submit(call, f"slow {number}", "a") for number in range(24)]
        refused = f"the page is still at work on {reading.MOST_OF_SESSION} of your files or inputs; wait until it shows"
        wait_for(lambda: sum(own.done() for own in slow) == 24 - reading.MOST_OF_SESSION, seconds=20)
        assert all(own.result().startswith(refused) for own in slow if own.done())
        assert len(begun) == 1
        assert call("quick", "b") == "quick"
        # so many users that no thread would be left for others
        others = [threads.submit(call, f"other {number}", f"c{number}") for number in range(70)]
        room = reading.MOST_OF_ALL - reading.MOST_OF_SESSION
        wait_for(lambda: sum(own.done() for own in others) == 70 - room, seconds=20)
        assert all("reads files of many users now; try again" in own.result() for own in others if own.done())
        may_end.set()
        assert sorted(own.result() for own in slow if own.result().startswith("slow"))
    assert call("quick", "a") == "quick"
    for places in (reading._readings, reading._computations):
        assert not places._held
        assert not places._served


@pytest.fixture
def places():
    return reading._Places()


def waiting_calls(places, sessions, work):
    """Return threads that do something in a place of each of these sessions, in their order."""
    threads = []
    for session in sessions:

        def call(session=session):
            with places.one(session):
                work(session)

        threads.append(threading.Thread(target=call))
        held = places._held.total()
        threads[-1].start()
        wait_for(lambda held=held: places._held.total() == held + 1, seconds=20)
    return threads


def test_users_take_turns_whose_calls_came_in_any_order(monkeypatch, places):
    monkeypatch.setattr(reading, "AT_ONCE", 1)
    may_begin, begun = threading.Event(), []

    def work(session):
        assert may_begin.wait(20)
        begun.append(session)

    threads = waiting_calls(places, "aaabbc", work)
    may_begin.set()
    for thread in threads:
        thread.join(20)
    assert "".join(begun) == "abcaba"


def test_places_that_become_free_together_are_all_given_away(places):
    may_end, begun = threading.Event(), []

    def work(session):
        begun.append(session)
        assert may_end.wait(20)

    threads = waiting_calls(places, "abcd", work)
    with places._changed:
        # as if both had ended before any of those that wait could look; the first one looks last
        places._working.clear()
        places._changed.notify(1)
    wait_for(lambda: len(begun) == 4, seconds=20)
    places._working += "ab"
    may_end.set()
    for thread in threads:
        thread.join(20)


def test_a_page_that_is_opened_several_times_at_once_waits_and_is_not_refused():
    # each time sequences and jets are described, and the sequences again
    assert reading.MOST_OF_SESSION >= 5 * 3
    assert reading.MOST_OF_ALL >= 4 * reading.MOST_OF_SESSION
