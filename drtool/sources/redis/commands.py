"""The stream read command by command: where it may be cut, and how it is changed on its way.

Redis drops half a command and half a transaction at the end of what it replays; this tells beforehand
what will be dropped. It is read as strictly as Redis reads it, or more so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from drtool.errors import IntegrityError
from drtool.sources.redis.crc64 import Buffer

WORD_BYTES = 64
_LINE_BYTES = 64
# As a server writes numbers, and nothing that two readers could take for two numbers: Redis reads 1 in `1_0`
# and Python 10, so that what one takes for a value is a command to the other.
_HEAD = re.compile(rb"\*([1-9][0-9]{0,8})\r\n\$([1-9][0-9]?)\r\n")
VALUE_HEAD = re.compile(rb"\$(0|[1-9][0-9]{0,9})\r\n")
_BEGUN = re.compile(rb"([*$\r][0-9\r\n$]*)?")
# A head is shorter.
_HEAD_BYTES = 32
_NO_WRITES = frozenset({b"PING", b"SELECT", b"MULTI", b"EXEC", b"DISCARD", b"REPLCONF"})


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
        head_of = VALUE_HEAD.match
        try:
            while True:
                if self._skip:
                    step = min(self._skip, size - pos)
                    pos += step
                    self._skip -= step
                    if self._skip:
                        break
                    self._end_argument(window, pos)
                elif self._left == 0:
                    end = self._read_name(window, pos)
                    if end < 0:
                        break
                    pos = end
                else:
                    head = head_of(window, pos)
                    if head is None:
                        self._may_go_on(window, pos)
                        break
                    length = int(head[1])
                    if not self._takes(window, pos, head.end(), length=length):
                        self._awaited = length
                        break
                    self._skip = length + 2
                    pos = head.end()
        except ValueError as error:
            raise StreamDamaged(
                f"the stream is not readable near offset {self._offset + pos}: {error}",
                hint="Run `drtool verify`; the change log may lack a piece.",
            ) from error
        self._rest = window[pos:]
        self._offset += pos
        if len(self._rest) > 4 * _LINE_BYTES + WORD_BYTES + self._awaited:
            raise StreamDamaged(f"the stream is not readable near offset {self._offset}")
        return pos

    def _read_name(self, window: bytes, pos: int) -> int:
        """Read how many words a command has and the first of them; the position after, or -1."""
        head = _HEAD.match(window, pos)
        if head is None:
            if window[pos : pos + 1] == b"\n" or window[pos : pos + 2] == b"\r\n":
                return self._alive(pos, window.index(b"\n", pos) + 1)
            self._may_go_on(window, pos)
            return -1
        count, length = int(head[1]), int(head[2])
        if length > WORD_BYTES:
            raise ValueError(f"the name of a command has {length} bytes")
        begin = head.end()
        end = begin + length + 2
        if end > len(window):
            return -1
        if window[end - 2 : end] != b"\r\n":
            raise ValueError("the name of a command is longer than it says")
        name = window[begin : end - 2].upper()
        if not self._is_held(name, window, pos, count=count):
            return -1
        self._name = name
        self._number = 1
        self._left = count - 1
        self._named(pos, end, count)
        if self._left == 0:
            self._command_ended(end)
        return end

    def _may_go_on(self, window: bytes, pos: int) -> None:
        """ValueError unless what stands there is the beginning of a head that is not here yet."""
        seen = window[pos : pos + _HEAD_BYTES]
        if len(seen) == _HEAD_BYTES or not _BEGUN.fullmatch(seen):
            raise ValueError(f"{seen[:16]!r} where a command or a value should begin")

    def _end_argument(self, window: bytes, pos: int) -> None:
        # Where the window begins behind the carriage return there is one byte to look at.
        if not b"\r\n".endswith(window[max(0, pos - 2) : pos]):
            raise ValueError("a value is longer than it says")
        self._argument_ended(pos)

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

    def _alive(self, begin: int, end: int) -> int:  # noqa: ARG002 - for those who change what passes
        """An empty line, which is a sign of life; where it ends."""
        return end

    def _is_held(
        self,
        name: bytes,  # noqa: ARG002 - for those who look at more than the name
        window: bytes,  # noqa: ARG002 - as above, for those who look at more than the name
        begin: int,  # noqa: ARG002 - as above, for those who look at more than the name
        *,
        count: int,  # noqa: ARG002 - as above, for those who look at more than the name
    ) -> bool:
        """Whether enough of a command of `count` words is in the window; False waits for more."""
        return True

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


class StreamEditor(StreamScanner):
    """Passes a stream on, with changes that those who inherit put into `edits`."""

    def __init__(self, begin: int) -> None:
        super().__init__(begin)
        self.edits: list[tuple[int, int, bytes]] = []
        """From where to where in the window, and what comes in its place; in order."""

    def changed(self, part: Buffer) -> list[bytes]:
        """What becomes of `part` and of what was held back before it."""
        window = self._rest + bytes(part)
        self.edits = []
        end = self._scan(window)
        out, done = [], 0
        for begin, stop, text in self.edits:
            out += [window[done:begin], text]
            done = stop
        out.append(window[done:end])
        return [piece for piece in out if piece]

    def rest(self) -> bytes:
        """What is held back at the end: half a command."""
        return self._rest


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


def word(text: bytes) -> bytes:
    """A word of a command, as a stream holds it."""
    return b"$%d\r\n%s\r\n" % (len(text), text)
