"""Types of a policy's single values: how each is read from text, and what a schema says of it.

YAML's own guesses (12:30 as 750, `no` as false) never apply: a value is read as its type says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from drtool.config.nearest import nearest
from drtool.model.measure import parse_span
from drtool.policy.scalars import (
    NAME,
    STORE_SCHEMES,
    WEEKLY_WINDOW,
    ByteSize,
    CronLine,
    Name,
    StoreUrl,
    WeeklyWindow,
)
from drtool.policy.secrets import REFERENCE, NoEncryption, SecretReference

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Scalar:
    """`read` raises ValueError with a message that may be shown: it repeats no secret."""

    read: Callable[[str], object]
    schema: dict[str, Json]


def _read_text(text: str) -> str:
    if not text:
        raise ValueError("the value is empty")
    return text


def _read_whole_number(text: str) -> int:
    if not text.removeprefix("-").isascii() or not text.removeprefix("-").isdigit():
        raise ValueError(f"{text!r} is not a whole number")
    number = int(text) if len(text) <= _LONGEST_NUMBER else None
    if number is None or abs(number) > _MOST_NUMBER:
        raise ValueError(f"{text[:_LONGEST_NUMBER]} is more than any setting means")
    return number


def _read_flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def _read_zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(_read_text(text))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # Asked for the list only now: making it reads hundreds of files.
        near = nearest(text, available_timezones())
        raise ValueError(f"{text!r} is not an IANA time zone{near}") from None


def _read_path(text: str) -> Path:
    path = Path(_read_text(text))
    if not path.is_absolute():
        raise ValueError(f"{text!r} is not an absolute path")
    return path


# Five fields that name every minute, hour and day one by one have 400 characters.
_LONGEST_CRON_LINE = 1000
_LONGEST_NUMBER = 20
_MOST_NUMBER = (1 << 63) - 1
_CRON_WORDS = (
    r"([\d*,/\s-]|sun|mon|tue|wed|thu|fri|sat|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)*"
)


def _read_cron(text: str) -> CronLine:
    from croniter import croniter  # not for a policy without a schedule

    # croniter also takes six and seven fields, names such as @daily, and R for a time drawn by lot,
    # anew each time; cron's own five are enough and mean the same to every scheduler.
    is_plain = re.fullmatch(_CRON_WORDS, text[:_LONGEST_CRON_LINE], re.IGNORECASE)
    is_short = len(text) <= _LONGEST_CRON_LINE
    if not is_short or len(text.split()) != 5 or not is_plain or not croniter.is_valid(text):
        raise ValueError(
            f"{text[:_LONGEST_CRON_LINE]!r} is not a crontab line: write five fields, such as '0 2 * * *'"
        )
    return CronLine(text)


def _read_key(text: str) -> SecretReference | NoEncryption:
    return NoEncryption() if text == "none" else SecretReference.parse(text)


_SIZE_PATTERN = r"^\d+(\.\d+)?\s*(B|[kMGT]B|[KMGT]iB)$"
_SPAN_PATTERN = r"^(\d+(\.\d+)?(ms|s|m|h|d|w))+$"

SCALARS: dict[object, Scalar] = {
    str: Scalar(_read_text, {"type": "string", "minLength": 1}),
    int: Scalar(_read_whole_number, {"type": "integer"}),
    bool: Scalar(_read_flag, {"type": "boolean"}),
    Name: Scalar(Name, {"type": "string", "pattern": f"^{NAME}$"}),
    StoreUrl: Scalar(
        StoreUrl, {"type": "string", "pattern": f"^({'|'.join(STORE_SCHEMES)})://[^@]+$"}
    ),
    CronLine: Scalar(
        _read_cron, {"type": "string", "pattern": r"^\s*\S+\s+\S+\s+\S+\s+\S+\s+\S+\s*$"}
    ),
    WeeklyWindow: Scalar(WeeklyWindow.parse, {"type": "string", "pattern": f"^{WEEKLY_WINDOW}$"}),
    ByteSize: Scalar(ByteSize.parse, {"type": "string", "pattern": _SIZE_PATTERN}),
    timedelta: Scalar(parse_span, {"type": "string", "pattern": _SPAN_PATTERN}),
    ZoneInfo: Scalar(_read_zone, {"type": "string", "examples": ["Europe/Warsaw", "UTC"]}),
    Path: Scalar(_read_path, {"type": "string", "pattern": "^/"}),
    SecretReference: Scalar(
        SecretReference.parse, {"type": "string", "pattern": f"^({REFERENCE})$"}
    ),
    SecretReference | NoEncryption: Scalar(
        _read_key, {"type": "string", "pattern": f"^(none|{REFERENCE})$"}
    ),
}
