"""Brings the mirror up to the tree: puts what changed, lets go of what is gone, leaves a manifest."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice

from drtool.errors import IntegrityError, SourceUnsuitable
from drtool.mirror import letting_go
from drtool.mirror.catalogue import Catalogue, Job
from drtool.mirror.checking import look_at_objects
from drtool.mirror.entries import MirrorEntry, from_line
from drtool.mirror.keeping import keeps_deleted
from drtool.mirror.keys import key_of
from drtool.mirror.leftovers import no_parts_left
from drtool.mirror.pages import pages
from drtool.mirror.place import place_before, place_text
from drtool.mirror.plan import Survey, Told, TreeSettings, alarms, plan_missed, survey
from drtool.mirror.publishing import Owner, Publisher, catch_up
from drtool.mirror.run_key import RunKey
from drtool.mirror.uploading import NotStored, Stored, ToStore, Uploader
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.model.origin import NOT_TOLD, Origin
from drtool.model.outcome import Fact, FactSheet, SyncOutcome
from drtool.model.progress import Emit, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.sources.files.beneath import open_root, open_tree
from drtool.sources.files.entries import Omission, Omitted, shown
from drtool.sources.files.second_look import SecondLook
from drtool.stores.bucket import Bucket
from drtool.system.clock import Clock, Stopwatch

THREADS = 16
# A batch goes to one thread: so many files, or so many bytes.
_BATCH_FILES = 16
_BATCH_BYTES = 4 << 20
# What is stored is remembered so often that a kill costs little work twice.
_COMMIT_FILES = 500
# So many files refused in a row: then it is the store, not the files.
_REFUSED_IN_A_ROW = 5
_READ_BACK_FILES = 4
_SHOWN_PATHS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorRun:
    """What a run works with. `check` raises once another run has taken the lease; `origin` is whose
    mirror it is; `key` signs its manifest.
    """

    bucket: Bucket
    catalogue: Catalogue
    clock: Clock
    emit: Emit
    stop: threading.Event
    check: Callable[[], None]
    origin: Origin = NOT_TOLD
    key: RunKey | None = None


def sync_tree(tree: TreeSettings, run: MirrorRun) -> SyncOutcome:
    """Bring the mirror up to the tree; SourceUnsuitable, with nothing changed, if an alarm forbids it.

    A run that is killed has lost nothing: the next one goes on from what was stored. Its manifest is
    put last; until then a restore sees the run before.
    """
    watch, began = Stopwatch(run.clock), run.clock.now()
    told = Told()
    tree = _caught_up(tree, run, told)
    found = _surveyed(tree, run)
    for finding in found.findings:
        told.add(finding)
    raised = alarms(
        tree, found, run.catalogue, bucket=run.bucket, before=place_before(run.catalogue)
    )
    if raised:
        raise SourceUnsuitable(f"source {tree.source}: {raised[0].fact}", hint=raised[0].fix)
    read_ns = int(began.timestamp() * 1_000_000_000)
    if tree.is_rehash:
        look_at_objects(run.bucket, run.catalogue, told)
    keeps = keeps_deleted(run.bucket) if found.deleted else None
    work = _Work(tree, run, told, read_ns=read_ns)
    deleted = work.bring_up(found, keeps=keeps)
    work.read_back()
    for finding in found.again.findings():
        told.add(finding)
    with open_tree(tree.root) as root:
        for finding in found.sqlite.findings(root, since_ns=read_ns):
            told.add(finding)
    if found.deleted_entries:
        # Where the bucket is not known to keep versions, deleting would be for good.
        delete = letting_go.delete_from(run.bucket) if keeps else None
        settled = found.again.is_settled
        gone = run.catalogue.unseen() if settled else run.catalogue.renamed()
        if not settled:
            told.add(letting_go.kept_for_now(found.deleted_entries))
        count = letting_go.let_go(run.catalogue, gone, check=run.check, delete=delete)
        if count and not keeps:
            told.add(letting_go.tombstones(count))
        deleted += count
    run.check()
    publisher = Publisher(run.bucket, run.catalogue, run.clock, origin=run.origin, key=run.key)
    run_id = publisher.publish(tree.source, began=began, is_whole=tree.is_rehash)
    run.catalogue.set_about(place=place_text(found.place))
    return SyncOutcome(
        source=tree.source,
        mirror=run.bucket.url,
        run_id=run_id,
        began=began,
        seconds=watch.seconds(),
        files=found.files,
        size_bytes=found.size_bytes,
        put_files=work.put_files,
        put_bytes=work.put_bytes,
        read_files=work.read_files,
        deleted_files=deleted,
        keeps_versions=keeps,
        findings=told.findings(),
    )


def _caught_up(tree: TreeSettings, run: MirrorRun, told: Told) -> TreeSettings:
    """The settings; after runs that nobody has signed, with every file to be read again."""
    owner = Owner(source=tree.source, origin=run.origin, is_accepted=tree.accepts_source)
    if catch_up(run.bucket, run.catalogue, told, owner=owner, key=run.key):
        return tree
    fact = "its runs are not signed by this repository: every file is read once more"
    told.add(Finding(severity=Severity.NOTE, subject=run.bucket.url, fact=fact))
    return replace(tree, is_rehash=True)


def preview_tree(tree: TreeSettings, run: MirrorRun) -> FactSheet:
    """What a run would do. Only the local catalogue may have been brought up to date."""
    told = Told()
    tree = _caught_up(tree, run, told)
    found = _surveyed(tree, run)
    for finding in found.findings:
        told.add(finding)
    raised = alarms(
        tree, found, run.catalogue, bucket=run.bucket, before=place_before(run.catalogue)
    )
    for alarm in raised:
        told.add(alarm.finding(tree.source))
    puts = _some((job.path for job in run.catalogue.jobs() if job.line is None), found.touched)
    gone = _some(_gone_files(run.catalogue), found.deleted)
    return FactSheet(
        kind="sync-plan",
        title=f"Would bring {run.bucket.url} up to {tree.root}; nothing was done",
        facts=(
            Fact(name="files", value=found.files),
            Fact(name="bytes", value=found.size_bytes),
            Fact(name="new", value=found.new, label="new files"),
            Fact(name="changed", value=found.changed, label="files to read again"),
            Fact(name="read_bytes", value=found.touched_bytes, label="bytes to read"),
            Fact(name="deleted", value=found.deleted, label="files that are gone"),
            Fact(name="put_paths", value=puts, label="to put"),
            Fact(name="deleted_paths", value=gone, label="gone"),
        ),
        findings=told.findings(),
    )


def _some(paths: Iterable[bytes], count: int) -> tuple[str, ...]:
    few = tuple(shown(path) for path in islice(paths, _SHOWN_PATHS))
    return few if count <= len(few) else (*few, f"and {count - len(few):,} more")


def _surveyed(tree: TreeSettings, run: MirrorRun) -> Survey:
    watch = Stopwatch(run.clock)
    run.emit(PhaseBegan(phase="walk", title="looking at the tree", total=None, unit="objects"))
    since_ns = int(run.clock.now().timestamp() * 1e9)
    found = survey(tree, run.catalogue, prefix=run.bucket.place.prefix, since_ns=since_ns)
    run.emit(PhaseEnded(phase="walk", seconds=watch.seconds()))
    return found


class _Work:
    """The reading and putting of one run, and what came of it."""

    def __init__(
        self,
        tree: TreeSettings,
        run: MirrorRun,
        told: Told,
        *,
        read_ns: int,
    ) -> None:
        self._tree = tree
        self._run = run
        self._told = told
        self._read_ns = read_ns
        self._refused = 0
        self._done: list[MirrorEntry] = []
        self._new: list[MirrorEntry] = []
        self._vanished: dict[bytes, Omitted] = {}
        # Objects of deleted files: what is refused above or below one is tried again without it.
        self._standing: list[bytes] = []
        self._blocked: list[bytes] = []
        self.put_files = self.put_bytes = self.read_files = self._read_bytes = 0

    def bring_up(self, found: Survey, *, keeps: bool | None) -> int:
        """Do all the work that was found; how many files had to be deleted to make way for it."""
        run, deleted, delete = self._run, 0, letting_go.delete_from(self._run.bucket)
        blocking = sorted(letting_go.in_the_way(run.catalogue))
        if keeps:
            gone = ((path, True) for path in blocking)
            deleted = letting_go.let_go(run.catalogue, gone, check=run.check, delete=delete)
        self._standing = [] if keeps else blocking
        self.put_all(jobs=found.touched + found.noted, size_bytes=found.touched_bytes)
        if self._blocked:
            ended = {
                one for path in self._blocked for one in letting_go.conflicting(path, blocking)
            }
            self._told.add(
                letting_go.make_way(run.catalogue, list(ended), check=run.check, delete=delete)
            )
            deleted = len(ended)
            self.put_blocked()
        self.put_renamed(found.again)
        return deleted

    def put_all(self, *, jobs: int, size_bytes: int) -> None:
        """Do all jobs, remembering every few hundred files what is stored."""
        if not jobs:
            return
        run, watch = self._run, Stopwatch(self._run.clock)
        run.emit(PhaseBegan(phase="put", title="putting files", total=size_bytes))
        root = open_root(self._tree.root)
        uploader = Uploader(
            run.bucket, root, clock=run.clock, stop=run.stop, has_looked=self._tree.is_rehash
        )
        executor = ThreadPoolExecutor(THREADS, thread_name_prefix="mirror")

        def keys() -> Iterator[str]:
            return (key_of(job.path) for job in run.catalogue.jobs())

        try:
            with no_parts_left(run.bucket, run.catalogue, self._told, keys=keys, check=run.check):
                try:
                    for results in in_window(executor, uploader.store, self._batches()):
                        for result in results:
                            self._take(result)
                        self._advance(size_bytes)
                finally:
                    # What is on its way ends first: a thread must not use a descriptor that was
                    # closed, nor put parts that are being given up.
                    executor.shutdown(wait=True, cancel_futures=True)
        finally:
            self._commit()
            uploader.close()
            os.close(root)
        run.emit(PhaseEnded(phase="put", seconds=watch.seconds()))

    def put_blocked(self) -> None:
        """Try again what was refused while other objects stood in the way."""
        self._standing = []
        catalogue, blocked = self._run.catalogue, self._blocked
        catalogue.end_work()
        catalogue.plan(Job(path, 0, None) for path in blocked)
        self.put_all(jobs=len(blocked), size_bytes=0)

    def put_renamed(self, again: SecondLook) -> None:
        """Put what was gone when it was to be read, under the names it has by now; tell what has none."""
        if not self._vanished:
            return
        catalogue = self._run.catalogue
        self._wanted_again(again)
        for look in again.looks():
            prefix = self._run.bucket.place.prefix
            missed = plan_missed(look, catalogue, self._told, prefix=prefix)
            self.put_all(jobs=missed.jobs, size_bytes=missed.size_bytes)
            self._wanted_again(again)
        for omitted in again.gone():
            self._told.add(omitted.finding)

    def _wanted_again(self, again: SecondLook) -> None:
        vanished, self._vanished = self._vanished, {}
        self._run.catalogue.end_work(vanished=vanished)
        for path, omitted in vanished.items():
            again.unread(path, omitted)

    def read_back(self) -> None:
        """Read a few of the objects that were put, and compare; IntegrityError if one is another."""
        for entry in self._new:
            read = self._run.bucket.read(entry.key, version=entry.version)
            if sha256(read).hexdigest() != entry.content:
                raise IntegrityError(
                    f"{self._run.bucket.url}: object {entry.key} is not what was put there",
                    hint="See that nothing else writes to the mirror, then `drtool sync --rehash`.",
                )

    def _batches(self) -> Iterator[list[ToStore]]:
        catalogue = self._run.catalogue
        batch: list[ToStore] = []
        size = 0
        for jobs in pages(catalogue.jobs()):
            paths = [job.path for job in jobs]
            known = catalogue.find(paths)
            missing = catalogue.not_met(paths) if self._tree.is_rehash else set()
            self._done += [from_line(job.line) for job in jobs if job.line is not None]
            for job in jobs:
                if job.line is not None:
                    continue
                before = known.get(job.path)
                is_there = before is not None and before.is_file and job.path not in missing
                batch.append(ToStore(job.path, before.entry if before and is_there else None))
                size += job.size_bytes
                if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch

    def _take(self, result: Stored | NotStored) -> None:
        if isinstance(result, NotStored):
            self._refuse(result)
            return
        self._refused = 0
        self.read_files += 1
        self._read_bytes += result.entry.tree.size_bytes
        if result.torn is not None:
            self._told.add(result.torn.finding)
        if result.sent_bytes is not None:
            self.put_files += 1
            self.put_bytes += result.sent_bytes
            if len(self._new) < _READ_BACK_FILES and result.entry.content is not None:
                if result.sent_bytes <= _BATCH_BYTES:
                    self._new.append(result.entry)
        self._done.append(result.entry)
        if len(self._done) >= _COMMIT_FILES:
            self._commit()

    def _refuse(self, result: NotStored) -> None:
        if result.omitted is not None:
            if result.omitted.why is Omission.VANISHED:
                self._vanished[result.path] = result.omitted
            else:
                self._told.add(result.omitted.finding)
            return
        assert result.error is not None
        if letting_go.conflicting(result.path, self._standing):
            self._blocked.append(result.path)
            return
        self._refused += 1
        if self._refused >= _REFUSED_IN_A_ROW:
            raise result.error
        self._told.add(
            Finding(
                severity=Severity.PROBLEM,
                subject=shown(result.path),
                fact=f"is not in the mirror: {result.error.message}",
                fix="Run `drtool sync` again; if it stays so, see what the store says of its name.",
            )
        )

    def _commit(self) -> None:
        done, self._done = self._done, []
        if done:
            self._run.catalogue.record(done, read_ns=self._read_ns, is_pending=True)

    def _advance(self, total: int) -> None:
        self._run.emit(
            PhaseAdvanced(
                phase="put",
                done=min(self._read_bytes, total),
                total=total,
                detail=counted(self.put_files, "file"),
            )
        )


def in_window(
    executor: Executor,
    call: Callable[[list[ToStore]], list[Stored | NotStored]],
    batches: Iterator[list[ToStore]],
) -> Iterator[list[Stored | NotStored]]:
    """Results as they come, two batches a thread on their way at a time."""
    going: set[Future[list[Stored | NotStored]]] = set()
    for batch in batches:
        going.add(executor.submit(call, batch))
        if len(going) >= 2 * THREADS:
            done, going = wait(going, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    while going:
        done, going = wait(going, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def _gone_files(catalogue: Catalogue) -> Iterator[bytes]:
    return (path for path, is_file in catalogue.unseen() if is_file)
