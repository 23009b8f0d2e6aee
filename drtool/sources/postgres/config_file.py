"""The syntax of postgresql.conf: what a text sets and on which line, and lines put out of force. Pure.

Source: guc-file.l of PostgreSQL 15 to 18. A value never spans lines; the last of several counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

INCLUDES = frozenset({"include", "include_if_exists", "include_dir"})
_OUT_OF_FORCE = "# drtool: "
_ENTRY = re.compile(
    r"\s*(?P<name>[A-Za-z_\x80-\uffff][\w$]*(?:\.[A-Za-z_\x80-\uffff][\w$]*)*)(?:\s*=\s*|\s+|(?='))"
    r"(?P<value>'(?:[^'\\]|\\.|'')*'|[^\s#']+)\s*(?:#.*)?$"
)
_ESCAPE = re.compile(r"''|\\([0-7]{1,3}|.)", re.S)
_NAMED_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """One setting or include directive, on line `line` (counted from 0); `name` in lower case."""

    line: int
    name: str
    value: str


def entries_of(text: str) -> tuple[ConfigEntry, ...]:
    """Every entry in its order; lines that PostgreSQL would not understand are left out."""
    found = []
    for number, line in enumerate(text.split("\n")):
        match = _ENTRY.match(line)
        if match is not None:
            found.append(ConfigEntry(number, match["name"].lower(), _unquoted(match["value"])))
    return tuple(found)


def out_of_force(text: str, lines: Collection[int]) -> str:
    """The text with these lines as comments, which say who made them so."""
    return "\n".join(
        _OUT_OF_FORCE + line.lstrip() if number in lines else line
        for number, line in enumerate(text.split("\n"))
    )


def config_line(name: str, value: str) -> str:
    """A line that sets `name`, whatever is in the value."""
    escaped = value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n")
    return f"{name} = '{escaped}'\n"


def _unquoted(text: str) -> str:
    if not text.startswith("'"):
        return text
    return _ESCAPE.sub(_meant, text[1:-1])


def _meant(match: re.Match[str]) -> str:
    escaped = match[1]
    if escaped is None:
        return "'"
    if escaped[0] in "01234567":
        return chr(int(escaped, 8) & 0xFF)
    return _NAMED_ESCAPES.get(escaped, escaped)
