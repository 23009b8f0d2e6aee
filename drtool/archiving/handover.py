"""WAL on its way from the thread that receives to the thread that stores: bounded, in order."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

# What is received and not yet taken. One message more may come on top: at most 128 KiB.
MOST_BYTES = 32 << 20


@dataclass(slots=True)
class Taken:
    """What lay ready. `wants_flush`: somebody waits for it to be durable. `is_last`: no more comes."""

    views: list[memoryview]
    wants_flush: bool
    is_last: bool


class Handover:
    """One thread gives, another takes. `wake_descriptor` is readable when the taker got on."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._views: list[memoryview] = []
        self._bytes = 0
        self._wants_flush = False
        self._is_last = False
        self.wake_descriptor, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        os.set_blocking(self.wake_descriptor, False)

    @property
    def is_full(self) -> bool:
        """Whether the giver has to wait, instead of reading more from the server."""
        return self._bytes >= MOST_BYTES

    def give(self, view: memoryview) -> None:
        """Add bytes; never waits, so look at `is_full` before."""
        with self._changed:
            self._views.append(view)
            self._bytes += len(view)
            self._changed.notify()

    def ask_for_flush(self) -> None:
        """What was given so far is to be made durable now, not at the end of the interval."""
        with self._changed:
            self._wants_flush = True
            self._changed.notify()

    def end(self) -> None:
        """No more is given."""
        with self._changed:
            self._is_last = True
            self._changed.notify()

    def take(self, timeout_seconds: float) -> Taken:
        """All that lies ready; nothing if nothing came in time."""
        with self._changed:
            if not (self._views or self._wants_flush or self._is_last):
                self._changed.wait(timeout_seconds)
            taken = Taken(self._views, self._wants_flush, self._is_last)
            was_full = self.is_full
            self._views, self._bytes, self._wants_flush = [], 0, False
        if was_full:
            self.wake()
        return taken

    @property
    def is_empty(self) -> bool:
        """Whether everything given was taken."""
        return not self._views

    def wake(self) -> None:
        """Let the giver look around."""
        try:
            os.write(self._waker, b"!")
        except BlockingIOError:
            return  # it is awake, and has not looked yet

    def hush(self) -> None:
        """The giver has looked."""
        try:
            os.read(self.wake_descriptor, 4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Let the pipe go, when both threads are done with it."""
        os.close(self.wake_descriptor)
        os.close(self._waker)
