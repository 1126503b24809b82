"""The workspace is cleaned once an hour, unless the clock was set in between: ages of files say nothing then."""

import sys
import time
from threading import Event

from subquad.app.sessions import Workspace

__all__ = ["HOUR", "Cleaning"]

HOUR = 3600.0
LARGEST_DRIFT = 300.0
"""Seconds by which the clock may gain or lose between two cleanings, such as when it is adjusted to others."""


class Cleaning:
    """Deletes what is old in a workspace."""

    def __init__(self, workspace: Workspace, keep_days: float) -> None:
        """Prepare to delete sessions that were not used for so many days."""
        self._workspace, self._keep_days = workspace, keep_days
        self._last = _clocks()

    def run(self, ended: Event) -> None:
        """Clean now and once an hour, until the end of the server."""
        while True:
            self.clean()
            if ended.wait(HOUR):
                return

    def clean(self) -> None:
        """Delete old sessions, uploads that wait and archives; after a jump of the clock, all count as new instead."""
        (wall, steady), self._last = self._last, _clocks()
        if abs((self._last[0] - wall) - (self._last[1] - steady)) > LARGEST_DRIFT:
            self._workspace.touch_all()
            return
        self._workspace.remove_old(self._keep_days)
        self._workspace.clear_received(seconds=HOUR)


def _clocks() -> tuple[float, float]:
    """Return the time that can be set, and one that cannot, which on Linux and macOS runs while the computer sleeps.

    Elsewhere it may stand still meanwhile, so that a long sleep looks like a clock that was set.
    """
    name = {"linux": "CLOCK_BOOTTIME", "darwin": "CLOCK_MONOTONIC"}.get(sys.platform, "")
    # python's own monotonic time does not count sleep
    steady = getattr(time, name, None)
    return time.time(), time.monotonic() if steady is None else time.clock_gettime(steady)
