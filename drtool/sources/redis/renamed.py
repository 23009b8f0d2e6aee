"""Commands that `rename-command` gave another name, or took away: what a stream holds, and what drtool needs.

A stream, and an append-only file, hold a command under the name that the client used, and under its own
where Redis writes it: `SET` for `SETEX`, `DEL` for a key that expired, `MULTI`. So neither a server that
renames nor one that does not knows all of it. CONFIG GET does not tell. COMMAND lists what was renamed under
its own name, and COMMAND INFO of that name finds nothing; what was taken away is in neither, and no client
writes it. An ACL hides nothing there. Seen on 6.2, 7.0, 7.4 and Valkey 8.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from drtool.errors import SourceUnavailable
from drtool.model.finding import Finding, Severity
from drtool.sources.redis.connection import RedisConnection, Reply
from drtool.sources.redis.refusals import NEEDED_RIGHTS
from drtool.sources.redis.replicated import SCRIPTS, WRITES

# What drtool asks a server that it reads the stream of.
_NEEDED = ("PSYNC", "REPLCONF")
# Renamed by custom because one word of them does great harm: used seldom, if ever.
_SELDOM = frozenset({"FLUSHALL", "FLUSHDB", "SWAPDB"})
# Those that a stream may hold. 7.0 writes EXEC itself, and what scripts did in place of them.
_WRITTEN = WRITES | {"FUNCTION"}
_WRITTEN_BEFORE_7 = WRITES | SCRIPTS | {"SCRIPT", "EXEC"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RenamedCommands:
    """Names in capitals, in order. `written`: commands with another name that a stream may hold.

    `missing`: those of drtool's own that are not there under their names.
    """

    written: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def read_renamed(connection: RedisConnection) -> RenamedCommands:
    """What is renamed on a server. SourceUnavailable or SourceUnsuitable if it may not be asked."""
    may_hold = _WRITTEN if connection.version >= (7, 0) else _WRITTEN_BEFORE_7
    listed = {_name(one) for one in _listed(connection.ask("COMMAND"))}
    names = (*sorted(listed & may_hold), *_NEEDED)
    found = {_name(one) for one in _listed(connection.ask("COMMAND", "INFO", *names))}
    gone = [name for name in names if name not in found]
    return RenamedCommands(
        written=tuple(name for name in gone if name not in _NEEDED),
        missing=tuple(name for name in gone if name in _NEEDED),
    )


def module_writes(connection: RedisConnection) -> frozenset[bytes]:
    """In capitals, the commands of the modules that are loaded there which write."""
    found = set()
    for one in _listed(connection.ask("COMMAND")):
        flags = _listed(one[2]) if isinstance(one, list) and len(one) > 2 else []
        told = {flag for flag in flags if isinstance(flag, bytes)}
        if {b"module", b"write"} <= told:
            found.add(_name(one).encode())
    return frozenset(found)


def check_renamed(connection: RedisConnection, *, has_stream: bool) -> list[Finding]:
    """What is wrong with the names of a server's commands; that they cannot be looked at is a note."""
    try:
        renamed = read_renamed(connection)
    except SourceUnavailable as error:
        return [_not_known(connection.place, error)]
    written = _tell_written(connection.place, renamed) if has_stream else []
    return [*_tell_missing(connection.place, renamed), *written]


def renamed_at(connection: RedisConnection) -> tuple[tuple[str, ...], list[Finding]]:
    """The renamed commands that a stream may hold, and what a backup says of them: the snapshot is whole."""
    try:
        renamed = read_renamed(connection)
    except SourceUnavailable as error:
        return (), [_not_known(connection.place, error)]
    told = [
        replace(
            one, severity=Severity.WARNING if one.severity is Severity.PROBLEM else Severity.NOTE
        )
        for one in _tell_written(connection.place, renamed)
    ]
    return renamed.written, told


def _tell_written(place: str, renamed: RenamedCommands) -> list[Finding]:
    """What a restore cannot replay."""
    seldom = [name for name in renamed.written if name in _SELDOM]
    often = [name for name in renamed.written if name not in _SELDOM]
    return [
        Finding(
            severity=severity,
            subject=place,
            fact=f"rename-command gave {', '.join(names)} another name: the stream holds what clients write"
            " under that name, which no restored server knows. Snapshots are restored; a restore to a moment"
            " behind such a write is refused",
            fix="Take rename-command out of redis.conf, keep clients away from commands with ACL SETUSER"
            " in its place, restart, and take a new backup.",
        )
        for names, severity in ((often, Severity.PROBLEM), (seldom, Severity.WARNING))
        if names
    ]


def _tell_missing(place: str, renamed: RenamedCommands) -> list[Finding]:
    if not renamed.missing:
        return []
    names = " and ".join(renamed.missing)
    verb = "is" if len(renamed.missing) == 1 else "are"
    return [
        Finding(
            severity=Severity.PROBLEM,
            subject=place,
            fact=f"{names} {verb} not there, renamed or taken away by rename-command: no replica can join,"
            " so neither a backup nor the stream can be taken from it",
            fix=f"Take `rename-command` of {names} out of its redis.conf and restart it, or give drtool a"
            " replica that has it.",
        )
    ]


def _not_known(place: str, error: SourceUnavailable) -> Finding:
    return Finding(
        severity=Severity.NOTE,
        subject=place,
        fact=f"nobody can tell whether commands are renamed there: {error.message}",
        fix=error.hint or f"Grant with ACL SETUSER what drtool needs: {NEEDED_RIGHTS}.",
    )


def _listed(reply: Reply) -> list[Reply]:
    return reply if isinstance(reply, list) else []


def _name(entry: Reply) -> str:
    """What COMMAND tells of one command begins with its name; null: it has none of that name."""
    name = entry[0] if isinstance(entry, list) and entry else None
    return name.decode(errors="replace").upper() if isinstance(name, bytes) else ""
