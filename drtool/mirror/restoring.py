"""Writes the tree again as the mirror held it at a moment, each file checked against its hash."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from drtool.errors import (
    DestinationRefused,
    IntegrityError,
    Interrupted,
    NotRecoverable,
    ObjectMissing,
)
from drtool.mirror.catalogue import Catalogue, open_catalogue
from drtool.mirror.chains import Chain, chain_at, fold
from drtool.mirror.entries import MirrorEntry, from_line
from drtool.mirror.manifests import ended_at, list_runs
from drtool.mirror.pages import pages
from drtool.mirror.publishing import left_out_findings
from drtool.mirror.reduced import Reducer
from drtool.mirror.run_key import RunKey
from drtool.model.finding import Finding, Severity
from drtool.model.measure import CLOCK_SKEW, counted, format_exact
from drtool.model.origin import NOT_TOLD, Origin
from drtool.model.outcome import Fact, FactSheet
from drtool.model.progress import Emit, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.sources.files.entries import TreeKind, shown
from drtool.sources.files.placing import TreeWriter
from drtool.stores.bucket import Bucket
from drtool.system.access import looking_at, require_writable
from drtool.system.clock import Clock, Stopwatch
from drtool.system.durable import make_private_directory
from drtool.system.retry import RetryLimits, retrying

THREADS = 16
_BATCH_FILES = 16
_RETRIES = RetryLimits(attempts=4, within_seconds=3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorRestore:
    """Where to, and with what. `moment` None means the newest run."""

    source: str
    moment: datetime | None
    into: Path
    is_plan: bool
    clock: Clock
    emit: Emit
    stop: threading.Event
    # Of the policy: its stack alone. What it is now may be another machine and another path.
    origin: Origin = NOT_TOLD
    # By which runs are known; `why_no_key` is told where there is none.
    key: RunKey | None = None
    why_no_key: str = ""
    accepts_unsigned: bool = False


def restore_from_mirror(wanted: MirrorRestore, bucket: Bucket) -> FactSheet:
    """Bring the tree back as of the newest run that ended at or before the moment.

    NotRecoverable, before anything is written, if there is no such run, if the moment has not come yet, or
    if files were overwritten since in a bucket without versions. DestinationRefused unless `into` is new
    or empty. An IntegrityError or a missing object ends it: what is written so far is then not to be used.

    Of runs that the key has not signed, rights are not restored (`mirror/reduced.py`) unless accepted.
    """
    watch = Stopwatch(wanted.clock)
    chain = chain_at(bucket, wanted.moment, None if wanted.accepts_unsigned else wanted.key)
    if not chain.runs:
        raise _none_counts(wanted, bucket, chain)
    newest = chain.runs[-1]
    _require_past(wanted, newest=newest.ended)
    fact = newest.origin.difference(wanted.origin)
    if fact is not None:
        raise NotRecoverable(
            f"{bucket.url} may be the mirror of another source: {fact}",
            hint="Restore with the policy that its runs were made with; or, if it is the right one,"
            " with --accept-source.",
        )
    place = Path(os.path.realpath(wanted.into))
    _check_place(place)
    with tempfile.TemporaryDirectory(prefix="drtool-mirror-") as scratch:
        catalogue = _state(bucket, chain, Path(scratch), name="then", key=wanted.key)
        try:
            _require_versions(wanted, bucket, chain, catalogue=catalogue, scratch=Path(scratch))
            files, size = catalogue.count(), catalogue.size_bytes()
            reducer, told = _trust(wanted, chain, bucket)
            if not wanted.is_plan:
                writing = _Writing(replace(wanted, into=place), bucket, size, reducer=reducer)
                told += writing.run(catalogue)
        finally:
            catalogue.close()
    would = "would be " if wanted.is_plan else ""
    return FactSheet(
        kind="sync-restore-plan" if wanted.is_plan else "sync-restore",
        title=f"{wanted.source} {would or 'is '}restored from its mirror in {wanted.into}",
        facts=(
            Fact(name="source", value=wanted.source),
            Fact(name="mirror", value=bucket.url),
            Fact(name="destination", value=str(wanted.into)),
            Fact(name="run", value=newest.run_id),
            Fact(name="read_since", value=newest.began, label="tree as read since"),
            Fact(name="as_of", value=newest.ended, label="and until"),
            Fact(name="signed", value=reducer is None and not wanted.accepts_unsigned),
            Fact(name="files", value=files),
            Fact(name="bytes", value=size),
            Fact(name="seconds", value=round(watch.seconds(), 3)),
        ),
        findings=tuple(told),
    )


def _trust(
    wanted: MirrorRestore, chain: Chain, bucket: Bucket
) -> tuple[Reducer | None, list[Finding]]:
    """What takes rights from entries, unless the runs are signed for this source; and what is said of it."""
    told = left_out_findings(chain, bucket.url)
    if wanted.accepts_unsigned:
        return None, told
    why = wanted.why_no_key or "they are of an earlier drtool, or somebody else has written them"
    if wanted.key is not None and chain.is_signed:
        if all(run.source == wanted.source for run in chain.runs):
            return None, told
        why = f"they are of source {chain.runs[-1].source}"
    told.append(
        Finding(
            severity=Severity.WARNING,
            subject=bucket.url,
            fact=f"nobody vouches for its runs ({why}): files come back without owners, set-id bits,"
            " capabilities, ACLs and modes above the umask",
            fix="If nobody else can write to the bucket, restore with --accept-unsigned; else compare the"
            " files, and set what they need by hand.",
        )
    )
    return Reducer(), told


class _Writing:
    """Writes all entries of a catalogue."""

    def __init__(
        self, wanted: MirrorRestore, bucket: Bucket, size_bytes: int, *, reducer: Reducer | None
    ) -> None:
        self._reducer = reducer
        self._wanted = wanted
        self._bucket = bucket
        self._total = size_bytes
        self._told: list[Finding] = []
        self._done = 0

    def run(self, catalogue: Catalogue) -> list[Finding]:
        """All of them, durable when it returns; what could not be set of their attributes."""
        wanted, watch = self._wanted, Stopwatch(self._wanted.clock)
        _make_place(wanted.into)
        wanted.emit(PhaseBegan(phase="fetch", title="fetching files", total=self._total))
        writer = TreeWriter(wanted.into)
        try:
            with ThreadPoolExecutor(THREADS, thread_name_prefix="mirror") as executor:
                going: set[Future[int]] = set()
                try:
                    for batch in pages(self._files(catalogue, writer), _BATCH_FILES):
                        going.add(executor.submit(self._fetch_all, writer, batch))
                        if len(going) >= 2 * THREADS:
                            going = self._harvest(going)
                    while going:
                        going = self._harvest(going)
                except BaseException:
                    executor.shutdown(wait=True, cancel_futures=True)
                    raise
            findings = [*writer.finish(), *self._told]
            if self._reducer is not None:
                findings += self._reducer.shortfalls.findings()
        finally:
            writer.close()
        wanted.emit(PhaseEnded(phase="fetch", seconds=watch.seconds()))
        return findings

    def _files(self, catalogue: Catalogue, writer: TreeWriter) -> Iterator[MirrorEntry]:
        """The files; directories and links are made as they come by."""
        for line in catalogue.lines(pending_only=False):
            entry = from_line(line)
            if self._reducer is not None:
                entry = replace(entry, tree=self._reducer(entry.tree))
            if entry.tree.kind is TreeKind.DIRECTORY:
                writer.directory(entry.tree)
            elif entry.tree.kind is TreeKind.SYMLINK:
                writer.symlink(entry.tree)
            elif _is_no_path(entry.key):
                self._told.append(_no_path(entry.key))
            else:
                yield entry

    def _harvest(self, going: set[Future[int]]) -> set[Future[int]]:
        done, rest = wait(going, return_when=FIRST_COMPLETED)
        self._done += sum(future.result() for future in done)
        self._wanted.emit(PhaseAdvanced(phase="fetch", done=self._done, total=self._total))
        return rest

    def _fetch_all(self, writer: TreeWriter, batch: list[MirrorEntry]) -> int:
        for entry in batch:
            if self._wanted.stop.is_set():
                raise Interrupted(
                    "the restore was asked to stop", hint="Remove what it wrote, and begin again."
                )
            retrying(
                partial(self._fetch, writer, entry),
                limits=_RETRIES,
                clock=self._wanted.clock,
                stop=self._wanted.stop,
            )
        return sum(entry.tree.size_bytes for entry in batch)

    def _fetch(self, writer: TreeWriter, entry: MirrorEntry) -> None:
        digest, offset = hashlib.sha256(), 0
        # Without a version only the etag can tell that the object is still the one of then.
        etag = entry.etag if entry.version is None and entry.content is None else None
        try:
            with writer.file(entry.tree) as file:
                for piece in self._bucket.stream(entry.key, version=entry.version, etag=etag):
                    digest.update(piece)
                    file.write(offset, piece)
                    offset += len(piece)
                is_right = offset == entry.tree.size_bytes and (
                    entry.content is None or digest.hexdigest() == entry.content
                )
                if not is_right:
                    raise IntegrityError(
                        f"{self._bucket.url}: object {entry.key} is not the file that was put there",
                        hint="Restore from a backup instead, or to another moment.",
                    )
        except ObjectMissing as error:
            version = f" in version {entry.version}" if entry.version else ""
            raise NotRecoverable(
                f"{self._bucket.url}: object {entry.key}{version} is gone",
                hint="Restore from a backup instead, or to another moment.",
            ) from error


def _is_no_path(key: str) -> bool:
    """Of a bucket that was mirrored: such keys cannot be files."""
    return any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key


def _no_path(key: str) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        subject=key,
        fact="is in the mirror, but is no path that a file can have: it is not restored",
        fix="Copy it from the mirror with an S3 client.",
    )


def _state(
    bucket: Bucket, chain: Chain, scratch: Path, *, name: str, key: RunKey | None
) -> Catalogue:
    catalogue = open_catalogue(scratch / f"{name}.sqlite", identity=name)
    fold(bucket, chain.runs, catalogue, key=key)
    return catalogue


def _require_versions(
    wanted: MirrorRestore,
    bucket: Bucket,
    chain: Chain,
    *,
    catalogue: Catalogue,
    scratch: Path,
) -> None:
    """NotRecoverable if a file of then was overwritten since, and no version of it was kept."""
    newest = chain_at(bucket, None, None if wanted.accepts_unsigned else wanted.key)
    if newest.runs[-1].run_id == chain.runs[-1].run_id:
        return
    now = _state(bucket, newest, scratch, name="now", key=wanted.key)
    lost = 0
    first = b""
    try:
        for lines in pages(catalogue.lines(pending_only=False)):
            entries = [from_line(line) for line in lines]
            bare = [e for e in entries if e.tree.kind is TreeKind.FILE and e.version is None]
            later = now.find([entry.path for entry in bare])
            for entry in bare:
                known = later.get(entry.path)
                if known is not None and known.is_file and _is_other(known.entry, entry):
                    first = first or entry.path
                    lost += 1
    finally:
        now.close()
    if lost:
        raise NotRecoverable(
            f"{bucket.url} keeps no versions, and since then {counted(lost, 'file')} of {wanted.source}"
            f" changed there, such as {shown(first)}",
            hint="Restore --to latest, or from a backup; turn on versioning for the future.",
        )


def _is_other(now: MirrorEntry, then: MirrorEntry) -> bool:
    if now.content is None or then.content is None:
        return now.etag != then.etag
    return now.content != then.content


def _make_place(into: Path) -> None:
    try:
        make_private_directory(into)
    except OSError as error:
        raise DestinationRefused(
            f"destination {into} cannot be made: {error.strerror}",
            hint="Restore --into a directory on a file system that can be written.",
        ) from error


def _check_place(into: Path) -> None:
    with looking_at(into):
        if into.exists() and not into.is_dir():
            raise DestinationRefused(
                f"destination {into} is not a directory", hint="Restore --into a new directory."
            )
        first = next(into.iterdir(), None) if into.exists() else None
        require_writable(into)
    if first is not None:
        raise DestinationRefused(
            f"destination {into} is not empty: found {shown(bytes(first.name, 'utf-8', 'surrogateescape'))}",
            hint="Restore --into a new directory.",
        )


def _require_past(wanted: MirrorRestore, *, newest: datetime) -> None:
    """This machine's clock may be the one that is behind, so the newest run counts too."""
    now = wanted.clock.now()
    if wanted.moment is None or wanted.moment <= max(now, newest) + CLOCK_SKEW:
        return
    zone = wanted.moment.tzinfo or UTC
    raise NotRecoverable(
        f"{format_exact(wanted.moment, zone)} has not come yet, so the mirror of {wanted.source} does not"
        f" hold it: now is {format_exact(now, zone)}",
        hint=f"Its newest run ended at {format_exact(newest, zone)}: use --to with it, or --to latest.",
    )


def _none_counts(
    wanted: MirrorRestore, bucket: Bucket, chain: Chain
) -> IntegrityError | NotRecoverable:
    if not chain.left_out:
        return _too_early(wanted, bucket)
    return IntegrityError(
        f"{bucket.url}: no run that had ended by then can be read, the newest is {chain.left_out[0]}",
        hint="Restore from a backup, or to another moment; `drtool sync --rehash` writes a whole one.",
    )


def _too_early(wanted: MirrorRestore, bucket: Bucket) -> NotRecoverable:
    runs = list_runs(bucket)
    if not runs:
        return NotRecoverable(
            f"{bucket.url} holds no run of a mirror",
            hint=f"Take one with `drtool sync {wanted.source}`, or restore from a backup.",
        )
    asked = wanted.moment or ended_at(runs[0])
    zone = asked.tzinfo or UTC  # as it was asked for
    return NotRecoverable(
        f"the mirror of {wanted.source} has no run that had ended at {format_exact(asked, zone)}",
        hint=f"Its first one ended at {format_exact(ended_at(runs[0]), zone)}: use --to with it or later.",
    )
