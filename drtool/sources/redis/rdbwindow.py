"""The stretch of an RDB that is in memory, and how a value of any size passes through it."""

from __future__ import annotations

from collections.abc import Iterable

from drtool.sources.redis import rdbcodes as codes
from drtool.sources.redis.crc64 import Buffer, Checksum
from drtool.sources.redis.rdbcodes import RdbDamaged
from drtool.sources.redis.rdbfields import Sink

_STEP_BYTES = 256 << 10
# No header of a string is longer: one byte and two lengths of nine.
_HEADER_BYTES = 32


class Window:
    """The stretch of the RDB that is in memory, and where in it one stands."""

    def __init__(self, parts: Iterable[Buffer]) -> None:
        self._parts = iter(parts)
        self.checksum = Checksum()
        self.bytes = b""
        self.pos = 0

    def more(self) -> bool:
        """Forget what lies before `pos` and take in what follows; False at the end of the parts.

        As much as there is already, so that what is waited for is not copied again and again.
        """
        pieces: list[Buffer] = [memoryview(self.bytes)[self.pos :]]
        wanted, gathered = max(_STEP_BYTES, len(pieces[0])), 0
        while gathered < wanted:
            part = next(self._parts, None)
            if part is None:
                break
            self.checksum.add(part)
            gathered += len(part)
            # A copy: the next part may be handed over in the same buffer.
            pieces.append(bytes(part))
        self.bytes = b"".join(pieces)
        self.pos = 0
        return gathered > 0


class Through:
    """Steps through a value of any size and hands over what it stepped over."""

    def __init__(self, window: Window, sink: Sink) -> None:
        self._window = window
        self._sink = sink
        self._begin = window.pos

    def length(self) -> int:
        self._prepare()
        count, self._window.pos = codes.read_length(self._window.bytes, self._window.pos)
        return count

    def string(self) -> None:
        self._prepare()
        self._move(codes.skip_string(self._window.bytes, self._window.pos))

    def raw(self, count: int) -> None:
        self._move(self._window.pos + count)

    def byte(self) -> int:
        self._prepare()
        self._window.pos += 1
        return self._window.bytes[self._window.pos - 1]

    def taken(self, count: int) -> bytes:
        self._prepare()
        begin = self._window.pos
        self._window.pos += count
        self.drop()
        return self._window.bytes[begin : begin + count]

    def taken_string(self) -> bytes:
        gathered = bytearray()

        def gather(piece: memoryview) -> None:
            if len(gathered) + len(piece) > codes.MOST_HELD_BYTES:
                raise ValueError("a packed hash is larger than a server makes one")
            gathered.extend(piece)

        sink, self._sink = self._sink, gather
        self.string()
        self.hand_over()
        self._sink = sink
        return bytes(gathered)

    def drop(self) -> None:
        self._begin = self._window.pos

    def hand_over(self) -> None:
        if self._window.pos > self._begin:
            self._sink(memoryview(self._window.bytes)[self._begin : self._window.pos])
        self._begin = self._window.pos

    def _prepare(self) -> None:
        if len(self._window.bytes) - self._window.pos < _HEADER_BYTES:
            self.hand_over()
            self._window.more()
            self._begin = 0

    def _move(self, end: int) -> None:
        window = self._window
        while end > len(window.bytes):
            end -= len(window.bytes)
            window.pos = len(window.bytes)
            self.hand_over()
            if not window.more():
                raise cut_off(window)
            self._begin = 0
        window.pos = end


def cut_off(window: Window) -> RdbDamaged:
    """The RDB ends where it should go on."""
    return RdbDamaged(
        f"an RDB is cut off: it ends after {window.checksum.size_bytes} bytes, in the middle",
        hint="The server or its child died while it wrote: take another backup, and look at its log.",
    )
