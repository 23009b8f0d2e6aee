"""The stream read command by command: where it may be cut, and relative expiry times made absolute.

Redis drops half a command and half a transaction at the end of what it replays, so a restore needs
none of this; it tells beforehand what will be dropped. Streams of Redis 6.2 need the second part: it
replicates `EXPIRE key 100` and `RESTORE key 100000 ...`, which a replay counts from the day of the
restore. Redis 7.0 replicates moments; only what a module replicates as it was told may hold spans there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drtool.errors import IntegrityError
from drtool.sources.redis.crc64 import Buffer

_WORD_BYTES = 64
_LINE_BYTES = 64
_AS_SET = {b"SETEX": 1000, b"PSETEX": 1}
_AS_MOMENT = {b"EXPIRE": 1000, b"PEXPIRE": 1}
_UNITS = {b"EX": 1000, b"PX": 1}
_NO_WRITES = frozenset({b"PING", b"SELECT", b"MULTI", b"EXEC", b"DISCARD", b"REPLCONF"})
# MIGRATE sends the second one, to move slots.
_RESTORES = frozenset({b"RESTORE", b"RESTORE-ASKING"})


class StreamDamaged(IntegrityError):
    """What should be a stream of commands is none."""


class StreamScanner:
    """Told a stream part by part, it knows where the last whole command ended. `begin`: its offset.

    Cut anywhere; nothing of a value is kept. StreamDamaged if it is no stream of commands, which a
    stream that begins in the middle of a command is not.
    """

    def __init__(self, begin: int) -> None:
        self.safe_offset = begin
        """Up to here all commands are whole, and no transaction is open."""
        self.commands = 0
        self._offset = begin
        self._rest = b""
        self._skip = 0
        self._left = 0
        self._in_transaction = False
        self._name = b""
        self._number = 0
        self._awaited = 0

    @property
    def is_between_commands(self) -> bool:
        """Whether the last command is whole."""
        return not (self._rest or self._skip or self._left)

    def feed(self, part: Buffer) -> None:
        """Take in what follows."""
        self._scan(self._rest + bytes(part) if self._rest else bytes(part))

    def _scan(self, window: bytes) -> int:
        """Go through `window` as far as it is understood; the rest waits for more."""
        pos, size = 0, len(window)
        self._awaited = 0
        find = window.find
        try:
            while True:
                if self._skip:
                    step = min(self._skip, size - pos)
                    pos += step
                    self._skip -= step
                    if self._skip:
                        break
                    self._argument_ended(pos)
                elif self._left == 0:
                    end = self._read_name(window, pos)
                    if end < 0:
                        break
                    pos = end
                else:
                    newline = find(b"\n", pos, pos + _LINE_BYTES)
                    if newline < 0:
                        break
                    length = int(window[pos + 1 : newline - 1])
                    if not self._takes(window, pos, newline + 1, length=length):
                        self._awaited = length
                        break
                    self._skip = length + 2
                    pos = newline + 1
        except ValueError as error:
            raise StreamDamaged(
                f"the stream is not readable near offset {self._offset + pos}: {error}",
                hint="Run `drtool verify`; the change log may lack a piece.",
            ) from error
        self._rest = window[pos:]
        self._offset += pos
        if len(self._rest) > 4 * _LINE_BYTES + _WORD_BYTES + self._awaited:
            raise StreamDamaged(f"the stream is not readable near offset {self._offset}")
        return pos

    def _read_name(self, window: bytes, pos: int) -> int:
        """Read how many words a command has and the first of them; the position after, or -1."""
        newline = window.find(b"\n", pos, pos + _LINE_BYTES)
        if newline < 0:
            return -1
        if window[pos : pos + 1] in (b"\r", b"\n"):
            return newline + 1  # an empty line is a sign of life
        if window[pos : pos + 1] != b"*":
            raise ValueError(f"{window[pos : pos + 8]!r} where a command should begin")
        count = int(window[pos + 1 : newline - 1])
        second = window.find(b"\n", newline + 1, newline + 1 + _LINE_BYTES)
        if second < 0:
            return -1
        length = int(window[newline + 2 : second - 1])
        if length > _WORD_BYTES:
            raise ValueError(f"the name of a command has {length} bytes")
        end = second + 1 + length + 2
        if end > len(window):
            return -1
        self._name = window[second + 1 : end - 2].upper()
        self._number = 1
        self._left = count - 1
        self._named(pos, end, count)
        if self._left == 0:
            self._command_ended(end)
        return end

    def _argument_ended(self, pos: int) -> None:
        self._left -= 1
        self._number += 1
        if self._left == 0:
            self._command_ended(pos)

    def _command_ended(self, pos: int) -> None:
        self.commands += 1
        if self._name == b"MULTI":
            self._in_transaction = True
        elif self._name in (b"EXEC", b"DISCARD"):
            self._in_transaction = False
        if not self._in_transaction:
            self.safe_offset = self._offset + pos

    def _named(self, begin: int, end: int, count: int) -> None:
        """A command's name is known; it stands with its head from `begin` to `end` in the window."""

    def _takes(
        self,
        window: bytes,  # noqa: ARG002 - for those who change what passes
        begin: int,  # noqa: ARG002 - as above, for those who change what passes
        value: int,  # noqa: ARG002 - as above, for those who change what passes
        *,
        length: int,  # noqa: ARG002 - as above, for those who change what passes
    ) -> bool:
        """Whether the argument whose head is at `begin` can be gone through; False waits for more."""
        return True


class WriteCounter(StreamScanner):
    """Counts the commands of a stream that change data: no pings, and nothing that only frames others."""

    def __init__(self, begin: int) -> None:
        super().__init__(begin)
        self.writes = 0

    def _command_ended(self, pos: int) -> None:
        super()._command_ended(pos)
        if self._name not in _NO_WRITES:
            self.writes += 1


def safe_cut(parts: Iterable[Buffer], *, begin: int, until: int) -> int:
    """The last offset up to `until` at which all commands are whole and no transaction is open.

    `parts` is the stream from offset `begin` on, which must be the first byte of a command: a
    snapshot's offset is. What lies beyond `until` is not read.
    """
    scanner = StreamScanner(begin)
    left = until - begin
    for part in parts:
        if left <= 0:
            break
        view = memoryview(part)[:left]
        left -= len(view)
        scanner.feed(view)
    return scanner.safe_offset


def is_open_transaction(parts: Iterable[Buffer]) -> bool:
    """Whether `parts` are a MULTI and whole commands, without an EXEC, and nothing before or behind."""
    scanner = StreamScanner(0)
    try:
        for part in parts:
            scanner.feed(part)
    except StreamDamaged:
        return False
    return scanner.commands > 0 and scanner.safe_offset == 0 and scanner.is_between_commands


class AbsoluteExpiries(StreamScanner):
    """Passes a stream of Redis 6.2 on, with moments in place of spans.

    Each part comes with the moment of its arrival, to which spans are added: so what a key's time is
    off by is what the archive's index is off by, a tenth of a second.
    """

    def __init__(self, begin: int) -> None:
        super().__init__(begin)
        self._moment_ms = 0
        self._edits: list[tuple[int, int, bytes]] = []
        self._unit: int | None = None
        self._behind = b""
        self._key = b""
        self._span_ms = 0

    def passed(self, part: Buffer, moment_ms: int) -> list[bytes]:
        """What becomes of `part` and of what was held back before it."""
        window = self._rest + bytes(part)
        self._edits = []
        self._moment_ms = moment_ms
        end = self._scan(window)
        out, done = [], 0
        for begin, stop, text in self._edits:
            out += [window[done:begin], text]
            done = stop
        out.append(window[done:end])
        return [piece for piece in out if piece]

    def rest(self) -> bytes:
        """What is held back at the end: half a command."""
        return self._rest

    def _named(self, begin: int, end: int, count: int) -> None:
        self._unit = None
        if self._name in _AS_MOMENT and count == 3:
            self._unit = _AS_MOMENT[self._name]
            self._edits.append((begin, end, b"*3\r\n" + _word(b"PEXPIREAT")))
        elif self._name in _AS_SET and count == 4:
            self._unit = _AS_SET[self._name]
            self._edits.append((begin, end, b"*5\r\n" + _word(b"SET")))

    def _takes(self, window: bytes, begin: int, value: int, *, length: int) -> bool:
        if self._name in _RESTORES:
            return self._restore_takes(window, value, length)
        is_option = self._name == b"SET" and self._number >= 3 and length <= _WORD_BYTES
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
                self._edits.append((begin, end, _word(b"PXAT")))
            return True
        assert self._unit is not None
        moment = _word(b"%d" % (self._moment_ms + self._unit * int(text)))
        if self._name in _AS_SET:
            # SETEX key seconds value: the moment goes behind the value.
            self._behind = _word(b"PXAT") + moment
            moment = b""
        self._edits.append((begin, end, moment))
        self._unit = None
        return True

    def _restore_takes(self, window: bytes, value: int, length: int) -> bool:
        """RESTORE key span payload [options]: whether the span is one is known at the end alone."""
        if self._number == 3 or (self._number > 3 and length > _WORD_BYTES):
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
            self._behind = b"*3\r\n" + _word(b"PEXPIREAT") + _word(self._key) + _word(moment)
            self._span_ms = 0
        if self._behind:
            self._edits.append((pos, pos, self._behind))
            self._behind = b""


def absolute_expiries(parts: Iterable[tuple[int, Buffer]], *, begin: int) -> Iterator[bytes]:
    """The stream `parts`, each with its moment in milliseconds since 1970, with moments for spans."""
    reader = AbsoluteExpiries(begin)
    for moment_ms, part in parts:
        yield from reader.passed(part, moment_ms)
    if rest := reader.rest():
        yield rest


def _word(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)
