"""Listings of a remote store in the order of the keys' bytes, page by page, restarted where cut.

S3 promises that order. SeaweedFS lists directory by directory (`b/x` before `b-2/x`), so there
the directories are walked by us, each sorted; the larger of page and directory bounds the memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypedDict

from drtool.errors import RepositoryUnavailable
from drtool.stores.keys import in_order
from drtool.stores.protocol import StoredObject

# Without its quotes in the listings of some servers.
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class Listed(TypedDict):
    """The part of the library's description of an object that we read."""

    path: str
    size: int
    last_modified: datetime
    e_tag: str | None


class Level(TypedDict):
    """One directory: the objects in it and the directories, both as keys."""

    common_prefixes: Sequence[str]
    objects: Sequence[Listed]


Pages = Callable[[str, str | None], Iterator[Sequence[Listed]]]
Levels = Callable[[str], Level]
# Waits before the n-th try in a row that got no further; False if that was one too many.
MayResume = Callable[[int], bool]


def stored(listed: Listed) -> StoredObject:
    """The library's description of an object in our words."""
    found = _MD5.fullmatch(listed["e_tag"] or "")
    md5 = found[1] if found else None
    return StoredObject(listed["path"], listed["size"], listed["last_modified"], md5)


def list_flat(
    pages: Pages, prefix: str, after: str | None, *, may_resume: MayResume
) -> Iterator[StoredObject]:
    """Everything that begins with `prefix`, from a store that lists in order.

    `pages(directory, offset)` lists below a directory the keys greater than offset. A listing out
    of order is RepositoryUnavailable: its pages cannot be trusted to be complete.
    """
    last = after
    failures = 0
    while True:
        try:
            for page in pages(prefix.rpartition("/")[0], _later(last, _just_before(prefix))):
                for listed in page:
                    key = listed["path"]
                    if last is not None and in_order(key) <= in_order(last):
                        if last == after:
                            continue  # the store's offset includes the key itself
                        raise _out_of_order(key, last)
                    if key.startswith(prefix):
                        last, failures = key, 0
                        yield stored(listed)
                    elif in_order(key) > in_order(prefix):
                        return
            return
        except RepositoryUnavailable as error:
            failures += 1
            if not error.retryable or not may_resume(failures):
                raise


def list_by_directories(levels: Levels, prefix: str, after: str | None) -> Iterator[StoredObject]:
    """The same from a store that lists in an order of its own; `levels(directory)` is one of them."""
    yield from _walk(levels, prefix.rpartition("/")[0], prefix, after=after)


def _walk(
    levels: Levels, directory: str, prefix: str, *, after: str | None
) -> Iterator[StoredObject]:
    level = levels(directory)
    entries: dict[str, Listed | None] = {listed["path"]: listed for listed in level["objects"]}
    entries.update({f"{path.rstrip('/')}/": None for path in level["common_prefixes"]})
    for key in sorted(entries, key=in_order):
        listed = entries[key]
        if listed is None:
            if may_hold(key, prefix, after):
                yield from _walk(levels, key.rstrip("/"), prefix, after=after)
        elif key.startswith(prefix) and (after is None or in_order(key) > in_order(after)):
            yield stored(listed)


def may_hold(directory: str, prefix: str, after: str | None) -> bool:
    """Whether a key below `directory` (with its slash) can begin with `prefix` and follow `after`."""
    if not (directory.startswith(prefix) or prefix.startswith(directory)):
        return False
    return after is None or after.startswith(directory) or in_order(directory) > in_order(after)


def _just_before(prefix: str) -> str | None:
    """A key a little less than every key that begins with `prefix`; None if there is none simple.

    The library only takes whole directories as a prefix, so the offset must skip what comes
    before: a text that ends in the letter before the prefix's last.
    """
    head, last = prefix[:-1], prefix[-1:]
    if not last.isascii() or not last.isalnum() or last == "0" or not head.rpartition("/")[0]:
        return None
    return head + chr(ord(last) - 1)


def _later(one: str | None, other: str | None) -> str | None:
    return max((text for text in (one, other) if text is not None), key=in_order, default=None)


def _out_of_order(key: str, last: str) -> RepositoryUnavailable:
    error = RepositoryUnavailable(
        f"the store lists {key} after {last}, which is not the order of their bytes",
        hint="Run `drtool repository init` again, so that the store is probed and walked instead.",
    )
    error.retryable = False
    return error
