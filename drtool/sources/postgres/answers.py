"""What a server answers is text and bytes from outside: anything that PostgreSQL does not say is an error."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from drtool.errors import SourceUnavailable

# No number in an answer of the replication protocol has more digits than a position has bits.
_LONGEST_NUMBER = 20


@contextmanager
def understood(place: str) -> Iterator[None]:
    """Around the reading of an answer: SourceUnavailable where it has another form than was asked for."""
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, struct.error) as error:
        raise not_postgresql(place, str(error)) from error


def not_postgresql(place: str, fact: str) -> SourceUnavailable:
    """The error for an answer that is none of PostgreSQL."""
    return SourceUnavailable(
        f"{place} does not answer as PostgreSQL 15 and later do: {fact[:200]!r}",
        hint="Give the DSN of the server itself, not of a pooler or proxy.",
    )


def number(text: str | None) -> int:
    """A whole number, as a server prints one; ValueError for anything else."""
    if text is None or len(text) > _LONGEST_NUMBER or not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text and text[:_LONGEST_NUMBER]!r} is not a number")
    return int(text)
