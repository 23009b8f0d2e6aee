"""Text from outside as visible characters: nothing that it holds can move a cursor or redraw a line.

A lease's owner, the name of an object, a row of an answer and a server's message are chosen by others.
On a terminal ESC and its kin act (ECMA-48), and the bidirectional controls of Unicode (UAX 9) show a
line in another order than it is written in.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from drtool.model.outcome import Outcome

Shown = TypeVar("Shown", bound="Outcome")

# C0, DEL and C1; the separators of lines and paragraphs; marks, embeddings, overrides and isolates of
# direction; the byte order mark and the invisible tags; halves of a surrogate pair, which no terminal
# can be sent. The tab is a control too: it moves to a column of its own.
_ACTING = (
    "\x00-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f"
    "\ud800-\udfff"
)
_IN_A_LINE = re.compile(f"[{_ACTING}]")
_IN_LINES = re.compile(f"(?!\n)[{_ACTING}]")
_LAID_OUT = {"text", "message", "hint"}


def printable(text: str) -> str:
    r"""One line: each character that would act is written as JSON writes it, `\u001b`."""
    return text if text.isprintable() else _IN_A_LINE.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Several lines, of which each is printable. A JSON text says the same afterwards."""
    return text if text.isascii() and text.isprintable() else _IN_LINES.sub(_escape, text)


def printable_outcome(outcome: Shown) -> Shown:
    """The outcome with every text in it, however deep, as one printable line.

    Only what is laid out in lines keeps them: a sheet's `text`, a failure's message and hint.
    """
    shown: Shown = _printable(outcome)
    return shown


def _printable(value: Any, name: str = "") -> Any:  # Any: whatever an outcome holds, at any depth
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return printable_lines(value) if name in _LAID_OUT else printable(value)
    if isinstance(value, tuple):
        return tuple(_printable(item) for item in value)
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    old = {field.name: getattr(value, field.name) for field in fields(value)}
    new = {name: _printable(item, name) for name, item in old.items()}
    return value if new == old else replace(value, **new)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
