"""Carry the restore of a Redis out: provision, fetch, replay, answer, verify, finish."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from drtool.errors import DestinationRefused, DrtoolError, IntegrityError
from drtool.model.finding import Finding, Severity
from drtool.model.measure import CLOCK_SKEW, counted
from drtool.model.outcome import Question, Reached, RestoreOutcome
from drtool.model.progress import PhaseAdvanced
from drtool.model.request import TtlMode
from drtool.model.target import describe_target
from drtool.repository.repository import Repository
from drtool.restore.destination import Destination, make_destination
from drtool.restore.network import network_findings
from drtool.restore.phases import Phases
from drtool.restore.redis_anew import DealtAnew, deal_anew
from drtool.restore.redis_content import SnapshotFiles
from drtool.restore.redis_counted import about_keys
from drtool.restore.redis_fetch import Origin, fetch_shard
from drtool.restore.redis_loading import (
    expiring_keys,
    heartbeat_in,
    loaded,
    module_commands,
    refused_on_load,
    refused_write,
)
from drtool.restore.redis_places import (
    CONFIGURATION,
    LOADING,
    RedisSite,
    ServerPlace,
    is_written_anew,
    loading_places,
    replica_places,
    server_places,
)
from drtool.restore.redis_plan import RedisPlan
from drtool.restore.redis_settle import (
    changed_settings,
    config_path,
    findings,
    how_to_start,
    how_to_stop,
    write_configuration,
)
from drtool.sources.redis.aof import (
    MANIFEST,
    NAME,
    AofFiles,
    AofLayout,
    drop_open_transaction,
    files_in,
)
from drtool.sources.redis.binaries import Checking, check_aof, check_rdb, reachable_by
from drtool.sources.redis.capture import CapturedServer
from drtool.sources.redis.server import ScratchServer
from drtool.system.acting import acting_as
from drtool.system.users import PASSED_THROUGH

FETCH = "fetch"
_UNFINISHED = ".unfinished"


@dataclass(slots=True)
class _Copy:
    """What has come about so far: the files of each server, and what was found."""

    files: list[AofFiles] = field(default_factory=list)
    expected: list[dict[int, int] | None] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)
    marks: list[datetime] = field(default_factory=list)
    is_writable: bool = True
    has_scripts: bool = False
    restored_bytes: int = 0
    stream_bytes: int = 0
    keys: int = 0


def run_redis_restore(
    plan: RedisPlan, site: RedisSite, *, repository: Repository, phases: Phases
) -> RestoreOutcome:
    """Restore as `plan` says; the copy is left stopped, whole, and nobody's replica.

    When it fails before that, what makes the files startable is taken away; the error says where
    they lie. Nothing of the source is touched or reached.
    """
    places = server_places(plan, site)
    replicas = replica_places(plan, site, places)
    files = SnapshotFiles(plan.manifest, repository)
    with phases.phase("provision", "destination and programs"):
        make_destination(site.destination)
        homes = (place.directory for place in (*places, *replicas))
        for directory in {*loading_places(plan, site), *homes}:
            _make(directory, site)
    copy = _Copy()
    with _what_is_left(site):
        total = plan.fetch_bytes + plan.stream_bytes
        with phases.phase(FETCH, "snapshots and streams", total=total) as sizes:
            of_modules = partial(module_commands, site, clock=phases.clock)
            origin = Origin(plan, files, repository, of_modules)
            _fetch(plan, site, origin, copy=copy, phases=phases)
            captured = [
                CapturedServer.from_sealed(files.content(config_path(one.shard)))
                for one in plan.shards
            ]
            sizes.size_bytes = copy.restored_bytes + copy.stream_bytes
        _recover(plan, site, places, copy=copy, phases=phases)
        with phases.phase("finish", "configuration"):
            databases = plan.manifest.redis.databases
            write_configuration((*places, *replicas), captured, site, databases=databases)
    return RestoreOutcome(
        source=plan.source,
        kind="redis",
        backup_id=plan.manifest.backup_id,
        destination=str(site.destination.data),
        target=describe_target(plan.target),
        began=phases.began,
        phases=phases.done(),
        total_seconds=phases.seconds(),
        reached=Reached(commit_time=_proven(plan, copy), lsn=None, timeline=None),
        bytes_restored=copy.restored_bytes,
        wal_bytes=copy.stream_bytes,
        server_version=site.binaries.release.version_text,
        questions=tuple(copy.questions),
        is_writable=copy.is_writable,
        keys=copy.keys,
        snapshot_keys=plan.manifest.redis.keys,
        findings=(
            *plan.findings,
            *copy.found,
            *about_keys(plan, copy.keys, gone_percent=site.gone_percent),
            *network_findings(site.destination.owner),
            *findings(plan, (*places, *replicas), captured),
        ),
        how_to_start=how_to_start((*places, *replicas), site),
        how_to_stop=how_to_stop((*places, *replicas), site),
        changed_settings=changed_settings((*places, *replicas), site),
    )


def _fetch(
    plan: RedisPlan,
    site: RedisSite,
    origin: Origin,
    *,
    copy: _Copy,
    phases: Phases,
) -> None:
    done = 0

    def told(parts: Iterable[memoryview | bytes]) -> Iterator[memoryview | bytes]:
        nonlocal done
        for part in parts:
            phases.go_on()
            yield part
            done += len(part)
            phases.emit(PhaseAdvanced(phase=FETCH, done=done))

    for one, directory in zip(plan.shards, loading_places(plan, site), strict=True):
        written = fetch_shard(one, directory, site, origin=origin, told=told)
        copy.files.append(written.files)
        copy.has_scripts = copy.has_scripts or written.scripts > 0
        copy.restored_bytes += written.files.base_bytes
        copy.stream_bytes += written.files.stream_bytes
        # With a stream behind it nobody counted the keys at its end.
        copy.expected.append(None if one.stream_bytes else dict(one.shard.keys))


def _recover(
    plan: RedisPlan,
    site: RedisSite,
    places: Sequence[ServerPlace],
    *,
    copy: _Copy,
    phases: Phases,
) -> None:
    directories = loading_places(plan, site)
    databases = plan.manifest.redis.databases
    written = [one.base_bytes + one.stream_bytes for one in copy.files]
    with ExitStack() as running:
        with phases.phase(
            "replay", "redis-check-rdb, snapshot and stream", total=sum(written)
        ) as sizes:
            sizes.size_bytes = sum(written)
            _check_snapshots(copy.files, site, phases.stop)
            if is_written_anew(plan, ttl=site.ttl, masters=site.masters):
                dealt = deal_anew(plan, site, places, files=copy.files, phases=phases)
                _adopt(dealt, copy, site)
                _check_snapshots(copy.files, site, phases.stop)
                directories = tuple(place.directory for place in places)
            servers = running.enter_context(
                loaded(directories, copy.files, site, databases=databases, phases=phases)
            )
            for place, server in zip(places, servers, strict=True):
                copy.found += refused_on_load(place.name, server)
            if copy.has_scripts:
                _leave_scripts_out(servers, directories, copy, site=site)
        with phases.phase("answer", "first write and counts"):
            _ask(servers, places, copy)
            if site.heartbeat_key is not None:
                _ask_for_marks(plan, servers, site.heartbeat_key, copy=copy)
            if site.ttl is TtlMode.ABSOLUTE:
                copy.found += _about_expiry(expiring_keys(servers))
    with phases.phase("verify", "redis-check-aof"):
        _check(copy.files, site, phases.stop)


def _adopt(dealt: DealtAnew, copy: _Copy, site: RedisSite) -> None:
    """From here on the copy is what was dealt anew; the files it came from go."""
    for expected, told in zip(copy.expected, dealt.loaded, strict=True):
        copy.questions += _counted("as loaded", expected, told)
    copy.files = list(dealt.files)
    copy.has_scripts = False
    copy.expected = list(dealt.keys)
    copy.found += dealt.findings
    with site.destination.open() as data:
        data.remove_tree(LOADING)


def _leave_scripts_out(
    servers: Sequence[ScratchServer],
    directories: Sequence[Path],
    copy: _Copy,
    *,
    site: RedisSite,
) -> None:
    """Of a stream with scripts the copy keeps what they did: where it is started, they could reach others."""
    layout = AofLayout.of(site.binaries.version)
    for server in servers:
        server.rewrite(timeout_seconds=site.load_seconds)
    owner = site.destination.owner
    copy.files = [files_in(directory, layout, owner=owner) for directory in directories]


def _ask(servers: Sequence[ScratchServer], places: Sequence[ServerPlace], copy: _Copy) -> None:
    for server, place, expected in zip(servers, places, copy.expected, strict=True):
        found = server.database_sizes()
        copy.keys += sum(found.values())
        copy.questions += _counted(place.name, expected, found)
        refusal = refused_write(server)
        if refusal:
            copy.is_writable = False
            copy.found.append(_takes_no_write(place, refusal))


def _takes_no_write(place: ServerPlace, refusal: str) -> Finding:
    return Finding(
        severity=Severity.PROBLEM,
        subject=place.name,
        fact=f"the copy takes no write: {refusal}",
        fix="Look at what it holds before you hand it over, or restore to an earlier moment.",
    )


def _ask_for_marks(
    plan: RedisPlan, servers: Sequence[ScratchServer], key: str, *, copy: _Copy
) -> None:
    """The newest mark of each shard of the source, on whichever server of the copy it came to lie."""
    for name, slots in plan.slots_by_name():
        found = [heartbeat_in(server, key, slots) for server in servers]
        marks = [mark for mark in found if mark is not None]
        if not marks:
            continue
        copy.marks.append(max(marks))
        copy.questions.append(
            Question(
                f"newest mark of {name} is not after the moment asked for",
                max(marks).isoformat(),
                max(marks) <= plan.newest_moment + CLOCK_SKEW,
            )
        )


def _proven(plan: RedisPlan, copy: _Copy) -> datetime | None:
    """Up to when everything is there: of all shards, so None while one of them has no mark."""
    return min(copy.marks) if len(copy.marks) == len(plan.slots_by_name()) else None


def _counted(name: str, expected: dict[int, int] | None, found: dict[int, int]) -> list[Question]:
    """PITFALLS 81: a server that ignored its data answers, and is empty."""
    if expected is None or (not expected and found):
        # Nobody counted: behind a stream, or keys that only a module of the source can read.
        return []
    is_equal = {number: count for number, count in expected.items() if count} == found
    shown = ", ".join(f"db{number} {count}" for number, count in sorted(found.items()))
    return [Question(f"keys of {name} as recorded", shown or "none", is_equal)]


def _about_expiry(count: int) -> list[Finding]:
    if not count:
        return []
    return [
        Finding(
            severity=Severity.NOTE,
            subject="expiry times",
            fact=f"{counted(count, 'key expires', 'keys expire')}; those whose time has come by"
            " now go once the copy is started",
            fix="To keep them restore with --ttl shift, or --ttl persist.",
        )
    ]


def _check_snapshots(files: Sequence[AofFiles], site: RedisSite, stop: threading.Event) -> None:
    """Before a server reads them: each is sound, and ends where what is replayed on it begins."""
    with _checking(site, stop) as how:
        for one in files:
            check_rdb(one.paths[0], how, size_bytes=one.base_bytes)


def _check(files: Sequence[AofFiles], site: RedisSite, stop: threading.Event) -> None:
    """Redis's own checker of streams, once what was half there has been dropped."""
    owner = site.destination.owner
    with _checking(site, stop) as how:
        for one in files:
            checked = check_aof(one.startable, how)
            cut_off = checked.dropped_bytes
            if cut_off and drop_open_transaction(one, cut_off, owner=owner):
                checked = check_aof(one.startable, how)
            if checked.dropped_bytes:
                raise IntegrityError(
                    f"redis-check-aof finds {one.startable} damaged: {checked.dropped_bytes} bytes at"
                    " its end are no commands",
                    hint="Restore again from the repository, or to an earlier moment.",
                )


@contextmanager
def _checking(site: RedisSite, stop: threading.Event) -> Iterator[Checking]:
    """Checkers that run as the owner: what they read may be anything."""
    owner = site.destination.owner
    with tempfile.TemporaryDirectory(prefix="drtool-", dir=site.scratch) as made:
        scratch = Path(made)
        # Ours, so that whoever may execute what is in it cannot change it.
        scratch.chmod(PASSED_THROUGH)
        binaries = reachable_by(site.binaries, owner, scratch)
        yield Checking(binaries=binaries, scratch=scratch, run_as=owner, stop=stop)


def _make(directory: Path, site: RedisSite) -> None:
    """One directory below the destination, its owner's alone, as are those above it."""
    below = directory.relative_to(site.destination.data)
    with site.destination.open() as data:
        for path in (*reversed(below.parents[:-1]), below):
            data.make_directory(str(path))


@contextmanager
def _what_is_left(site: RedisSite) -> Iterator[None]:
    """Whatever fails: what lies in the destination cannot be started, and the error says so."""
    place = site.destination.data
    try:
        with _refusing(site.destination):
            yield
    except DrtoolError as error:
        error.hint = (
            f"{error.hint} What this attempt wrote lies in {place}; it is not whole and may be removed."
        ).strip()
        raise


@contextmanager
def _refusing(destination: Destination) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _refuse(destination)
        raise DestinationRefused(
            f"destination {error.filename or destination.data} cannot be written: {error.strerror}",
            hint="Make room there, or restore --into a directory on another file system.",
        ) from error
    except BaseException:
        _refuse(destination)
        raise


def _refuse(destination: Destination) -> None:
    """Give another name to what a server would load, and to what it would be started with.

    A configuration whose data has another name would start an empty server that takes writes.
    """
    place = destination.data
    with contextlib.suppress(OSError, DestinationRefused), destination.open() as data:
        with acting_as(destination.owner):
            found = [path for name in (CONFIGURATION, MANIFEST, NAME) for path in place.rglob(name)]
        for path in found:
            data.set_aside(os.fsencode(path.relative_to(place)), _UNFINISHED)
