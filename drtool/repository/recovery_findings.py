"""What is wrong with backups and log together, told once for every screen: gaps, damage, lost timelines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timezone
from zoneinfo import ZoneInfo

from drtool.errors import DrtoolError, IntegrityError, NotAuthentic
from drtool.model.finding import Finding, Harm, Severity
from drtool.model.measure import counted
from drtool.model.wal import history_name
from drtool.model.window import LogGap
from drtool.repository.backups import Manifest
from drtool.repository.damage import Damage
from drtool.repository.recovery_windows import Reach, damage_of
from drtool.repository.timelines import Timelines

Zone = ZoneInfo | timezone

NO_MANIFEST = "is no manifest, and nobody with the key has begun that backup"


def added_object(key: str, fact: str) -> Finding:
    """Somebody without the key has put `key`, and nothing of ours is the worse for it."""
    return Finding(
        severity=Severity.WARNING,
        subject=key,
        fact=f"{fact}: it changes nothing",
        fix="Find out who may write to the store. `drtool verify --repair --plan` tells what would be put"
        " aside.",
    )


def manifest_finding(source: str, error: IntegrityError) -> Finding:
    """What an object under the name of a manifest that does not open is: added by somebody, or damaged."""
    if isinstance(error, NotAuthentic) and error.key is not None:
        return added_object(error.key, NO_MANIFEST)
    return Finding(
        severity=Severity.PROBLEM,
        subject="manifest",
        fact=error.message,
        fix=error.hint or f"Run `drtool verify {source}`.",
        harm=Harm.DAMAGE,
    )


def gap_findings(
    source: str, gaps: Iterable[LogGap], reaches: Sequence[Reach], *, zone: Zone = UTC
) -> Iterator[Finding]:
    """A gap that a newer backup has left behind is a fact about the window; one that limits the newest
    backup is a problem, and so is a backup whose own WAL is not whole.
    """
    for gap in gaps:
        subject = f"WAL of {source}, timeline {gap.timeline}"
        fact = gap.lack
        since = "" if gap.since is None else f" after {shown(gap.since, zone)}"
        after = f"{since} and " if since else " "
        if gap.until is None:
            yield Finding(
                severity=Severity.PROBLEM,
                subject=subject,
                fact=f"{fact}: no moment of this timeline{since} can be returned to,"
                " since no backup begins behind it",
                fix=f"Run `drtool backup {source}`: from then on the log counts again.",
                harm=Harm.UNREACHABLE,
            )
        else:
            yield Finding(
                severity=Severity.NOTE,
                subject=subject,
                fact=f"{fact}: moments of this timeline{after}before {shown(gap.until, zone)} cannot be"
                " returned to; a newer backup needs nothing of it",
            )
    consistent = {reach.backup_id for reach in reaches if reach.is_consistent}
    for backup_id in dict.fromkeys(reach.backup_id for reach in reaches):
        if backup_id not in consistent:
            yield Finding(
                severity=Severity.PROBLEM,
                subject=f"backup {backup_id} of {source}",
                fact="it cannot become consistent: WAL between its begin and its end is missing",
                fix=f"Run `drtool wal gaps {source}` to see what is missing, and"
                f" `drtool backup {source}`.",
                harm=Harm.UNREACHABLE,
            )


def timeline_findings(source: str, timelines: Timelines, *, zone: Zone = UTC) -> Iterator[Finding]:
    """Timelines that something tells of, and whose history cannot be read (PITFALLS 41, 109)."""
    for timeline, error in timelines.missing:
        mark = timelines.newest_marks.get(timeline)
        known = "" if mark is None else f", which marks tell of up to {shown(mark.moment, zone)},"
        yield Finding(
            severity=Severity.PROBLEM,
            subject=history_name(timeline),
            fact=f"the history of timeline {timeline} of {source}{known} cannot be read:"
            f" {_why(error)}. Nothing on that timeline can be recovered to",
            fix="Put it back from pg_wal of the server, or of a standby, with `drtool-wal push`, or run"
            f" `drtool wal receive {source}` on the server of that timeline.",
            harm=Harm.DAMAGE,
        )


def _why(error: DrtoolError) -> str:
    return error.message


def damage_findings(
    source: str, manifests: Iterable[Manifest], damaged: Mapping[str, Damage], *, zone: Zone = UTC
) -> Iterator[Finding]:
    """Backups that need an object which a verification found damaged or missing."""
    for manifest in manifests:
        found = damage_of(manifest, damaged)
        if found:
            first = found[0]
            yield Finding(
                severity=Severity.PROBLEM,
                subject=f"backup {manifest.backup_id} of {source}",
                fact=f"it cannot be restored whole: {len(found)} of its"
                f" {counted(len(manifest.packs), 'pack')} are damaged or missing, as was"
                f" found at {shown(first.found, zone)}: {first.key}:"
                f" {first.fact}",
                fix=f"Run `drtool backup {source}`; once the object is whole again,"
                " `drtool verify --whole` says so.",
                harm=Harm.DAMAGE,
            )


def log_damage_findings(source: str, damaged: Mapping[str, Damage]) -> Iterator[Finding]:
    """Objects of a source's log that were found damaged; a restore does without them."""
    for key, one in sorted(damaged.items()):
        if key.startswith(f"log/{source}/"):
            yield Finding(
                severity=Severity.PROBLEM,
                subject=key,
                fact=f"it was found damaged: {one.fact}",
                fix="Bring it back from a copy of the repository, and run `drtool verify --whole`.",
                harm=Harm.DAMAGE,
            )


def shown(moment: datetime, zone: Zone) -> str:
    """A moment to the second, in the zone that the reader is told of."""
    if zone is UTC:
        return moment.astimezone(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
    return moment.astimezone(zone).isoformat(sep=" ", timespec="seconds")
