"""What a tree leaves out: patterns as in a .gitignore, and directories marked as caches."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from drtool.errors import PolicyError
from drtool.model.finding import Finding, Severity
from drtool.sources.files.bounded_patterns import bounded

CACHE_TAG_NAME = b"CACHEDIR.TAG"
CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55"

# No path holds this sign: it is no UTF-8, and surrogateescape yields only U+DC80 and above. It
# stands for a newline, which the `.` of a regular expression would not match and `$` would skip.
_NEWLINE = "\ud800"
# PATH_MAX, in which a sign may take four characters of a pattern.
_LONGEST_LINE = 4 * 4096
_LONGEST_SHOWN = 200
# Paths that no sensible set of patterns excludes all at once.
_PROBES = (b"a", b"Zz.9x", b"q7/b", b"q7/w.e", b"\xf0\x9f\x97\x83", b"a/b/c/d.txt")


@dataclass(frozen=True, slots=True)
class ExcludeRules:
    """Judges paths. As in git, nothing below an excluded directory can be included again."""

    lines: tuple[str, ...]
    _last_first: tuple[_Compiled, ...]

    def excludes(self, path: bytes, *, is_directory: bool) -> bool:
        """Whether an entry is left out; its parents are asked for before and were not."""
        text = os.fsdecode(path)
        if "\n" in text:
            text = text.replace("\n", _NEWLINE)
        if is_directory:
            text += "/"
        for pattern in self._last_first:
            if pattern.regex.search(text) is not None:
                return pattern.excludes
        return False

    def excludes_below(self, path: bytes) -> bool:
        """The same for a path of which only the name is known: whether it or a parent is left out."""
        parts = path.split(b"/")
        parents = (b"/".join(parts[:count]) for count in range(1, len(parts)))
        return any(self.excludes(parent, is_directory=True) for parent in parents) or (
            self.excludes(path, is_directory=False)
        )

    def findings(self) -> list[Finding]:
        """A problem if the patterns leave out everything, whatever the tree holds."""
        if not all(self.excludes_below(probe) for probe in _PROBES):
            return []
        guilty = next(
            (line for line in self.lines if _excludes_all_alone(line)), ", ".join(self.lines)
        )
        return [
            Finding(
                severity=Severity.PROBLEM,
                subject=f"exclude pattern {guilty!r}",
                fact="leaves out every file there is",
                fix="Write a pattern that names what to leave out, such as `*.tmp` or `/cache/`.",
            )
        ]


def _excludes_all_alone(line: str) -> bool:
    rules = compile_rules([line])
    return all(rules.excludes_below(probe) for probe in _PROBES)


def compile_rules(lines: Iterable[str]) -> ExcludeRules:
    """Patterns, one a line, in the syntax of a .gitignore whose place is the tree's root.

    PolicyError for a line that git would refuse, take no notice of, or read as several.
    """
    kept = tuple(lines)
    patterns = [pattern for line in kept if (pattern := _compile(line)) is not None]
    return ExcludeRules(kept, tuple(reversed(patterns)))


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A pattern; `regex` finds something in the path of an entry that it means, and in no other."""

    regex: re.Pattern[str]
    excludes: bool


def _compile(line: str) -> _Compiled | None:
    """None for a comment."""
    # Not for a tree of which nothing is excluded.
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    try:
        if "\n" in line:
            raise ValueError("it has more than one line")
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"it has more than {_LONGEST_LINE} characters: no path is so long")
        pattern = GitIgnoreSpecPattern(_for_contents(line))
    except (ValueError, re.error) as error:
        raise PolicyError(
            f"exclude pattern {line[:_LONGEST_SHOWN]!r} cannot be used: {error}",
            hint="Write it as in a .gitignore; `git check-ignore` shows what a pattern matches.",
        ) from error
    if pattern.include is not None and pattern.regex is not None:
        regex = re.compile(bounded(pattern.regex.pattern), pattern.regex.flags)
        return _Compiled(regex, pattern.include)
    if line.strip() and not line.startswith("#"):
        # git takes no notice of such a pattern; here someone would believe that it works.
        raise PolicyError(
            f"exclude pattern {line!r} matches nothing at all",
            hint="Correct its brackets, or remove it.",
        )
    return None


def _for_contents(line: str) -> str:
    """`x/**` is what lies in x, not x itself; pathspec takes x too, and then `!x/keep` is too late.

    `x/**/` likewise is the directories in it.
    """
    if line.endswith("/**/"):
        return line + "*/"
    return line + "/*" if line.rstrip().endswith("/**") and not line.endswith(" ") else line


def is_cache_directory(directory: int) -> bool:
    """Whether it holds a CACHEDIR.TAG with the signature (bford.info/cachedir)."""
    try:
        tag = os.open(
            CACHE_TAG_NAME,
            os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
            dir_fd=directory,
        )
    except OSError:
        # Not there, or not readable: then it is no cache that we know of, and is saved.
        return False
    try:
        return os.read(tag, len(CACHE_TAG)) == CACHE_TAG
    except OSError:
        return False
    finally:
        os.close(tag)


NOTHING_EXCLUDED = compile_rules(())
