"""Which snapshot of a tree brings back what was asked for: facts in, plan out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from drtool.errors import NotRecoverable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import CLOCK_SKEW, counted, format_exact, format_size, format_span
from drtool.model.outcome import Fact, RestorePreview
from drtool.model.target import RecoveryTarget, ToBackup, ToLatest, ToTime, describe_target
from drtool.model.window import TimeRange
from drtool.repository.backups import Manifest, name_backups
from drtool.repository.recovery_findings import Zone
from drtool.sources.files.exclude import ExcludeRules


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePlan:
    """The snapshot to restore. `wanted` are patterns of what to restore; None means all of it.

    `is_delta`: what stands in the destination may be changed, and only what differs is.
    """

    source: str
    target: RecoveryTarget
    manifest: Manifest
    earliest: datetime
    newest: datetime
    wanted: ExcludeRules | None
    is_delta: bool
    findings: tuple[Finding, ...]
    zone: Zone = UTC

    @property
    def size_bytes(self) -> int:
        """Of all files of the snapshot."""
        return self.manifest.sizes.read_bytes


def plan_tree(
    source: str,
    target: RecoveryTarget,
    *,
    manifests: Sequence[Manifest],
    damaged: Sequence[str],
    wanted: ExcludeRules | None = None,
    is_delta: bool = False,
) -> TreePlan:
    """The newest snapshot that was whole by the target's moment; NotRecoverable says why there is none."""
    for manifest in manifests:
        manifest.require_kind("files")
    if not manifests:
        raise NotRecoverable(
            f"source {source} has no snapshot that can be read",
            hint=f"Run `drtool verify`, and `drtool backup {source}`.",
        )
    fitting = _fitting(source, target, manifests)
    if not fitting:
        raise _before_everything(source, target, manifests)
    chosen = fitting[-1]
    return TreePlan(
        source=source,
        target=target,
        manifest=chosen,
        earliest=min(manifest.files.taken_until for manifest in manifests),
        newest=max(manifest.files.taken_until for manifest in manifests),
        wanted=wanted,
        is_delta=is_delta,
        findings=(
            *_as_of(source, target, chosen),
            *_warnings(source, chosen, fitting, damaged=damaged),
            *chosen.findings,
        ),
    )


def preview_tree(
    plan: TreePlan,
    *,
    destination: str,
    files: int,
    links: int,
    size_bytes: int,
    changes: tuple[Fact, ...] = (),
) -> RestorePreview:
    """What `--plan` shows: so many files with so many bytes, and for a delta what it would change."""
    manifest = plan.manifest
    which = " that match" if plan.wanted else ""
    what = f"{counted(files, 'file')}{which}, {format_size(size_bytes)},"
    snapshot = f"snapshot {manifest.backup_id}, as of {format_exact(manifest.files.taken_from, plan.zone)},"
    how = "and change only what differs" if plan.is_delta else "and write them"
    return RestorePreview(
        source=plan.source,
        target=describe_target(plan.target),
        destination=destination,
        backup_id=manifest.backup_id,
        backup_finished=manifest.ended,
        steps=(
            f"fetch {what} of {snapshot} {how} in {destination}",
            "make hard links, set owners, modes and times of directories, and sync the disk",
            "look at every file once more",
        ),
        fetch_bytes=size_bytes,
        wal_bytes=0,
        recoverable_from=plan.earliest,
        recoverable_until=plan.newest,
        windows=(TimeRange(plan.earliest, plan.newest),),
        findings=(*plan.findings, *no_files(plan, files + links)),
        changes=changes,
        kind="files",
    )


def no_files(plan: TreePlan, files_and_links: int) -> tuple[Finding, ...]:
    """A warning where patterns were given and, by this count, only directories come with them."""
    if plan.wanted is None or files_and_links:
        return ()
    return (
        Finding(
            severity=Severity.WARNING,
            subject="--path",
            fact="matches only directories: no file or link belongs to it in snapshot"
            f" {plan.manifest.backup_id}",
            fix="See that it is what you meant; an earlier moment may have files there.",
        ),
    )


def _fitting(source: str, target: RecoveryTarget, manifests: Sequence[Manifest]) -> list[Manifest]:
    in_order = sorted(manifests, key=lambda manifest: manifest.files.taken_until)
    match target:
        case ToLatest():
            return list(manifests)  # as they were taken, whatever a clock said
        case ToTime(moment):
            return [m for m in in_order if m.files.taken_until <= moment]
        case ToBackup(backup_id):
            found = [m for m in in_order if m.backup_id == backup_id]
            if not found:
                raise NotRecoverable(
                    f"source {source} has no snapshot {backup_id}",
                    hint=name_backups([m.backup_id for m in in_order]),
                )
            return found
        case _:
            raise NotRecoverable(
                f"{describe_target(target)} means nothing to source {source}, a tree of files",
                hint="Use --to with a time or latest, or --backup.",
            )


def require_come(
    source: str, target: RecoveryTarget, manifests: Sequence[Manifest], *, now: datetime
) -> None:
    """NotRecoverable, naming the newest moment, for one that has not come yet.

    By `now` and by the last snapshot: this machine's clock may be the one that is behind.
    """
    if not isinstance(target, ToTime) or not manifests:
        return
    ends = [manifest.files.taken_until for manifest in manifests]
    # The last that was taken, since an earlier one may bear a time of years ahead.
    present = max(now, ends[-1]) + CLOCK_SKEW
    if target.moment <= present:
        return
    first, newest = min(ends), max(end for end in ends if end <= present)
    last = _shown(newest, target)
    raise NotRecoverable(
        f"{describe_target(target)} has not come yet, so source {source} has no snapshot of it: now is"
        f" {_shown(now, target)}, and its snapshots are from {_shown(first, target)} to {last}",
        hint=f"The newest moment is {last}: use --to with it, or --to latest.",
    )


def _as_of(source: str, target: RecoveryTarget, chosen: Manifest) -> list[Finding]:
    """A note that a snapshot stands for a later moment than it was taken at."""
    taken = chosen.files.taken_from
    if not isinstance(target, ToTime) or taken >= target.moment:
        return []
    return [
        Finding(
            severity=Severity.NOTE,
            subject=f"source {source}",
            fact=f"it comes back as of {_shown(taken, target)}, {format_span(target.moment - taken)} before"
            f" the moment asked for: snapshot {chosen.backup_id} is the newest that had ended by then",
        )
    ]


def _shown(moment: datetime, target: ToTime) -> str:
    """In the zone of the moment that was asked for."""
    return format_exact(moment, target.moment.tzinfo or UTC)


def _before_everything(
    source: str, target: RecoveryTarget, manifests: Sequence[Manifest]
) -> NotRecoverable:
    first = min(manifest.files.taken_until for manifest in manifests)
    zone = target.moment.tzinfo if isinstance(target, ToTime) else UTC
    shown = format_exact(first, zone or UTC)
    return NotRecoverable(
        f"{describe_target(target)} lies before the end of the first snapshot of source {source},"
        f" {shown}",
        hint=f"The earliest moment is {shown}: use --to with it or later.",
    )


def _warnings(
    source: str, chosen: Manifest, fitting: Sequence[Manifest], *, damaged: Sequence[str]
) -> list[Finding]:
    found = [
        Finding(
            severity=Severity.WARNING,
            subject=f"source {source}",
            fact=f"{message}: that snapshot is passed over, {chosen.backup_id} is used",
            fix="Run `drtool verify`, and take a new backup.",
        )
        for message in damaged
    ]
    if not chosen.files.is_complete:
        whole = [manifest.backup_id for manifest in fitting if manifest.files.is_complete]
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject=f"snapshot {chosen.backup_id}",
                fact="some of the tree could not be read when it was taken",
                fix=f"Restore those from --backup {whole[-1]}." if whole else "",
            )
        )
    return found
