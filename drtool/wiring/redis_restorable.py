"""Whether a Redis backup can be restored on this machine, found out before anybody needs it."""

from __future__ import annotations

from collections.abc import Iterator

from drtool.errors import NotRecoverable
from drtool.model.finding import Finding, Harm, Severity
from drtool.policy.sources import RedisSource
from drtool.repository.extents import RedisExtent
from drtool.restore.redis_fetch import release_of
from drtool.sources.redis.binaries import RedisBinaries, find_binaries
from drtool.sources.redis.release import Release


def programs_for(
    source: RedisSource, extent: RedisExtent, *, writer: Release | None = None
) -> RedisBinaries:
    """The server that loads what is in a backup; NotRecoverable says what this machine lacks for it.

    `writer` is the newest release that wrote what is replayed on it; None: only the backup is loaded.
    """
    programs = find_binaries(writer or release_of(extent), bin_dir=source.bin_dir)
    if extent.modules and not source.restore.modules:
        raise NotRecoverable(
            f"the backup holds data of the module types {', '.join(extent.modules)}, and the policy names"
            " no module that a restored server should load",
            hint="Name the modules' files: `restore: {modules: [/path/to/module.so]}` of the source.",
        )
    missing = [str(path) for path in source.restore.modules if not path.is_file()]
    if missing:
        raise NotRecoverable(
            f"the modules that a restored server should load are not here: {', '.join(missing)}",
            hint="Install them, or correct `restore: {modules: ...}` of the source.",
        )
    return programs


def check_restorable(
    name: str,
    source: RedisSource,
    extent: RedisExtent,
    *,
    severity: Severity,
    writer: Release | None = None,
) -> Iterator[Finding]:
    """What keeps this machine from restoring a backup; nothing if it can. `writer` as `programs_for`."""
    try:
        programs_for(source, extent, writer=writer)
    except NotRecoverable as error:
        yield Finding(
            severity=severity,
            subject=f"source {name}",
            fact=f"it cannot be restored on this machine: {error.message}",
            fix=error.hint,
            harm=Harm.UNREACHABLE if severity is Severity.PROBLEM else None,
        )
