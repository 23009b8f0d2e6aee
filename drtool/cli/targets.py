"""Exactly one recovery target out of the options of `drtool restore`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from zoneinfo import ZoneInfo

from drtool.errors import UsageError
from drtool.model.measure import parse_moment
from drtool.model.target import (
    RecoveryTarget,
    ToBackup,
    ToLatest,
    ToLsn,
    ToName,
    ToTime,
    ToXid,
)
from drtool.model.wal import Lsn

LATEST = "latest"
_STATUS = "`drtool status` shows from when to when each source can be recovered."
_HINTS = {
    "--to": f"As far as it goes is --to latest. {_STATUS}",
    "--to-lsn": "Write it as PostgreSQL does, 0/3000060: two hexadecimal numbers. `drtool wal status` shows"
    " how far the WAL reaches.",
    "--to-xid": f"pg_current_xact_id() tells it, or the server's log. {_STATUS}",
    "--to-name": _STATUS,
    "--backup": _STATUS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """The options as they were written."""

    to: str | None
    to_lsn: str | None
    to_xid: str | None
    to_name: str | None
    backup: str | None


def read_target(options: TargetOptions, zone: ZoneInfo) -> RecoveryTarget:
    """The target; a time without an offset is read in `zone`. UsageError if none or several are named."""
    given = {
        f"--{field.name.replace('_', '-')}": getattr(options, field.name)
        for field in fields(options)
        if getattr(options, field.name) is not None
    }
    if len(given) != 1:
        named = " and ".join(given) if given else "none"
        raise UsageError(
            f"a restore has exactly one target, not {named}",
            hint="Give one of --to TIME, --to latest, --to-lsn, --to-xid, --to-name, --backup.",
        )
    option, text = next(iter(given.items()))
    readers: dict[str, Callable[[str], RecoveryTarget]] = {
        "--to": lambda text: _read_time(text, zone),
        "--to-lsn": lambda text: ToLsn(Lsn.parse(text)),
        "--to-xid": _read_xid,
        "--to-name": ToName,
        "--backup": ToBackup,
    }
    try:
        return readers[option](text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", hint=_HINTS[option]) from error


def is_latest(text: str) -> bool:
    """Whether `--to` asks for as far as the repository reaches, in whatever case."""
    return text.strip().casefold() == LATEST


def read_moment(text: str, zone: ZoneInfo, *, option: str) -> datetime:
    """The moment an option names; UsageError if it names none."""
    try:
        return parse_moment(text, zone).astimezone(zone)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", hint="Write it as 2024-05-01T10:00.") from error


def _read_time(text: str, zone: ZoneInfo) -> RecoveryTarget:
    if is_latest(text):
        return ToLatest()
    return ToTime(parse_moment(text, zone).astimezone(zone))


def _read_xid(text: str) -> ToXid:
    if not (text.isascii() and text.isdigit()) or not 3 <= int(text) < 1 << 32:
        # Source: src/include/access/transam.h, FirstNormalTransactionId.
        raise ValueError(f"{text!r} is not a transaction: write its number, 3 or more")
    return ToXid(int(text))
