"""Objects of a log that nobody with the key has put, as far as they themselves tell: their words."""

from __future__ import annotations

from drtool.errors import DrtoolError
from drtool.repository.sealing import not_authentic


def what_it_is_not(error: DrtoolError) -> str:
    """What such an object is told to be, where nothing is missing without it."""
    return f"is no part of the log: {error.message.partition(' is damaged: ')[2] or error.message}"


def cut_short(key: str, size_bytes: int) -> tuple[str, int, DrtoolError | None]:
    """The answer for an object that is too small to be a sealed one."""
    return key, 0, not_authentic(key, f"it has {size_bytes} bytes, too few for a log object")
