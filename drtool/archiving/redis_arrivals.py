"""A stream on its way from the thread that receives to the thread that stores: bounded, in order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.repository.streamlog import StreamIndex, StreamMoment

# What is received and not yet taken. One read more may come on top: at most 1 MiB.
MOST_BYTES = 32 << 20
# As much is stored at once, without waiting for the interval.
SEGMENT_BYTES = 8 << 20
# While the store is away and little is written, every other moment goes when there are so many.
MOST_MOMENTS = 20_000
BETWEEN_MOMENTS = timedelta(milliseconds=100)
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Batch:
    """Bytes that lay ready, as one segment."""

    index: StreamIndex
    content: Sequence[bytearray]


class Arrivals:
    """One thread gives, another takes. Memory: MOST_BYTES and MOST_MOMENTS."""

    def __init__(self, begin: int) -> None:
        self._changed = threading.Condition()
        self._begin = self._end = begin
        self._blocks: list[bytearray] = []
        self._moments: list[StreamMoment] = []
        self._wants_flush = False
        self._is_last = False

    @property
    def end(self) -> int:
        """How far the stream was given."""
        return self._end

    @property
    def waiting_bytes(self) -> int:
        return self._end - self._begin

    @property
    def is_full(self) -> bool:
        """Whether the giver has to wait, instead of reading more from the server."""
        return self.waiting_bytes >= MOST_BYTES

    def give(self, content: memoryview, moment: datetime) -> None:
        """Add bytes that arrived at `moment`; never waits, so look at `is_full` before."""
        with self._changed:
            was_empty = not self._blocks
            if was_empty or len(self._blocks[-1]) + len(content) > _BLOCK_BYTES:
                self._blocks.append(bytearray(content))
            else:
                self._blocks[-1] += content
            self._end += len(content)
            self._tell(moment)
            if was_empty or self.waiting_bytes >= SEGMENT_BYTES:
                self._changed.notify()

    def _tell(self, moment: datetime) -> None:
        told = self._moments
        # A clock that was put back must not make later bytes look older than earlier ones.
        moment = max(moment, told[-1].moment) if told else moment
        if len(told) > 1 and moment - told[-2].moment < BETWEEN_MOMENTS:
            told.pop()
        told.append(StreamMoment(moment, self._end))
        if len(told) > MOST_MOMENTS:
            del told[-2:0:-2]

    def ask_for_flush(self) -> None:
        """What was given so far is to be made durable now, not at the end of the interval."""
        with self._changed:
            self._wants_flush = True
            self._changed.notify()

    def close(self) -> None:
        """No more is given."""
        with self._changed:
            self._is_last = True
            self._changed.notify()

    @property
    def is_over(self) -> bool:
        """Whether all that will ever be given was taken."""
        return self._is_last and not self._blocks

    def wait(self, timeout_seconds: float) -> bool:
        """Whether something has arrived, after waiting no longer than this."""
        with self._changed:
            if not self._blocks and not self._is_last:
                self._changed.wait(timeout_seconds)
            return bool(self._blocks)

    def wait_until_due(self, timeout_seconds: float) -> bool:
        """Whether what is there is to be stored at once, after waiting no longer than this."""
        with self._changed:
            if not self._is_due():
                self._changed.wait(timeout_seconds)
            return self._is_due()

    def _is_due(self) -> bool:
        return self._wants_flush or self._is_last or self.waiting_bytes >= SEGMENT_BYTES

    def take(self) -> Batch | None:
        """All that lies ready; None if nothing does."""
        with self._changed:
            self._wants_flush = False
            if not self._blocks:
                return None
            index = StreamIndex(self._begin, self._end, tuple(self._moments))
            batch = Batch(index, self._blocks)
            self._blocks, self._moments, self._begin = [], [], self._end
            return batch
