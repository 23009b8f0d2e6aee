"""Relative expiry times of a stream made absolute.

Redis 6.2 replicates `EXPIRE key 100` and `RESTORE key 100000 ...`, which a replay counts from the day of
the restore. Redis 7.0 replicates moments; only what a module replicates as it was told may hold spans
there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drtool.sources.redis.commands import WORD_BYTES, StreamEditor, word
from drtool.sources.redis.crc64 import Buffer

_AS_SET = {b"SETEX": 1000, b"PSETEX": 1}
_AS_MOMENT = {b"EXPIRE": 1000, b"PEXPIRE": 1}
_UNITS = {b"EX": 1000, b"PX": 1}
# MIGRATE sends the second one, to move slots.
_RESTORES = frozenset({b"RESTORE", b"RESTORE-ASKING"})


class AbsoluteExpiries(StreamEditor):
    """Passes a stream of Redis 6.2 on, with moments in place of spans.

    Each part comes with the moment of its arrival, to which spans are added: so what a key's time is
    off by is what the archive's index is off by, a tenth of a second.
    """

    def __init__(self, begin: int) -> None:
        super().__init__(begin)
        self._moment_ms = 0
        self._unit: int | None = None
        self._behind = b""
        self._key = b""
        self._span_ms = 0

    def passed(self, part: Buffer, moment_ms: int) -> list[bytes]:
        """What becomes of `part` and of what was held back before it."""
        self._moment_ms = moment_ms
        return self.changed(part)

    def _named(self, begin: int, end: int, count: int) -> None:
        self._unit = None
        if self._name in _AS_MOMENT and count == 3:
            self._unit = _AS_MOMENT[self._name]
            self.edits.append((begin, end, b"*3\r\n" + word(b"PEXPIREAT")))
        elif self._name in _AS_SET and count == 4:
            self._unit = _AS_SET[self._name]
            self.edits.append((begin, end, b"*5\r\n" + word(b"SET")))

    def _takes(self, window: bytes, begin: int, value: int, *, length: int) -> bool:
        if self._name in _RESTORES:
            return self._restore_takes(window, value, length)
        is_option = self._name == b"SET" and self._number >= 3 and length <= WORD_BYTES
        is_span = self._unit is not None and self._number == 2
        if not is_option and not is_span:
            return True
        end = value + length + 2
        if end > len(window):
            return False
        text = window[value : value + length]
        if is_option and self._unit is None:
            self._unit = _UNITS.get(text.upper())
            if self._unit is not None:
                self.edits.append((begin, end, word(b"PXAT")))
            return True
        assert self._unit is not None
        moment = word(b"%d" % (self._moment_ms + self._unit * int(text)))
        if self._name in _AS_SET:
            # SETEX key seconds value: the moment goes behind the value.
            self._behind = word(b"PXAT") + moment
            moment = b""
        self.edits.append((begin, end, moment))
        self._unit = None
        return True

    def _restore_takes(self, window: bytes, value: int, length: int) -> bool:
        """RESTORE key span payload [options]: whether the span is one is known at the end alone."""
        if self._number == 3 or (self._number > 3 and length > WORD_BYTES):
            return True
        if value + length + 2 > len(window):
            return False
        text = window[value : value + length]
        if self._number == 1:
            self._key, self._span_ms = text, 0
        elif self._number == 2:
            self._span_ms = int(text)
        elif text.upper() == b"ABSTTL":
            self._span_ms = 0
        return True

    def _command_ended(self, pos: int) -> None:
        super()._command_ended(pos)
        if self._name in _RESTORES and self._span_ms:
            moment = b"%d" % (self._moment_ms + self._span_ms)
            self._behind = b"*3\r\n" + word(b"PEXPIREAT") + word(self._key) + word(moment)
            self._span_ms = 0
        if self._behind:
            self.edits.append((pos, pos, self._behind))
            self._behind = b""


def absolute_expiries(parts: Iterable[tuple[int, Buffer]], *, begin: int) -> Iterator[bytes]:
    """The stream `parts`, each with its moment in milliseconds since 1970, with moments for spans."""
    reader = AbsoluteExpiries(begin)
    for moment_ms, part in parts:
        yield from reader.passed(part, moment_ms)
    if rest := reader.rest():
        yield rest
