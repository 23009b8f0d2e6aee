"""Sizes, spans and moments as people write them: `64MiB`, `15m`, `2024-05-01T10:00`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_SIZE_UNITS = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_SPAN_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


# Characters of a size or a span; the least beyond what anybody means by one. A span is added to moments.
_LONGEST = 64
_MOST_SIZE = (1 << 63) - 1
_MOST_SPAN = timedelta(days=100 * 365)
# Moments outside these years cannot be told in every time zone.
_FIRST_YEAR, _LAST_YEAR = 1000, 9000

UTC_ZONE = ZoneInfo("UTC")

# Clocks of two machines are never quite the same, and `now` may be read before what is held against it.
# What lies farther ahead than this bears a wrong time.
CLOCK_SKEW = timedelta(minutes=1)


def age_of(moment: datetime | None, now: datetime) -> timedelta | None:
    """None for a moment that nobody knows, or that lies so far ahead that nobody can tell."""
    if moment is None or moment - now > CLOCK_SKEW:
        return None
    return max(now - moment, timedelta(0))


def parse_size(text: str) -> int:
    """`64MiB` -> 67108864. A number without a unit, or above 8 EiB, is refused with ValueError."""
    text = text.strip()
    match = _SIZE.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(
            f"{text[:_LONGEST]!r} is not a size: write a number with a unit, such as 64MiB"
        )
    size = float(match[1]) * _SIZE_UNITS[match[2]]
    if size > _MOST_SIZE:
        raise ValueError(f"{text!r} is more than any store or server holds")
    return int(size)


def parse_span(text: str) -> timedelta:
    """`15m`, `1h30m` -> timedelta. ValueError for a number without a unit, and for more than a century."""
    text = text.strip()
    # Of a longer one, looking for numbers would take the square of its length.
    parts = list(_SPAN.finditer(text)) if len(text) <= _LONGEST else []
    if not parts or "".join(part[0] for part in parts) != text:
        raise ValueError(
            f"{text[:_LONGEST]!r} is not a span of time: write a number with a unit, such as 15m"
        )
    seconds = sum(float(part[1]) * _SPAN_SECONDS[part[2]] for part in parts)
    if seconds > _MOST_SPAN.total_seconds():
        raise ValueError(f"{text!r} is more than {_MOST_SPAN.days // 365} years")
    return timedelta(seconds=seconds)


def parse_moment(text: str, zone: ZoneInfo) -> datetime:
    """ISO 8601, to a moment with a zone; a time without an offset is read in `zone`.

    A time that a clock change skipped or showed twice is refused with ValueError: it names no
    single moment. Source: Python's datetime and PEP 495 (fold).
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is not a moment: write it as 2024-05-01T10:00 or 2024-05-01T10:00:00+02:00"
        ) from None
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError(f"{text!r} lies in the year {moment.year}: no backup is of that time")
    if len(text.strip()) <= 10:
        raise ValueError(
            f"{text!r} names a day, not a moment: add the time, as in {text.strip()}T10:00"
        )
    if moment.tzinfo is not None:
        return moment
    early = moment.replace(tzinfo=zone, fold=0)
    late = moment.replace(tzinfo=zone, fold=1)
    if early.utcoffset() != late.utcoffset():
        raise ValueError(
            f"{text!r} does not name one moment in {zone.key} (the clocks change then): add an offset,"
            f" {early.astimezone(UTC).isoformat()} or {late.astimezone(UTC).isoformat()}"
        )
    return early


def read_iso(text: str) -> datetime | None:
    """A moment with an offset as a program writes it; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def format_size(size_bytes: int) -> str:
    """`1.4 GB`: three significant figures in powers of a thousand."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB" if size < 999.5 else f"{size:.0f} TB"


def format_limit(size_bytes: int) -> str:
    """A size that somebody wrote down, in the unit that it is whole in: `16 GiB`, `500 MB`."""
    for unit in ("TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "kB"):
        if size_bytes and size_bytes % _SIZE_UNITS[unit] == 0:
            return f"{size_bytes // _SIZE_UNITS[unit]:,} {unit}"
    return format_size(size_bytes)


def format_skew(skew: timedelta) -> str:
    """How far a clock is off: `+1.2 s`, `-0.3 s`, `0.0 s`."""
    tenths = round(skew.total_seconds() * 10)
    return f"{tenths / 10:+.1f} s" if tenths else "0.0 s"


def counted(count: int, noun: str, many: str = "") -> str:
    """`1 backup`, `1,204 backups`; `many` for a plural that is not made with an s."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def format_span(span: timedelta) -> str:
    """`8.5 s`, `2 min 10 s`, `1 h 05 min`, `3 d 04 h`: what a person would say."""
    seconds = span.total_seconds()
    if seconds < 0:
        return f"-{format_span(-span)}"
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def format_age(moment: datetime, now: datetime) -> str:
    """`3 h 05 min ago`; a moment that lies ahead is a date, since an age below zero tells nobody anything."""
    ahead = moment - now
    if ahead <= timedelta(seconds=1):
        return f"{format_span(max(-ahead, timedelta(0)))} ago"
    shown = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return f"dated {shown}, {format_span(ahead)} ahead of this machine's clock"


def format_promise(span: timedelta) -> str:
    """Like `format_span`, but a round span has no zeros: `15 min`, `1 h`, `14 d`, `10 s`."""
    text = format_span(span)
    for zeros in (" 00 s", " 00 min", " 00 h"):
        text = text.removesuffix(zeros)
    return f"{text[:-4]} s" if text.endswith(".0 s") else text


def format_exact(moment: datetime, zone: tzinfo) -> str:
    """To the microsecond, as `--to` takes it: `2024-05-01T10:00:00.25+02:00`."""
    return moment.astimezone(zone).isoformat().replace("+00:00", "Z")


def format_moment(moment: datetime, zone: ZoneInfo) -> str:
    """Local time with offset and zone, then UTC: `2024-05-01 10:00:00+02:00 Europe/Warsaw (08:00:00Z)`;
    where the zone is UTC itself, once: `2024-05-01 08:00:00Z`.
    """
    local, universal = moment.astimezone(zone), moment.astimezone(UTC)
    if zone.key == UTC_ZONE.key:
        return universal.strftime("%Y-%m-%d %H:%M:%SZ")
    same_day = local.date() == universal.date()
    shown = universal.strftime("%H:%M:%SZ" if same_day else "%Y-%m-%d %H:%M:%SZ")
    return f"{local.isoformat(sep=' ', timespec='seconds')} {zone.key} ({shown})"
