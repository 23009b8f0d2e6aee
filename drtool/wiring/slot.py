"""The replication slot of a source: how it stands, for `drtool check` and `drtool wal slot`."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from drtool.archiving.receive_settings import ReceiveSettings
from drtool.archiving.status import WalStatus, wal_status
from drtool.check.run import Seen
from drtool.errors import LeaseHeld, PolicyError
from drtool.model.finding import Finding
from drtool.model.measure import format_size
from drtool.model.outcome import Fact, FactSheet
from drtool.model.request import WalSlot
from drtool.policy.policy import Policy
from drtool.repository.backups import read_manifests
from drtool.repository.layout import Lineage
from drtool.repository.marks import first_mark_after
from drtool.repository.repository import Repository
from drtool.sources.postgres.checks import check_slot
from drtool.sources.postgres.connection import connect, place_of
from drtool.sources.postgres.readiness import SlotFacts, read_data_directory, read_slot
from drtool.sources.postgres.slot_forecast import SlotForecast, forecast_slot
from drtool.sources.postgres.slots import drop_slot_by_name
from drtool.wiring.parts import dsn_of, opened_repository
from drtool.wiring.surroundings import Surroundings

# The rate at which WAL is written is measured over this long before the newest mark.
_MEASURED_OVER = timedelta(hours=1)


def look_at_slot(
    settings: ReceiveSettings,
    *,
    repository: Repository | None,
    log: WalStatus | None,
    zone: ZoneInfo,
) -> Seen:
    """What `drtool check` says of the slot."""
    assert settings.slot is not None
    with closing(connect(settings.dsn, purpose="check")) as connection:
        found = read_slot(connection, settings.slot)
        directory = read_data_directory(connection)
    if found is None:
        return "not there", check_slot(place_of(settings.dsn), settings.slot, None)
    found = replace(found, moment=found.moment.astimezone(zone))
    ahead = _forecast(settings, found, repository=repository, log=log, directory=directory)
    findings: list[Finding] = [
        *check_slot(place_of(settings.dsn), settings.slot, found, forecast=ahead)
    ]
    active = "in use" if found.state.is_active else "not in use"
    status = found.state.wal_status or "reserves nothing"
    held = format_size(ahead.kept_bytes)
    told = ahead.describe(found.moment)
    if found.state.is_active:
        told = f"if nobody received, {told}"
    return f"{settings.slot}, {active}, {status}, keeps {held}; {told}", findings


def _forecast(
    settings: ReceiveSettings,
    found: SlotFacts,
    *,
    repository: Repository | None,
    log: WalStatus | None,
    directory: str | None,
) -> SlotForecast:
    return forecast_slot(
        found,
        limit_bytes=settings.wal.slot_limit,
        free_bytes=_free_bytes(directory),
        bytes_per_second=None
        if repository is None or log is None
        else _measured_rate(repository, found, log),
    )


def _measured_rate(repository: Repository, found: SlotFacts, log: WalStatus) -> float | None:
    """Bytes of WAL a second from a mark of an hour ago, or the oldest since, until now."""
    newest = log.mark
    if newest is None or log.system_id is None:
        return None
    lineage = Lineage(log.source, log.system_id, newest.timeline)
    mark = first_mark_after(repository, lineage, newest.moment - _MEASURED_OVER) or newest
    seconds = (found.moment - mark.moment).total_seconds()
    if seconds <= 0 or found.server_at < mark.lsn:
        return None
    return (found.server_at - mark.lsn) / seconds


def _free_bytes(directory: str | None) -> int | None:
    """The room of the server's disk; None where it is another machine's, or our role may not know."""
    if directory is None:
        return None
    place = Path(directory) / "pg_wal"
    try:
        room = os.statvfs(place if place.exists() else directory)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize


def show(request: WalSlot, policy: Policy, around: Surroundings) -> FactSheet:
    """How the slot of a source stands; a slot that is lost or near its limit is a problem."""
    settings = _settings(request.source, policy, around)
    with opened_repository(policy, around) as repository:
        manifests, _ = read_manifests(repository, request.source)
        backups = {manifest.backup_id: manifest.postgres for manifest in manifests}
        log = wal_status(repository, request.source, backups, now=around.clock.now())
        seen, findings = look_at_slot(
            settings, repository=repository, log=log, zone=policy.timezone
        )
    return FactSheet(
        kind="wal-slot",
        title=f"Replication slot of {request.source}",
        facts=(
            Fact(name="server", value=place_of(settings.dsn), label="at"),
            Fact(name="slot", value=settings.slot, label="slot"),
            Fact(name="seen", value=seen, label="stands"),
            Fact(name="receiver", value=log.receiver or "none", label="receiver now"),
        ),
        findings=tuple(findings),
    )


def drop(request: WalSlot, policy: Policy, around: Surroundings) -> FactSheet:
    """Drop the slot, where no receiver runs: from then on the server keeps no WAL for one."""
    settings = _settings(request.source, policy, around)
    assert settings.slot is not None
    # The repository is not asked: where it is away, this is how the server's disk is kept from filling.
    with closing(connect(settings.dsn, purpose="slot")) as connection:
        found = read_slot(connection, settings.slot)
        if found is not None and found.state.is_active:
            raise LeaseHeld(
                f"the replication slot {settings.slot} is in use: a receiver of {request.source} runs",
                hint="Stop that receiver first, and write `slot: none` below `wal` in the policy, or the"
                " next one makes the slot again.",
            )
        if found is not None and not request.is_dry_run:
            drop_slot_by_name(connection, settings.slot)
    kept = 0 if found is None else max(0, found.retained_bytes or 0)
    if found is None:
        title = (
            f"There is no replication slot {settings.slot} of {request.source}; nothing was done"
        )
    elif request.is_dry_run:
        title = f"Would drop the replication slot of {request.source}; nothing was done"
    else:
        title = f"Dropped the replication slot of {request.source}"
    return FactSheet(
        kind="wal-slot-drop",
        title=title,
        facts=(
            Fact(name="server", value=place_of(settings.dsn), label="at"),
            Fact(name="slot", value=settings.slot, label="slot"),
            Fact(name="kept_bytes", value=kept, label="kept for it", shown=format_size(kept)),
        ),
    )


def _settings(name: str, policy: Policy, around: Surroundings) -> ReceiveSettings:
    source = policy.postgres(name)
    settings = ReceiveSettings(source=name, dsn=dsn_of(source.dsn, around), wal=source.wal)
    if settings.slot is None:
        raise PolicyError(
            f"the policy says that source {name} has no replication slot",
            hint="Take `slot: none` out of its `wal`, or name the slot there.",
        )
    return settings
