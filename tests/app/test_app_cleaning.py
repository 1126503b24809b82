"""What is old is deleted, also if the clock of the computer was set."""

import os
import threading
import time
from types import SimpleNamespace

import pytest

from subquad.app import cleaning
from subquad.app.cleaning import HOUR, Cleaning
from subquad.app.sessions import new_token

DAY = 86_400.0


@pytest.fixture
def clock(monkeypatch):
    """The clock of the computer and the time since its start, both to be set; files keep their own times."""
    now = SimpleNamespace(wall=time.time(), steady=1000.0)
    monkeypatch.setattr(time, "time", lambda: now.wall)
    monkeypatch.setattr(cleaning, "_clocks", lambda: (now.wall, now.steady))
    return now


def wait(clock, seconds, *, jump=0.0):
    clock.wall += seconds + jump
    clock.steady += seconds


def used(session, moment):
    """Note a use at a time, as `touch` does by the clock of the computer."""
    session.touch()
    os.utime(session.folder / "used", (moment, moment))
    (session.uploads / "a").mkdir(parents=True, exist_ok=True)
    return session


def test_sessions_that_were_not_used_for_long_are_deleted_while_the_page_is_served(workspace, clock):
    own = Cleaning(workspace, 30.0)
    old, new = (used(workspace.session(new_token()), clock.wall) for _ in range(2))
    for _ in range(31):
        wait(clock, DAY)
        used(new, clock.wall)
        own.clean()
    assert not old.folder.exists()
    assert new.folder.exists()


@pytest.mark.parametrize("jump", [31 * DAY, 3650 * DAY, -31 * DAY])
def test_a_clock_that_jumps_deletes_nothing(workspace, session, clock, jump, monkeypatch):
    own = Cleaning(workspace, 30.0)
    used(session, clock.wall)
    (workspace.received / "a").mkdir()
    (workspace.archives / "a.zip").touch()
    # as a clock that was set touches files
    utime = os.utime
    monkeypatch.setattr(os, "utime", lambda path, times=None: utime(path, times or (clock.wall, clock.wall)))
    monkeypatch.setattr(type(session), "touch", lambda own: os.utime(own.folder / "used"))
    wait(clock, HOUR, jump=jump)
    own.clean()
    wait(clock, HOUR / 2)
    own.clean()
    assert session.folder.exists()
    assert list(workspace.received.iterdir())
    assert list(workspace.archives.iterdir())
    # from then on it counts as before
    wait(clock, 31 * DAY)
    own.clean()
    assert not session.folder.exists()
    assert not list(workspace.received.iterdir())


@pytest.mark.parametrize(("system", "number"), [("linux", 7), ("darwin", 6), ("win32", None)])
def test_the_time_that_cannot_be_set_runs_while_the_computer_sleeps(monkeypatch, system, number):
    monkeypatch.setattr(cleaning.sys, "platform", system)
    # the numbers of Linux and macOS; each lacks the other's clock, or has one of that name which stands still
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "CLOCK_MONOTONIC", 6, raising=False)
    monkeypatch.setattr(time, "clock_gettime", lambda own: own, raising=False)
    monkeypatch.setattr(time, "monotonic", lambda: None)
    assert cleaning._clocks()[1] == number


def test_files_from_the_future_are_cleaned_too(workspace, session):
    (workspace.received / "a").mkdir()
    later = time.time() + 40 * DAY
    os.utime(workspace.received / "a", (later, later))
    used(session, later)
    workspace.clear_received(seconds=HOUR)
    assert not list(workspace.received.iterdir())
    assert workspace.remove_old(30.0) == 0
    assert (session.folder / "used").stat().st_mtime < time.time() + 1


def test_what_arrives_at_this_moment_is_kept(workspace):
    (workspace.received / "a").mkdir()
    # by the clock of another computer, which has the disk
    later = time.time() + 2.0
    os.utime(workspace.received / "a", (later, later))
    workspace.clear_received(seconds=HOUR)
    assert list(workspace.received.iterdir())


def test_sessions_without_files_are_deleted_after_a_day(workspace, session):
    other = workspace.session(new_token())
    for own in (session, other):
        own.touch()
        before = time.time() - 1.1 * DAY
        os.utime(own.folder / "used", (before, before))
    (session.uploads / "a").mkdir(parents=True)
    assert workspace.remove_old(30.0) == 1
    assert session.folder.exists()


def test_cleaning_ends_with_the_server(workspace):
    ended = threading.Event()
    thread = threading.Thread(target=Cleaning(workspace, 30.0).run, args=(ended,))
    thread.start()
    ended.set()
    thread.join(20)
    assert not thread.is_alive()
