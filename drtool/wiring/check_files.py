"""The checks of trees and buckets: where they lie, what is in them, their snapshots and mirrors."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence

from drtool.check.freshness import check_mirror
from drtool.check.links import check_link
from drtool.check.run import Seen, attempt, not_looked
from drtool.check.state import SourceState, with_refused_backup
from drtool.errors import DrtoolError, SourceUnavailable
from drtool.model.checked import Look, MirrorStanding
from drtool.model.finding import Finding, Severity
from drtool.model.measure import age_of, counted, format_age
from drtool.policy.scalars import StoreUrl
from drtool.policy.sources import BucketSource, FilesSource
from drtool.repository.backups import Manifest
from drtool.sources.files.beneath import open_root
from drtool.sources.files.checks import check_content, check_place
from drtool.sources.files.glance import glance_at
from drtool.sources.files.guard import PlaceSigns, has_sentinel, judge_sentinel
from drtool.stores.bucket import Bucket
from drtool.stores.place import VERIFY, link_of
from drtool.wiring.check_destination import look_at_destination
from drtool.wiring.checking import Checking
from drtool.wiring.mirrors import mirror_bucket, mirror_standing
from drtool.wiring.state_facts import read_facts_of_state
from drtool.wiring.state_files import files_state


def look_at_files(checking: Checking, source: FilesSource) -> Iterator[Look]:
    """The tree, then its snapshots, then its mirror; each is seen whatever became of the others."""
    manifests: list[Manifest] = []
    state: SourceState | None = None
    trouble: DrtoolError | None = None
    try:
        facts = read_facts_of_state(
            checking.name, checking.policy, checking.opened(), now=checking.now
        )
        manifests, state = list(facts.manifests), files_state(facts)
    except DrtoolError as error:
        trouble = error
    tree = attempt("tree", lambda: _tree(checking, source, manifests))
    yield tree
    if trouble is not None:
        yield not_looked("repository", trouble)
    if state is not None:
        if any(one.severity is Severity.PROBLEM for one in tree.findings):
            state = with_refused_backup(state)
        yield checking.backups(state)
        yield checking.recoverable(state)
    yield look_at_destination(checking, None)
    if source.mirror is not None:
        url = source.mirror
        yield attempt("mirror", lambda: _mirror(checking, url))


def look_at_bucket(checking: Checking, source: BucketSource) -> Iterator[Look]:
    """The bucket that is the source, and its mirror, which is all that is kept of it."""

    def is_there() -> Seen:
        bucket = mirror_bucket(source.url, checking.around)
        try:
            first = next(bucket.list(), None)
        except DrtoolError as error:
            raise SourceUnavailable(error.message, hint=error.hint) from error
        findings = check_link(bucket.url, link_of(source.url), fix=VERIFY)
        return (
            f"{bucket.url} answers, {'and is empty' if first is None else 'and has objects'}",
            findings,
        )

    yield attempt("bucket", is_there)
    yield attempt("mirror", lambda: _mirror(checking, source.mirror))
    yield attempt("recoverable until", lambda: _mirror_loss(checking))


def _tree(checking: Checking, source: FilesSource, manifests: Sequence[Manifest]) -> Seen:
    root = open_root(source.path)
    try:
        glance = glance_at(root)
        findings: list[Finding] = []
        if source.sentinel is not None:
            name = os.fsencode(source.sentinel)
            for alarm in judge_sentinel(name, is_there=has_sentinel(root, name)):
                findings.append(alarm.finding(checking.name))
    finally:
        os.close(root)
    mine = _taken_here(source, manifests)
    before = next((one for one in reversed(mine) if one.files.is_complete), None)
    findings += check_place(checking.name, glance.place, _place_of(mine[-1] if mine else None))
    findings += check_content(
        checking.name,
        glance,
        known=before.sizes.files if before else None,
        max_delete_percent=source.max_delete,
    )
    more = "" if glance.is_whole else "more than "
    mounted = "a mount point" if glance.place.is_mount_point else "no mount point"
    was = "" if before is None else f", {before.sizes.files:,} in the last snapshot"
    return f"{source.path}, {mounted}, {more}{counted(glance.files, 'file')}{was}", findings


def _taken_here(source: FilesSource, manifests: Sequence[Manifest]) -> list[Manifest]:
    """The snapshots of this very directory on this machine: only those can be compared with."""
    root, host = os.fsdecode(os.path.abspath(source.path)), socket.gethostname()
    here = (root, host)
    return [one for one in manifests if (one.files.root, one.files.host) == here]


def _place_of(manifest: Manifest | None) -> PlaceSigns | None:
    if manifest is None:
        return None
    extent = manifest.files
    return PlaceSigns(
        is_mount_point=extent.is_mount_point,
        device=extent.device,
        file_system_id=extent.file_system_id,
    )


def _mirror(checking: Checking, url: StoreUrl) -> Seen:
    bucket = mirror_bucket(url, checking.around)
    standing = _standing(checking)
    keeps = bucket.keeps_versions()
    link = check_link(bucket.url, link_of(url), fix=VERIFY)
    table = checking.timetable("mirror run", f"drtool sync {checking.name}")
    findings = [*link, *check_mirror(table, standing, keeps_versions=keeps, now=checking.now)]
    if standing.ended is None:
        return f"{bucket.url} answers, and no run has ended there", findings
    age = format_age(standing.ended, checking.now)
    runs = "an unknown number of runs" if standing.runs is None else counted(standing.runs, "run")
    ended = f"the last ended {age}" if "ago" in age else f"the last is {age}"
    return f"{_versions(bucket, keeps)}, {runs}, {ended}", findings


def _versions(bucket: Bucket, keeps: bool | None) -> str:  # noqa: FBT001 - what was told, no flag
    told = {True: "keeps versions", False: "keeps no versions", None: "versions unknown"}
    return f"{bucket.url} answers, {told[keeps]}"


def _standing(checking: Checking) -> MirrorStanding:
    repository, around = checking.known(), checking.around
    return mirror_standing(checking.name, checking.policy, repository=repository, around=around)


def _mirror_loss(checking: Checking) -> Seen:
    """What was put since the last run began is nowhere else."""
    standing = _standing(checking)
    fix = f"Run `drtool sync {checking.name}`, or schedule it as often as the promise needs."
    return checking.loss(standing.began, age_of(standing.began, checking.now), fix=fix)
