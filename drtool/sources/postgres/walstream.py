"""WAL as it is written: START_REPLICATION over a replication connection, and what we tell back.

Source: PostgreSQL docs, "Streaming Replication Protocol" (XLogData, keepalive, standby status).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import pq

from drtool.errors import SourceUnavailable
from drtool.model.wal import MOST_HISTORY_BYTES, MOST_LSN, Lsn
from drtool.sources.postgres.answers import number, understood
from drtool.sources.postgres.connection import ANSWER_SECONDS, ReplicationConnection, rows_of
from drtool.sources.postgres.refusals import refused
from drtool.sources.postgres.slots import check_slot_name

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_WAL = struct.Struct(">cqqq")
_KEEPALIVE = struct.Struct(">cqq?")
_STATUS = struct.Struct(">cqqqq?")


@dataclass(frozen=True, slots=True, kw_only=True)
class WalBytes:
    """Bytes of WAL from position `begin`; `server_end` is how far the server has written."""

    begin: Lsn
    data: memoryview
    server_end: Lsn
    sent_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """The server lives. With `reply_requested` it wants a report soon, or it ends the session."""

    server_end: Lsn
    sent_at: datetime
    reply_requested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEnded:
    """All WAL of the timeline up to `switch_point` was sent; it goes on there as `next_timeline`.

    The connection is free for the next command.
    """

    next_timeline: int
    switch_point: Lsn


# The name that callers know it by.

WalItem = WalBytes | Keepalive | TimelineEnded


class WalStream:
    """A running stream; made by `open_wal_stream`. Not for two threads."""

    def __init__(self, connection: ReplicationConnection, ended: TimelineEnded | None) -> None:
        self._connection = connection
        self._ended = ended
        self._reported = (0, 0)

    def receive(self, timeout_seconds: float) -> WalItem | None:
        """The next item, or None if none came in time.

        After TimelineEnded the stream is over, and so it is after any error: WalRemoved if the server
        no longer has the WAL, WalNotYetWritten if it never had it, SourceUnavailable if it went away
        or shuts down.
        """
        if self._ended is not None:
            return self._ended
        pgconn = self._connection.pgconn
        try:
            length, data = pgconn.get_copy_data(1)
            if length == 0:
                if not self._connection.wait(timeout_seconds):
                    return None
                length, data = pgconn.get_copy_data(1)
        except psycopg.Error as error:
            raise refused(self._connection.place, str(error)) from None
        if length == 0:
            return None
        if length < 0:
            self._ended = self._read_end()
            return self._ended
        return self._read(data)

    def report(self, *, received: Lsn, flushed: Lsn, wants_reply: bool = False) -> None:
        """Tell the server what has arrived and what is durable.

        `flushed` is told as applied too: a commit that waits for `remote_apply` then waits for
        durability, never for less and never for ever. Positions never go back.
        """
        received_so_far = max(received, flushed, self._reported[0])
        flushed_so_far = max(flushed, self._reported[1])
        self._reported = (received_so_far, flushed_so_far)
        # The clock field is for round trips that we do not measure; zero is a valid time.
        self._put(
            _STATUS.pack(b"r", received_so_far, flushed_so_far, flushed_so_far, 0, wants_reply)
        )

    def finish(self, *, timeout_seconds: float = ANSWER_SECONDS) -> None:
        """End the stream; what still arrives is dropped. The connection is free afterwards."""
        if self._ended is not None:
            return
        pgconn = self._connection.pgconn
        try:
            pgconn.put_copy_end()
            self._connection.flush(timeout_seconds)
            while (length := pgconn.get_copy_data(1)[0]) >= 0:
                if length == 0:
                    self._connection.await_bytes(timeout_seconds)
        except psycopg.Error as error:
            raise refused(self._connection.place, str(error)) from None
        while self._connection.result(timeout_seconds=timeout_seconds) is not None:
            pass

    def _read(self, data: memoryview) -> WalItem:
        with understood(self._connection.place):
            return self._understand(data)

    def _understand(self, data: memoryview) -> WalItem:
        if data[0] == 0x77:
            _, begin, end, sent = _WAL.unpack_from(data)
            if not 0 <= begin <= MOST_LSN - len(data):
                raise ValueError(f"WAL from {begin:x}")
            return WalBytes(
                begin=Lsn(begin),
                data=data[_WAL.size :],
                server_end=Lsn(max(end, 0)),
                sent_at=_moment(sent),
            )
        if data[0] == 0x6B:
            _, end, sent, reply = _KEEPALIVE.unpack_from(data)
            return Keepalive(
                server_end=Lsn(max(end, 0)), sent_at=_moment(sent), reply_requested=reply
            )
        raise SourceUnavailable(
            f"{self._connection.place} sent a message of unknown type {bytes(data[:1])!r}",
            hint="Give the DSN of the server itself, not of a pooler or proxy.",
        )

    def _read_end(self) -> TimelineEnded:
        connection = self._connection
        result = connection.result()
        if result is not None and result.status == pq.ExecStatus.COPY_IN:
            try:
                connection.pgconn.put_copy_end()
                connection.flush(ANSWER_SECONDS)
            except psycopg.Error as error:
                raise refused(connection.place, str(error)) from None
            result = connection.result()
        if result is None or result.status != pq.ExecStatus.TUPLES_OK:
            raise SourceUnavailable(
                f"{connection.place} ended the WAL stream: it shuts down",
                hint="Wait until it accepts connections again.",
            )
        return _timeline_end(connection, result)

    def _put(self, message: bytes) -> None:
        if self._ended is not None:
            return
        try:
            self._connection.pgconn.put_copy_data(message)
        except psycopg.Error as error:
            raise refused(self._connection.place, str(error)) from None
        self._connection.flush(ANSWER_SECONDS)


def open_wal_stream(
    connection: ReplicationConnection, *, start: Lsn, timeline: int, slot: str | None = None
) -> WalStream:
    """Stream WAL from `start` on `timeline`.

    NotInHistory if the server took another path. That it no longer has that WAL (WalRemoved), or
    never got that far (WalNotYetWritten), it says only after it began: `receive` raises it. Start at
    the first byte of a segment: whoever wants whole segments has no other choice.
    """
    use_slot = f"SLOT {check_slot_name(slot)} " if slot else ""
    connection.send(f"START_REPLICATION {use_slot}PHYSICAL {start} TIMELINE {timeline:d}")
    result = connection.result()
    if result is not None and result.status == pq.ExecStatus.COPY_BOTH:
        return WalStream(connection, None)
    if result is not None and result.status == pq.ExecStatus.TUPLES_OK:
        # Nothing of that timeline lies beyond `start`: the server tells its end at once.
        return WalStream(connection, _timeline_end(connection, result))
    raise SourceUnavailable(
        f"{connection.place} did not begin a WAL stream",
        hint="Give the DSN of the server itself, not of a pooler or proxy.",
    )


def fetch_history(connection: ReplicationConnection, timeline: int) -> bytes:
    """The content of the timeline's history file; timeline 1 has none and must not be asked for."""
    with understood(connection.place):
        row = connection.rows(f"TIMELINE_HISTORY {timeline:d}")[0]
        content = (row[1] or "").encode("utf-8", "surrogateescape")
        if len(content) > MOST_HISTORY_BYTES:
            raise ValueError(f"a history of {len(content)} bytes")
        return content


def _timeline_end(connection: ReplicationConnection, result: pq.abc.PGresult) -> TimelineEnded:
    rows = rows_of(result)
    while connection.result() is not None:
        pass
    with understood(connection.place):
        next_timeline, switch_point = rows[0]
        return TimelineEnded(
            next_timeline=number(next_timeline), switch_point=Lsn.parse(switch_point or "")
        )


def _moment(microseconds: int) -> datetime:
    moment = _EPOCH + timedelta(microseconds=microseconds)
    if not 1000 <= moment.year <= 9000:
        raise ValueError(f"a message of the year {moment.year}")
    return moment
