"""The server's log while it starts and recovers, as typed values.

Read line by line as written with `lc_messages=C`, `log_line_prefix` as `LINE_PREFIX` and
`log_timezone=UTC`. Sources: xlogrecovery.c and xlog.c of PostgreSQL 15 to 18.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from drtool.model.wal import Lsn

LINE_PREFIX = "%m [%p] "


@dataclass(frozen=True, slots=True)
class RedoBegan:
    """Replay begins at `lsn`."""

    lsn: Lsn


@dataclass(frozen=True, slots=True)
class RedoAdvanced:
    """Replay has come to `lsn`; told every half second."""

    lsn: Lsn


@dataclass(frozen=True, slots=True)
class RedoEnded:
    """The last record that was replayed begins at `lsn`."""

    lsn: Lsn


@dataclass(frozen=True, slots=True)
class RedoNotNeeded:
    """The server had nothing to replay."""


@dataclass(frozen=True, slots=True)
class ConsistencyReached:
    """From `lsn` on the copy is consistent."""

    lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryStopped:
    """Replay stopped at its target. `xid` and `moment` are those of the commit or abort it names,
    which is left out if `is_before`; `lsn` and `name` where the target was one.
    """

    is_before: bool
    xid: int | None = None
    moment: datetime | None = None
    lsn: Lsn | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class LastCommit:
    """When the last transaction that was replayed had committed."""

    moment: datetime


@dataclass(frozen=True, slots=True)
class TimelineSelected:
    """The copy goes on on a timeline of its own."""

    timeline: int


@dataclass(frozen=True, slots=True)
class SegmentRestored:
    """restore_command delivered the file `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class ServerReady:
    """The server takes connections."""


@dataclass(frozen=True, slots=True)
class ServerStopped:
    """The server has shut down in good order."""


@dataclass(frozen=True, slots=True)
class ServerFailed:
    """A FATAL or PANIC line, or the startup process died."""

    text: str


LogEvent = (
    RedoBegan
    | RedoAdvanced
    | RedoEnded
    | RedoNotNeeded
    | ConsistencyReached
    | RecoveryStopped
    | LastCommit
    | TimelineSelected
    | SegmentRestored
    | ServerReady
    | ServerStopped
    | ServerFailed
)

_LINE = re.compile(
    # The SQLSTATE is there with log_error_verbosity = verbose.
    r"\d{4}-\d\d-\d\d [\d:.]+ \w+ \[\d+\] (\w+):  (?:[0-9A-Z]{5}: )?(.*)"
)
_X = r"([0-9A-F]{1,8}/[0-9A-F]{1,8})"


def _moment(text: str) -> datetime:
    # `2026-11-23 17:00:00.123456+00` (timestamptz output), with a fraction only where there is one.
    plain = text.strip().removesuffix("+00").removesuffix(" UTC")
    return datetime.fromisoformat(plain).replace(tzinfo=UTC)


def _stopped(match: re.Match[str]) -> RecoveryStopped:
    time = match["time"]
    return RecoveryStopped(
        is_before=match["side"] == "before", xid=int(match["xid"]), moment=_moment(time)
    )


_PARSERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], LogEvent]], ...] = (
    (
        re.compile(rf"redo in progress, .*current LSN: {_X}"),
        lambda m: RedoAdvanced(Lsn.parse(m[1])),
    ),
    (re.compile(r'restored log file "([^"]+)"'), lambda m: SegmentRestored(m[1])),
    (re.compile(rf"redo starts at {_X}"), lambda m: RedoBegan(Lsn.parse(m[1]))),
    (re.compile(rf"redo done at {_X}"), lambda m: RedoEnded(Lsn.parse(m[1]))),
    (re.compile(r"redo is not required"), lambda _: RedoNotNeeded()),
    (
        re.compile(rf"consistent recovery state reached at {_X}"),
        lambda m: ConsistencyReached(Lsn.parse(m[1])),
    ),
    (
        re.compile(
            r"recovery stopping (?P<side>before|after) (?:commit|abort)[a-z ]* of transaction"
            r" (?P<xid>\d+), time (?P<time>.*)"
        ),
        _stopped,
    ),
    (
        re.compile(rf'recovery stopping (before|after) WAL location \(LSN\) "{_X}"'),
        lambda m: RecoveryStopped(is_before=m[1] == "before", lsn=Lsn.parse(m[2])),
    ),
    (
        re.compile(r'recovery stopping at restore point "(.*)", time (.*)'),
        lambda m: RecoveryStopped(is_before=False, name=m[1], moment=_moment(m[2])),
    ),
    (
        re.compile(r"recovery stopping after reaching consistency"),
        lambda _: RecoveryStopped(is_before=False),
    ),
    (
        re.compile(r"last completed transaction was at log time (.*)"),
        lambda m: LastCommit(_moment(m[1])),
    ),
    (re.compile(r"selected new timeline ID: (\d+)"), lambda m: TimelineSelected(int(m[1]))),
    (re.compile(r"database system is ready to accept connections"), lambda _: ServerReady()),
    (re.compile(r"database system is shut down"), lambda _: ServerStopped()),
    (
        re.compile(r"(startup process .* (?:was terminated|exited).*)"),
        lambda m: ServerFailed(m[1]),
    ),
)


def parse_line(line: str) -> LogEvent | None:
    """The event that a line of the log tells, or None."""
    match = _LINE.match(line)
    if match is None:
        return None
    level, text = match[1], match[2].rstrip()
    if level in ("FATAL", "PANIC"):
        # Those who knock while the server starts are told so; that is no failure of the server.
        return None if "the database system is" in text else ServerFailed(text)
    if level != "LOG":
        return None
    for pattern, make in _PARSERS:
        found = pattern.match(text)
        if found is not None:
            try:
                return make(found)
            except (ValueError, OverflowError):
                return None  # words of somebody else, in which the pattern happens to be
    return None
