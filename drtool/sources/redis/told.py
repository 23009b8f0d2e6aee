"""What a server says of itself, as numbers and addresses: within limits, or SourceUnavailable.

Names and values are those of INFO, CONFIG GET and SENTINEL; nothing here has been looked at before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from drtool.errors import SourceUnavailable
from drtool.sources.redis.address import NodeAddress

# What fits a number of Redis.
_WHOLE = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_LARGEST = (1 << 63) - 1
_LAST_PORT = 65535
_LONGEST_HOST = 255
# The year 9000: what is added to it is a moment, too.
_LAST_SECOND = 221845392000


def whole(told: Mapping[str, str], name: str, default: int = 0) -> int:
    """The number `name`; `default` where it is not told, SourceUnavailable where it is none."""
    text = told.get(name)
    return default if text is None else whole_of(text, name)


def whole_of(text: str, name: str) -> int:
    """`text` as a number; `name` says in messages what it would be."""
    number = int(text) if _WHOLE.fullmatch(text) else None
    if number is None or abs(number) > _LARGEST:
        raise SourceUnavailable(
            f"a Redis says that its {name} is {text[:40]!r}, which is no number",
            hint="Look whether a Redis listens there, and what stands between it and drtool.",
        )
    return number


def said(told: Mapping[str, str], name: str) -> str:
    """The text `name`; SourceUnavailable where it is not told."""
    if name not in told:
        raise SourceUnavailable(
            f"a Redis does not say what its {name} is",
            hint="Look whether a Redis listens there, and allow the user `+info`.",
        )
    return told[name]


def address_of(host: str, port: str) -> NodeAddress:
    """An address that a server names, to connect to: never a path here, which port 0 stands for."""
    number = whole_of(port, "port")
    if not 0 < number <= _LAST_PORT or len(host) > _LONGEST_HOST or not host.isprintable():
        raise SourceUnavailable(
            f"a Redis names {host[:40]!r} and {port[:20]!r}, which is no address",
            hint="Look whether a Redis listens there, and what stands between it and drtool.",
        )
    return NodeAddress(host, number)


def moment_of(seconds: int, microseconds: int = 0) -> datetime:
    """A moment by a server's clock, in seconds since 1970."""
    if not 0 <= seconds <= _LAST_SECOND or not 0 <= microseconds < 1_000_000:
        raise SourceUnavailable(
            f"a Redis tells a time of {seconds} s since 1970, which is none",
            hint="Look at the clock of its machine.",
        )
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)


def words_of(text: str) -> dict[str, str]:
    """Names and values of a line such as `ip=10.0.0.1,port=6379`."""
    return dict(word.split("=", 1) for word in text.split(",") if "=" in word)
