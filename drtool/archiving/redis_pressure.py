"""How near a server is to cutting our link for what it keeps back for us."""

from __future__ import annotations

from dataclasses import dataclass

from drtool.errors import SourceUnavailable
from drtool.sources.redis.connection import RedisConnection

# We leave by ourselves at this part of a limit.
_PART = 0.75
# Redis's own default, where CONFIG may not be asked.
_DEFAULT = "replica 268435456 67108864 60"


@dataclass(frozen=True, slots=True)
class BufferLimit:
    """`client-output-buffer-limit replica`; 0 is no limit."""

    hard_bytes: int
    soft_bytes: int
    soft_seconds: int

    @classmethod
    def parse(cls, text: str) -> BufferLimit:
        """The replicas' part of the setting; ValueError if there is none."""
        words = text.split()
        for place, word in enumerate(words):
            if word in ("replica", "slave"):
                hard, soft, seconds = (int(one) for one in words[place + 1 : place + 4])
                return cls(hard, soft, seconds)
        raise ValueError(f"no limit for replicas in {text!r}")


def read_limit(connection: RedisConnection) -> BufferLimit:
    """The server's limit, or Redis's default where it does not tell."""
    try:
        told = connection.settings("client-output-buffer-limit")
        return BufferLimit.parse(told.get("client-output-buffer-limit", _DEFAULT))
    except (SourceUnavailable, ValueError):
        return BufferLimit.parse(_DEFAULT)


class Pressure:
    """Judges, look by look, whether the server is about to cut the link."""

    def __init__(self, limit: BufferLimit) -> None:
        self._limit = limit
        self._soft_since: float | None = None

    def is_too_high(self, kept_back_bytes: int, now: float) -> bool:
        """Whether `kept_back_bytes` at `now` (monotonic) mean that it is time to leave."""
        limit = self._limit
        if limit.hard_bytes and kept_back_bytes > limit.hard_bytes * _PART:
            return True
        if not limit.soft_bytes or kept_back_bytes <= limit.soft_bytes * _PART:
            self._soft_since = None
            return False
        if self._soft_since is None:
            self._soft_since = now
        return now - self._soft_since > limit.soft_seconds * _PART
