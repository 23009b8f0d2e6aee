"""Whether this process is kept waiting by something other than its own work."""

from __future__ import annotations

import time

# Shorter, and one slow look at a directory would tell of the whole tree.
WINDOW_SECONDS = 0.02
WORKING_SHARE = 0.7


class Idleness:
    """Compares the processor time of all threads with the time that has passed. For one thread."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._worked = time.process_time()

    def has_waited(self) -> bool:
        """Whether the process did nothing for a third of the time since this was last answered.

        False while less than 20 ms have passed: too little to tell.
        """
        wall, worked = time.monotonic(), time.process_time()
        passed = wall - self._wall
        if passed < WINDOW_SECONDS:
            return False
        share = (worked - self._worked) / passed
        self._wall, self._worked = wall, worked
        return share < WORKING_SHARE
