"""JSON from outside: read with limits, and its members by type.

`json` takes `NaN` and `1e999`, numbers of any length and any nesting, and what a document says where
a text is expected may be a list. Whatever is not as it should be is a ValueError here, which the caller
turns into its own error with the name of the object.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

Json = Any  # what `json` gives: of which type it is, is asked where it is used

# A manifest of a terabyte has 5 MB; PostgreSQL's list of a million files has 150 MB and a limit of its own.
MOST_JSON_BYTES = 64 << 20
# Counts, positions and sizes are at most eight bytes wide.
MOST_NUMBER = (1 << 64) - 1
_LONGEST_NUMBER = 40
# Moments outside these years cannot be told in every time zone.
_FIRST_YEAR, _LAST_YEAR = 2, 9998


def read_json(content: bytes | str, *, most_bytes: int = MOST_JSON_BYTES) -> Json:
    """What `content` says; ValueError if it is longer, nested too deep, or has a number that is none."""
    if len(content) > most_bytes:
        raise ValueError(f"it has {len(content)} bytes, more than {most_bytes}")
    try:
        return json.loads(
            content, parse_int=_integer, parse_float=_number, parse_constant=_no_number
        )
    except (json.JSONDecodeError, UnicodeDecodeError):
        # What the parser says tells nobody what the object is.
        raise ValueError("it is no JSON" if content else "it is empty") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_object(content: bytes | str, *, most_bytes: int = MOST_JSON_BYTES) -> JsonObject:
    """The same for a document that is one object."""
    return JsonObject(read_json(content, most_bytes=most_bytes))


class JsonObject:
    """Reads members by type. ValueError names the member that is missing or is something else."""

    __slots__ = ("members",)

    def __init__(self, members: object) -> None:
        if isinstance(members, JsonObject):
            members = members.members
        if not isinstance(members, dict):
            raise ValueError(f"an object was expected, not {_told(members)}")
        self.members: Mapping[str, object] = members

    def has(self, name: str) -> bool:
        """Whether the member is there and not null."""
        return self.members.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        """A text that can be told and written: unpaired surrogates stand only for bytes of a path."""
        return _as_text(self._value(name, default), name)

    def whole(self, name: str, default: int | None = None, *, most: int = MOST_NUMBER) -> int:
        """A whole number from 0 to `most`."""
        return _as_whole(self._value(name, default), name, most)

    def whole_or_none(self, name: str) -> int | None:
        """A whole number where the member is there."""
        return self.whole(name) if self.has(name) else None

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise _other(name, "true or false", value)
        return value

    def moment(self, name: str) -> datetime:
        """A moment with an offset, in ISO 8601."""
        return as_moment(self.text(name), name)

    def inner(self, name: str) -> JsonObject:
        """An object in the object."""
        value = self._value(name, None)
        if not isinstance(value, dict):
            raise _other(name, "an object", value)
        return JsonObject(value)

    def items(self, name: str, default: tuple[()] | None = None) -> list[Json]:
        """A list, of which nothing else is known."""
        value = self._value(name, default)
        if not isinstance(value, list | tuple):
            raise _other(name, "a list", value)
        return list(value)

    def texts(self, name: str, default: tuple[()] | None = None) -> tuple[str, ...]:
        """A list of texts."""
        return texts_of(self.items(name, default), name)

    def numbers(self, name: str, *, columns: int | None = None) -> tuple[int, ...]:
        """A list of whole numbers, of so many where `columns` is given."""
        row = self.items(name) if columns is None else self._row(name, columns)
        return tuple(_as_whole(value, name, MOST_NUMBER) for value in row)

    def two_texts(self, name: str) -> tuple[str, str]:
        """A list of two texts."""
        first, second = self._row(name, 2)
        return _as_text(first, name), _as_text(second, name)

    def text_and_number(self, name: str) -> tuple[str, int]:
        """A list of a text and a whole number."""
        text, number = self._row(name, 2)
        return _as_text(text, name), _as_whole(number, name, MOST_NUMBER)

    def pairs(self, name: str) -> tuple[tuple[int, int], ...]:
        """A list of pairs of whole numbers."""
        return tuple(
            (_as_whole(first, name, MOST_NUMBER), _as_whole(second, name, MOST_NUMBER))
            for first, second in (as_row(row, name, columns=2) for row in self.items(name))
        )

    def texts_by_name(self, name: str) -> tuple[tuple[str, str], ...]:
        """Names with texts, in their order; none where the member is missing."""
        if not self.has(name):
            return ()
        return tuple(
            (_as_text(key, name), _as_text(value, f"{name}.{key}"))
            for key, value in self.inner(name).members.items()
        )

    def _row(self, name: str, columns: int) -> list[Json]:
        return as_row(self._value(name, None), name, columns=columns)

    def _value(self, name: str, default: object) -> object:
        value = self.members.get(name, default)
        if value is None and default is None:
            raise ValueError(f"it has no {name}")
        return value


def as_moment(text: str, name: str) -> datetime:
    """A moment with an offset; ValueError for one that no clock of ours could tell."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{name} has no time zone")
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError(f"{name} lies in the year {moment.year}")
    return moment


def as_row(value: object, name: str, *, columns: int) -> list[Json]:
    """A list of so many values."""
    if not isinstance(value, list | tuple) or len(value) != columns:
        raise _other(name, f"rows of {columns}", value)
    return list(value)


def number_and_text(value: object, name: str) -> tuple[int, str]:
    """A row of a whole number and a text."""
    number, text = as_row(value, name, columns=2)
    return _as_whole(number, name, MOST_NUMBER), _as_text(text, name)


def whole_of_text(text: str) -> int:
    """A whole number that stands in a text, as those do that other languages would round."""
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        raise ValueError(f"{text[:_LONGEST_NUMBER]!r} is not a whole number")
    return int(text)


def texts_of(values: Iterable[object], name: str) -> tuple[str, ...]:
    """Values that are all texts."""
    return tuple(_as_text(value, name) for value in values)


def _as_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise _other(name, "a text", value)
    value.encode("utf-8", "surrogateescape")
    return value


def _as_whole(value: object, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _other(name, "a whole number", value)
    if not 0 <= value <= most:
        raise ValueError(f"{name} is {value}, outside of 0 to {most}")
    return value


def _other(name: str, wanted: str, value: object) -> ValueError:
    return ValueError(f"{name} is {_told(value)}, not {wanted}")


def _told(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else "nothing")


def _integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is greater than any that there is")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")
