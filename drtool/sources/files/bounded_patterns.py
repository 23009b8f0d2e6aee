"""The regular expressions of patterns, made so that a path is matched in bounded time. Pure.

pathspec writes `a*b*c` as `a[^/]*b[^/]*c`. Where that does not match, Python's `re` tries each way to
share out the letters between the stars: with eight stars and a name of 255 letters, for minutes. What
stands between two stars has a fixed length, so the first place where it is found is as good as any
later one: an atomic group takes that place and never comes back to it. The same holds for the
directories between two `**`.
"""

from __future__ import annotations

import re

_STAR = "[^/]*"
_ANY_DIRECTORIES_BEFORE = "(?:.+/)?"
_ANY_DIRECTORIES_BETWEEN = "(?:/.+)?/"
# A sign that is escaped, or a class of signs with its brackets.
_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_BELOW = "(?P<ps_d>/)"
_ITSELF_OR_BELOW = f"(?:{_BELOW}|$)"


def bounded(expression: str) -> str:
    """An expression that finds something in the paths that `expression` of pathspec means, in bounded time.

    Paths of directories end in a slash. pathspec's also match whatever lies below an entry, by the
    slash that they call `ps_d`, since they are made for lists of files. Walking from the root down,
    that is the parent's business: with `*`, `!*/` and `!*.txt` directories must come out included.
    """
    if expression.endswith(_ITSELF_OR_BELOW):
        body, end = expression.removesuffix(_ITSELF_OR_BELOW), "/?$"
    elif expression.endswith(_BELOW):
        body, end = expression.removesuffix(_BELOW), "/$"
    else:
        return expression
    if not body.startswith("^"):
        return body + end
    *before, last = body[1:].split(_ANY_DIRECTORIES_BETWEEN)
    if not before:
        return "^" + _in_components(last) + end
    first, *between = before
    parts = ["^", _atomic_first(first)]
    # As few directories as it takes, once: of those behind, the last part tries all.
    parts += [f"(?>(?:/.+?)??/{_in_components(part)}(?=/))" for part in between]
    return "".join([*parts, _ANY_DIRECTORIES_BETWEEN, _in_components(last), end])


def _atomic_first(part: str) -> str:
    if part.startswith(_ANY_DIRECTORIES_BEFORE):
        part = _in_components(part.removeprefix(_ANY_DIRECTORIES_BEFORE))
        return f"(?>(?:.+?/)??{part}(?=/))"
    return f"(?>{_in_components(part)}(?=/))"


def _in_components(part: str) -> str:
    """Each name with its stars bounded; the directories of any depth before the first one as they are."""
    before = _ANY_DIRECTORIES_BEFORE if part.startswith(_ANY_DIRECTORIES_BEFORE) else ""
    return before + "/".join(_bounded_name(name) for name in _names(part.removeprefix(before)))


def _names(part: str) -> list[str]:
    """Split at slashes, save at those inside of `[^/]`."""
    return [name.replace("\0", "[^/]") for name in part.replace("[^/]", "\0").split("/")]


def _without_slash(match: re.Match[str]) -> str:
    """`[!a]` is any sign but a slash, as in git: a name never reaches into the next one."""
    found = match[0]
    return f"[^/{found[2:]}" if found.startswith("[^") and found != "[^/]" else found


def _bounded_name(name: str) -> str:
    first, *pieces = _CLASS.sub(_without_slash, name).split(_STAR)
    pieces = [piece for number, piece in enumerate(pieces) if piece or number == len(pieces) - 1]
    if not pieces:
        return first
    *middle, last = pieces
    return first + "".join(f"(?>[^/]*?{piece})" for piece in middle) + _STAR + last
