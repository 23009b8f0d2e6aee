"""What the parts of keys look like: a name is read strictly, for anybody may have made it."""

from __future__ import annotations

import re

# Between the name of an object and the digits that are added where somebody else has taken the name.
BESIDE = "~"

_BESIDE = re.compile(r"(?P<name>.+)~[0-9a-f]{8}", re.DOTALL)
_BACKUP_ID = re.compile(r"[0-9]{8}T[0-9]{6}(\.[0-9]{3})?Z-[0-9a-f]{6}")
_SYSTEM_ID = re.compile(r"[0-9]{1,30}")
_TIMELINE = re.compile(r"[0-9A-F]{8}")
_DAY = re.compile(r"[0-9]{8}")


def is_beside(key: str, taken: str) -> bool:
    """Whether `key` is a name that an object gets whose own name, `taken`, somebody else has taken."""
    match = _BESIDE.fullmatch(key)
    return match is not None and match["name"] == taken


def own_name(name: str) -> str:
    """The name that an object stands for: its own, or that beside which it was put."""
    match = _BESIDE.fullmatch(name)
    return match["name"] if match else name


def is_backup_id(name: str) -> bool:
    """Whether a backup can have that id."""
    return _BACKUP_ID.fullmatch(name) is not None


def parse_system_id(name: str) -> int | None:
    """The cluster whose log a directory is, branches counted (FORMAT.md, section 1); None for any other."""
    return int(name) if _SYSTEM_ID.fullmatch(name) else None


def parse_timeline(name: str) -> int | None:
    """The timeline whose log or marks a directory holds; None for any other name."""
    timeline = int(name, 16) if _TIMELINE.fullmatch(name) else 0
    return timeline or None


def is_day(name: str) -> bool:
    """Whether a directory of marks is of a day."""
    return _DAY.fullmatch(name) is not None
