"""The words of a kind of source: what is WAL to PostgreSQL is the stream to Redis, and files have none."""

from __future__ import annotations

from drtool.model.measure import format_size

LOGS = {"postgres": "WAL", "redis": "stream"}


def backup_word(kind: str) -> str:
    """What a backup of that kind is called."""
    return "backup" if kind == "postgres" else "snapshot"


def reached_word(kind: str) -> str:
    """What the moment is that a restored copy stands at."""
    return {"postgres": "last commit", "redis": "last mark"}.get(kind, "as of")


def with_log(kind: str, size_bytes: int, log_bytes: int) -> str:
    """How much was brought back, with the log where the kind has one."""
    if kind not in LOGS:
        return f"{format_size(size_bytes)} of files"
    return f"{format_size(size_bytes)} and {format_size(log_bytes)} of {LOGS[kind]}"
