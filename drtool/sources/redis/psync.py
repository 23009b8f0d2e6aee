"""Being a replica: the snapshot as it streams, then every change after it, from an exact offset.

An offset counts the bytes of the history `replid`: `StreamBytes(begin=N)` are the bytes from N on,
and a snapshot at offset N holds all before N. So what is durable up to N is acknowledged as N.
Source: src/replication.c of Redis (syncWithMaster, readSyncBulkPayload, masterTryPartialResync).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Self

from drtool.errors import SourceUnavailable
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.crc64 import Checksum
from drtool.sources.redis.refusals import refused, silent
from drtool.sources.redis.told import whole_of
from drtool.sources.redis.wire import Wire, open_wire
from drtool.system.clock import Clock

_MARK_BYTES = 40
_NO_HISTORY = "0" * 40


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a history: all before `offset` is known."""

    replid: str
    offset: int

    def __post_init__(self) -> None:
        is_id = len(self.replid) == 40 and self.replid.isascii() and self.replid.isalnum()
        if not is_id or self.offset < 0:
            raise ValueError(f"not a position of replication: {self.replid!r} {self.offset}")


def position_of(replid: str, offset: str) -> Position:
    """As a server tells one; SourceUnavailable for anything else."""
    number = whole_of(offset, "offset")
    try:
        return Position(replid, number)
    except ValueError as error:
        raise SourceUnavailable(
            f"a Redis tells a position that is none: {replid[:60]!r} {number}",
            hint="Look whether a Redis listens there, and what stands between it and drtool.",
        ) from error


@dataclass(frozen=True, slots=True)
class FullResync:
    """A snapshot follows, and then the history from `position` on. What was before is not joined."""

    position: Position


@dataclass(frozen=True, slots=True)
class Continued:
    """The history goes on where it was left. A failover gives it a new `replid`, the offsets stay."""

    position: Position


@dataclass(frozen=True, slots=True)
class RdbChunk:
    """Bytes of the snapshot; `content` is good until the next `receive`."""

    content: memoryview


@dataclass(frozen=True, slots=True)
class RdbEnd:
    """The snapshot is whole. `is_verified` is False where the server writes no checksums."""

    size_bytes: int
    crc64: int
    is_verified: bool


@dataclass(frozen=True, slots=True)
class StreamBytes:
    """Bytes of the history from offset `begin` on; `content` is good until the next `receive`."""

    begin: int
    content: memoryview

    @property
    def end(self) -> int:
        return self.begin + len(self.content)


LinkItem = RdbChunk | RdbEnd | StreamBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLimits:
    """How long is waited: for a connection, for a word of any kind, for the snapshot to begin.

    A server forks before it sends, and its `repl-diskless-sync-delay` comes before that; meanwhile
    it sends signs of life.
    """

    connect_seconds: float = 10.0
    silence_seconds: float = 60.0
    begin_seconds: float = 600.0


class _Phase(Enum):
    """What the server sends next."""

    TRANSFER_HEAD = auto()
    TRANSFER = auto()
    STREAM_BEGIN = auto()
    STREAM = auto()


class ReplicaLink:
    """One link to one server; made by `open_link`. Not for two threads.

    `begun` says what the server granted. After any error the link is done for: close it.
    """

    def __init__(self, wire: Wire, clock: Clock, limits: LinkLimits) -> None:
        self._wire = wire
        self._clock = clock
        self._limits = limits
        self._heard = self._joined = clock.monotonic()
        self._checksum = Checksum()
        self._transfer: _Transfer = _Counted(0)
        self._phase = _Phase.STREAM
        self._rdb_only = False
        self._acknowledged = 0
        self._told = 0.0
        self.offset = 0
        """How far the history was received."""
        self.begun: FullResync | Continued

    @property
    def place(self) -> str:
        return self._wire.place

    def receive(self, timeout_seconds: float) -> LinkItem | None:
        """The next item, or None if none came in time.

        SourceUnavailable when the server hangs up or says nothing at all for `silence_seconds`;
        RdbDamaged when the snapshot does not match its checksum.
        """
        if self._phase is _Phase.TRANSFER_HEAD and not self._begin_transfer(timeout_seconds):
            return None
        if self._phase is _Phase.TRANSFER:
            return self._receive_rdb(self._transfer, timeout_seconds)
        return self._receive_stream(timeout_seconds)

    def acknowledge(self, offset: int) -> None:
        """Tell the server that all before `offset` is durable here.

        `WAIT` and `min-replicas-to-write` count it. It never goes back and never runs ahead of what
        was received. Not while the snapshot comes. `receive` repeats it each second, which keeps the
        link: whoever pauses longer than the server's `repl-timeout` between two calls loses it.
        """
        if offset > self.offset:
            raise ValueError(f"offset {offset} was not received yet")
        self._acknowledged = max(self._acknowledged, offset)
        self._told = self._clock.monotonic()
        self._wire.send(
            [b"REPLCONF", b"ACK", b"%d" % self._acknowledged], self._limits.silence_seconds
        )

    def close(self) -> None:
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def join(self, login: Login, position: Position | None, *, rdb_only: bool) -> None:
        """Log in and ask for the history; `open_link` does it."""
        if words := login.auth_words():
            self._command(words)
        self._command([b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"])
        self._rdb_only = rdb_only and self._accepts([b"REPLCONF", b"rdb-only", b"1"])
        known = position or Position(_NO_HISTORY, 0)
        asked = b"%d" % (known.offset + 1) if position else b"-1"
        replid = known.replid.encode() if position else b"?"
        self._wire.send([b"PSYNC", replid, asked], self._limits.connect_seconds)
        # A server may think for long before it grants a snapshot, and sends empty lines meanwhile.
        answer = self._wire.reply(self._limits.silence_seconds).split()
        self.begun = self._granted(answer, position)
        self.offset = self.begun.position.offset
        if isinstance(self.begun, FullResync):
            self._phase = _Phase.TRANSFER_HEAD
        else:
            self._acknowledged = self.offset

    def _granted(self, answer: list[str], asked: Position | None) -> FullResync | Continued:
        if answer[:1] == ["+FULLRESYNC"] and len(answer) == 3:
            return FullResync(position_of(answer[1], answer[2]))
        if answer[:1] == ["+CONTINUE"] and asked is not None:
            replid = answer[1] if len(answer) > 1 else asked.replid
            return Continued(position_of(replid, str(asked.offset)))
        raise self._no(" ".join(answer))

    def _command(self, words: list[bytes]) -> None:
        self._wire.send(words, self._limits.connect_seconds)
        answer = self._wire.reply(self._limits.connect_seconds)
        if not answer.startswith("+"):
            raise self._no(answer)

    def _accepts(self, words: list[bytes]) -> bool:
        """Whether the server knows an option that older ones do not."""
        self._wire.send(words, self._limits.connect_seconds)
        return self._wire.reply(self._limits.connect_seconds).startswith("+")

    def _no(self, answer: str) -> SourceUnavailable:
        return refused(self.place, answer)

    def _begin_transfer(self, timeout_seconds: float) -> bool:
        line = self._wire.line(timeout_seconds)
        while line == "":
            self._heard = self._clock.monotonic()
            if self._heard - self._joined > self._limits.begin_seconds:
                raise SourceUnavailable(
                    f"{self.place} has not begun its snapshot after {self._limits.begin_seconds:g} s",
                    hint="Look at its log: another child may be running, or the fork fails.",
                )
            line = self._wire.line(timeout_seconds)
        if line is None:
            self._check_silence()
            return False
        self._heard = self._clock.monotonic()
        if line.startswith("$EOF:") and len(line) == 5 + _MARK_BYTES:
            self._transfer = _UntilMark(line[5:].encode())
        elif line.startswith("$") and line[1:2].isdecimal():
            self._transfer = _Counted(whole_of(line[1:], "snapshot's length"))
        else:
            raise self._no(line)
        self._phase = _Phase.TRANSFER
        return True

    def _receive_rdb(self, transfer: _Transfer, timeout_seconds: float) -> LinkItem | None:
        while True:
            ready = transfer.ready(self._wire)
            if ready:
                content = self._wire.take(ready)
                self._checksum.add(content)
                transfer.passed(ready)
                return RdbChunk(content)
            if transfer.finish(self._wire):
                return self._end_transfer()
            if not self._wire.fill(timeout_seconds):
                self._check_silence()
                return None
            self._heard = self._clock.monotonic()

    def _end_transfer(self) -> RdbEnd:
        self._phase = _Phase.STREAM_BEGIN
        is_verified = self._checksum.verify()
        return RdbEnd(self._checksum.size_bytes, self._checksum.footer, is_verified)

    def _receive_stream(self, timeout_seconds: float) -> StreamBytes | None:
        deadline = self._clock.monotonic() + timeout_seconds
        while True:
            if self._phase is _Phase.STREAM_BEGIN:
                self._drop_signs_of_life()
            now = self._clock.monotonic()
            self._repeat_acknowledgement(now)
            if self._wire.waiting_bytes:
                content = self._wire.take(self._wire.waiting_bytes)
                item = StreamBytes(self.offset, content)
                self.offset = item.end
                return item
            if now > deadline:
                self._check_silence()
                return None
            if self._wire.fill(min(deadline - now, self._repeat_seconds)):
                self._heard = self._clock.monotonic()

    @property
    def _repeat_seconds(self) -> float:
        # A server that sends its snapshot without a file on disk begins the stream at our first word
        # after it has reaped its child, and it does not say when that is.
        return 0.05 if self._phase is _Phase.STREAM_BEGIN else 1.0

    def _repeat_acknowledgement(self, now: float) -> None:
        if not self._rdb_only and now - self._told >= self._repeat_seconds:
            self.acknowledge(self._acknowledged)

    def _drop_signs_of_life(self) -> None:
        # Empty lines may stand between the snapshot and the stream, and are not part of the history.
        # No command begins with one, so they are told from it.
        while self._wire.waiting_bytes:
            if self._wire.waiting()[0] not in b"\r\n":
                self._phase = _Phase.STREAM
                return
            self._wire.take(1)

    def _check_silence(self) -> None:
        seconds = self._limits.silence_seconds
        if self._clock.monotonic() - self._heard > seconds:
            raise silent(self.place, seconds)


def snapshot_parts(link: ReplicaLink) -> Iterator[memoryview]:
    """The snapshot of a link that `FullResync` began, for whoever reads an RDB as parts.

    Each part is good until the next one. Errors as `ReplicaLink.receive`.
    """
    while True:
        item = link.receive(1.0)
        if isinstance(item, RdbChunk):
            yield item.content
        elif isinstance(item, RdbEnd):
            return
        elif item is not None:
            raise ValueError("the link is not at the beginning of a snapshot")


class _Counted:
    """A snapshot whose length was told before it."""

    def __init__(self, size: int) -> None:
        self._left = size

    def ready(self, wire: Wire) -> int:
        return min(self._left, wire.waiting_bytes)

    def passed(self, count: int) -> None:
        self._left -= count

    def finish(self, _: Wire) -> bool:
        return self._left == 0


class _UntilMark:
    """A snapshot that ends where a mark of forty random bytes stands."""

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._found = -1

    def ready(self, wire: Wire) -> int:
        self._found = wire.find(self._mark)
        if self._found >= 0:
            return self._found
        # The mark may begin in what is waiting and end in what is not here yet.
        return max(0, wire.waiting_bytes - len(self._mark) + 1)

    def passed(self, count: int) -> None:
        if self._found >= 0:
            self._found -= count

    def finish(self, wire: Wire) -> bool:
        if self._found != 0:
            return False
        wire.take(len(self._mark))
        return True


_Transfer = _Counted | _UntilMark


def open_link(
    address: NodeAddress,
    login: Login,
    *,
    clock: Clock,
    position: Position | None = None,
    rdb_only: bool = False,
    limits: LinkLimits = LinkLimits(),
) -> ReplicaLink:
    """Join a server as a replica that announces no port of its own, and so is no one's failover.

    With `position` the history is asked for from there; the server grants it (`Continued`) or sends
    a snapshot (`FullResync`) when it no longer has that, or never had. `rdb_only` takes a snapshot
    and no stream: a server of 7.0 or later then keeps nothing back for us.
    """
    wire = open_wire(address, login, timeout_seconds=limits.connect_seconds)
    link = ReplicaLink(wire, clock, limits)
    try:
        link.join(login, position, rdb_only=rdb_only)
    except BaseException:
        link.close()
        raise
    return link
