"""The copy written anew: keys dealt out to another number of masters, or with other expiry times.

Each shard is loaded as it was at the moment, saved by its server, and the records of these RDBs go
to where their slots belong, byte for byte; no value is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.model.request import TtlMode
from drtool.restore.phases import Phases
from drtool.restore.redis_loading import loaded, refused_on_load
from drtool.restore.redis_places import (
    RedisSite,
    ServerPlace,
    is_dealt_anew,
    loading_places,
)
from drtool.restore.redis_plan import RedisPlan
from drtool.restore.redis_slots import SlotOwners
from drtool.sources.redis.aof import AofFiles, AofLayout, write_aof
from drtool.sources.redis.keyslot import SLOTS, SlotRange, key_slot
from drtool.sources.redis.rdb import Batch, LargeEntry, RdbWalker, file_parts
from drtool.sources.redis.rdbscan import EveryModule
from drtool.sources.redis.rdbwrite import (
    Keeps,
    Reshaped,
    TtlRule,
    drop_expired,
    keep_ttl,
    persist,
    reshape,
    shift_ttl,
)
from drtool.system.owned_directory import OwnedDirectory
from drtool.system.users import RunAs

_RAW = "dealt.rdb"
_EVERYTHING = (SlotRange(0, SLOTS - 1),)


@dataclass(frozen=True, slots=True, kw_only=True)
class DealtAnew:
    """`loaded` are the keys of each shard as it was loaded, `keys` those of each new server."""

    files: tuple[AofFiles, ...]
    loaded: tuple[dict[int, int], ...]
    keys: tuple[dict[int, int], ...]
    findings: tuple[Finding, ...]


def deal_anew(
    plan: RedisPlan,
    site: RedisSite,
    places: Sequence[ServerPlace],
    *,
    files: Sequence[AofFiles],
    phases: Phases,
) -> DealtAnew:
    """Load, save, deal out and write; one shard in memory at a time."""
    saved: list[Path] = []
    sizes: list[dict[int, int]] = []
    refused: list[Finding] = []
    databases = plan.manifest.redis.databases
    for directory, one in zip(loading_places(plan, site), files, strict=True):
        with loaded([directory], [one], site, databases=databases, phases=phases) as [server]:
            refused += refused_on_load(f"shard {len(sizes)}", server)
            sizes.append(server.database_sizes())
            saved.append(server.save())
    rule, owner = _rule(plan, site, phases), site.destination.owner
    read = partial(_read, owner=owner, phases=phases)
    if is_dealt_anew(plan, site.masters):
        shares = [place.slots or _EVERYTHING for place in places]
        keeps = None if plan.owners is None else _keeps(plan.owners, saved, read)
        sources = [read(path) for path in saved]
        made = [_written(sources, places, shares=shares, rule=rule, owner=owner, keeps=keeps)]
    else:
        made = [
            _written([read(path)], [place], shares=[_EVERYTHING], rule=rule, owner=owner)
            for path, place in zip(saved, places, strict=True)
        ]
    layout = AofLayout.of(site.binaries.version)
    written = []
    for place in places:
        content = file_parts(place.directory / _RAW, owner=owner)
        written.append(write_aof(place.directory, content, [], layout=layout, owner=owner))
        with OwnedDirectory(place.directory, owner) as home:
            home.remove(_RAW)
    return DealtAnew(
        files=tuple(written),
        loaded=tuple(sizes),
        keys=tuple(one.keys for reshaped in made for one in reshaped.written),
        findings=(*refused, *_findings(made, site)),
    )


def _rule(plan: RedisPlan, site: RedisSite, phases: Phases) -> TtlRule:
    """What had expired at the moment stays gone, whatever becomes of the rest."""
    match site.ttl:
        case TtlMode.ABSOLUTE:
            return keep_ttl
        case TtlMode.PERSIST:
            return drop_expired(plan.moment, persist)
        case TtlMode.SHIFT:
            return drop_expired(plan.moment, shift_ttl(phases.clock.now() - plan.moment))


def _keeps(
    owners: SlotOwners, saved: Sequence[Path], read: Callable[[Path], Iterator[bytes]]
) -> Keeps:
    """Of a hash slot the keys of the shard that held it count; while it was moved, also those that the
    other one still had and this one had not yet.
    """
    moved: set[bytes] = set()
    for number, path in enumerate(saved if owners.moving else ()):
        for item in RdbWalker(read(path), modules=EveryModule()):
            keys: list[bytes] = []
            if isinstance(item, Batch):
                keys = [entry[4] for entry in item.entries]
            elif isinstance(item, LargeEntry):
                keys = [item.key]
            for key in keys:
                slot = key_slot(key)
                if slot in owners.moving and owners.sources[slot] == number:
                    moved.add(key)

    def keeps(source: int, slot: int, key: bytes) -> bool:
        if owners.sources[slot] == source:
            return True
        return slot in owners.moving and key not in moved

    return keeps


def _read(path: Path, *, owner: RunAs, phases: Phases) -> Iterator[bytes]:
    """A file in parts; Interrupted if somebody asked to stop."""
    for part in file_parts(path, owner=owner):
        phases.go_on()
        yield part


def _written(
    sources: Sequence[Iterator[bytes]],
    places: Sequence[ServerPlace],
    *,
    shares: Sequence[Sequence[SlotRange]],
    rule: TtlRule,
    owner: RunAs,
    keeps: Keeps | None = None,
) -> Reshaped:
    with ExitStack() as stack:
        writes: list[Callable[[bytes | bytearray | memoryview], object]] = []
        for place in places:
            with OwnedDirectory(place.directory, owner) as home:
                file = stack.enter_context(os.fdopen(home.new(_RAW), "wb"))
            writes.append(file.write)
        # A server that had the modules wrote these files, and one that has them loads the new ones.
        return reshape(sources, writes, shares=shares, ttl=rule, modules=EveryModule(), keeps=keeps)


def _findings(made: Sequence[Reshaped], site: RedisSite) -> list[Finding]:
    dropped = sum(one.keys_dropped for one in made)
    libraries = sorted({name for one in made for name in one.conflicting_libraries})
    found = []
    if dropped:
        found.append(
            Finding(
                severity=Severity.NOTE,
                subject="expiry times",
                fact=f"{counted(dropped, 'key')} had expired at the moment restored to, and were left out",
                fix="Restore to an earlier moment if they are needed.",
            )
        )
    if site.ttl is not TtlMode.ABSOLUTE:
        found.append(
            Finding(
                severity=Severity.NOTE,
                subject="expiry times",
                fact=f"they are not those of the source any more (--ttl {site.ttl})",
                fix="See that nothing relies on sessions or locks running out when they would have.",
            )
        )
    if libraries:
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject="functions",
                fact=f"libraries differ between the shards, the first one's is kept:"
                f" {', '.join(libraries)}",
                fix="Load the right ones with FUNCTION LOAD REPLACE.",
            )
        )
    return found
