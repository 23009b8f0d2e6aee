"""Private servers on restored files: started side by side, watched, asked, tried with a write."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from drtool.errors import NotRecoverable, SourceUnavailable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.model.progress import PhaseAdvanced
from drtool.restore.phases import Phases
from drtool.restore.redis_places import RedisSite
from drtool.sources.redis.aof import AofFiles
from drtool.sources.redis.keyslot import SlotRange, key_for_slots
from drtool.sources.redis.renamed import module_writes
from drtool.sources.redis.server import ScratchPlan, ScratchServer, start_scratch
from drtool.sources.redis.told import whole, words_of
from drtool.system.clock import Clock
from drtool.system.users import give

PHASE = "replay"
_POLL_SECONDS = 0.05
# A server that has nothing to load but modules.
_EMPTY_SECONDS = 60.0
# Of a moment between them every part of the program can be given in another zone.
_FIRST_YEAR = 1970
_LAST_YEAR = 9000


@contextmanager
def loaded(
    directories: Sequence[Path],
    files: Sequence[AofFiles],
    site: RedisSite,
    *,
    databases: int,
    phases: Phases,
) -> Iterator[list[ScratchServer]]:
    """Servers that have loaded everything; stopped at the end of the block, however it ends.

    They keep what has expired and take no writes. All run at the same time: this machine's memory
    must hold the data of all of them, as it must when the copy is used here.
    """
    sizes = [one.base_bytes + one.stream_bytes for one in files]
    with ExitStack() as stack:
        servers = []
        for directory in directories:
            plan = ScratchPlan(
                directory=directory,
                binaries=site.binaries,
                run_as=site.destination.owner,
                uses_aof=True,
                databases=databases,
                modules=site.modules,
            )
            server = start_scratch(plan, clock=phases.clock, scratch=site.scratch)
            stack.callback(server.stop)
            servers.append(server)
        _wait(servers, sizes, site=site, phases=phases)
        yield servers


def _wait(
    servers: Sequence[ScratchServer], sizes: Sequence[int], *, site: RedisSite, phases: Phases
) -> None:
    deadline = phases.clock.monotonic() + site.load_seconds
    while True:
        phases.go_on()
        told = [server.loading() for server in servers]
        done = sum(int((one.share or 0.0) * size) for one, size in zip(told, sizes, strict=True))
        phases.emit(PhaseAdvanced(phase=PHASE, done=done))
        if all(one.is_done for one in told):
            return
        if phases.clock.monotonic() > deadline:
            raise NotRecoverable(
                f"the restored Redis has not loaded its data after {site.load_seconds:g} s",
                hint="Look whether this machine has the memory for it.",
            )
        phases.clock.wait(_POLL_SECONDS)


def refused_on_load(name: str, server: ScratchServer) -> list[Finding]:
    """What of the stream the server of `name` did not carry out: a RESTORE whose payload is damaged is
    left out without a word, and the copy lacks what the source had.
    """
    found = server.load_errors()
    if found.commands:
        count = counted(found.commands, "command", "commands")
        return [
            Finding(
                severity=Severity.PROBLEM,
                subject=name,
                fact=f"the server refused {count} of the stream as it loaded, and left out what they wrote"
                f" (the first: {found.first})",
                fix="Compare the copy with what you expect of it, or restore to an earlier moment.",
            )
        ]
    if found.scripts:
        count = counted(found.scripts, "script", "scripts")
        return [
            Finding(
                severity=Severity.WARNING,
                subject=name,
                fact=f"{count} of the stream ended with an error (the first: {found.first}); at the source"
                " too, unless the copy lacks what they wrote",
                fix="Compare the copy with what you expect of it.",
            )
        ]
    return []


def module_commands(site: RedisSite, *, clock: Clock) -> frozenset[bytes]:
    """In capitals, the commands by which the modules of the copy write: asked of a server without data."""
    if not site.modules:
        return frozenset()
    with tempfile.TemporaryDirectory(prefix="drtool-", dir=site.scratch) as place:
        give(Path(place), site.destination.owner)
        plan = ScratchPlan(
            directory=Path(place),
            binaries=site.binaries,
            run_as=site.destination.owner,
            uses_aof=False,
            keeps_expired=False,
            modules=site.modules,
        )
        with start_scratch(plan, clock=clock, scratch=site.scratch) as server:
            server.wait_loaded(timeout_seconds=_EMPTY_SECONDS)
            return module_writes(server.connection())


def refused_write(server: ScratchServer) -> str:
    """Write a key, read it, remove it; nothing of that reaches the files. Why that failed; empty if not.

    From here on the server writes no append-only file.
    """
    connection = server.connection()
    connection.ask("CONFIG", "SET", "appendonly", "no")
    connection.ask("CONFIG", "SET", "replica-read-only", "no")
    key = f"drtool:probe:{secrets.token_hex(16)}"
    try:
        connection.ask("SET", key, "written")
        is_there = connection.text("GET", key) == "written"
        connection.ask("DEL", key)
    except SourceUnavailable as error:
        return error.message
    return "" if is_there else "what was read is not what was written"


def heartbeat_in(server: ScratchServer, name: str, slots: Sequence[SlotRange]) -> datetime | None:
    """The newest mark that was made on the source and is in the copy; None if there is none."""
    key = key_for_slots(name, slots) if slots else name
    try:
        return mark_of(server.connection().text("GET", key))
    except SourceUnavailable as error:
        if "WRONGTYPE" not in error.message:
            raise
        return None  # somebody else's key of that name


def mark_of(text: str) -> datetime | None:
    """The moment that a mark tells; None for what is none: any client may write that key."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    is_moment = moment.tzinfo is not None and _FIRST_YEAR <= moment.year < _LAST_YEAR
    return moment if is_moment else None


def expiring_keys(servers: Sequence[ScratchServer]) -> int:
    """How many keys have a time at which they expire."""
    count = 0
    for server in servers:
        for told in server.connection().info("keyspace").values():
            count += whole(words_of(told), "expires")
    return count
