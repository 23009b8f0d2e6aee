"""What the patterns of `--path` mean, said a second time: a check must not share code with what it checks.

`tree_choice` and `sources.files.exclude` choose what is restored; this says which paths of a snapshot
should have been chosen, path by path, and which patterns match nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from drtool.sources.files.exclude import ExcludeRules

# Brackets and escapes are left to the patterns' own library: nobody needs two readings of those.
_UNUSUAL = re.compile(r"[\[\\]")


@dataclass(frozen=True, slots=True)
class _Pattern:
    line: str
    regex: re.Pattern[str]
    is_negated: bool
    only_directories: bool

    def matches(self, path: str, *, is_directory: bool) -> bool:
        if self.only_directories and not is_directory:
            return False
        return self.regex.fullmatch(path) is not None


class AskedPaths:
    """Judges the paths of a snapshot, in any order; one thread.

    Meant to be asked about every entry once: `unmatched` are then the patterns that match none.
    """

    def __init__(self, rules: ExcludeRules) -> None:
        self._rules = rules
        read = [_read(line) for line in rules.lines]
        self._patterns = [pattern for pattern in read if pattern is not None]
        self._is_unusual = any(_UNUSUAL.search(line) for line in rules.lines)
        self._matched: set[str] = set()
        self._last: tuple[bytes, bool] = b"", False

    def wants(self, path: bytes, *, is_directory: bool) -> bool:
        """Whether the patterns ask for this entry itself, or for a directory above it."""
        if not path:
            return False
        above = path.rpartition(b"/")[0]
        if above != self._last[0]:
            self._last = above, self._wants_any_of(above)
        # Every entry is looked at, also below a wanted directory, so that its pattern counts.
        return self._last[1] | self._is_named(path, is_directory=is_directory)

    @property
    def unmatched(self) -> list[str]:
        """Patterns that name something, and matched none of the entries asked about."""
        if self._is_unusual:
            return []
        lines = [one.line for one in self._patterns if not one.is_negated]
        return [line for line in lines if line not in self._matched]

    def _wants_any_of(self, directory: bytes) -> bool:
        parts = directory.split(b"/") if directory else []
        ways = (b"/".join(parts[:count]) for count in range(1, len(parts) + 1))
        return any(self._is_named(way, is_directory=True) for way in ways)

    def _is_named(self, path: bytes, *, is_directory: bool) -> bool:
        if self._is_unusual:
            return self._rules.excludes(path, is_directory=is_directory)
        is_named, text = False, os.fsdecode(path)
        for pattern in self._patterns:
            if pattern.matches(text, is_directory=is_directory):
                is_named = not pattern.is_negated
                self._matched.add(pattern.line)
        return is_named


def _read(line: str) -> _Pattern | None:
    """A line of a .gitignore; None for one that names nothing, or is unusual."""
    text = line.rstrip(" ")
    if not text or text.startswith("#") or _UNUSUAL.search(text):
        return None
    is_negated = text.startswith("!")
    text = text.removeprefix("!")
    only_directories = text.endswith("/")
    text = text.removesuffix("/")
    if not text:
        return None
    names = text.removeprefix("/").split("/")
    if "/" not in text:
        names.insert(0, "**")
    return _Pattern(line, re.compile(_of_names(names), re.DOTALL), is_negated, only_directories)


def _of_names(names: list[str]) -> str:
    """`**` stands for directories of any depth, at the end for all that lies below.

    What stands before a `**` is taken where it is found first, and for good: `(?>...)`. Else a path of
    many short names would be tried in each way to share them out.
    """
    parts: list[list[str]] = [[]]
    for name in names:
        if name == "**":
            parts.append([])
        else:
            parts[-1].append(_of_name(name))
    *before, last = ["/".join(part) for part in parts]
    expression = ""
    for number, part in enumerate(before):
        if part:
            expression += f"(?>{'(?:.*?/)??' if number else ''}{part}/)"
    if not before:
        return last
    return expression + (f"(?:.*/)?{last}" if last else ".+")


def _of_name(name: str) -> str:
    """One name of a path: `*` and `?` stand for anything but a slash."""
    first, *pieces = [
        "".join("[^/]" if sign == "?" else re.escape(sign) for sign in piece)
        for piece in re.split(r"\*+", name)
    ]
    if not pieces:
        return first
    return first + "".join(f"(?>[^/]*?{piece})" for piece in pieces[:-1]) + f"[^/]*{pieces[-1]}"
