"""The small values of a policy, each of which refuses what it cannot be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import time
from typing import NewType
from urllib.parse import urlsplit

from drtool.model.measure import parse_size

CronLine = NewType("CronLine", str)
"""Five fields, as in crontab(5); `config/` checks the text before it becomes one."""

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
STORE_SCHEMES = ("file", "s3", "gs", "az")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_DAY = f"(?:{'|'.join(DAYS)})"
_CLOCK = r"([01]\d|2[0-3]):([0-5]\d)"
WEEKLY_WINDOW = rf"({_DAY}(?:,{_DAY})*) {_CLOCK}-{_CLOCK}"
NAME = _NAME.pattern


class Name(str):
    """The name of a stack, a source or a scenario: safe in a path, a key and a shell."""

    __slots__ = ()

    def __new__(cls, text: str) -> Name:
        if _NAME.fullmatch(text) is None:
            raise ValueError(
                f"{text!r} is not a name: use up to 63 small letters, digits, '-', '_' and '.',"
                " beginning with a letter or a digit"
            )
        return super().__new__(cls, text)


class ByteSize(int):
    """A size with its unit, such as `16GiB`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> ByteSize:
        return cls(parse_size(text))


class StoreUrl(str):
    """Where objects are kept: `s3://bucket/prefix`, `file:///directory`, `gs://`, `az://`."""

    __slots__ = ()

    def __new__(cls, text: str) -> StoreUrl:
        parts = urlsplit(text)
        if "@" in parts.netloc:
            # The text is not repeated: it may hold a password.
            raise ValueError("a store's address holds no credentials: give them in the environment")
        if parts.scheme not in STORE_SCHEMES:
            raise ValueError(
                f"{text!r} is not the address of a store: it begins with one of"
                f" {', '.join(scheme + '://' for scheme in STORE_SCHEMES)}"
            )
        if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
            raise ValueError(f"{text!r} is not an absolute path: write file:///srv/drtool")
        if parts.scheme != "file" and not parts.netloc:
            raise ValueError(f"{text!r} names no bucket: write {parts.scheme}://BUCKET/PREFIX")
        return super().__new__(cls, text)


@dataclass(frozen=True, slots=True)
class WeeklyWindow:
    """A stretch of the week, such as `Tue 02:00-04:00`; it ends on the next day if `end` <= `begin`."""

    days: tuple[str, ...]
    begin: time
    end: time

    @classmethod
    def parse(cls, text: str) -> WeeklyWindow:
        match = re.fullmatch(WEEKLY_WINDOW, text)
        if match is None:
            raise ValueError(f"{text!r} is not a weekly window: write it as 'Tue 02:00-04:00'")
        days, *clock = match.groups()
        hours = [int(digits) for digits in clock]
        return cls(tuple(days.split(",")), time(hours[0], hours[1]), time(hours[2], hours[3]))
