"""Which names a repository's objects can have: what an object is not, as far as its key alone tells."""

from __future__ import annotations

import re

from drtool.repository import layout
from drtool.repository.names import is_backup_id, own_name, parse_system_id, parse_timeline

_EVIDENCE = re.compile(r"[a-z-]+/.+")
_KEYS_OF_ONE = re.compile(r"[0-9a-f]{32}/(slot-[0-9A-Za-z]+\.json|version-[0-9]{4,9})")
_TOPOLOGY = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z")
# What a repair or an expire has put aside.
ASIDE = ("quarantine", "trash")


def what_it_is_not(key: str, *, repository_id: bytes) -> str | None:
    """What `key` would be told not to be; None where drtool may have made that name."""
    room, slash, rest = key.partition("/")
    fact: str | None = "is no object of a repository"
    if not slash:
        return None if key == layout.ROOT else fact
    if room in ("attempts", "backups"):
        fact = None if _is_of_backup(rest) else "has no name of a backup"
    elif room == "evidence":
        fact = None if _EVIDENCE.fullmatch(rest) else "is no evidence"
    elif room == "keys":
        fact = _no_key(key, rest, repository_id)
    elif room == "log":
        fact = None if _is_in_log(rest) else "has no name of a log's object"
    elif room == "marks":
        fact = None if _is_mark(rest) else "is no mark"
    elif room == "packs":
        fact = None if layout.is_pack_key(key) else "is not a pack"
    elif room == "RESCUE":
        is_rescue = key in (layout.RESCUE_PROGRAM, layout.RESCUE_TEXT)
        fact = None if is_rescue else "is not part of the rescue program"
    elif room in ("leases", *ASIDE):
        fact = None
    return fact


def is_of_another_repository(key: str, *, repository_id: bytes) -> bool:
    """Whether it has the name of a slot or key version of another repository: one whose creation was cut
    off, or the one that was here before somebody put another root in its place.
    """
    room, _, rest = key.partition("/")
    is_key = room == "keys" and _KEYS_OF_ONE.fullmatch(rest) is not None
    return is_key and not rest.startswith(f"{repository_id.hex()}/")


def _no_key(key: str, rest: str, repository_id: bytes) -> str | None:
    if is_of_another_repository(key, repository_id=repository_id):
        return "is a key of another repository, of one whose creation was cut off if nobody has put it there"
    return None if _KEYS_OF_ONE.fullmatch(rest) else "is no slot and no key version"


def _is_of_backup(rest: str) -> bool:
    source, _, name = rest.partition("/")
    return layout.is_source(source) and is_backup_id(own_name(name))


def _is_in_log(rest: str) -> bool:
    source, _, below = rest.partition("/")
    log, _, name = below.partition("/")
    if not layout.is_source(source):
        return False
    if layout.is_replication_id(log):
        return layout.parse_stream_name(name) is not None
    if log == "topology":
        return _TOPOLOGY.fullmatch(own_name(name)) is not None
    return _is_system(log) and layout.is_named_in_log(name)


def _is_mark(rest: str) -> bool:
    source, _, below = rest.partition("/")
    log, _, name = below.partition("/")
    if not layout.is_source(source):
        return False
    if layout.is_replication_id(log):
        if name.startswith("known/"):
            word = name.removeprefix("known/")
            is_reached = layout.parse_reached_name(word) is not None
            return is_reached or layout.parse_stream_name(word) is not None
        return layout.parse_mark_name(name) is not None
    timeline, _, mark = name.partition("/")
    is_of_log = _is_system(log) and parse_timeline(timeline) is not None
    return is_of_log and layout.parse_mark_name(mark) is not None


def _is_system(name: str) -> bool:
    """Whether a directory is that of a cluster, in the one spelling that drtool writes and reads."""
    number = parse_system_id(name)
    return number is not None and str(number) == name
