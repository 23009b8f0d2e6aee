"""Mirrors a bucket into another: what its listing says has changed is copied, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from drtool.errors import (
    ObjectMissing,
    PolicyError,
    RepositoryUnavailable,
    SourceUnavailable,
    SourceUnsuitable,
)
from drtool.mirror.catalogue import Job
from drtool.mirror.copying import Copied, Copier, NotCopied, client_error
from drtool.mirror.entries import MirrorEntry, from_line, to_line
from drtool.mirror.entropy import SAMPLE_FILES, is_worth_a_look, with_entropy
from drtool.mirror.keeping import keeps_deleted
from drtool.mirror.keys import OWN
from drtool.mirror.leftovers import no_parts_left
from drtool.mirror.letting_go import let_go, tombstones
from drtool.mirror.pages import pages
from drtool.mirror.plan import MAX_DELETE_PERCENT, Told
from drtool.mirror.publishing import Owner, Publisher, catch_up
from drtool.mirror.run import MirrorRun
from drtool.model.finding import Finding, Severity
from drtool.model.outcome import Fact, FactSheet, SyncOutcome
from drtool.model.progress import PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.sources.files.entries import TreeEntry, TreeKind
from drtool.sources.files.guard import ENTROPY_BYTES, Alarm, ChangeCounts, judge_changes
from drtool.stores.bucket import Bucket
from drtool.system.clock import Stopwatch

_THREADS = 16
_COPIES_AT_A_TIME = 256
_REFUSED_IN_A_ROW = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSettings:
    """The bucket that is the source. `is_rehash` copies every object again; `accepts_source` takes
    content that looks encrypted for intended.
    """

    source: str
    bucket: Bucket
    max_delete_percent: float = MAX_DELETE_PERCENT
    accepts_source: bool = False
    is_rehash: bool = False


def sync_bucket(settings: BucketSettings, run: MirrorRun) -> SyncOutcome:
    """Bring the mirror up to the source bucket; as `sync_tree`, with a listing in place of a walk.

    By the server itself where both are on one endpoint, else through this machine.
    """
    watch, began = Stopwatch(run.clock), run.clock.now()
    told = Told()
    copier = _copier(settings, run)
    catch_up(run.bucket, run.catalogue, told, owner=_owner(settings, run), key=run.key)
    counts = _survey(settings, run, told)
    for alarm in _alarms(settings, run, counts):
        raise SourceUnsuitable(f"source {settings.source}: {alarm.fact}", hint=alarm.fix)
    copied = _copy_all(run, copier, counts, told=told, began=began)
    keeps = keeps_deleted(run.bucket) if counts["deleted"] else None
    deleted = let_go(
        run.catalogue,
        run.catalogue.unseen(),
        check=run.check,
        delete=copier.delete if keeps else None,
    )
    run.check()
    publisher = Publisher(run.bucket, run.catalogue, run.clock, origin=run.origin, key=run.key)
    run_id = publisher.publish(settings.source, began=began, is_whole=settings.is_rehash)
    if deleted and not keeps:
        told.add(tombstones(deleted))
    return SyncOutcome(
        source=settings.source,
        mirror=run.bucket.url,
        run_id=run_id,
        began=began,
        seconds=watch.seconds(),
        files=counts["files"],
        size_bytes=counts["size_bytes"],
        read_files=counts["touched"],
        put_files=copied["files"],
        put_bytes=copied["size_bytes"],
        deleted_files=deleted,
        keeps_versions=keeps,
        findings=told.findings(),
    )


def _owner(settings: BucketSettings, run: MirrorRun) -> Owner:
    return Owner(source=settings.source, origin=run.origin, is_accepted=settings.accepts_source)


def preview_bucket(settings: BucketSettings, run: MirrorRun) -> FactSheet:
    """What a run would do; nothing is copied."""
    told = Told()
    _copier(settings, run)
    catch_up(run.bucket, run.catalogue, told, owner=_owner(settings, run), key=run.key)
    counts = _survey(settings, run, told)
    for alarm in _alarms(settings, run, counts):
        told.add(alarm.finding(settings.source))
    return FactSheet(
        kind="sync-plan",
        title=f"Would bring {run.bucket.url} up to {settings.bucket.url}; nothing was done",
        facts=(
            Fact(name="files", value=counts["files"], label="objects"),
            Fact(name="bytes", value=counts["size_bytes"]),
            Fact(name="new", value=counts["new"], label="new objects"),
            Fact(name="changed", value=counts["touched"] - counts["new"], label="changed objects"),
            Fact(name="deleted", value=counts["deleted"], label="objects that are gone"),
        ),
        findings=told.findings(),
    )


def _copier(settings: BucketSettings, run: MirrorRun) -> Copier:
    source, mirror = settings.bucket.place, run.bucket.place
    if source.scheme != "s3" or mirror.scheme != "s3":
        raise PolicyError(
            f"source {settings.source}: only s3:// buckets can be mirrored into each other",
            hint="Use the provider's own replication for gs:// and az://.",
        )
    is_same = (source.bucket, source.endpoint) == (mirror.bucket, mirror.endpoint)
    if is_same and _is_inside(mirror.prefix, source.prefix):
        raise PolicyError(
            f"source {settings.source}: its mirror lies inside it",
            hint="Mirror into another bucket, or under a prefix that the source does not cover.",
        )
    return Copier(settings.bucket, run.bucket)


def _is_inside(inner: str, outer: str) -> bool:
    return not outer or inner == outer or inner.startswith(outer + "/")


def _survey(settings: BucketSettings, run: MirrorRun, told: Told) -> Counter[str]:
    """List the source and leave the work in the catalogue."""
    watch = Stopwatch(run.clock)
    run.emit(PhaseBegan(phase="list", title="listing the source", total=None, unit="objects"))
    counts: Counter[str] = Counter(known=run.catalogue.count())
    for page in pages(_listed(settings.bucket)):
        mine = [entry for entry in page if not entry.key.startswith(OWN + "/")]
        if len(mine) < len(page):
            told.add(_taken_name(settings))
        known = run.catalogue.find([entry.path for entry in mine])
        jobs = []
        for entry in mine:
            before = known.get(entry.path)
            counts["files"] += 1
            counts["size_bytes"] += entry.tree.size_bytes
            if before is not None and not settings.is_rehash and _is_same(entry, before.entry):
                continue
            counts["touched"] += 1
            counts["new"] += before is None
            jobs.append(Job(entry.path, entry.tree.size_bytes, to_line(entry)))
        run.catalogue.saw(entry.tree for entry in mine)
        run.catalogue.plan(jobs)
    counts["deleted"] = sum(1 for _ in run.catalogue.unseen())
    run.emit(PhaseEnded(phase="list", seconds=watch.seconds()))
    return counts


def _is_same(now: MirrorEntry, then: MirrorEntry) -> bool:
    # All of it: what was read from a run that nobody has signed may have a mode or an owner of its own.
    return (now.source_etag, now.tree) == (then.source_etag, then.tree)


def _listed(bucket: Bucket) -> Iterator[MirrorEntry]:
    prefix = bucket.object_path("")
    paginator = bucket.control().get_paginator("list_objects_v2")
    try:
        for page in paginator.paginate(Bucket=bucket.place.bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                yield _entry(item, key=item["Key"].removeprefix(prefix))
    except (ClientError, BotoCoreError) as error:
        told = client_error(error, bucket, "listing")
        raise SourceUnavailable(told.message, hint=told.hint) from error


def _entry(
    item: Any,  # an object as boto3 lists it
    *,
    key: str,
) -> MirrorEntry:
    tree = TreeEntry(
        path=key.encode(),
        kind=TreeKind.FILE,
        mode=0o644,
        uid=0,
        gid=0,
        owner=None,
        group=None,
        modified_ns=int(item["LastModified"].timestamp() * 1_000_000) * 1000,
        changed_ns=0,
        inode=0,
        device=0,
        links=1,
        size_bytes=item["Size"],
    )
    return MirrorEntry(tree=tree, source_etag=item["ETag"].strip('"'))


def _alarms(settings: BucketSettings, run: MirrorRun, counts: Counter[str]) -> list[Alarm]:
    changes = ChangeCounts(
        known=run.catalogue.count(),
        deleted=counts["deleted"],
        changed=counts["touched"] - counts["new"],
        new=counts["new"],
    )
    # A re-hash copies all, whether it changed or not.
    is_looked_into = not (settings.is_rehash or settings.accepts_source)
    if is_looked_into and is_worth_a_look(changes):
        step = max(1, counts["touched"] // SAMPLE_FILES)
        changes = with_entropy(
            changes,
            run.catalogue,
            bucket=run.bucket,
            paths=[job.path for job in run.catalogue.jobs(step=step)],
            head_of=lambda path: _head(settings.bucket, path),
        )
    return judge_changes(changes, max_delete_percent=settings.max_delete_percent)


def _head(source: Bucket, path: bytes) -> bytes | None:
    """How an object of the source begins; None for one that was removed since the listing."""
    try:
        return source.read_head(path.decode(), ENTROPY_BYTES)
    except ObjectMissing:
        return None
    except RepositoryUnavailable as error:
        raise SourceUnavailable(error.message, hint=error.hint) from error


def _copy_all(
    run: MirrorRun, copier: Copier, counts: Counter[str], *, told: Told, began: datetime
) -> Counter[str]:
    """Copy what is due, remembering every few hundred objects what the mirror holds."""
    copied: Counter[str] = Counter()
    if not counts["touched"]:
        return copied
    watch = Stopwatch(run.clock)
    run.emit(PhaseBegan(phase="copy", title="copying", total=counts["touched"], unit="objects"))
    read_ns = int(began.timestamp() * 1_000_000_000)
    refused = 0

    def keys() -> Iterator[str]:
        return (job.path.decode() for job in run.catalogue.jobs())

    with (
        no_parts_left(run.bucket, run.catalogue, told, keys=keys, check=run.check),
        ThreadPoolExecutor(_THREADS, thread_name_prefix="mirror") as executor,
    ):
        for jobs in pages(run.catalogue.jobs(), _COPIES_AT_A_TIME):
            wanted = [from_line(job.line) for job in jobs if job.line is not None]
            done: list[MirrorEntry] = []
            for result in executor.map(copier.copy, wanted):
                if isinstance(result, Copied):
                    refused = 0
                    copied["files"] += 1
                    copied["size_bytes"] += result.size_bytes
                    done.append(result.entry)
                    continue
                refused += _refuse(result, told)
                if refused >= _REFUSED_IN_A_ROW and result.error is not None:
                    raise result.error
            run.catalogue.record(done, read_ns=read_ns, is_pending=True)
            run.emit(PhaseAdvanced(phase="copy", done=copied["files"], total=counts["touched"]))
    run.emit(PhaseEnded(phase="copy", seconds=watch.seconds()))
    return copied


def _refuse(result: NotCopied, told: Told) -> bool:
    """Tell of it; whether it was the store's fault. What vanished since the listing is told as a note."""
    if result.error is None:
        told.add(
            Finding(
                severity=Severity.NOTE,
                subject=result.key,
                fact="was removed while the source was read",
            )
        )
        return False
    if not result.error.retryable:
        raise result.error
    told.add(
        Finding(
            severity=Severity.PROBLEM,
            subject=result.key,
            fact=f"is not in the mirror: {result.error.message}",
            fix="Run `drtool sync` again.",
        )
    )
    return True


def _taken_name(settings: BucketSettings) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        subject=settings.bucket.url,
        fact=f"objects below {OWN}/ are not mirrored: the mirror keeps its own runs there",
        fix="Give them another name.",
    )
